//! Credentials of every role that a live pod of the node uses: fetched once, renewed in time, served at once.
//!
//! ```text
//! pod's decision -> hold (a lease) -> keeper, one task for each key -> limits -> source
//! request -> lease -> what the keeper has, or its next word
//! ```
//! 1. A key says everything that changes what the source would return, so no two identities share an entry.
//! 2. A keeper makes one call at a time; whoever hangs up cancels nothing.
//! 3. What is valid is served at once. It is renewed 35 to 30 minutes before its end, so nothing with less than 25 minutes left is served unless the
//!    source fails; then it is served to its real end.
//! 4. A failure is remembered for as long as its kind asks for, so that the source is not asked at the rate of requests.
//! 5. An entry lives as long as a lease on it: with the last pod its keys are wiped and no call is made for it again.

mod fault;
mod keeper;
mod key;
mod limit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use fault::{Class, Class as FaultClass, Fault};
pub use key::{Endpoints, Key, Owner, Scope, Sessions};

use crate::audit::{Book, Record};
use crate::credentials::{ASSUME_ROLE_UNAUTHORIZED, Credentials, Fetched, Found, Outcome};
use crate::metrics::Metrics;
use crate::role::SourceKind;
use keeper::{Keeper, State};
use limit::Limits;

/// Nothing with less time left is served while the source answers: botocore takes keys with less than 15 minutes and a jitter of up to 10 for an outage.
pub const LEAST_LEFT: Duration = Duration::from_mins(25);

/// Prefetches that run at the same time.
const PREFETCHES: usize = 8;

/// Where credentials come from.
pub trait Source: Send + Sync + 'static {
    /// Fetches new credentials, with the token of one of the live pods that share them. May take as long as it needs: it runs in a task of its own.
    fn fetch(
        &self,
        key: &Key,
        owner: &Owner,
    ) -> impl Future<Output = Result<Credentials, Fault>> + Send;
}

/// The time of day, and chance: what tests choose for themselves.
#[derive(Clone)]
pub struct World {
    /// Now.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// A number from 0 to 1, another one each time.
    pub chance: Arc<dyn Fn() -> f64 + Send + Sync>,
}

/// The cache. Clones are the same cache.
pub struct Cache<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Cache<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// What keepers and callers share.
struct Shared<S> {
    source: S,
    world: World,
    limits: Limits,
    prefetches: Semaphore,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Who is told of renewals and failures; nobody at first.
    observer: OnceLock<Observer>,
}

/// Who is told what keepers do.
struct Observer {
    book: Arc<Book>,
    metrics: Arc<Metrics>,
}

struct Entry {
    /// The live pods that use it, once for each lease. The keeper asks in the name of the first.
    owners: Owners,
    line: Line,
    keeper: AbortHandle,
}

/// Pods, shared with a keeper.
type Owners = Arc<Mutex<Vec<Owner>>>;

/// Between a keeper and those who ask it.
#[derive(Clone)]
struct Line {
    state: watch::Receiver<State>,
    bell: Arc<Bell>,
}

/// How a keeper is told that something is wanted of it.
struct Bell {
    /// Somebody waits for an answer.
    asked: Notify,
    /// What was refused may be allowed now.
    changed: Notify,
    /// Whether somebody has asked for a fetch, or one is under way.
    busy: AtomicBool,
    began: Instant,
    /// When somebody asked last, in seconds since then.
    last: AtomicU64,
}

