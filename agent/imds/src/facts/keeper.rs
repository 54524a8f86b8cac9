//! The task that knows the node: asks its metadata service for what the tables need, again when that is old, and never because a pod asks.
//!
//! ```text
//! what namespaces want -> paths -> due? -> Upstream, one after the other -> Known, to whoever serves pods
//! ```
//! 1. A value that stays is asked for once an hour, one that may change every 5 seconds, and both only as long as a pod's namespace wants them.
//! 2. What the service does not have, or did not answer, is asked for again after 5 seconds. Values that stay outlive a failure; those that may change do not.
//! 3. One task, so each path is asked for once at a time. If the service is not there at all, a round ends with its first try.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::IdentityDocument;
use super::known::{Known, Value, Wanted};
use super::opt_in::DOCUMENT;
use crate::metrics::PathClass;
use crate::upstream::{Path, Upstream, UpstreamError};

/// How long a value that stays is not asked for again.
pub const STATIC: Duration = Duration::from_hours(1);
/// The same for one that may change.
pub const CHANGING: Duration = Duration::from_secs(5);
/// The same for what the service does not have or did not answer.
pub const NEGATIVE: Duration = Duration::from_secs(5);
/// How often it is said that the service does not answer.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// The task's state.
struct Keeper {
    upstream: Upstream,
    wanted: watch::Receiver<Wanted>,
    known: watch::Sender<Arc<Known>>,
    due: BTreeMap<Path, Instant>,
    told: Option<Instant>,
}

/// Starts the task; what it knows, whenever that changes. It ends when nobody listens, or nobody can want anything any more.
#[must_use]
pub fn keep(upstream: Upstream, wanted: watch::Receiver<Wanted>) -> watch::Receiver<Arc<Known>> {
    let (known, receiver) = watch::channel(Arc::default());
    let keeper = Keeper {
        upstream,
        wanted,
        known,
        due: BTreeMap::new(),
        told: None,
    };
    tokio::spawn(keeper.run());
    receiver
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let next = self.round().await;
            tokio::select! {
                () = sleep_until(next) => {}
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
                () = self.known.closed() => return,
            }
        }
    }

    /// Asks for everything that is due; when something is due next.
    async fn round(&mut self) -> Instant {
        loop {
            // Again each time: a list brings paths along, and meanwhile more may be wanted.
            let paths = self.known.borrow().paths(&self.wanted.borrow_and_update());
            self.forget_all_but(&paths);
            let now = Instant::now();
            let due = |path: &Path| self.due.get(path).copied().unwrap_or(now);
            let Some(path) = paths.iter().find(|path| due(path) <= now) else {
                return paths.iter().map(due).min().unwrap_or(now + STATIC);
            };
            let path = path.clone();
            let answer = self.upstream.get(&path).await;
            let answer = answer.and_then(|text| read(&path, &text));
            let now = Instant::now();
            if let Err(error) = &answer {
                self.tell(&path, error);
            }
            if answer.as_ref().is_err_and(UpstreamError::is_of_all_paths) {
                for path in paths {
                    let due = self.due.entry(path.clone()).or_insert(now);
                    if *due <= now {
                        *due = now + NEGATIVE;
                        self.learn(&path, None);
                    }
                }
                continue;
            }
            let (again, value) = match answer {
                Ok(text) => {
                    let changes = path.class() == PathClass::Changing;
                    (
                        if changes { CHANGING } else { STATIC },
                        Some(Value::Text(text)),
                    )
                }
                Err(UpstreamError::Status(404)) => (NEGATIVE, Some(Value::Absent)),
                Err(_) => (NEGATIVE, None),
            };
            self.due.insert(path.clone(), now + again);
            self.learn(&path, value);
        }
    }

    /// Takes an answer in, or that there was none.
    fn learn(&self, path: &Path, value: Option<Value>) {
        self.known.send_if_modified(|known| {
            let before = known.0.get(path);
            if before == value.as_ref() {
                return false;
            }
            // What stays is what it was.
            if value.is_none() && path.class() != PathClass::Changing {
                return false;
            }
            let known = &mut Arc::make_mut(known).0;
            match value {
                Some(value) => known.insert(path.clone(), value),
                None => known.remove(path),
            };
            true
        });
    }

    /// What nobody wants any more may be old when somebody does.
    fn forget_all_but(&mut self, paths: &[Path]) {
        let paths: BTreeSet<&Path> = paths.iter().collect();
        self.due.retain(|path, _| paths.contains(path));
        self.known.send_if_modified(|known| {
            let stale = known.0.keys().any(|path| !paths.contains(path));
            if stale {
                let known = &mut Arc::make_mut(known).0;
                known.retain(|path, _| paths.contains(path));
            }
            stale
        });
    }

    fn tell(&mut self, path: &Path, error: &UpstreamError) {
        if matches!(error, UpstreamError::Status(404)) {
            debug!(%path, "The node's metadata service has no such value");
        } else if self.told.is_none_or(|at| at.elapsed() > TELL_AGAIN) {
            self.told = Some(Instant::now());
            let cause = std::error::Error::source(error).map(ToString::to_string);
            warn!(%path, %error, cause, "Cannot get a value of the node");
        }
    }
}

/// A value that can be shown: lines of text, and of the identity document one that has all that is shown of it.
fn read(path: &Path, text: &str) -> Result<Arc<str>, UpstreamError> {
    let is_text = text
        .chars()
        .all(|letter| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t'));
    let is_whole = *path != DOCUMENT || serde_json::from_str::<IdentityDocument>(text).is_ok();
    if is_text && is_whole {
        Ok(text.into())
    } else {
        Err(UpstreamError::Malformed)
    }
}

#[cfg(test)]
mod tests;
