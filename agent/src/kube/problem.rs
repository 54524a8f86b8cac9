//! What can be wrong with an object, field by field.
//!
//! Values in a problem are attacker data (reliability-spec 1.2): they are escaped and cut before they get here, and one object lists a bounded
//! number of problems.

use serde_json::Value;

/// Longest excerpt of a value that a problem carries, in characters.
const EXCERPT: usize = 64;

/// Most problems that one object lists; the last one then says how many more there were.
pub(super) const MAX_PROBLEMS: usize = 32;

/// One field that could not be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Problem {
    /// Path within the object, `spec.ingress[2].from[0].ipBlock.cidr`; empty for the object itself.
    pub field: String,
    /// Why.
    #[source]
    pub reason: Reason,
}

/// Why a field was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Write a value of the expected type.
    #[error("expected {expected}, found {found}")]
    UnexpectedType {
        /// What the field takes.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// Add the field.
    #[error("required, but missing")]
    Missing,
    /// Check the spelling and the indentation: this agent does not know the field and so cannot tell whether it narrows the rule.
    #[error("unknown field")]
    UnknownField,
    /// Write ADDRESS/LENGTH.
    #[error("{0} is no CIDR")]
    Cidr(String),
    /// Write it as an IPv4 prefix: on the wire such addresses are IPv4.
    #[error("{0} is IPv4 written as IPv6")]
    MappedCidr(String),
    /// An exception has to lie inside its `cidr`, be smaller than it and of the same family.
    #[error("{except} does not lie strictly inside {cidr}")]
    ExceptOutside {
        /// The exception.
        except: String,
        /// The block that it should lie in.
        cidr: String,
    },
    /// Ports are 1 to 65535.
    #[error("{0} is no port number")]
    PortNumber(String),
    /// A port name has at least one letter.
    #[error("{0} is no port name")]
    PortName(String),
    /// `endPort` needs a number in `port`.
    #[error("only allowed with a numeric port")]
    EndPortWithoutPort,
    /// `endPort` is the last port of the range.
    #[error("{end} is below port {port}")]
    EndPortBelowPort {
        /// `endPort`.
        end: u16,
        /// `port`.
        port: u16,
    },
    /// TCP, UDP or SCTP, in capitals.
    #[error("{0} is none of TCP, UDP, SCTP")]
    Protocol(String),
    /// Give the peer a selector or an ipBlock; to mean everybody, leave the whole list out.
    #[error("a peer without podSelector, namespaceSelector and ipBlock")]
    EmptyPeer,
    /// Split it into two peers.
    #[error("ipBlock together with a selector")]
    MixedPeer,
    /// In, `NotIn`, Exists or `DoesNotExist`.
    #[error("{0} is no operator")]
    Operator(String),
    /// In and `NotIn` need at least one value.
    #[error("at least one value is needed")]
    ValuesMissing,
    /// Exists and `DoesNotExist` take no values.
    #[error("this operator takes no values")]
    ValuesForbidden,
    /// Ingress or Egress.
    #[error("{0} is neither Ingress nor Egress")]
    PolicyType(String),
    /// An IP address of a host is needed.
    #[error("{0} is no usable address")]
    Address(String),
    /// RFC 3339, as `2026-01-31T12:00:00Z`.
    #[error("{0} is no time")]
    Time(String),
    /// The rules of a policy whose subject is unknown are not applied to pods that they were not written for.
    #[error("rules are not applied while the policy's subject or shape is unreadable")]
    RulesWithheld,
    /// This agent does not enforce the kind, or not in this API version.
    #[error("{0} is not read by this agent")]
    UnknownKind(String),
    /// Correct the document; `line` counts from the start of the file.
    #[error("{message}{}", .line.map_or_else(String::new, |line| format!(" (line {line})")))]
    Syntax {
        /// What the parser says.
        message: String,
        /// Where, if it knows.
        line: Option<u64>,
    },
    /// The same kind, namespace and name stands in two documents; the last one counts.
    #[error("also defined in {0}, which is not used")]
    Duplicate(String),
    /// Two pods claim one uid; the first one by name keeps it.
    #[error("uid is already that of {0}")]
    DuplicateUid(String),
    /// More than this agent lists for one object.
    #[error("and {0} more")]
    More(usize),
}

/// Problems of one object, at most [`MAX_PROBLEMS`] of them.
#[derive(Debug, Default)]
pub(super) struct Problems {
    listed: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.listed.len() < MAX_PROBLEMS {
            self.listed.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// The value, or its problem noted and `None`.
    pub(super) fn note<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem)).ok()
    }

    pub(super) fn into_vec(mut self) -> Vec<Problem> {
        if self.more > 0 {
            self.listed.push(Problem {
                field: String::new(),
                reason: Reason::More(self.more),
            });
        }
        self.listed
    }
}

/// A text as it may stand in a log line: quoted, escaped, cut.
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

/// A value as it may stand in a log line.
pub(super) fn excerpt_value(value: &Value) -> String {
    match value {
        Value::String(text) => excerpt(text),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_escaped_and_cut() {
        assert_eq!(excerpt("a\nb\u{1b}[31m"), "\"a\\nb\\u{1b}[31m\"");
        let long = excerpt(&"x".repeat(100_000));
        assert_eq!(long.len(), EXCERPT + 5);
        assert!(long.ends_with("...\""));
    }

    #[test]
    fn an_object_lists_a_bounded_number_of_problems() {
        let mut problems = Problems::default();
        for index in 0..1000 {
            problems.push(Problem {
                field: format!("spec[{index}]"),
                reason: Reason::Missing,
            });
        }
        let listed = problems.into_vec();
        assert_eq!(listed.len(), MAX_PROBLEMS + 1);
        assert_eq!(
            listed[MAX_PROBLEMS].reason,
            Reason::More(1000 - MAX_PROBLEMS)
        );
    }
}
