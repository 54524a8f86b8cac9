//! Patterns of roles: globs and regular expressions, judged over the whole of a name.
//!
//! A glob is kube2iam's: `*` is the only wildcard, it stands for any characters or none, the slash too. A regular expression is that of the
//! `regex-lite` crate: the syntax of kube2iam's and kiam's (RE2) without Unicode classes, in time linear in pattern times name.
//!
//! Neither can match a part of a name. What a pattern's author could write to get out of the anchors (`a)|(b`, a comment that swallows them, a
//! backslash at the end) has to compile alone, between the anchors, and to match from the first to the last byte; what fails one of these is
//! refused when it is read.
//!
//! No compiled expression is kept: a namespace that nobody asks about costs its text and no more.

use regex_lite::{Regex, RegexBuilder};

use super::arn::RoleArn;
use super::base::BaseArn;

/// Most characters of a pattern.
const MOST_CHARACTERS: usize = 1024;
/// Most bytes that a compiled expression may take: bounds the time that a match takes.
const MOST_COMPILED: usize = 64 << 10;

/// How entries of allowed-roles are written (`--namespace-restriction-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `*` is the only wildcard. The default.
    #[default]
    Glob,
    /// Regular expressions.
    Regexp,
}

/// Which texts of a role a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An entry of allowed-roles: the ARN if the pattern starts with `arn:`, else what follows the base ARN.
    Entry,
    /// kiam's `permitted`: the ARN, and what follows the base ARN.
    Permitted,
}

/// A pattern that is known to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    format: Format,
    scope: Scope,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Write several shorter ones.
    #[error("the pattern is longer than {MOST_CHARACTERS} characters")]
    Length,
    /// Correct or simplify the expression.
    #[error("the expression does not compile: {0}")]
    Syntax(String),
    /// End a comment (`(?x) #`) with a newline; or simplify an expression that is at the edge of what is allowed.
    #[error("the expression does not compile between anchors: {0}")]
    Anchored(String),
}

impl Pattern {
    /// Takes a pattern if it is short enough and compiles.
    pub fn new(text: &str, format: Format, scope: Scope) -> Result<Self, PatternError> {
        if text.chars().count() > MOST_CHARACTERS {
            return Err(PatternError::Length);
        }
        if format == Format::Regexp {
            compile(text)?;
        }
        Ok(Self {
            text: text.to_owned(),
            format,
            scope,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it allows a role.
    ///
    /// "The base ARN in front of the pattern" is done from the other side: the base is taken off the role and the pattern is held against the rest. It is the
    /// same question for every pattern, and needs no escaping. A pattern with a leading slash is held against the rest with one, as role names may
    /// have one.
    #[must_use]
    pub fn allows(&self, role: &RoleArn, base: Option<&BaseArn>) -> bool {
        let matcher = match self.format {
            Format::Glob => Matcher::Glob(&self.text),
            Format::Regexp => match compile(&self.text) {
                Ok(regex) => Matcher::Regexp(regex),
                Err(_) => return false,
            },
        };
        let full = match self.scope {
            Scope::Entry => self.text.starts_with("arn:"),
            Scope::Permitted => true,
        };
        if full && matcher.whole(role.as_str()) {
            return true;
        }
        if self.scope == Scope::Entry && full {
            return false;
        }
        base.and_then(|base| base.remainder(role))
            .is_some_and(|rest| {
                matcher.whole(rest)
                    || self.text.starts_with('/') && matcher.whole(&format!("/{rest}"))
            })
    }
}

enum Matcher<'a> {
    Glob(&'a str),
    Regexp(Regex),
}

impl Matcher<'_> {
    fn whole(&self, text: &str) -> bool {
        match self {
            Self::Glob(pattern) => glob(pattern.as_bytes(), text.as_bytes()),
            Self::Regexp(regex) => regex
                .find(text)
                .is_some_and(|found| found.range() == (0..text.len())),
        }
    }
}

/// The expression between anchors.
///
/// 1. It has to compile alone: its parentheses are balanced by themselves, so the group round it stays closed round all of it.
/// 2. It has to compile inside of the group: a comment (`(?x) #`) cannot swallow the group's end.
///
/// `\A` and `\z` rather than `^` and `$`: no flag changes what they mean.
fn compile(text: &str) -> Result<Regex, PatternError> {
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .size_limit(MOST_COMPILED)
            .build()
            .map_err(|error| error.to_string())
    };
    build(text).map_err(PatternError::Syntax)?;
    build(&format!(r"\A(?:{text})\z")).map_err(PatternError::Anchored)
}

/// Two positions and one place to come back to, the last `*`: at most pattern times text steps, no recursion.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut next) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while next < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, next));
            at += 1;
        } else if pattern.get(at) == Some(&text[next]) {
            at += 1;
            next += 1;
        } else if let Some((after, taken)) = star {
            // One more byte for the last star. Earlier stars need no second try: the last one can take whatever they would.
            star = Some((after, taken + 1));
            (at, next) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests;
