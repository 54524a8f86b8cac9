//! All counters at one moment, as the responder tells them to its agent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::{
    CODES, Class, ImdsVersion, Metrics, Operation, PathClass, STATUSES, Seen, Upstream,
    UpstreamCode,
};
use crate::cache::FaultClass;
use crate::caller::Attachment;
use crate::credentials::Found;
use crate::reason::Reason;
use crate::role::SourceKind;

/// What was counted since the responder started. What was never counted is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Answers by class, version and status.
    pub requests: Vec<(Class, ImdsVersion, u16, u64)>,
    /// How long they took.
    pub durations: Vec<(Class, Seen)>,
    /// Refusals.
    pub refused: Vec<(Reason, u64)>,
    /// Connections that were reset because nobody knew whose they were.
    pub unknown_origins: u64,
    /// Connections that are open.
    pub connections: u64,
    /// How long requests waited for the decision whose pod they are.
    pub identity_wait: Seen,
    /// Requests without a session token since the last snapshot.
    pub v1: Vec<(Attachment, u64)>,
    /// Questions for keys by how they were found.
    pub found: Vec<(Found, u64)>,
    /// Calls to AWS by operation and code (an index of [`CODES`]).
    pub calls: Vec<(Operation, usize, u64)>,
    /// How long they took.
    pub call_durations: Vec<(Operation, Seen)>,
    /// Calls that have no answer yet.
    pub calls_in_flight: u64,
    /// Renewals that failed.
    pub refresh_failures: Vec<(FaultClass, u64)>,
    /// Entries of the cache that have keys.
    pub cached: Vec<(SourceKind, u64)>,
    /// How long the keys that end first are good for yet.
    pub min_expiry_secs: Option<i64>,
    /// Requests to the node's own metadata service.
    pub upstream: Vec<(PathClass, UpstreamCode, u64)>,
    /// Audit records that found no room.
    pub audit_dropped: u64,
}

impl Metrics {
    /// What was counted so far. What is not counted here (`v1`, `cached`, `min_expiry_secs`, `upstream`, `audit_dropped`) whoever knows adds.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut requests = Vec::new();
        for class in Class::ALL {
            for version in ImdsVersion::ALL {
                for status in STATUSES {
                    let count = self.requests(class, version, status);
                    requests.extend((count > 0).then_some((class, version, status, count)));
                }
            }
        }
        let mut calls = Vec::new();
        for operation in Operation::ALL {
            for code in 0..CODES.len() {
                let count = self.calls[operation as usize][code].load(Relaxed);
                calls.extend((count > 0).then_some((operation, code, count)));
            }
        }
        Snapshot {
            requests,
            durations: Class::ALL
                .map(|class| (class, self.durations[class as usize].seen()))
                .into(),
            refused: some(Reason::ALL, &self.refused),
            unknown_origins: self.unknown_origins.load(Relaxed),
            connections: self.connections.load(Relaxed),
            identity_wait: self.identity_wait.seen(),
            found: some(Found::ALL, &self.cache),
            calls,
            call_durations: Operation::ALL
                .map(|operation| (operation, self.call_durations[operation as usize].seen()))
                .into(),
            calls_in_flight: self.calls_in_flight.load(Relaxed),
            refresh_failures: some(FaultClass::ALL, &self.refresh_failures),
            ..Snapshot::default()
        }
    }
}

impl Upstream {
    /// What was asked so far.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(PathClass, UpstreamCode, u64)> {
        let all = PathClass::ALL
            .into_iter()
            .flat_map(|class| UpstreamCode::ALL.map(|code| (class, code)));
        all.map(|(class, code)| (class, code, self.requests(class, code)))
            .filter(|(.., count)| *count > 0)
            .collect()
    }
}

/// Counters that have counted something.
fn some<T: Copy, const N: usize>(all: [T; N], counters: &[AtomicU64; N]) -> Vec<(T, u64)> {
    all.into_iter()
        .zip(counters.iter().map(|counter| counter.load(Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_snapshot_fits_into_a_line_and_comes_back_from_it() {
        let metrics = Metrics::default();
        for class in Class::ALL {
            for version in ImdsVersion::ALL {
                for status in STATUSES {
                    metrics.answered(class, version, status, None, Duration::from_millis(3));
                }
            }
        }
        let mut snapshot = metrics.snapshot();
        snapshot.v1 = vec![(Attachment([0xff; 16]), u64::MAX); 500];
        let line = serde_json::to_string(&snapshot).expect("it is an object");
        assert!(line.len() < crate::link::LINE, "{}", line.len());
        let back: Snapshot = serde_json::from_str(&line).expect("it was one");
        assert_eq!(back, snapshot);
        assert_eq!(back.requests.len(), 180);
    }
}
