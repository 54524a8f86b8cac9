//! The agent's end of the socket to the responder: one responder at a time, the newest.
//!
//! Whoever connects must have the responder's uid. The task ends a link that says anything that the responder does not.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use portcullis_imds::caller::Attachment;
use portcullis_imds::link::{FromAgent, FromResponder, LINE, Origin};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::listeners::Listeners;
use super::origin::{Holder, Origins};
use crate::dataplane::names::uid_digest;
use crate::dataplane::plan::address_bytes;
use crate::flowlog::Lookup;
use portcullis_common::abi::Owner;

/// How long an origin may take to be known: the tables of a pod that is starting are written a moment before they are told to us.
const PATIENCE: Duration = Duration::from_millis(200);

/// All that an answer is made of.
pub struct Link {
    /// What the responder listens with.
    pub listeners: Listeners,
    /// Whose connections are.
    pub origins: Origins,
    /// Who holds which slot.
    pub lookup: watch::Receiver<Lookup>,
    /// This boot and network namespace.
    pub owner: Owner,
    /// The only uid that may connect.
    pub uid: u32,
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
    let link = std::sync::Arc::new(tokio::sync::Mutex::new(link));
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
            // It may hold the link until it has ended.
            let _ = task.await;
        }
        info!(pid = peer.pid(), "Responder has connected");
        let link = std::sync::Arc::clone(&link);
        current = Some(tokio::spawn(async move {
            let mut link = link.lock().await;
            match link.talk(stream).await {
                Ok(()) => warn!("Responder has gone; metadata is not answered until it is back"),
                Err(error) => {
                    warn!(error = %format!("{error:#}"), "Ended the link to the responder")
                }
            }
        }));
    }
}

impl Link {
    async fn talk(&mut self, stream: UnixStream) -> Result<()> {
        self.hand_over(&stream)
            .await
            .context("handing over the listeners")?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut line = Vec::new();
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
            let Ok(FromResponder::Origin { id, peer, service }) = serde_json::from_slice(&line)
            else {
                bail!("it said something that no responder says");
            };
            let origin = self.origin(peer, service).await;
            let mut answer = serde_json::to_vec(&FromAgent::Origin { id, origin })?;
            answer.push(b'\n');
            write
                .write_all(&answer)
                .await
                .context("answering the responder")?;
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

    /// Whose a connection is; a slot that is only just being given is waited for.
    async fn origin(&mut self, peer: std::net::SocketAddr, service: u16) -> Option<Origin> {
        let address = address_bytes(peer.ip());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (holders, uids) = {
                let lookup = self.lookup.borrow_and_update();
                let holders: Vec<Holder> =
                    lookup.holders.get(&address).cloned().unwrap_or_default();
                let uids: Vec<_> = holders
                    .iter()
                    .map(|holder| lookup.endpoints.get(holder).cloned())
                    .collect();
                (holders, uids)
            };
            if let Some((holder, origin)) = self.origins.take(peer, service, &holders) {
                let index = holders.iter().position(|other| *other == holder)?;
                return Some(Origin {
                    attachment: attachment(&self.owner, origin.ifindex),
                    ifindex: origin.ifindex,
                    uid: uids.into_iter().nth(index).flatten(),
                });
            }
            tokio::time::timeout_at(deadline, self.lookup.changed())
                .await
                .ok()?
                .ok()?;
        }
    }
}

/// Interfaces keep their index for as long as they are there, and the kernel gives a number again only after all others.
fn attachment(owner: &Owner, ifindex: u32) -> Attachment {
    let boot = u128::from_be_bytes(owner.boot_id);
    Attachment(uid_digest(&format!(
        "attachment {boot:x} {} {ifindex}",
        owner.netns_cookie
    )))
}
