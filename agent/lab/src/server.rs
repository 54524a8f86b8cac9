//! One thread that serves every listening socket of a lab, in whichever namespace each was opened.
//!
//! TCP: a line with the owner's name, then an echo of what is sent; port 80 outside speaks HTTP. UDP: the owner's name, a line feed, the payload.
//! Nothing is queued for a peer that does not read: its connection is closed. Only this thread touches the sockets; others send it commands.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::metadata::{Head, Metadata};
use crate::spec::Listen;

/// A request head longer than this is nobody's honest one.
const HEAD_LIMIT: usize = 8192;

/// What a socket says.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A fixed name.
    Name(Arc<str>),
    /// `outside ADDRESS`, the address being the one that was asked.
    Outside,
    /// HTTP, by the stand-in metadata service.
    Http(Arc<Metadata>),
}

/// The running thread. Dropping it closes every socket.
#[derive(Debug)]
pub struct Server {
    commands: Sender<Command>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Add(String, Kind),
    Forget(String),
}

#[derive(Debug)]
enum Kind {
    Listener(TcpListener, Answer),
    Datagrams(UdpSocket, Answer),
    Echo(TcpStream),
    Http(TcpStream, Arc<Metadata>, Vec<u8>),
}

/// A socket that is bound and waits to be served; made in the namespace it listens in.
#[derive(Debug)]
pub struct Bound(Kind);

impl Bound {
    /// Listens on `port` of every address of both families, in the calling thread's namespace.
    pub fn listen(port: Listen, answer: Answer) -> Result<Self> {
        let (kind, protocol, number) = match port {
            Listen::Tcp(number) => (Type::STREAM, Protocol::TCP, number),
            Listen::Udp(number) => (Type::DGRAM, Protocol::UDP, number),
        };
        let socket = Socket::new(Domain::IPV6, kind, Some(protocol))
            .context("opening a listening socket")?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, number).into();
        socket
            .bind(&any.into())
            .with_context(|| format!("listening on {port:?}"))?;
        Ok(Self(match port {
            Listen::Tcp(_) => {
                socket
                    .listen(128)
                    .with_context(|| format!("listening on {port:?}"))?;
                Kind::Listener(socket.into(), answer)
            }
            Listen::Udp(_) => {
                // The answer must come from the address that was asked, which may be any.
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                    .context("asking for packet information")?;
                Kind::Datagrams(socket.into(), answer)
            }
        }))
    }
}

impl Server {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let (wake, woken) = UnixStream::pair().context("opening a socket pair")?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (commands, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("lab-server".into())
            .spawn(move || serve(&woken, &inbox))
            .context("starting a thread")?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    /// Serves `socket` under the name of `owner`.
    pub fn add(&self, owner: &str, socket: Bound) -> Result<()> {
        self.command(Command::Add(owner.to_owned(), socket.0))
    }

    /// Closes all sockets of `owner`.
    pub fn forget(&self, owner: &str) -> Result<()> {
        self.command(Command::Forget(owner.to_owned()))
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .ok()
            .context("the lab's server has ended")?;
        // A full pair means that it is about to wake anyway.
        let _ = (&self.wake).write(&[1]);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.wake.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Runs until the other end of `woken` is closed.
fn serve(woken: &UnixStream, inbox: &Receiver<Command>) {
    let mut entries: Vec<(String, Kind)> = Vec::new();
    loop {
        let ready = {
            let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                entries
                    .iter()
                    .map(|(_, kind)| PollFd::new(kind.fd(), PollFlags::POLLIN)),
            );
            // An interrupted poll reports nothing; the next round does.
            let _ = poll(&mut fds, PollTimeout::NONE);
            fds.iter()
                .map(|fd| fd.any().unwrap_or(false))
                .collect::<Vec<bool>>()
        };
        let mut next = Vec::with_capacity(entries.len());
        for ((owner, mut kind), ready) in entries.into_iter().zip(ready.iter().skip(1)) {
            let mut accepted = Vec::new();
            if !ready || kind.advance(&mut accepted) {
                next.push((owner.clone(), kind));
            }
            next.extend(accepted.into_iter().map(|kind| (owner.clone(), kind)));
        }
        entries = next;
        if ready.first().copied().unwrap_or(false) {
            let mut bytes = [0; 64];
            let ended = matches!((&*woken).read(&mut bytes), Ok(0));
            for command in inbox.try_iter() {
                match command {
                    Command::Add(owner, kind) => entries.push((owner, kind)),
                    Command::Forget(owner) => entries.retain(|(other, _)| *other != owner),
                }
            }
            if ended {
                return;
            }
        }
    }
}

impl Kind {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(socket, _) => socket.as_fd(),
            Self::Datagrams(socket, _) => socket.as_fd(),
            Self::Echo(socket) | Self::Http(socket, ..) => socket.as_fd(),
        }
    }

