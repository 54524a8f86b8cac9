//! How fast a pod may ask: so many requests a second (200 unless told otherwise), twice as many at once, then a queue of 32, then no.
//!
//! One time says it all (the generic cell rate algorithm): the moment at which the burst is whole again. A place in the queue is a reservation.

use std::time::Duration;

use tokio::time::Instant;

use super::HOLD;

/// The time for which requests are saved up.
const SAVED: Duration = Duration::from_secs(2);
const QUEUE: u32 = 32;

/// A pod's rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    whole_at: Instant,
}

/// When a request may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    After(Duration),
    Never,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { whole_at: now }
    }

    /// Takes one of a pod that may have one `every` so often in the long run.
    pub(super) fn take(&mut self, now: Instant, every: Duration) -> Turn {
        let owed = self.whole_at.saturating_duration_since(now) + every;
        let wait = owed.saturating_sub(SAVED);
        if wait > HOLD.min(every * QUEUE) {
            return Turn::Never;
        }
        self.whole_at = now + owed;
        if wait.is_zero() {
            Turn::Now
        } else {
            Turn::After(wait)
        }
    }

    /// Whether nothing would be forgotten with it.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        self.whole_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(5);

    #[test]
    fn four_hundred_at_once_then_a_queue_then_no() {
        let now = Instant::now();
        let mut rate = Rate::new(now);
        for _ in 0..400 {
            assert_eq!(rate.take(now, EVERY), Turn::Now);
        }
        for place in 1..=32 {
            assert_eq!(rate.take(now, EVERY), Turn::After(EVERY * place));
        }
        assert_eq!(
            (rate.take(now, EVERY), rate.take(now, EVERY)),
            (Turn::Never, Turn::Never)
        );
        assert_eq!(rate.take(now + EVERY, EVERY), Turn::After(EVERY * 32));
    }

    #[test]
    fn two_hundred_a_second_are_never_held() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for number in 0..2000 {
            assert_eq!(rate.take(start + EVERY * number, EVERY), Turn::Now);
        }
    }

    #[test]
    fn a_burst_is_whole_again_after_two_seconds() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for _ in 0..400 {
            rate.take(start, EVERY);
        }
        assert!(!rate.is_whole(start + EVERY * 399) && rate.is_whole(start + EVERY * 400));
    }
}
