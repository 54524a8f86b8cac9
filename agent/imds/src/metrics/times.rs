//! How long something took, in buckets: two additions for each time, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in microseconds. A cached answer takes tens of them, SDKs give up at a second.
pub const BOUNDS: [u64; 13] = [
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 2_500_000,
];

/// Times that are counted.
#[derive(Debug, Default)]
pub struct Times {
    /// The last one has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// Times that were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How many in each bucket.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Microseconds, together.
    pub micros: u64,
}

impl Times {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            micros: self.micros.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_is_in_its_bucket() {
        let times = Times::default();
        for micros in [0, 50, 51, 2_500_000, 2_500_001] {
            times.observe(Duration::from_micros(micros));
        }
        let Seen { buckets, micros } = times.seen();
        assert_eq!((buckets[0], buckets[1], micros), (2, 1, 5_000_102));
        assert_eq!(buckets[BOUNDS.len() - 1..], [1, 1]);
    }
}