impl Bell {
    fn new() -> Self {
        Self {
            asked: Notify::new(),
            changed: Notify::new(),
            busy: AtomicBool::new(false),
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        self.last
            .store(self.began.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// For how long nobody has asked.
    fn silence(&self) -> Duration {
        let last = Duration::from_secs(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

/// A live pod's claim to a key's credentials. Dropped with the pod.
pub struct Lease<S: Source> {
    shared: Arc<Shared<S>>,
    key: Key,
    owner: Owner,
    line: Line,
}

/// What the cache has, without what it keeps secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Whose.
    pub key: Key,
    /// The way in which its keys were got, else the one that is tried first.
    pub source: Option<SourceKind>,
    /// Live pods that use it.
    pub leases: usize,
    /// When its keys end, if it has any.
    pub expiration: Option<Timestamp>,
    /// Their public half.
    pub access_key_id: Option<String>,
    /// The last failure, if nothing has succeeded since.
    pub fault: Option<Fault>,
}

impl<S: Source> Cache<S> {
    /// An empty one. Keepers run on the runtime of whoever holds the first lease.
    #[must_use]
    pub fn new(source: S, world: World) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                limits: Limits::default(),
                world,
                prefetches: Semaphore::new(PREFETCHES),
                entries: Mutex::default(),
                observer: OnceLock::new(),
            }),
        }
    }

    /// Tells renewals and failures to these, from now on. Once: others are not heard.
    pub fn observe(&self, book: Arc<Book>, metrics: Arc<Metrics>) {
        // Whoever came first stays.
        let _ = self.shared.observer.set(Observer { book, metrics });
    }

    /// Claims a key's credentials for a live pod, their owner. With `prefetch` they are fetched at once, else when somebody asks.
    #[must_use]
    pub fn hold(&self, key: &Key, owner: &Owner, prefetch: bool) -> Lease<S> {
        let mut entries = self.shared.entries();
        let entry = entries
            .entry(key.clone())
            .and_modify(|entry| lock(&entry.owners).push(owner.clone()))
            .or_insert_with(|| {
                let owners: Owners = Arc::new(Mutex::new(vec![owner.clone()]));
                let (line, keeper) = Keeper::new(
                    Arc::clone(&self.shared),
                    key.clone(),
                    Arc::clone(&owners),
                    prefetch,
                );
                Entry {
                    owners,
                    line,
                    keeper: tokio::spawn(keeper.run()).abort_handle(),
                }
            });
        Lease {
            line: entry.line.clone(),
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            owner: owner.clone(),
        }
    }

    /// Forgets that a key was refused: the pod, its service account or its namespace has changed.
    pub fn reconsider(&self, key: &Key) {
        if let Some(entry) = self.shared.entries().get(key) {
            entry.line.bell.changed.notify_one();
        }
    }

    /// Every entry, in no order.
    #[must_use]
    pub fn summary(&self) -> Vec<Summary> {
        let entries = self.shared.entries();
        let summary = entries.iter().map(|(key, entry)| {
            let state = entry.line.state.borrow();
            Summary {
                key: key.clone(),
                source: state
                    .credentials
                    .as_ref()
                    .map(|keys| keys.source)
                    .or_else(|| key.sources.first().copied()),
                leases: lock(&entry.owners).len(),
                expiration: state.credentials.as_ref().map(|keys| keys.expiration),
                access_key_id: state
                    .credentials
                    .as_ref()
                    .map(|keys| keys.access_key_id.clone()),
                fault: state.failed.as_ref().map(|failed| failed.fault.clone()),
            }
        });
        summary.collect()
    }
}

impl<S> Shared<S> {
    fn holders(&self, key: &Key) -> usize {
        self.entries()
            .get(key)
            .map_or(0, |entry| lock(&entry.owners).len())
    }

    /// Tells how a fetch went.
    fn tell(&self, key: &Key, owner: &Owner, renews: bool, result: Result<&Credentials, &Fault>) {
        let Some(Observer { book, metrics }) = self.observer.get() else {
            return;
        };
        let (now, leases) = ((self.world.now)(), self.holders(key));
        match result {
            Ok(keys) if renews => {
                book.note(Record::refreshed(key, &owner.pod_uid, keys, leases, now));
            }
            // Handing them out is told by whoever does.
            Ok(_) => {}
            Err(fault) => {
                if renews {
                    metrics.refresh_failed(fault.class);
                }
                book.note(Record::failed(key, &owner.pod_uid, fault, leases, now));
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        lock(&self.entries)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; if it did, a map of handles and a list of pods still are what they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Source> Lease<S> {
    /// The credentials: at once if there are any that may be served, or if a failure still stands; else the keeper's next word.
    pub async fn get(&self) -> Outcome {
        self.find().await.outcome
    }

    /// The same, and how it was found.
    pub async fn find(&self) -> Fetched {
        let Line { state, bell } = &self.line;
        bell.note();
        if let Some((outcome, found)) = state.borrow().answer((self.shared.world.now)()) {
            let found = Some(found);
            return Fetched { outcome, found };
        }
        let mut state = state.clone();
        let joins = bell.busy.swap(true, Ordering::Relaxed);
        let found = Some(if joins { Found::Joined } else { Found::Miss });
        loop {
            let answer = state.borrow_and_update().answer((self.shared.world.now)());
            if let Some((outcome, _)) = answer {
                return Fetched { outcome, found };
            }
            // A permit waits for the keeper if it is busy.
            bell.asked.notify_one();
            if state.changed().await.is_err() {
                let outcome = Outcome::Transient;
                return Fetched { outcome, found };
            }
        }
    }

    /// How many live pods use them.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.shared.holders(&self.key)
    }

    /// Whose credentials these are.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl<S: Source> Drop for Lease<S> {
    fn drop(&mut self) {
        let mut entries = self.shared.entries();
        if let Some(entry) = entries.get_mut(&self.key) {
            let mut owners = lock(&entry.owners);
            if let Some(at) = owners.iter().position(|owner| *owner == self.owner) {
                owners.remove(at);
            }
            let unused = owners.is_empty();
            drop(owners);
            if unused {
                entry.keeper.abort();
                entries.remove(&self.key);
            }
        }
    }
}

impl Fault {
    /// What a pod is told of it.
    fn outcome(&self) -> Outcome {
        match self.class {
            Class::Denied => Outcome::Denied {
                code: ASSUME_ROLE_UNAUTHORIZED.to_owned(),
                message: self.message.clone(),
            },
            Class::Invalid => Outcome::Denied {
                code: self.code.clone(),
                message: self.message.clone(),
            },
            Class::NoAssociation => Outcome::Nothing {
                message: self.message.clone(),
            },
            Class::NoToken | Class::BadToken | Class::Throttled | Class::Network => {
                Outcome::Transient
            }
        }
    }
}

#[cfg(test)]
mod tests;
