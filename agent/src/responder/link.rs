//! The agent's end of the socket to the responder: one responder at a time, the newest.
//!
//! Whoever connects must have the responder's uid. The task ends a link that says anything that the responder does not.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use portcullis_common::abi::Owner as Mark;
use portcullis_imds::cache::Owner;
use portcullis_imds::caller::Attachment;
use portcullis_imds::jwt::KeySet;
use portcullis_imds::link::{FromAgent, FromResponder, LINE, Origin, Pod};
use portcullis_imds::role::SourceKind;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::asked::Responder;
use super::host::{HostPods, Table};
use super::listeners::Listeners;
use super::origin::Origins;
use super::tokens::{TokenSource, needs};
use crate::audit::Audit;
use crate::dataplane::plan::address_bytes;
use crate::flowlog::Lookup;
use crate::kube::signers::Signers;
use crate::reconcile::{Callers, attachment, host_attachment};

/// How long an origin may take to be known: the tables of a pod that is starting are written a moment before they are told to us.
const PATIENCE: Duration = Duration::from_millis(200);

/// Lines that wait to be written.
const QUEUE: usize = 1024;

/// All that an answer is made of.
pub struct Link {
    /// What the responder listens with.
    pub listeners: Listeners,
    /// Whose connections are.
    pub whose: Arc<Whose>,
    /// Who holds which slot.
    pub lookup: watch::Receiver<Lookup>,
    /// What is known of pods.
    pub callers: watch::Receiver<Callers>,
    /// Who has tokens.
    pub tokens: Arc<TokenSource>,
    /// What pods' tokens are checked with; nothing where there is no API server.
    pub signers: Option<Signers>,
    /// The only uid that may connect.
    pub uid: u32,
    /// Who asks the responder about itself.
    pub asked: Responder,
    /// Who keeps its records.
    pub audit: Audit,
}

/// Pods by attachment; none where none is known.
type Attached = BTreeMap<Attachment, Option<Arc<Pod>>>;

/// The word on connections.
pub struct Whose {
    /// The table of origins.
    pub origins: Mutex<Origins>,
    /// Pods in the host network.
    pub host: HostPods,
    /// This boot and network namespace.
    pub owner: Mark,
}

/// Binds the socket; the future serves it.
pub fn serve(path: &Path, link: Link) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating {}", parent.display()))?;
    }
    // A socket file that an agent left behind.
    let _ = std::fs::remove_file(path);
    let socket =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    // Who may speak is decided by the peer's credentials.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .context("opening the responder's socket")?;
    Ok(accept(socket, link))
}

async fn accept(socket: UnixListener, link: Link) -> Result<()> {
    let uid = link.uid;
    let link = Arc::new(link);
    let mut current: Option<JoinHandle<()>> = None;
    loop {
        let (stream, _) = socket.accept().await.context("accepting the responder")?;
        let peer = stream.peer_cred().context("asking who connects")?;
        if peer.uid() != uid {
            warn!(
                uid = peer.uid(),
                pid = peer.pid(),
                "Turned away from the responder's socket"
            );
            continue;
        }
        if let Some(task) = current.take() {
            task.abort();
        }
        info!(pid = peer.pid(), "Responder has connected");
        let link = Arc::clone(&link);
        current = Some(tokio::spawn(async move {
            match link.talk(stream).await {
                Ok(()) => warn!("Responder has gone; metadata is not answered until it is back"),
                Err(error) => {
                    warn!(error = %format!("{error:#}"), "Ended the link to the responder");
                }
            }
        }));
    }
}

impl Link {
    async fn talk(&self, stream: UnixStream) -> Result<()> {
        self.hand_over(&stream)
            .await
            .context("handing over the listeners")?;
        let (read, write) = stream.into_split();
        let (out, lines) = mpsc::channel(QUEUE);
        let callers = self.callers.clone();
        self.asked.connected(out.clone());
        tokio::select! {
            result = write_lines(write, lines) => result,
            result = self.tell(callers, out.clone()) => result,
            result = tell_keys(self.signers.clone(), out.clone()) => result,
            result = self.answer(BufReader::new(read), out) => result,
        }
    }

    async fn answer(
        &self,
        mut read: BufReader<OwnedReadHalf>,
        out: mpsc::Sender<FromAgent>,
    ) -> Result<()> {
        let mut line = Vec::new();
        let mut waits = JoinSet::new();
        loop {
            line.clear();
            let length = (&mut read)
                .take(LINE as u64)
                .read_until(b'\n', &mut line)
                .await
                .context("reading from the responder")?;
            if length == 0 {
                return Ok(());
            }
            while waits.try_join_next().is_some() {}
            match serde_json::from_slice(&line) {
                Ok(FromResponder::Origin { id, peer, service }) => {
                    let origin = self.whose.ask(&self.lookup.borrow(), peer, service);
                    if let Some(origin) = &origin {
                        self.audit.met(origin);
                    }
                    if origin.is_some() {
                        out.send(FromAgent::Origin { id, origin }).await?;
                        continue;
                    }
                    let (whose, lookup) = (Arc::clone(&self.whose), self.lookup.clone());
                    let (out, audit) = (out.clone(), self.audit.clone());
                    waits.spawn(async move {
                        let origin = whose.wait(lookup, peer, service).await;
                        if let Some(origin) = &origin {
                            audit.met(origin);
                        }
                        // The link may be gone.
                        let _ = out.send(FromAgent::Origin { id, origin }).await;
                    });
                }
                Ok(FromResponder::Keys) => {
                    if let Some(signers) = &self.signers {
                        signers.wanted.notify_one();
                    }
                }
                Ok(FromResponder::Token {
                    id,
                    pod_uid,
                    audience,
                    source,
                }) => {
                    let owner = self.owner_of(&pod_uid, &audience, source);
                    let (tokens, out) = (Arc::clone(&self.tokens), out.clone());
                    waits.spawn(async move {
                        let token = match owner {
                            Some(owner) => tokens.token(&owner, &audience, source).await,
                            None => Err("this pod has no role that is got so".to_owned()),
                        };
                        // The link may be gone.
                        let _ = out.send(FromAgent::Token { id, token }).await;
                    });
                }
                Ok(FromResponder::Told { id, told }) => self.asked.hear(id, told),
                Ok(FromResponder::Record { record }) => self.audit.take(*record),
                Err(_) => bail!("it said something that no responder says"),
            }
        }
    }

