//! Calls to AWS: what is asked, and AWS' words for what came of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// What AWS is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(usize)]
pub enum Operation {
    /// With the node's or the agent's own credentials.
    AssumeRole,
    /// With a token of a service account.
    AssumeRoleWithWebIdentity,
    /// EKS Pod Identity.
    AssumeRoleForPodIdentity,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [
        Self::AssumeRole,
        Self::AssumeRoleWithWebIdentity,
        Self::AssumeRoleForPodIdentity,
    ];

    /// The value of the label `operation`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AssumeRole => "AssumeRole",
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
            Self::AssumeRoleForPodIdentity => "AssumeRoleForPodIdentity",
        }
    }
}

pub(super) const SUCCESS: &str = "Success";
pub(super) const NO_ANSWER: &str = "NoAnswer";

/// Values of the label `code` of calls to AWS: its own words for the errors that are told apart, and `Other` for those that are not.
pub const CODES: [&str; 16] = [
    SUCCESS,
    NO_ANSWER,
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredTokenException",
    "InvalidIdentityToken",
    "IDPRejectedClaim",
    "IDPCommunicationError",
    "Throttling",
    "ThrottlingException",
    "MalformedPolicyDocument",
    "PackedPolicyTooLarge",
    "RegionDisabledException",
    "ValidationError",
    "InternalFailure",
    "Other",
];

/// Counts a call for as long as it lasts.
pub(super) struct Flight<'a>(&'a AtomicU64);

impl<'a> Flight<'a> {
    pub(super) fn begin(flights: &'a AtomicU64) -> Self {
        flights.fetch_add(1, Relaxed);
        Self(flights)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
