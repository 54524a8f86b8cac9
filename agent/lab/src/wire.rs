//! Sockets that send and see packets below the transport: frames on an interface, IP packets as the node's own.
//!
//! A packet socket sees what arrives *before* the node's programs judge it, so it is used where that is the end of the way: on a pod's `eth0` and
//! outside. What reaches the node itself is seen by raw IP sockets, to which the kernel delivers after the programs (and after `to_host`, if the socket
//! was made inside the host cgroup).

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::packet::{self, ICMP, ICMPV6, SCTP, TCP, UDP};

/// Enough for a batch and all its answers.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    mac: [u8; 6],
}

impl PacketSocket {
    /// Opens a socket on the interface `index` of the calling thread's namespace, whose hardware address is `mac`.
    pub fn open(index: u32, mac: [u8; 6]) -> Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // Protocol 0 until bound: otherwise frames of other interfaces come in before.
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket")?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_ll` is a socket address, smaller than the storage; all its fields are plain integers, for which zero is valid.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index as i32;
        // SAFETY: the storage holds an initialised `sockaddr_ll` of exactly this length.
        let address =
            unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        // Before the bind, so that the first frame already finds room.
        enlarge(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address).context("binding a packet socket")?;
        Ok(Self { socket, mac })
    }

    /// Sends one frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sent(self.socket.send(frame)).context("sending a frame")
    }

    /// Hands over every frame that arrived for this interface since the last call; its own are left out.
    pub fn drain(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        drain(&self.socket, |frame| {
            // Sent frames come back too, with the other end's address as destination.
            if frame.get(0..6) == Some(&self.mac) {
                each(frame);
            }
        })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Raw IP sockets of the node.
#[derive(Debug)]
pub struct HostSockets {
    send_v4: Socket,
    send_v6: Socket,
    receive: Vec<(u8, bool, Socket)>,
}

impl HostSockets {
    /// Opens them in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let raw = |domain: Domain, protocol: i32| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))
                .context("opening a raw socket")?;
            enlarge(&socket)?;
            socket.set_nonblocking(true)?;
            Ok::<Socket, anyhow::Error>(socket)
        };
        let mut receive = Vec::new();
        for protocol in [TCP, UDP, SCTP, ICMP, ICMPV6] {
            receive.push((protocol, false, raw(Domain::IPV4, i32::from(protocol))?));
            receive.push((protocol, true, raw(Domain::IPV6, i32::from(protocol))?));
        }
        // IPPROTO_RAW: the packet brings its own header, in both families.
        Ok(Self {
            send_v4: raw(Domain::IPV4, libc::IPPROTO_RAW)?,
            send_v6: raw(Domain::IPV6, libc::IPPROTO_RAW)?,
            receive,
        })
    }

    /// Sends one IP packet to `destination` as the node's own.
    pub fn send(&self, packet: &[u8], destination: IpAddr) -> Result<()> {
        let socket = if destination.is_ipv4() {
            &self.send_v4
        } else {
            &self.send_v6
        };
        let address = SocketAddr::new(destination, 0);
        sent(socket.send_to(packet, &address.into()))
            .with_context(|| format!("sending a packet to {destination}"))
    }

    /// Hands over the marker of every opening packet that was delivered to the node since the last call.
    pub fn drain(&self, mut each: impl FnMut(u32)) -> Result<()> {
        for (protocol, v6, socket) in &self.receive {
            drain(socket, |bytes| {
                // A raw IPv6 socket gives what follows the header, a raw IPv4 socket everything.
                let marker = if *v6 {
                    packet::marker_of_transport(*protocol, bytes)
                } else {
                    packet::marker_of_packet(bytes)
                };
                marker.into_iter().for_each(&mut each);
            })?;
        }
        Ok(())
    }
}

/// A packet that a program on the way out dropped was sent all the same: some paths report that as ENOBUFS or EPERM.
fn sent(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EPERM)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn drain(socket: &Socket, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0u8; 65_536];
    loop {
        match (&mut &*socket).read(&mut buffer) {
            Ok(length) => each(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // Reported once by a raw socket after an ICMP error, by a packet socket when its interface goes.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETDOWN | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EPROTO)
                ) => {}
            Err(error) => return Err(error).context("receiving packets"),
        }
    }
}

fn enlarge(socket: &Socket) -> Result<()> {
    // The forced form passes net.core.rmem_max; it needs CAP_NET_ADMIN, which whoever makes namespaces has.
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarging a receive buffer")
}

/// A datagram to itself over `lo`, as a fence: see [`Fence::wait`].
#[derive(Debug)]
pub struct Fence {
    socket: Socket,
}

impl Fence {
    /// Opens it in the calling thread's namespace, whose `lo` must be on.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
            .context("opening the fence's socket")?;
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket
            .bind(&any.into())
            .context("binding the fence's socket")?;
        let own = socket.local_addr()?;
        socket
            .connect(&own)
            .context("connecting the fence's socket")?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
        Ok(Self { socket })
    }

    /// Returns when every packet that this thread sent before is where it will ever be; the thread must stay on one CPU.
    ///
    /// A veth and `lo` hand packets to the sending CPU's backlog, a queue that is served in order. A datagram put in afterwards and taken out of its
    /// socket has overtaken nobody; a packet that is forwarded joins the queue again, so the round is repeated once for each hop and twice more.
    pub fn wait(&self) -> Result<()> {
        const ROUNDS: u8 = 5;
        for round in 0..ROUNDS {
            self.socket
                .send(&[round])
                .context("sending the fence's datagram")?;
            let mut buffer = [MaybeUninit::uninit(); 8];
            self.socket
                .recv(&mut buffer)
                .context("waiting for the fence's datagram")?;
        }
        Ok(())
    }
}