    /// The pod of this uid, if it has a role that is got in this way with a token for this audience.
    fn owner_of(&self, pod_uid: &str, audience: &str, source: SourceKind) -> Option<Owner> {
        let callers = self.callers.borrow();
        let pod = callers.of(pod_uid)?;
        needs(pod, audience, source).then(|| pod.owner.clone())
    }

    /// Says what is known of every pod, then what becomes different.
    async fn tell(
        &self,
        mut callers: watch::Receiver<Callers>,
        out: mpsc::Sender<FromAgent>,
    ) -> Result<()> {
        let mut cgroups = self.whose.host.watch();
        let mut told = Attached::new();
        loop {
            let now = self
                .whose
                .attached(&callers.borrow_and_update(), &cgroups.borrow_and_update());
            for (attachment, pod) in &now {
                if told.get(attachment) != Some(pod) {
                    let pod = pod.as_deref().cloned().map(Box::new);
                    let attachment = *attachment;
                    out.send(FromAgent::Pod { attachment, pod }).await?;
                }
            }
            for attachment in told.keys().filter(|known| !now.contains_key(known)) {
                let attachment = *attachment;
                out.send(FromAgent::Gone { attachment }).await?;
            }
            told = now;
            tokio::select! {
                changed = callers.changed() => changed?,
                changed = cgroups.changed() => changed?,
            }
        }
    }

    /// Says what the sockets are, and sends them along.
    async fn hand_over(&self, stream: &UnixStream) -> Result<()> {
        let services = self.listeners.sockets.iter().map(|(service, _)| *service);
        let mut line = serde_json::to_vec(&FromAgent::Listeners {
            services: services.collect(),
        })?;
        line.push(b'\n');
        let sockets: Vec<_> = self
            .listeners
            .sockets
            .iter()
            .map(|(_, socket)| socket.as_raw_fd())
            .collect();
        let fd = stream.as_fd().as_raw_fd();
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                let rights = [ControlMessage::ScmRights(&sockets)];
                sendmsg::<()>(
                    fd,
                    &[IoSlice::new(&line)],
                    &rights,
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                )
                .map_err(io::Error::from)
            })
            .await?;
        if sent != line.len() {
            bail!("the socket took {sent} of {} bytes", line.len());
        }
        Ok(())
    }
}

impl Whose {
    /// Whose a connection is, as far as slots are known by now.
    fn ask(&self, lookup: &Lookup, peer: SocketAddr, service: u16) -> Option<Origin> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holders) = lookup.holders.get(&address_bytes(peer.ip())) else {
            // No pod's address: one of the node's own.
            let (key, origin) = origins.of_host(peer, service)?;
            let (cgroup, uid) = self.host.find(origin.cgroups)?;
            origins.forget(&key);
            return Some(Origin {
                attachment: host_attachment(&self.owner, cgroup),
                ifindex: 0,
                cgroup,
                uid: Some(uid),
            });
        };
        let (holder, origin) = origins.take(peer, service, holders)?;
        Some(Origin {
            attachment: attachment(&self.owner, origin.ifindex),
            ifindex: origin.ifindex,
            cgroup: 0,
            uid: lookup.endpoints.get(&holder).cloned(),
        })
    }

    /// Pods by all attachments that are known.
    fn attached(&self, callers: &Callers, cgroups: &Table) -> Attached {
        let host = cgroups.iter().filter_map(|(id, uid)| {
            let pod = callers.host.get(uid)?;
            Some((host_attachment(&self.owner, *id), Some(Arc::clone(pod))))
        });
        callers.interfaces.clone().into_iter().chain(host).collect()
    }

    /// The same for a pod that is starting, whose slot may become known in a moment. Nobody else waits for that.
    async fn wait(
        &self,
        mut lookup: watch::Receiver<Lookup>,
        peer: SocketAddr,
        service: u16,
    ) -> Option<Origin> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let origin = self.ask(&lookup.borrow_and_update(), peer, service);
            if origin.is_some() {
                return origin;
            }
            timeout_at(deadline, lookup.changed()).await.ok()?.ok()?;
        }
    }
}

/// Says what tokens are checked with, and what becomes different.
async fn tell_keys(signers: Option<Signers>, out: mpsc::Sender<FromAgent>) -> Result<()> {
    let Some(Signers { mut known, .. }) = signers else {
        return std::future::pending().await;
    };
    loop {
        let set = known.borrow_and_update().clone();
        if let Some(set) = set {
            let set = Box::new(KeySet::clone(&set));
            out.send(FromAgent::Keys { set }).await?;
        }
        known.changed().await?;
    }
}

async fn write_lines(
    mut write: OwnedWriteHalf,
    mut lines: mpsc::Receiver<FromAgent>,
) -> Result<()> {
    while let Some(said) = lines.recv().await {
        let mut line = serde_json::to_vec(&said)?;
        line.push(b'\n');
        write
            .write_all(&line)
            .await
            .context("telling the responder")?;
    }
    Ok(())
}
