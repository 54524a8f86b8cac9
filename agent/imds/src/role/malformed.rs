//! What can be wrong with an annotation. Values are written by users: they are escaped and cut before they stand in a message.

use super::pattern::PatternError;
use crate::facts::NotAnOptIn;

/// Longest excerpt of a value in a message, in characters.
const EXCERPT: usize = 64;

/// An annotation that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Malformed {
    /// The annotation's key.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an annotation's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Write one of the words.
    #[error("{found} is none of {words}")]
    Word {
        /// An excerpt of what stands there.
        found: String,
        /// What may.
        words: &'static str,
    },
    /// Make it longer or shorter.
    #[error("{found} characters, {least} to {most} are allowed")]
    Length {
        /// How many there are.
        found: usize,
        /// Fewest.
        least: usize,
        /// Most.
        most: usize,
    },
    /// Leave the character out.
    #[error("the character {0:?} is not allowed")]
    Character(char),
    /// Write a whole number in decimal digits, without sign and spaces.
    #[error("{found} is no number up to {most}")]
    Number {
        /// An excerpt of what stands there.
        found: String,
        /// The largest.
        most: u64,
    },
    /// Write a JSON array of strings, `["a", "b"]`.
    #[error("not a JSON array")]
    Array,
    /// Write a JSON object.
    #[error("not a JSON object")]
    Object,
    /// Put the entry in quotes.
    #[error("entry {0} is not a string")]
    NotAString(usize),
    /// Write fewer entries.
    #[error("{found} entries, at most {most} are allowed")]
    Entries {
        /// How many there are.
        found: usize,
        /// Most.
        most: usize,
    },
    /// Correct the entry: it has to be the ARN of a managed policy.
    #[error("entry {0} is not the ARN of a managed policy")]
    PolicyArn(usize),
    /// Take a path that can be asked for; docs/imds.md has the list.
    #[error("entry {entry}: {error}")]
    MetadataPath {
        /// Which one, counted from 1.
        entry: usize,
        /// What is wrong with it.
        error: NotAnOptIn,
    },
    /// Correct the pattern.
    #[error("{error}")]
    Pattern {
        /// What is wrong with it.
        error: PatternError,
    },
    /// Correct the entry.
    #[error("entry {entry}: {error}")]
    PatternEntry {
        /// Which one, counted from 1.
        entry: usize,
        /// What is wrong with it.
        error: PatternError,
    },
}

/// A text as it may stand in a message: quoted, escaped, cut.
pub(super) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(EXCERPT).collect();
    let rest = if characters.next().is_some() {
        "..."
    } else {
        ""
    };
    format!("\"{}{rest}\"", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_whatever_the_value() {
        assert_eq!(excerpt("a\nb\u{1b}[31m\""), "\"a\\nb\\u{1b}[31m\\\"\"");
        assert_eq!(excerpt(&"x".repeat(100_000)).len(), EXCERPT + 5);
    }
}
