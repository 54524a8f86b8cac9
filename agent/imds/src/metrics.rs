//! What the responder counts. Plain numbers; whoever exports them reads them.
//!
//! Labels are closed lists, so every counter exists from the start and counting never allocates or waits.

mod calls;
mod snapshot;
mod times;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::FaultClass;
use crate::credentials::Found;
use crate::reason::Reason;

pub use calls::{CODES, Operation};
use calls::{Flight, NO_ANSWER, SUCCESS};
pub use snapshot::Snapshot;
pub use times::{BOUNDS, Seen, Times};

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(usize)]
pub enum Class {
    /// A session token.
    Token,
    /// The name of the role.
    Listing,
    /// Credentials.
    Credentials,
    /// `iam/info`.
    Info,
    /// Any other metadata.
    Metadata,
    /// What is nowhere, and what could not be read.
    Other,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Token,
        Self::Listing,
        Self::Credentials,
        Self::Info,
        Self::Metadata,
        Self::Other,
    ];

    /// The value of the label `class`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Listing => "listing",
            Self::Credentials => "credentials",
            Self::Info => "info",
            Self::Metadata => "metadata",
            Self::Other => "other",
        }
    }
}

/// How instance metadata was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(usize)]
pub enum ImdsVersion {
    /// Not at all: a container address, or a request that could not be read.
    #[serde(rename = "none")]
    Neither,
    /// Without a session token.
    V1,
    /// With one, or for one.
    V2,
}

impl ImdsVersion {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Neither, Self::V1, Self::V2];

    /// The value of the label `imds_version`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Neither => "none",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Every status that is ever answered.
pub const STATUSES: [u16; 10] = [200, 400, 401, 403, 404, 405, 414, 417, 431, 503];

/// What the node's metadata service was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(usize)]
pub enum PathClass {
    /// Our session token.
    Token,
    /// A value that stays as it is.
    Static,
    /// A value that may become another: spot, rebalance, autoscaling.
    Changing,
    /// The names of interfaces or tags.
    List,
    /// The identity document and its signatures.
    Identity,
    /// The node's instance profile and role.
    Role,
    /// The node's credentials.
    Credentials,
}

impl PathClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Token,
        Self::Static,
        Self::Changing,
        Self::List,
        Self::Identity,
        Self::Role,
        Self::Credentials,
    ];

    /// The value of the label `path_class`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Static => "static",
            Self::Changing => "changing",
            Self::List => "list",
            Self::Identity => "identity",
            Self::Role => "role",
            Self::Credentials => "credentials",
        }
    }
}

/// What came of asking the node's metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(usize)]
pub enum UpstreamCode {
    /// 200, and it could be read.
    Ok,
    /// 401: our session token was refused.
    Unauthorized,
    /// 403: the service is switched off.
    Forbidden,
    /// 404: there is no such value.
    NotFound,
    /// Any other status.
    Other,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
    /// An answer that is too long or cannot be read.
    Malformed,
}

impl UpstreamCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Other,
        Self::Timeout,
        Self::Unreachable,
        Self::Malformed,
    ];

    /// That of a status which is not 200.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            _ => Self::Other,
        }
    }

    /// The value of the label `code`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "200",
            Self::Unauthorized => "401",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::Other => "other",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Malformed => "malformed",
        }
    }
}

/// Requests to the node's metadata service. Shared by all that ask it.
#[derive(Debug, Default)]
pub struct Upstream {
    requests: [[AtomicU64; UpstreamCode::ALL.len()]; PathClass::ALL.len()],
}

impl Upstream {
    /// Counts a request.
    pub fn asked(&self, class: PathClass, code: UpstreamCode) {
        self.requests[class as usize][code as usize].fetch_add(1, Relaxed);
    }

