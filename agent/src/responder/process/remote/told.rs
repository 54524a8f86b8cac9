//! What the responder says of itself when its agent asks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use portcullis_imds::link::{CacheEntry, FromResponder, PART, Question, Told};
use portcullis_imds::metrics::Snapshot;

use super::Remote;

/// Pods in a snapshot that asked without a session token.
const MOST_V1: usize = 500;

impl Remote {
    /// Answers for itself. What finds no room is not told: the agent does not wait for long.
    pub(super) fn tell(&self, id: u64, what: Question) {
        let parts = match what {
            Question::Metrics => vec![Told::Metrics {
                snapshot: Box::new(self.snapshot()),
            }],
            Question::Cache => {
                let entries: Vec<CacheEntry> =
                    self.cache.summary().into_iter().map(Into::into).collect();
                let parts = entries.chunks(PART).map(<[CacheEntry]>::to_vec);
                let parts = parts.map(|entries| Told::Cache {
                    entries,
                    more: true,
                });
                let last = Told::Cache {
                    entries: Vec::new(),
                    more: false,
                };
                parts.chain([last]).collect()
            }
        };
        for told in parts {
            let _ = self.shared.ask(FromResponder::Told { id, told });
        }
    }

    fn snapshot(&self) -> Snapshot {
        let now = Timestamp::now();
        let mut cached = BTreeMap::new();
        let mut min_expiry_secs: Option<i64> = None;
        for summary in self.cache.summary() {
            if let Some(end) = summary.expiration.filter(|end| *end > now) {
                if let Some(source) = summary.source {
                    *cached.entry(source).or_default() += 1;
                }
                let left = end.duration_since(now).as_secs();
                min_expiry_secs = Some(min_expiry_secs.map_or(left, |least| least.min(left)));
            }
        }
        Snapshot {
            v1: self.book.take_v1(MOST_V1),
            cached: cached.into_iter().collect(),
            min_expiry_secs,
            upstream: self.upstream.snapshot(),
            audit_dropped: self.book.dropped(),
            ..self.metrics.snapshot()
        }
    }
}
