//! Records on their way out: what is alike becomes one record a minute, what nobody takes is counted.
//!
//! 1. Keys: the first answer with them is a record at once; how often they were handed out again is another one at the end of each minute ([`Served`]).
//! 2. Refusals and failures: the first of its kind is a record at once, further ones are counted to the end of the minute. A pod has [`PATHS`] kinds by path
//!    and as many again without: what it asks makes no more of it.
//! 3. The queue holds [`QUEUE`] records. One more is dropped and counted.
//!
//! A connection that hands out the same keys again takes no lock: it counts in the [`Served`] that it holds.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{Event, Record, Whose};
use crate::caller::Attachment;
use crate::reason::Reason;

/// Records that wait to be told.
pub const QUEUE: usize = 4096;
/// Kinds of refusals of a pod that are told apart by their paths.
const PATHS: usize = 16;
/// Pods with something to fold. More than a node has: then what is idle is forgotten.
const PODS: usize = 4096;

/// Keys that a pod was handed, and how often since that was told.
#[derive(Debug)]
pub struct Served {
    count: AtomicU64,
    /// How it is told.
    record: Record,
}

impl Served {
    /// They were handed out once more.
    pub fn again(&self) {
        self.count.fetch_add(1, Relaxed);
    }
}

/// The records of a responder.
#[derive(Debug, Default)]
pub struct Book {
    inner: Mutex<Inner>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Record>,
    pods: HashMap<Whose, Pod>,
    dropped: u64,
    v1: HashMap<Attachment, u64>,
}

/// What is folded for one pod.
#[derive(Debug, Default)]
struct Pod {
    served: Vec<Arc<Served>>,
    refused: Vec<Refused>,
}

#[derive(Debug)]
struct Refused {
    /// As it was sent; none for whatever has no place of its own any more.
    path: Option<Box<[u8]>>,
    record: Record,
    /// Since that was told.
    count: u64,
}

impl Book {
    /// A pod is handed keys. The first time this is what `issued` says.
    pub fn hand(
        &self,
        attachment: Attachment,
        access_key_id: &str,
        issued: impl FnOnce() -> Record,
    ) -> Arc<Served> {
        let mut inner = self.lock();
        let pod = inner.pod(Whose::Attachment(attachment));
        let known = pod.served.iter().find(|served| {
            let keys = served.record.credential.as_ref();
            keys.and_then(|keys| keys.access_key_id.as_deref()) == Some(access_key_id)
        });
        if let Some(served) = known {
            served.again();
            return Arc::clone(served);
        }
        let record = issued();
        let mut again = record.clone();
        again.event = Event::Served;
        if let Some(request) = &mut again.request {
            request.duration_micros = None;
        }
        let served = Arc::new(Served {
            count: AtomicU64::new(0),
            record: again,
        });
        pod.served.push(Arc::clone(&served));
        self.tell(&mut inner, record);
        served
    }

    /// Something was refused or has failed: a record of its own if it is the first of its kind.
    pub fn refuse(
        &self,
        attachment: Attachment,
        reason: Reason,
        path: &[u8],
        refused: impl FnOnce() -> Record,
    ) {
        let mut inner = self.lock();
        let pod = inner.pod(Whose::Attachment(attachment));
        let is_of_kind = |known: &Refused| known.record.reason == Some(reason);
        let known = pod
            .refused
            .iter_mut()
            .position(|known| is_of_kind(known) && known.path.as_deref() == Some(path));
        let is_full = pod.refused.len() >= PATHS;
        let known = known.or_else(|| {
            let any = |known: &Refused| is_of_kind(known) && known.path.is_none();
            is_full.then(|| pod.refused.iter().position(any)).flatten()
        });
        if let Some(known) = known {
            pod.refused[known].count += 1;
            return;
        }
        let record = refused();
        pod.refused.push(Refused {
            path: (!is_full).then(|| path.into()),
            record: alike(&record, is_full),
            count: 0,
        });
        self.tell(&mut inner, record);
    }

    /// What no request led to. A failure is folded like a refusal.
    pub fn note(&self, record: Record) {
        let mut inner = self.lock();
        if record.event == Event::Failed {
            let pod = inner.pod(record.whose.clone());
            let known = pod
                .refused
                .iter_mut()
                .find(|known| known.record.kind() == record.kind());
            if let Some(known) = known {
                known.count += 1;
                return;
            }
            if pod.refused.len() < PATHS {
                pod.refused.push(Refused {
                    path: None,
                    record: record.clone(),
                    count: 0,
                });
            }
        }
        self.tell(&mut inner, record);
    }