    /// How many requests of a class came to this.
    #[must_use]
    pub fn requests(&self, class: PathClass, code: UpstreamCode) -> u64 {
        self.requests[class as usize][code as usize].load(Relaxed)
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[[AtomicU64; STATUSES.len()]; ImdsVersion::ALL.len()]; Class::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
    /// Connections of which the kernel knew no origin, or whose attachment is gone: reset.
    pub unknown_origins: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU64,
    /// Connections that were reset because the node had as many as it may.
    pub over_node_limit: AtomicU64,
    /// Connections that were reset because the pod had as many as it may and none of them was idle.
    pub over_pod_limit: AtomicU64,
    /// Idle connections that were closed to make room for a newer one of the same pod.
    pub evicted: AtomicU64,
    /// Connections that ended with their attachment.
    pub detached: AtomicU64,
    /// Connections that ended because a head was not complete in time.
    pub slow_heads: AtomicU64,
    /// How long requests waited for the decision whose pod they are.
    pub identity_wait: Times,
    /// Requests that waited for their pod's rate.
    pub rate_waits: AtomicU64,
    durations: [Times; Class::ALL.len()],
    cache: [AtomicU64; Found::ALL.len()],
    calls: [[AtomicU64; CODES.len()]; Operation::ALL.len()],
    call_durations: [Times; Operation::ALL.len()],
    calls_in_flight: AtomicU64,
    refresh_failures: [AtomicU64; FaultClass::ALL.len()],
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(
        &self,
        class: Class,
        version: ImdsVersion,
        status: u16,
        reason: Option<Reason>,
        took: Duration,
    ) {
        self.durations[class as usize].observe(took);
        if let Some(at) = STATUSES.iter().position(|known| *known == status) {
            self.requests[class as usize][version as usize][at].fetch_add(1, Relaxed);
        }
        if let Some(reason) = reason {
            self.refused[reason as usize].fetch_add(1, Relaxed);
        }
    }

    /// Counts how keys were found.
    pub fn found(&self, found: Found) {
        self.cache[found as usize].fetch_add(1, Relaxed);
    }

    /// Counts keys that were to be renewed and could not be.
    pub fn refresh_failed(&self, class: FaultClass) {
        self.refresh_failures[class as usize].fetch_add(1, Relaxed);
    }

    /// Counts and times a call to AWS. `code` finds AWS' word for an error in what came of it.
    pub async fn call<T, E>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, E>>,
        code: impl FnOnce(&E) -> Option<&str>,
    ) -> Result<T, E> {
        // A caller that is dropped takes its call back.
        let flight = Flight::begin(&self.calls_in_flight);
        let begun = std::time::Instant::now();
        let result = call.await;
        drop(flight);
        self.call_durations[operation as usize].observe(begun.elapsed());
        let code = match &result {
            Ok(_) => SUCCESS,
            Err(error) => code(error).unwrap_or(NO_ANSWER),
        };
        let at = CODES.iter().position(|known| *known == code);
        self.calls[operation as usize][at.unwrap_or(CODES.len() - 1)].fetch_add(1, Relaxed);
        result
    }

    /// How many requests of a class and a version were answered with `status`.
    #[must_use]
    pub fn requests(&self, class: Class, version: ImdsVersion, status: u16) -> u64 {
        let at = STATUSES.iter().position(|known| *known == status);
        at.map_or(0, |at| {
            self.requests[class as usize][version as usize][at].load(Relaxed)
        })
    }

    /// How many requests were refused for `reason`.
    #[must_use]
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_labels_are_in_the_order_of_their_numbers() {
        for (number, class) in PathClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
        for (number, code) in UpstreamCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
        for status in [401, 403, 404] {
            assert_eq!(UpstreamCode::of(status).label(), status.to_string());
        }
        assert_eq!(UpstreamCode::of(302), UpstreamCode::Other);
    }

    #[test]
    fn every_status_of_a_reason_has_a_counter() {
        for reason in Reason::ALL {
            let metrics = Metrics::default();
            metrics.answered(
                Class::Other,
                ImdsVersion::V1,
                reason.status(),
                Some(reason),
                Duration::ZERO,
            );
            assert_eq!(
                metrics.requests(Class::Other, ImdsVersion::V1, reason.status()),
                1
            );
            assert_eq!(metrics.refused(reason), 1);
        }
    }
}
