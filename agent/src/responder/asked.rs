//! Questions of the agent about its responder: what it has counted, what its cache has.
//!
//! An answer takes the responder well under a millisecond. A responder that is not there, or takes longer than `PATIENCE`, has not answered: nobody waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_imds::link::{CacheEntry, FromAgent, Question, Told};
use portcullis_imds::metrics::Snapshot;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long an answer may take, with all of its parts.
const PATIENCE: Duration = Duration::from_millis(500);
/// Parts of an answer that wait to be read. A cache has 10,000 entries at most.
const PARTS: usize = 1024;

/// The responder, as far as it can be asked. Clones are the same.
#[derive(Clone, Default)]
pub struct Responder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// To the writer of the link that there is now, or was last.
    out: Mutex<Option<mpsc::Sender<FromAgent>>>,
    next: AtomicU64,
    waits: Mutex<HashMap<u64, mpsc::Sender<Told>>>,
}

impl Responder {
    /// What it has counted; nothing if it does not answer.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let mut parts = self.ask(Question::Metrics)?;
        match timeout(PATIENCE, parts.recv()).await.ok()?? {
            Told::Metrics { snapshot } => Some(*snapshot),
            Told::Cache { .. } => None,
        }
    }

    /// What its cache has; nothing if it does not answer.
    pub async fn cache(&self) -> Option<Vec<CacheEntry>> {
        let mut parts = self.ask(Question::Cache)?;
        let mut all = Vec::new();
        let heard = async {
            while let Some(Told::Cache { entries, more }) = parts.recv().await {
                all.extend(entries);
                if !more {
                    return Some(());
                }
            }
            None
        };
        timeout(PATIENCE, heard).await.ok()??;
        Some(all)
    }

    /// A link to a responder stands: what is written here reaches it.
    pub(super) fn connected(&self, out: mpsc::Sender<FromAgent>) {
        *lock(&self.shared.out) = Some(out);
        // Whoever asked the one before has no answer.
        lock(&self.shared.waits).clear();
    }

    /// An answer, or a part of it, has come. What nobody waits for is nothing.
    pub(super) fn hear(&self, id: u64, told: Told) {
        let mut waits = lock(&self.shared.waits);
        let heard = waits.get(&id).map(|waits| waits.try_send(told));
        if matches!(heard, Some(Err(_))) {
            waits.remove(&id);
        }
    }

    fn ask(&self, what: Question) -> Option<mpsc::Receiver<Told>> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, parts) = mpsc::channel(PARTS);
        let mut waits = lock(&self.shared.waits);
        waits.retain(|_, waits| !waits.is_closed());
        waits.insert(id, answer);
        drop(waits);
        let out = lock(&self.shared.out).clone()?;
        out.try_send(FromAgent::Ask { id, what }).ok()?;
        Some(parts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A responder that answers each question with `parts`.
    fn answering(parts: fn() -> Vec<Told>) -> Responder {
        let (out, mut asked) = mpsc::channel(8);
        let responder = Responder::default();
        responder.connected(out);
        let hears = responder.clone();
        tokio::spawn(async move {
            while let Some(FromAgent::Ask { id, .. }) = asked.recv().await {
                for told in parts() {
                    hears.hear(id, told);
                }
            }
        });
        responder
    }

    fn part(more: bool) -> Told {
        let entries = Vec::new();
        Told::Cache { entries, more }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_parts_is_whole_or_none() {
        assert_eq!(
            answering(|| vec![part(true), part(false)]).cache().await,
            Some(Vec::new())
        );
        assert_eq!(answering(|| vec![part(true)]).cache().await, None);
        assert_eq!(answering(|| vec![part(false)]).snapshot().await, None);
        assert_eq!(answering(Vec::new).snapshot().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_responder_that_is_not_there() {
        let responder = Responder::default();
        assert_eq!(responder.cache().await, None);
        let (out, asked) = mpsc::channel(8);
        responder.connected(out);
        drop(asked);
        assert_eq!(responder.snapshot().await, None);
        assert!(lock(&responder.shared.waits).len() <= 1);
    }
}
