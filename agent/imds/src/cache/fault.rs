//! Why a source gave nothing, and for how long that is remembered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(usize)]
pub enum Class {
    /// AWS denies the role. Policies take effect after a while, so it is asked again, ever more rarely.
    Denied,
    /// The web-identity token has ended or is not accepted; the next one may be.
    BadToken,
    /// Too many calls: everybody waits.
    Throttled,
    /// No answer, or one that makes no sense.
    Network,
    /// The request itself is wrong: a policy, a tag, a name.
    Invalid,
    /// There is no web-identity token for this source. The next source is tried.
    NoToken,
    /// The cluster associates no role with the service account. The next source is tried.
    NoAssociation,
}

/// A failure, fit to be shown to the pod's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind.
    pub class: Class,
    /// AWS' code, or our word for what never reached AWS.
    pub code: String,
    /// AWS' message or ours. Nothing secret is in it.
    pub message: String,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Denied,
        Self::BadToken,
        Self::Throttled,
        Self::Network,
        Self::Invalid,
        Self::NoToken,
        Self::NoAssociation,
    ];

    /// Its word in records, and the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::BadToken => "bad-token",
            Self::Throttled => "throttled",
            Self::Network => "network",
            Self::Invalid => "invalid",
            Self::NoToken => "no-token",
            Self::NoAssociation => "no-association",
        }
    }

    /// Whether the next source is tried. What AWS refuses stays refused.
    pub(crate) const fn gives_way(self) -> bool {
        matches!(self, Self::NoToken | Self::NoAssociation)
    }

    /// How long a failure stands that is the `nth` in a row (from 0), before jitter.
    pub(super) fn stands(self, nth: u32) -> Duration {
        let (first, last) = match self {
            Self::Denied => (5, 300),
            Self::BadToken => (5, 5),
            Self::NoAssociation => (5, 60),
            Self::Throttled => (1, 60),
            Self::NoToken | Self::Network => (1, 5),
            Self::Invalid => (300, 300),
        };
        doubled(first, last, nth)
    }
}

/// How long until credentials that are still good are tried to be renewed again.
pub(super) fn renewal(nth: u32) -> Duration {
    doubled(5, 60, nth)
}

fn doubled(first: u64, last: u64, nth: u32) -> Duration {
    Duration::from_secs(first.saturating_mul(1 << nth.min(16)).min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stand_longer_the_more_there_are_up_to_a_limit() {
        let secs = |class: Class| [0, 1, 2, 20].map(|nth| class.stands(nth).as_secs());
        assert_eq!(secs(Class::Denied), [5, 10, 20, 300]);
        assert_eq!(secs(Class::BadToken), [5, 5, 5, 5]);
        assert_eq!(secs(Class::Network), [1, 2, 4, 5]);
        assert_eq!([0, 3, 9].map(|nth| renewal(nth).as_secs()), [5, 40, 60]);
    }
}
