//! An error that a person can act on: what happened, why, what to do, and a stable code.
//!
//! ```text
//! anyhow chain --From--> Failure --Display--> three lines on a terminal
//!                              \---to_json--> one object on stderr with `-o json`
//! ```
//! Code that knows the remedy returns a [`Failure`]; what modules report by type is recognised in `classify`; the rest gets a general code.
//! Codes are never reused. What each means at length stands in `docs/errors.md`, which is part of the binary.

mod classify;

use std::fmt;
use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};

use crate::client::ClientError;

/// Exit codes of every command.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// The answer is negative, or the thing could not be done.
    pub const NEGATIVE: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// Agent or API server unreachable.
    pub const UNREACHABLE: u8 = 4;
    /// Timed out.
    pub const TIMED_OUT: u8 = 5;
    /// Not permitted.
    pub const NOT_PERMITTED: u8 = 6;
}

/// A code, what it stands for, and how a command ends that reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `PC1001`.
    pub code: &'static str,
    /// The heading of its section in `docs/errors.md`.
    pub title: &'static str,
    /// One of [`exit`].
    pub exit: u8,
}

const fn code(code: &'static str, title: &'static str, exit: u8) -> Code {
    Code { code, title, exit }
}

/// Every code, by its thousands: 1 dataplane, 2 policy objects, 3 metadata and credentials, 4 agent and API server, 5 command line and files, 6 lab.
pub const CODES: &[Code] = &[
    code("PC1000", "the dataplane failed", exit::NEGATIVE),
    code(
        "PC1001",
        "this binary has no kernel programs",
        exit::NEGATIVE,
    ),
    code("PC1002", "no bpffs", exit::NEGATIVE),
    code("PC1003", "a capability is missing", exit::NOT_PERMITTED),
    code("PC1004", "the kernel is too old", exit::NEGATIVE),
    code("PC1005", "the kernel lacks a feature", exit::NEGATIVE),
    code("PC1006", "the kernel refuses a program", exit::NEGATIVE),
    code("PC1007", "no pods' cgroup", exit::NEGATIVE),
    code("PC1008", "nothing is pinned", exit::NEGATIVE),
    code("PC1009", "a table refuses an entry", exit::NEGATIVE),
    code("PC1010", "another agent is running", exit::NEGATIVE),
    code(
        "PC1101",
        "another tool's program decides before ours",
        exit::NEGATIVE,
    ),
    code(
        "PC1102",
        "another tool's program is on our hooks",
        exit::NEGATIVE,
    ),
    code(
        "PC1103",
        "another tool's rules name the metadata service",
        exit::NEGATIVE,
    ),
    code(
        "PC1104",
        "another policy agent's chains are on the node",
        exit::NEGATIVE,
    ),
    code("PC3001", "a setting of roles is wrong", exit::USAGE),
    code("PC3002", "the pod is not known", exit::NEGATIVE),
    code("PC3003", "the node has no responder", exit::NEGATIVE),
    code(
        "PC4001",
        "the API server cannot be reached",
        exit::UNREACHABLE,
    ),
    code("PC4002", "the agent cannot be reached", exit::UNREACHABLE),
    code(
        "PC4003",
        "the agent did not answer in time",
        exit::TIMED_OUT,
    ),
    code("PC4004", "the agent refuses", exit::NEGATIVE),
    code("PC4005", "the agent lacks a right", exit::NOT_PERMITTED),
    code("PC4006", "you lack a right", exit::NOT_PERMITTED),
    code("PC4007", "no agents were found", exit::UNREACHABLE),
    code("PC4008", "the responder does not answer", exit::UNREACHABLE),
    code("PC5000", "the command failed", exit::NEGATIVE),
    code("PC5001", "wrong usage", exit::USAGE),
    code("PC5002", "objects cannot be read", exit::USAGE),
    code("PC5003", "a probe file cannot be read", exit::USAGE),
    code("PC5004", "a probe cannot be asked", exit::USAGE),
    code("PC5005", "not permitted", exit::NOT_PERMITTED),
    code("PC5006", "not confirmed", exit::USAGE),
    code("PC5007", "the kubeconfig cannot be used", exit::USAGE),
    code("PC6001", "the lab cannot run here", exit::NEGATIVE),
    code("PC6002", "there is no such lab", exit::NEGATIVE),
];

/// `docs/errors.md`.
const PAGE: &str = include_str!("../../docs/errors.md");

