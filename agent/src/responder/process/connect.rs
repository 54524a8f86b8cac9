//! The way to the agent: its socket, and the listeners that come with the first line.

use std::io::{self, IoSliceMut};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use portcullis_imds::link::{FromAgent, LINE};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the agent may take to hand over the listeners.
const PATIENCE: Duration = Duration::from_secs(5);
/// One socket for each guarded address.
const MOST_SOCKETS: usize = 8;

/// A link to the agent.
pub(super) struct Connected {
    /// The rest of what is said.
    pub(super) stream: UnixStream,
    /// Services and their sockets.
    pub(super) listeners: Vec<(u16, TcpListener)>,
}

/// Connects, looks who is there, and takes the listeners.
pub(super) async fn connect(path: &Path, agent_uid: u32) -> Result<Connected> {
    let stream = UnixStream::connect(path)
        .await
        .with_context(|| format!("connecting to {}", path.display()))?;
    let peer = stream.peer_cred().context("asking who is there")?;
    if peer.uid() != agent_uid {
        bail!(
            "uid {} holds the socket and not the agent's, {agent_uid}",
            peer.uid()
        );
    }
    let (line, sockets) = timeout(PATIENCE, first(&stream))
        .await
        .context("waiting for the listeners")??;
    let FromAgent::Listeners { services } =
        serde_json::from_slice(&line).context("reading the first line")?
    else {
        bail!("the agent says something else first");
    };
    if services.len() != sockets.len() {
        bail!(
            "{} sockets came for {} services",
            sockets.len(),
            services.len()
        );
    }
    Ok(Connected {
        listeners: services
            .into_iter()
            .zip(sockets.into_iter().map(TcpListener::from))
            .collect(),
        stream,
    })
}

/// The first line and what comes with it, byte by byte behind the first read, so that nothing of the second line is taken.
async fn first(stream: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut sockets = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() > LINE {
            bail!("the first line has no end");
        }
        let mut byte = [0];
        let read = stream
            .async_io(Interest::READABLE, || {
                receive(stream, &mut byte, &mut sockets)
            })
            .await
            .context("receiving the listeners")?;
        if read == 0 {
            bail!("the agent hung up");
        }
        line.extend(byte);
    }
    Ok((line, sockets))
}

fn receive(
    stream: &UnixStream,
    byte: &mut [u8; 1],
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([i32; MOST_SOCKETS]);
    let mut bytes = [IoSliceMut::new(byte)];
    let message = recvmsg::<()>(
        stream.as_fd().as_raw_fd(),
        &mut bytes,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            sockets.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok(message.bytes)
}