    /// A pod has asked without a session token.
    pub fn asked_v1(&self, attachment: Attachment) {
        let mut inner = self.lock();
        if inner.v1.len() < PODS || inner.v1.contains_key(&attachment) {
            *inner.v1.entry(attachment).or_default() += 1;
        }
    }

    /// Who has asked without a session token since this was asked last; some of them if there are more than `most`.
    pub fn take_v1(&self, most: usize) -> Vec<(Attachment, u64)> {
        let mut inner = self.lock();
        let some: Vec<Attachment> = inner.v1.keys().take(most).copied().collect();
        some.into_iter()
            .filter_map(|attachment| Some((attachment, inner.v1.remove(&attachment)?)))
            .collect()
    }

    /// The end of a minute: tells what was counted, and forgets what is over.
    pub fn fold(&self, now: Timestamp) {
        let mut inner = self.lock();
        let mut pods = std::mem::take(&mut inner.pods);
        pods.retain(|_, pod| {
            for record in pod.counted(now) {
                self.tell(&mut inner, record);
            }
            pod.served.retain(|served| !is_over(served, now));
            !pod.served.is_empty() || !pod.refused.is_empty()
        });
        inner.pods = pods;
    }

    /// The attachment is gone: tells what was counted for it and forgets it.
    pub fn forget(&self, attachment: Attachment, now: Timestamp) {
        let mut inner = self.lock();
        let pod = inner.pods.remove(&Whose::Attachment(attachment));
        for record in pod.into_iter().flat_map(|mut pod| pod.counted(now)) {
            self.tell(&mut inner, record);
        }
    }

    /// The next record, as soon as there is one.
    pub async fn next(&self) -> Record {
        loop {
            if let Some(record) = self.lock().queue.pop_front() {
                return record;
            }
            self.ready.notified().await;
        }
    }

    /// Records that found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn tell(&self, inner: &mut Inner, record: Record) {
        if inner.queue.len() >= QUEUE {
            inner.dropped += 1;
            return;
        }
        inner.queue.push_back(record);
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pod(&mut self, whose: Whose) -> &mut Pod {
        if self.pods.len() >= PODS && !self.pods.contains_key(&whose) {
            // Keys that are handed out again are recorded as issued once more: better twice than never.
            self.pods.retain(|_, pod| pod.is_busy());
        }
        self.pods.entry(whose).or_default()
    }
}

impl Pod {
    /// What was counted since it was told. What was not even counted once has its minute behind it.
    fn counted(&mut self, now: Timestamp) -> Vec<Record> {
        let mut records = Vec::new();
        let mut told = |record: &Record, count: u64| {
            if count > 0 {
                let at = now;
                records.push(Record {
                    at,
                    count,
                    ..record.clone()
                });
            }
            count > 0
        };
        for served in &self.served {
            told(&served.record, served.count.swap(0, Relaxed));
        }
        self.refused
            .retain_mut(|refused| told(&refused.record, std::mem::take(&mut refused.count)));
        records
    }

    fn is_busy(&self) -> bool {
        let counts =
            |served: &Arc<Served>| Arc::strong_count(served) > 1 || served.count.load(Relaxed) > 0;
        self.served.iter().any(counts) || self.refused.iter().any(|refused| refused.count > 0)
    }
}

/// Whether these keys are handed out no more: they have ended, and no connection counts in it.
fn is_over(served: &Arc<Served>, now: Timestamp) -> bool {
    let keys = served.record.credential.as_ref();
    let ended = keys
        .and_then(|keys| keys.expiration)
        .is_none_or(|end| end <= now);
    ended && Arc::strong_count(served) == 1 && served.count.load(Relaxed) == 0
}

/// How others of a record's kind are told.
fn alike(record: &Record, any_path: bool) -> Record {
    let mut record = record.clone();
    if let Some(request) = &mut record.request {
        request.duration_micros = None;
        if any_path {
            "*".clone_into(&mut request.path);
        }
    }
    record
}

#[cfg(test)]
mod tests;