/// The three lines. Lower case, no full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// One of [`CODES`].
    pub code: &'static str,
    /// What happened.
    #[serde(rename = "message")]
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    #[serde(rename = "do")]
    pub do_: String,
}

impl Failure {
    /// A failure by its code and its three lines.
    #[must_use]
    pub fn new(
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        do_: impl Into<String>,
    ) -> Self {
        let line = |text: String| {
            text.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join("; ")
        };
        Self {
            code,
            what: line(what.into()),
            why: line(why.into()),
            do_: line(do_.into()),
        }
    }

    /// How the command ends.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        CODES
            .iter()
            .find(|code| code.code == self.code)
            .map_or(exit::NEGATIVE, |code| code.exit)
    }

    /// A failure as [`Failure::to_json`] wrote it; none where the text is something else, or the code is not one of ours.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let sent: Value = serde_json::from_str(text).ok()?;
        let part = |name: &str| sent.get(name).and_then(Value::as_str);
        let code = part("code")?;
        let known = CODES.iter().find(|known| known.code == code)?;
        Some(Self::new(
            known.code,
            part("message")?,
            part("why")?,
            part("do")?,
        ))
    }

    /// One line of JSON, for stderr with `-o json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({"kind": "Error", "code": self.code, "message": self.what, "why": self.why, "do": self.do_}).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "error {}: {}\nwhy:  {}\ndo:   {}",
            self.code, self.what, self.why, self.do_
        )
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        classify::failure(&error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        anyhow::Error::from(error).into()
    }
}

/// `portcullis explain-error CODE`: the code's section of `docs/errors.md`.
pub fn explain_error(code: &str, out: &mut dyn Write) -> anyhow::Result<u8> {
    let wanted = code.trim().to_ascii_uppercase();
    let known = CODES
        .iter()
        .find(|known| known.code == wanted)
        .and_then(section);
    let Some(section) = known else {
        let codes: Vec<&str> = CODES.iter().map(|code| code.code).collect();
        return Err(Failure::new(
            "PC5001",
            format!("no error code {code:?}"),
            format!("codes are {}", codes.join(" ")),
            "give one of these",
        )
        .into());
    };
    writeln!(out, "{section}")?;
    Ok(exit::DONE)
}

/// The lines from the code's heading to the next one.
fn section(code: &Code) -> Option<String> {
    let heading = format!("## {}: {}", code.code, code.title);
    let mut lines = PAGE.lines().skip_while(|line| *line != heading);
    let first = lines.next()?.trim_start_matches("## ");
    let rest = lines.take_while(|line| !line.starts_with("## "));
    let text: Vec<&str> = std::iter::once(first).chain(rest).collect();
    Some(text.join("\n").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_section_and_every_section_a_code() {
        for code in CODES {
            let text = section(code).unwrap_or_else(|| {
                panic!("docs/errors.md lacks `## {}: {}`", code.code, code.title)
            });
            assert!(text.lines().count() > 2, "{} says nothing", code.code);
        }
        let headings = PAGE
            .lines()
            .filter(|line| line.starts_with("## PC"))
            .count();
        assert_eq!(headings, CODES.len(), "a section without a code");
    }

    #[test]
    fn codes_are_unique_and_sorted() {
        assert!(CODES.is_sorted_by(|one, next| one.code < next.code));
    }

    #[test]
    fn a_failure_is_three_lines_whatever_its_parts_hold() {
        let failure = Failure::new("PC5001", "a\nb", "  c\n\n", "d");
        assert_eq!(failure.to_string(), "error PC5001: a; b\nwhy:  c\ndo:   d");
        assert_eq!(failure.exit_code(), exit::USAGE);
        assert_eq!(
            failure.to_json(),
            r#"{"kind":"Error","code":"PC5001","message":"a; b","why":"c","do":"d"}"#
        );
        assert_eq!(Failure::from_json(&failure.to_json()), Some(failure));
        assert_eq!(Failure::from_json("no such path"), None);
    }

    #[test]
    fn codes_are_explained_in_any_case_and_unknown_ones_are_wrong_usage() {
        let mut text = Vec::new();
        assert_eq!(
            explain_error("pc1002", &mut text).expect("is known"),
            exit::DONE
        );
        assert!(text.starts_with(b"PC1002: no bpffs\n"));
        let failure = Failure::from(explain_error("PC9999", &mut text).expect_err("is unknown"));
        assert_eq!(failure.exit_code(), exit::USAGE);
    }
}
