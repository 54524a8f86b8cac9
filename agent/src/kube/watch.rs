//! The API server feed: one watch for each kind, each on its own.
//!
//! ```text
//! list, page by page -> Reset ; watch with bookmarks -> Apply, Delete ; cut: go on from the last version ; 410 or stuck: list again
//! ```
//! A list goes out when it is complete and never before (reliability-spec 4). While the API server is away the world keeps what it has, and is told
//! since when. Every wait is spread, so that the agents of a cluster do not come back all at once:
//!
//! 1. behind a failure: a quarter of a second, doubled each time, three seconds at most, or what the API server asks for;
//! 2. before listing again what was listed already: one to three seconds;
//! 3. behind a watch that the API server ended in order: none, unless it was shorter than a second.

mod pause;
mod share;
mod source;

use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use self::pause::Pause;
use self::share::Common;
use self::source::{Source, WatchError};
use super::{Batch, Change, Keep, Kind, Trouble};
use crate::failure::Failure;

/// How often a failing watch is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Refusals to go on from the last version before everything is listed again: the API server may never have heard of it (restored from a backup).
/// An API server that is away refuses nothing, and all agents listing everything at its return would send it away again.
const STUCK: u32 = 5;

/// A watch that ended sooner than this is opened again with a pause.
const SHORT: Duration = Duration::from_secs(1);

/// A client for the API server of the pod's service account, else of the kubeconfig. Asks it nothing yet.
pub async fn connect() -> kube::Result<Client> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    // Failures are ours to see, to tell and to wait out.
    config.default_retry = false;
    Client::try_from(config)
}

/// Starts a watch for each kind. The tasks end when the receiver of the changes is gone.
pub fn spawn(client: &Client, keep: &Keep, changes: &mpsc::Sender<Batch>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for kind in Kind::FED {
        let Some(source) = Source::new(kind, client.clone(), keep.clone()) else {
            continue;
        };
        let feed = Feed::new(kind, source, changes.clone());
        tasks.spawn(feed.run().instrument(info_span!("watch", %kind)));
    }
    tasks
}

/// One kind's watch.
struct Feed {
    kind: Kind,
    source: Source,
    changes: mpsc::Sender<Batch>,
    /// How far the world is; `None` = nothing, or too far behind: list.
    version: Option<String>,
    common: Common,
    pause: Pause,
    /// Refusals since anything was learnt.
    refusals: u32,
    /// What does not work, as the world was told.
    trouble: Option<Trouble>,
    logged: Option<Instant>,
}

/// Nobody listens any more.
struct Closed;

impl Feed {
    fn new(kind: Kind, source: Source, changes: mpsc::Sender<Batch>) -> Self {
        Self {
            kind,
            source,
            changes,
            version: None,
            common: Common::default(),
            pause: Pause::default(),
            refusals: 0,
            trouble: None,
            logged: None,
        }
    }

    async fn run(mut self) {
        let changes = self.changes.clone();
        tokio::select! {
            // Ends only when nobody listens.
            Err(Closed) = self.follow() => {}
            () = changes.closed() => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Closed> {
        loop {
            let result = match self.version.clone() {
                None => self.list().await?,
                Some(version) => self.watch(version).await?,
            };
            let wait = match result {
                Ok(()) => continue,
                Err(error) => self.fail(&error).await?,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// All objects. A page that fails takes the whole list with it.
    async fn list(&mut self) -> Result<Result<(), WatchError>, Closed> {
        let mut live = Vec::new();
        let mut more = None;
        loop {
            match self.source.page(more).await {
                Ok(mut page) => {
                    for entry in &mut page.entries {
                        self.common.share(entry);
                    }
                    live.extend(page.entries);
                    if page.more.is_none() {
                        info!(objects = live.len(), "Listed");
                        self.version = Some(page.version);
                        let kind = self.kind;
                        self.learnt(Some(Change::Reset { kind, live })).await?;
                        return Ok(Ok(()));
                    }
                    more = page.more;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// What changes from `version` on, until the watch ends.
    async fn watch(&mut self, version: String) -> Result<Result<(), WatchError>, Closed> {
        let opened = Instant::now();
        let mut lines = match self.source.watch(&version).await {
            Ok(lines) => lines,
            Err(error) => return Ok(Err(error)),
        };
        // The API server has taken the watch: what is known is as of now.
        self.works().await?;
        loop {
            match lines.next().await {
                Ok(Some(mut signal)) => {
                    if let Some(Change::Apply(entry)) = &mut signal.change {
                        self.common.share(entry);
                    }
                    self.version = Some(signal.version);
                    self.learnt(signal.change).await?;
                }
                Ok(None) => {
                    if opened.elapsed() < SHORT {
                        tokio::time::sleep(self.pause.after_failure()).await;
                    }
                    return Ok(Ok(()));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Something was read and understood.
    async fn learnt(&mut self, change: Option<Change>) -> Result<(), Closed> {
        self.refusals = 0;
        self.pause.reset();
        if let Some(change) = change {
            self.send(vec![change]).await?;
        }
        self.works().await
    }

    /// The API server answers.
    async fn works(&mut self) -> Result<(), Closed> {
        let Some(trouble) = self.trouble.take() else {
            return Ok(());
        };
        info!(
            secs = trouble.since.elapsed().as_secs(),
            "Watch works again"
        );
        let kind = self.kind;
        self.send(vec![Change::Trouble {
            kind,
            trouble: None,
        }])
        .await
    }

    /// Tells of the failure; says how long to wait.
    async fn fail(&mut self, error: &WatchError) -> Result<Duration, Closed> {
        self.refusals += u32::from(error.is_refusal());
        if matches!(error, WatchError::Gone) || self.refusals >= STUCK {
            // Not trouble yet: the API server answers, and what is known stays in force until the new list is complete.
            info!(%error, "Listing again");
            self.version = None;
            self.refusals = 0;
            return Ok(Pause::before_listing_again().max(self.pause.after_failure()));
        }
        self.log(error);
        let now = Some(Trouble {
            reason: error.in_full(),
            since: match &self.trouble {
                Some(trouble) => trouble.since,
                None => Instant::now().into_std(),
            },
            lacks: error.lacks(),
        });
        if self.trouble != now {
            self.trouble.clone_from(&now);
            let kind = self.kind;
            let trouble = now;
            self.send(vec![Change::Trouble { kind, trouble }]).await?;
        }
        Ok(self.pause.after_failure().max(error.wait()))
    }

    fn log(&mut self, error: &WatchError) {
        let reason = error.in_full();
        if self
            .logged
            .is_some_and(|logged| logged.elapsed() < LOG_EVERY)
        {
            debug!(error = reason, "Watch failed again");
            return;
        }
        self.logged = Some(Instant::now());
        if let Some(right) = error.lacks() {
            let Failure {
                code,
                what,
                why,
                do_,
            } = lacks(&right, &reason);
            error!(code, what, why, "do" = do_, "Service account lacks a right");
        } else {
            warn!(
                error = reason,
                "Watch failed, the last state stays in force"
            );
        }
    }

    async fn send(&self, batch: Batch) -> Result<(), Closed> {
        let sent = self.changes.send(batch).await;
        sent.map_err(|_closed| Closed)
    }
}

/// The three lines of a missing right.
fn lacks(right: &str, reason: &str) -> Failure {
    Failure::new(
        "PC4005",
        format!("the agent may not {right}"),
        reason,
        "apply the ClusterRole and the ClusterRoleBinding of deploy/portcullis.yaml",
    )
}

#[cfg(test)]
mod tests;
