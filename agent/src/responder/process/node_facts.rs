//! What is known of the node, in a table for each namespace, and what pods' namespaces want known.
//!
//! Lock order: whoever holds the responder's callers may take this lock, never the other way round.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_imds::facts::{Facts, Known, OptIn, Tables, Wanted, keep};
use portcullis_imds::link::Pod;
use portcullis_imds::upstream::Upstream;
use tokio::sync::watch;
use tracing::warn;

/// Tables that are up to date, and the task behind them.
pub(super) struct NodeFacts {
    wanted: watch::Sender<Wanted>,
    known: watch::Receiver<Arc<Known>>,
    tables: Mutex<Tables>,
    /// Namespaces of which it was said that they read signatures.
    told: Mutex<BTreeSet<String>>,
}

impl NodeFacts {
    /// Starts the task.
    pub(super) fn new(upstream: Upstream) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::new());
        Self {
            wanted,
            known: keep(upstream, receiver),
            tables: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// From now on these are wanted, and nothing else.
    pub(super) fn want<'a>(&self, wanted: impl Iterator<Item = &'a Wanted>) {
        let now: Wanted = wanted.flatten().cloned().collect();
        self.tables().retain(|used| used.is_subset(&now));
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != now;
            *wanted = now;
            news
        });
    }

    /// The table of pods whose namespace wants this.
    pub(super) fn table(&self, wanted: &Wanted) -> Arc<Facts> {
        self.tables().of(wanted)
    }

    /// Waits until more or something else is known, which tables say from then on; none if that cannot be any more.
    pub(super) async fn news(&self, known: &mut watch::Receiver<Arc<Known>>) -> Option<()> {
        known.changed().await.ok()?;
        let now = Arc::clone(&known.borrow_and_update());
        self.tables().learn(now);
        Some(())
    }

    /// For [`NodeFacts::news`].
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Known>> {
        self.known.clone()
    }

    /// Says once of a namespace that its pods can show others that they are the node.
    pub(super) fn tell_of_signatures(&self, pod: &Pod) {
        let reads = pod.metadata_paths.iter().any(OptIn::is_signature);
        let namespace = &pod.owner.namespace;
        if reads && lock(&self.told).insert(namespace.clone()) {
            warn!(%namespace, "Pods of this namespace read the node's signed identity: whoever has it can pass for the node");
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
