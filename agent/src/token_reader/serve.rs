//! The reader's end of the socket: one question on each connection, from the agent alone.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use portcullis_imds::secret::Secret;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::{Answer, LINE, Question, volumes};

/// How long the agent may take to put its question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody waits longer for a file.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What `portcullis token-reader` can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the agent asks.
    pub socket: PathBuf,
    /// The kubelet's directory of pods.
    pub pods: PathBuf,
    /// The uid that the agent runs with.
    pub agent_uid: u32,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let pods = Arc::new(Pods::open(&settings.pods)?);
    let socket = listen(&settings.socket)?;
    info!(pods = %settings.pods.display(), "Token reader is running");
    tokio::select! {
        result = accept(socket, pods, settings.agent_uid) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    // A socket file that a reader left behind.
    let _ = fs::remove_file(path);
    let socket =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .context("closing the socket to others")?;
    Ok(socket)
}

async fn accept(socket: UnixListener, pods: Arc<Pods>, agent_uid: u32) -> Result<()> {
    loop {
        let (stream, _) = socket.accept().await.context("accepting the agent")?;
        let peer = stream.peer_cred().context("asking who connects")?;
        if peer.uid() != agent_uid {
            warn!(
                uid = peer.uid(),
                pid = peer.pid(),
                "Turned away from the token reader's socket"
            );
            continue;
        }
        let pods = Arc::clone(&pods);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &pods).await {
                warn!(error = %format!("{error:#}"), "A question about a token was not answered");
            }
        });
    }
}

async fn answer(stream: UnixStream, pods: &Pods) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(LINE));
    timeout(PATIENCE, read.read_until(b'\n', &mut line))
        .await
        .context("waiting for the question")?
        .context("reading the question")?;
    let question: Question = serde_json::from_slice(&line).context("understanding it")?;
    let wait = Duration::from_millis(question.wait_ms).min(LONGEST_WAIT);
    let token = tokio::select! {
        token = pods.token(&question, wait) => token,
        // Who asks no more has hung up.
        _ = read.read_u8() => return Ok(()),
    };
    let mut line = serde_json::to_vec(&Answer { token })?;
    line.push(b'\n');
    write.write_all(&line).await.context("answering")
}

/// The kubelet's directory of pods.
struct Pods {
    path: PathBuf,
    directory: Arc<OwnedFd>,
}

impl Pods {
    fn open(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            directory: Arc::new(file.into()),
        })
    }

    /// The token that is asked for; of a pod that is starting, as soon as the kubelet has written it.
    async fn token(&self, question: &Question, wait: Duration) -> Result<Secret, String> {
        if !volumes::is_uid(&question.pod_uid) {
            return Err("that is no uid of a pod".to_owned());
        }
        let deadline = Instant::now() + wait;
        let none = || "no volume of the pod holds a token for this audience".to_owned();
        if let Some(token) = self.find(question).await {
            return Ok(token);
        }
        if wait.is_zero() {
            return Err(none());
        }
        let broken =
            |error: std::io::Error| format!("the pod's volumes cannot be watched: {error}");
        let mut watch = Watch::new().map_err(broken)?;
        loop {
            // Watched first, looked at then: what comes between is seen by one of them.
            watch.set(&self.path, &question.pod_uid);
            if let Some(token) = self.find(question).await {
                return Ok(token);
            }
            match timeout_at(deadline, watch.changed()).await {
                Ok(result) => result.map_err(broken)?,
                Err(_elapsed) => return Err(none()),
            }
        }
    }

    async fn find(&self, question: &Question) -> Option<Secret> {
        let (directory, question) = (Arc::clone(&self.directory), question.clone());
        let found = tokio::task::spawn_blocking(move || {
            volumes::find(&directory, &question.pod_uid, &question.audience)
        });
        found.await.ok().flatten()
    }
}

/// Tells when a pod's volumes may have become others: by a file's change, or by the mount of a volume, which no directory reports.
struct Watch {
    events: EventStream<Vec<u8>>,
    mounts: AsyncFd<fs::File>,
}

impl Watch {
    fn new() -> std::io::Result<Self> {
        let mounts = fs::File::open("/proc/self/mountinfo")?;
        // SAFETY: the file is open and is moved in; nothing else closes it or replaces its descriptor.
        let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY) }?;
        Ok(Self {
            events: Inotify::init()?.into_event_stream(vec![0; 4096])?,
            mounts,
        })
    }

    /// Watches whatever there is on the way to the pod's files.
    fn set(&mut self, pods: &Path, pod_uid: &str) {
        let volumes = pods.join(volumes::of_pod(pod_uid));
        let pod = pods.join(pod_uid);
        let mut all = vec![
            pods.to_owned(),
            pod.clone(),
            pod.join("volumes"),
            volumes.clone(),
        ];
        let inside = fs::read_dir(&volumes).into_iter().flatten().flatten();
        all.extend(inside.map(|entry| entry.path()));
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ONLYDIR;
        let mut watches = self.events.watches();
        for path in all {
            // What is not there yet is made in a directory that is watched.
            let _ = watches.add(path, mask);
        }
    }

    async fn changed(&mut self) -> std::io::Result<()> {
        tokio::select! {
            event = self.events.next() => event.map_or(Ok(()), |event| event.map(drop)),
            ready = self.mounts.ready(Interest::PRIORITY) => {
                ready?.clear_ready();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
