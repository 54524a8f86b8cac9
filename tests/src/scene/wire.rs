//! Single packets between pods, built by hand, and what of them arrives.
//!
//! A wire is the pod's `eth0` as a packet socket. Kernels answer segments that they did not ask for, so a pod whose segments are all made by hand is
//! made *deaf* first: without its address its kernel drops what arrives, and the packet socket still sees it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use portcullis_lab::NetNs;
use portcullis_lab::outside::{NODE_MAC, OUTSIDE_INTERFACE, OUTSIDE_MAC};
use portcullis_lab::wire::PacketSocket;

use super::{NEVER, SOON, Scene, wait_until};

/// TCP flags by name.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens.
    pub const SYN: u8 = 2;
    /// Breaks off.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// What is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
}

/// A packet, as little of it as matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// From.
    pub src: SocketAddr,
    /// To.
    pub dst: SocketAddr,
    /// TCP or UDP.
    pub kind: Kind,
}

/// A TCP segment.
#[must_use]
pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Segment {
    Segment {
        src: src.into(),
        dst: dst.into(),
        kind: Kind::Tcp(flags),
    }
}

/// A datagram.
#[must_use]
pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Segment {
    Segment {
        src: src.into(),
        dst: dst.into(),
        kind: Kind::Udp,
    }
}

/// One end of a veth, below the kernel's sockets.
#[derive(Debug)]
pub struct Wire {
    socket: PacketSocket,
    own: [u8; 6],
    other: [u8; 6],
    seen: RefCell<Vec<Segment>>,
}

impl Wire {
    /// A pod's.
    #[must_use]
    pub fn of(scene: &Scene, key: &str) -> Self {
        let site = scene.lab.pod(key).expect("the lab has the pod");
        Self::open(scene.netns(key), "eth0", site.pod_mac(), site.host_mac())
    }

    /// A deaf pod's.
    #[must_use]
    pub fn deaf(scene: &Scene, key: &str) -> Self {
        let flushed = scene.run(key, &["ip", "addr", "flush", "dev", "eth0"]);
        assert!(flushed.status.success(), "{flushed:?}");
        Self::of(scene, key)
    }

    /// The one outside of the node.
    #[must_use]
    pub fn outside(scene: &Scene) -> Self {
        Self::open(
            scene.lab.outside(),
            OUTSIDE_INTERFACE,
            OUTSIDE_MAC,
            NODE_MAC,
        )
    }

    fn open(namespace: &NetNs, interface: &str, own: [u8; 6], other: [u8; 6]) -> Self {
        let socket = namespace.run(|| {
            let index = nix::net::if_::if_nametoindex(interface)?;
            PacketSocket::open(index, own)
        });
        Self {
            socket: socket.expect("a packet socket opens"),
            own,
            other,
            seen: RefCell::default(),
        }
    }

    /// Sends one.
    pub fn send(&self, segment: Segment) {
        let frame = frame(&segment, self.own, self.other);
        self.socket.send(&frame).expect("a frame can be sent");
    }

    /// How often exactly this packet has arrived so far.
    #[must_use]
    pub fn count(&self, segment: Segment) -> usize {
        let mut seen = self.seen.borrow_mut();
        let drained = self.socket.drain(|frame| seen.extend(read(frame)));
        drained.expect("frames can be received");
        seen.iter().filter(|other| **other == segment).count()
    }

    /// Forgets what has arrived.
    pub fn clear(&self) {
        self.socket.drain(|_| ()).expect("frames can be received");
        self.seen.borrow_mut().clear();
    }
}

/// Sends a packet and waits until it arrives.
pub fn passes(from: &Wire, to: &Wire, segment: Segment) {
    let before = to.count(segment);
    from.send(segment);
    wait_until(&format!("{segment:?} arrives"), SOON, || {
        to.count(segment) > before
    });
}

/// Sends a packet; it must be dropped in this direction for this reason, and so never arrive.
pub fn dropped(scene: &Scene, from: &Wire, to: &Wire, segment: Segment, why: (&str, &str)) {
    let (direction, reason) = why;
    let before = (to.count(segment), scene.drops(direction, reason));
    from.send(segment);
    let deadline = Instant::now() + SOON;
    while scene.drops(direction, reason) == before.1 {
        assert_eq!(to.count(segment), before.0, "{segment:?} arrived");
        assert!(
            Instant::now() < deadline,
            "{segment:?} was not dropped as {direction} {reason}"
        );
    }
    assert_eq!(to.count(segment), before.0, "{segment:?} arrived");
}

/// Whether nothing like this arrives although it was sent; for drops that others count.
pub fn silent(from: &Wire, to: &Wire, segment: Segment) {
    let before = to.count(segment);
    from.send(segment);
    let deadline = Instant::now() + NEVER;
    while Instant::now() < deadline {
        assert_eq!(to.count(segment), before, "{segment:?} arrived");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A TCP handshake by hand, from one end of a connection to the other.
pub fn handshake(client: &Wire, server: &Wire, from: (IpAddr, u16), to: (IpAddr, u16)) {
    passes(client, server, tcp(from, to, flag::SYN));
    passes(server, client, tcp(to, from, flag::SYN | flag::ACK));
    passes(client, server, tcp(from, to, flag::ACK));
}

fn frame(segment: &Segment, own: [u8; 6], other: [u8; 6]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(own, other);
    let builder = match (segment.src.ip(), segment.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{segment:?} has two families"),
    };
    let (src, dst) = (segment.src.port(), segment.dst.port());
    let mut bytes = Vec::with_capacity(96);
    let written = match segment.kind {
        Kind::Udp => builder.udp(src, dst).write(&mut bytes, b"by hand"),
        Kind::Tcp(flags) => {
            let mut header = TcpHeader::new(src, dst, 1000, 64_240);
            header.fin = flags & flag::FIN != 0;
            header.syn = flags & flag::SYN != 0;
            header.rst = flags & flag::RST != 0;
            header.ack = flags & flag::ACK != 0;
            builder.tcp_header(header).write(&mut bytes, &[])
        }
    };
    written.expect("a small packet can be built");
    bytes
}

fn read(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst): (IpAddr, IpAddr) = match packet.net? {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    match packet.transport? {
        TransportSlice::Udp(header) => Some(udp(
            (src, header.source_port()),
            (dst, header.destination_port()),
        )),
        TransportSlice::Tcp(header) => {
            let bits = [
                (header.fin(), flag::FIN),
                (header.syn(), flag::SYN),
                (header.rst(), flag::RST),
                (header.ack(), flag::ACK),
            ];
            let flags = bits
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum();
            Some(tcp(
                (src, header.source_port()),
                (dst, header.destination_port()),
                flags,
            ))
        }
        _ => None,
    }
}
