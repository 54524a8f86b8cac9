//! How long to wait before asking the API server again. Random, so that a cluster's agents spread; nothing else here is.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
/// The API server is noticed within this time of its return; what changed meanwhile is to be in force within five seconds.
const LONGEST: Duration = Duration::from_secs(3);

/// The pause that comes next.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pause {
    /// Between half and all of what is due; twice as much is due the next time.
    pub(super) fn after_failure(&mut self) -> Duration {
        let due = self.0;
        self.0 = (due * 2).min(LONGEST);
        between(due / 2, due)
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// An API server that forgot its history tells all agents at once; each of their lists costs it much.
    pub(super) fn before_listing_again() -> Duration {
        between(Duration::from_secs(1), Duration::from_secs(3))
    }
}

/// A random time from one to the other.
pub(super) fn between(from: Duration, to: Duration) -> Duration {
    // The standard library's hasher is seeded by the system; nothing here has to be secret.
    let random = RandomState::new().hash_one(0_u8) as u32;
    from + to
        .saturating_sub(from)
        .mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_start_again_when_something_worked() {
        let mut pause = Pause::default();
        let mut due = FIRST;
        for _ in 0..10 {
            let wait = pause.after_failure();
            assert!(due / 2 <= wait && wait <= due, "{wait:?} of {due:?}");
            due = (due * 2).min(LONGEST);
        }
        assert_eq!(due, LONGEST);
        pause.reset();
        assert!(pause.after_failure() <= FIRST);
    }

    #[test]
    fn times_are_spread() {
        let times: std::collections::BTreeSet<Duration> =
            (0..50).map(|_| Pause::before_listing_again()).collect();
        assert!(times.len() > 40, "{times:?}");
    }
}
