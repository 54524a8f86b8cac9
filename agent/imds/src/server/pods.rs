//! The connections and the rate of each pod.
//!
//! Behind one lock, which is held for a few instructions and never over a wait: connections come, go and rest in tasks of their own, and asking a task that
//! owns the table would cost each request two switches.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::rate::{Rate, Turn};
use crate::caller::Attachment;

/// Connections of a pod.
pub(super) const MOST_SEATS: usize = 64;

#[derive(Debug)]
pub(super) struct Pods {
    start: Instant,
    /// Between two requests of a pod, in the long run.
    every: Duration,
    known: Mutex<HashMap<Attachment, Pod>>,
}

#[derive(Debug)]
struct Pod {
    rate: Rate,
    seats: Vec<Arc<Seat>>,
}

/// A connection's place among its pod's.
#[derive(Debug, Default)]
struct Seat {
    /// Microseconds from the start, and one; zero while it is busy.
    idle_since: AtomicU64,
    leave: Notify,
}

/// A seat that is taken. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    pods: &'a Pods,
    attachment: Attachment,
    seat: Arc<Seat>,
    /// Whether an idle connection was asked to leave for it.
    pub(super) evicted: bool,
}

impl Pods {
    /// None yet; each will have so many requests a second.
    pub(super) fn new(requests_a_second: NonZeroU32) -> Self {
        Self {
            start: Instant::now(),
            every: Duration::from_secs(1) / requests_a_second.get(),
            known: Mutex::default(),
        }
    }

    /// Takes a seat, from the connection that has been idle longest if all are taken; none if all are busy.
    pub(super) fn enter(&self, attachment: Attachment, now: Instant) -> Option<Taken<'_>> {
        let mut pods = self.lock();
        if !pods.contains_key(&attachment) {
            // Here and not when the last connection closes: a pod must not get a new burst by closing it.
            pods.retain(|_, pod| !pod.seats.is_empty() || !pod.rate.is_whole(now));
        }
        let pod = pods.entry(attachment).or_insert_with(|| Pod {
            rate: Rate::new(now),
            seats: Vec::new(),
        });
        let is_full = pod.seats.len() >= MOST_SEATS;
        if is_full {
            let idle = |seat: &Arc<Seat>| seat.idle_since.load(Relaxed);
            let (place, _) = pod
                .seats
                .iter()
                .map(idle)
                .enumerate()
                .filter(|(_, since)| *since != 0)
                .min_by_key(|(_, since)| *since)?;
            pod.seats.swap_remove(place).leave.notify_one();
        }
        let seat = Arc::<Seat>::default();
        pod.seats.push(Arc::clone(&seat));
        Some(Taken {
            pods: self,
            attachment,
            seat,
            evicted: is_full,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Attachment, Pod>> {
        // Whoever panicked left whole entries: each change is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    /// From now on it may be asked to leave.
    pub(super) fn rest(&self, now: Instant) {
        let since = now.saturating_duration_since(self.pods.start).as_micros() as u64 + 1;
        // Only from busy to idle: it has been idle since it became so.
        let _ = self
            .seat
            .idle_since
            .compare_exchange(0, since, Relaxed, Relaxed);
    }

    /// It may not be asked to leave.
    pub(super) fn work(&self) {
        self.seat.idle_since.store(0, Relaxed);
    }

    /// Ready when it is asked to leave.
    pub(super) async fn asked_to_leave(&self) {
        self.seat.leave.notified().await;
    }

    /// When the pod's next request may be answered.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        match self.pods.lock().get_mut(&self.attachment) {
            Some(pod) => pod.rate.take(now, self.pods.every),
            // Evicted together with the last seat: the connection closes next.
            None => Turn::Now,
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(pod) = self.pods.lock().get_mut(&self.attachment) {
            pod.seats.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Pods {
        Pods::new(super::super::POD_REQUESTS)
    }

    const POD: Attachment = Attachment([1; 16]);

    #[tokio::test]
    async fn the_connection_that_was_idle_longest_leaves_for_a_new_one() {
        let pods = pods();
        let start = Instant::now();
        let seats: Vec<_> = (0..MOST_SEATS)
            .map(|_| pods.enter(POD, start).expect("there is room"))
            .collect();
        assert!(pods.enter(POD, start).is_none(), "all are busy");
        seats[5].rest(start + Duration::from_secs(2));
        seats[9].rest(start + Duration::from_secs(1));
        seats[9].rest(start + Duration::from_secs(3));
        let newest = pods.enter(POD, start).expect("one of them leaves");
        assert!(newest.evicted);
        seats[9].asked_to_leave().await;
        seats[5].work();
        assert!(
            pods.enter(POD, start).is_none(),
            "the other one is busy again"
        );
    }

    #[test]
    fn a_pod_gets_no_new_burst_by_closing_its_connections() {
        let pods = pods();
        let start = Instant::now();
        for _ in 0..432 {
            let seat = pods.enter(POD, start).expect("there is room");
            assert_ne!(seat.turn(start), Turn::Never);
        }
        let another = pods
            .enter(Attachment([2; 16]), start)
            .expect("there is room");
        assert_eq!(another.turn(start), Turn::Now);
        assert_eq!(
            pods.enter(POD, start).expect("there is room").turn(start),
            Turn::Never
        );
    }

    #[test]
    fn a_pod_that_is_quiet_again_is_forgotten() {
        let pods = pods();
        let start = Instant::now();
        for number in 0..100 {
            let seat = pods
                .enter(Attachment([number; 16]), start)
                .expect("there is room");
            assert_eq!(seat.turn(start), Turn::Now);
        }
        let later = start + Duration::from_secs(1);
        drop(pods.enter(Attachment([200; 16]), later));
        assert_eq!(pods.lock().len(), 1);
    }
}