    /// Does what can be done without waiting; `false` when the socket is finished.
    fn advance(&mut self, accepted: &mut Vec<Self>) -> bool {
        match self {
            Self::Listener(listener, answer) => {
                while let Ok((stream, _)) = listener.accept() {
                    accepted.extend(greet(stream, answer));
                }
                true
            }
            Self::Datagrams(socket, answer) => {
                // Bounded, so that one flooded port does not silence the others.
                for _ in 0..64 {
                    if reply(socket, answer).is_none() {
                        break;
                    }
                }
                true
            }
            Self::Echo(stream) => {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes) {
                    Ok(0) => false,
                    Ok(length) => stream.write_all(&bytes[..length]).is_ok(),
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                }
            }
            Self::Http(stream, metadata, head) => {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes) {
                    Ok(0) => return false,
                    Ok(length) => head.extend_from_slice(&bytes[..length]),
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
                if let (Some(request), Ok(to), Ok(from)) =
                    (Head::parse(head), stream.local_addr(), stream.peer_addr())
                {
                    // A peer that does not take a kilobyte at once gets none of it.
                    let _ = stream.write_all(&metadata.answer(
                        &request,
                        to.ip().to_canonical(),
                        from.ip().to_canonical(),
                    ));
                    return false;
                }
                head.len() < HEAD_LIMIT
            }
        }
    }
}

fn greet(mut stream: TcpStream, answer: &Answer) -> Option<Kind> {
    stream.set_nonblocking(true).ok()?;
    let name = match answer {
        Answer::Http(metadata) => return Some(Kind::Http(stream, metadata.clone(), Vec::new())),
        Answer::Name(name) => format!("{name}\n"),
        Answer::Outside => format!(
            "outside {}\n",
            stream.local_addr().ok()?.ip().to_canonical()
        ),
    };
    stream.write_all(name.as_bytes()).ok()?;
    Some(Kind::Echo(stream))
}

/// Answers one datagram; `None` if there was none.
fn reply(socket: &UdpSocket, answer: &Answer) -> Option<()> {
    let mut payload = [0; 2048];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let (length, peer, info) = {
        let mut slices = [IoSliceMut::new(&mut payload)];
        let message = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT,
        )
        .ok()?;
        let info = message.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        })?;
        (message.bytes, message.address?, info)
    };
    let asked: IpAddr = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical();
    let name = match answer {
        Answer::Name(name) => name.to_string(),
        Answer::Outside | Answer::Http(_) => format!("outside {asked}"),
    };
    let body = [
        name.as_bytes(),
        b"\n",
        payload.get(..length).unwrap_or_default(),
    ]
    .concat();
    // The interface is left to routing: the way in may be `lo`'s.
    let source = libc::in6_pktinfo {
        ipi6_ifindex: 0,
        ..info
    };
    // A peer that cannot be reached is the peer's loss.
    let _ = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(&body)],
        &[ControlMessage::Ipv6PacketInfo(&source)],
        MsgFlags::MSG_DONTWAIT,
        Some(&peer),
    );
    Some(())
}
