//! The task that keeps one key's credentials.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fault::{Class, Fault, renewal};
use super::{Bell, Key, LEAST_LEFT, Line, Owner, Owners, Shared, Source, lock};
use crate::credentials::{Credentials, Found, Outcome};

/// Renewal begins this long before the end, or up to [`RENEW_JITTER`] earlier.
const RENEW: Duration = Duration::from_mins(30);
const RENEW_JITTER: Duration = Duration::from_mins(5);
/// Who was not asked for so long renews nothing until somebody asks.
const FORGOTTEN: Duration = Duration::from_hours(2);
/// The clock may jump, so it is looked at this often.
const LOOK: Duration = Duration::from_mins(1);

/// What a keeper has.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The last ones that it got.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// The last failure, if nothing succeeded since.
    pub(super) failed: Option<Failed>,
}

/// A failure that stands.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// Until when nobody is asked again.
    pub(super) until: Timestamp,
}

impl State {
    /// What is answered now; none if the keeper has to be waited for.
    ///
    /// 1. credentials with enough time left; 2. credentials that are still good, if the source fails; 3. a failure that stands.
    pub(super) fn answer(&self, now: Timestamp) -> Option<(Outcome, Found)> {
        let left = self.left(now);
        if let Some(credentials) = &self.credentials
            && left > Duration::ZERO
            && (self.failed.is_some() || left >= LEAST_LEFT.min(self.half_life()))
        {
            let found = if self.failed.is_some() {
                Found::Stale
            } else {
                Found::Hit
            };
            return Some((Outcome::Ready(Arc::clone(credentials)), found));
        }
        let failed = self.failed.as_ref().filter(|failed| now < failed.until)?;
        Some((failed.fault.outcome(), Found::Negative))
    }

    fn left(&self, now: Timestamp) -> Duration {
        self.credentials.as_ref().map_or(Duration::ZERO, |keys| {
            Duration::try_from(keys.expiration.duration_since(now)).unwrap_or_default()
        })
    }

    /// Half of what the credentials live for: what lives shortly is renewed halfway, and served until then.
    fn half_life(&self) -> Duration {
        self.credentials.as_ref().map_or(Duration::ZERO, |keys| {
            let life = keys.expiration.duration_since(keys.last_updated);
            Duration::try_from(life).unwrap_or_default() / 2
        })
    }

    /// Until when a failure stands.
    fn failed_until(&self) -> Option<Timestamp> {
        self.failed.as_ref().map(|failed| failed.until)
    }
}

/// See [`super::Cache`].
pub(super) struct Keeper<S> {
    shared: Arc<Shared<S>>,
    key: Key,
    owners: Owners,
    bell: Arc<Bell>,
    state: watch::Sender<State>,
    prefetch: bool,
    /// Failures in a row.
    failures: u32,
}

impl<S: Source> Keeper<S> {
    /// A keeper, and the line to it.
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        key: Key,
        owners: Owners,
        prefetch: bool,
    ) -> (Line, Self) {
        let bell = Arc::new(Bell::new());
        let (state, receiver) = watch::channel(State::default());
        let line = Line {
            state: receiver,
            bell: Arc::clone(&bell),
        };
        let keeper = Self {
            shared,
            key,
            owners,
            bell,
            state,
            prefetch,
            failures: 0,
        };
        (line, keeper)
    }

    /// Runs until the last lease is gone.
    pub(super) async fn run(mut self) {
        if self.prefetch {
            self.prefetch().await;
        } else {
            self.bell.asked.notified().await;
            self.fetch().await;
        }
        loop {
            self.wait().await;
            self.fetch().await;
        }
    }

    /// A first fetch that nobody waits for yet; whoever asks meanwhile does not wait for its turn.
    async fn prefetch(&mut self) {
        let shared = Arc::clone(&self.shared);
        let turn = tokio::select! {
            turn = shared.prefetches.acquire() => turn.ok(),
            () = self.bell.asked.notified() => None,
        };
        self.fetch().await;
        drop(turn);
    }

    /// One of the pods that live; none when the last one has just gone.
    fn owner(&self) -> Option<Owner> {
        lock(&self.owners).first().cloned()
    }

    async fn fetch(&mut self) {
        let renews = self.state.borrow().left((self.shared.world.now)()) > Duration::ZERO;
        let Some(mut owner) = self.owner() else {
            return;
        };
        self.bell.busy.store(true, Ordering::Relaxed);
        self.shared.limits.admit(&self.key, &owner, renews).await;
        // It may be gone after that wait, and another may share its credentials.
        if let Some(now) = self.owner() {
            owner = now;
        }
        let result = self.shared.source.fetch(&self.key, &owner).await;
        self.bell.busy.store(false, Ordering::Relaxed);
        self.shared.tell(&self.key, &owner, renews, result.as_ref());
        match result {
            Ok(credentials) => {
                self.failures = 0;
                self.state.send_replace(State {
                    credentials: Some(Arc::new(credentials)),
                    failed: None,
                });
            }
            Err(fault) => {
                let stands = self.jittered(fault.class.stands(self.failures));
                if fault.class == Class::Throttled {
                    self.shared.limits.quieten(stands);
                }
                self.failures += 1;
                let until = (self.shared.world.now)() + stands;
                self.state
                    .send_modify(|state| state.failed = Some(Failed { fault, until }));
            }
        }
    }

    /// Until something has to be fetched again: 1. it is time to renew, and somebody has asked lately; 2. somebody asks for what is not there; 3. what was
    /// refused may be allowed now.
    async fn wait(&mut self) {
        let renew_before = RENEW + self.between(RENEW_JITTER);
        let retry = Instant::now() + self.jittered(renewal(self.failures.saturating_sub(1)));
        loop {
            let now = (self.shared.world.now)();
            let due = {
                let state = self.state.borrow();
                let left = state.left(now);
                match state.failed_until() {
                    _ if self.bell.silence() >= FORGOTTEN => None,
                    // Without anything to serve there is nothing to renew.
                    Some(_) if left.is_zero() => None,
                    Some(_) => Some(retry.saturating_duration_since(Instant::now())),
                    None => Some(left.saturating_sub(renew_before.min(state.half_life()))),
                }
            };
            if due.is_some_and(|due| due.is_zero()) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(due.unwrap_or(LOOK).min(LOOK)) => {}
                () = self.bell.asked.notified() => {
                    if self.state.borrow().answer((self.shared.world.now)()).is_none() {
                        return;
                    }
                    self.bell.busy.store(false, Ordering::Relaxed);
                }
                () = self.bell.changed.notified() => {
                    if self.state.borrow().failed.is_some() {
                        self.failures = 0;
                        return;
                    }
                }
            }
        }
    }

    /// Somewhere between nothing and `most`.
    fn between(&self, most: Duration) -> Duration {
        most.mul_f64((self.shared.world.chance)())
    }

    /// Give or take a fifth.
    fn jittered(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.4f64.mul_add((self.shared.world.chance)(), 0.8))
    }
}
