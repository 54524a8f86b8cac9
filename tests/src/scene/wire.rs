//! Single packets between pods, built by hand, and what of them arrives.
//!
//! A wire is the pod's `eth0` as a packet socket. Kernels answer segments that they did not ask for, so a pod whose segments are all made by hand is
//! made *deaf* first: without its address its kernel drops what arrives, and the packet socket still sees it.

mod segment;

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::link;
use portcullis_lab::outside::{NODE_MAC, OUTSIDE_INTERFACE, OUTSIDE_MAC};
use portcullis_lab::wire::PacketSocket;

use super::{NEVER, SOON, Scene, wait_until};

pub use segment::{Kind, Segment, chunk, echo, flag, sctp, tcp, udp, unreachable};

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
        // Mute first: the kernel would still report its multicast groups, at times of its own.
        let muted = scene
            .netns(key)
            .run(|| link::settings(&[("ipv6/conf/eth0/disable_ipv6", "1")]));
        muted.expect("a pod's IPv6 can be switched off");
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
        let frame = segment::frame(&segment, self.own, self.other);
        self.socket.send(&frame).expect("a frame can be sent");
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&self, frame: &[u8]) {
        self.socket.send(frame).expect("a frame can be sent");
    }

    /// A frame to the other end of the veth.
    #[must_use]
    pub fn framed(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.other, self.own].concat();
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// The hardware address of this end.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.own
    }

    /// Takes all frames that have arrived, as bytes; nobody else sees them.
    #[must_use = "or say `let _`: they are gone"]
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let drained = self.socket.drain(|frame| frames.push(frame.to_vec()));
        drained.expect("frames can be received");
        frames
    }

    /// Whether a frame is this packet.
    #[must_use]
    pub fn is(frame: &[u8], segment: Segment) -> bool {
        segment::read(frame) == Some(segment)
    }

    /// How often exactly this packet has arrived so far.
    #[must_use]
    pub fn count(&self, segment: Segment) -> usize {
        self.count_if(|other| *other == segment)
    }

    /// How many such packets have arrived so far.
    #[must_use]
    pub fn count_if(&self, such: impl Fn(&Segment) -> bool) -> usize {
        let mut seen = self.seen.borrow_mut();
        let drained = self.socket.drain(|frame| seen.extend(segment::read(frame)));
        drained.expect("frames can be received");
        seen.iter().filter(|other| such(other)).count()
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
