//! Packets as bytes, well formed, to be spoilt by hand; and one way to see what a node makes of them.
//!
//! A [`Trial`] sends frames from one pod to another, an ordinary datagram after them, and compares all that arrived and every counter: what was refused
//! is counted once, for its reason and no other, and nothing else changed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wire::{Wire, udp};
use super::{SOON, Scene, wait_until};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// IANA numbers of what is above IP.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// A packet of the addresses' family, with what is above IP.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ipv4_with(src, dst, &[], protocol, body),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = u16::try_from(body.len()).expect("a small packet");
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(body);
            packet
        }
        _ => panic!("from {src} to {dst} has two families"),
    }
}

/// An IPv4 packet with options, whose length is a multiple of four.
#[must_use]
pub fn ipv4_with(src: IpAddr, dst: IpAddr, options: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else {
        panic!("from {src} to {dst} is not IPv4")
    };
    assert_eq!(options.len() % 4, 0, "options are padded");
    let header = 20 + options.len();
    let total = u16::try_from(header + body.len()).expect("a small packet");
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    packet.extend(body);
    seal(&mut packet);
    packet
}

/// Puts the right checksum into an IPv4 header.
pub fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0xf) * 4;
    let sum = packet[..header.min(packet.len())]
        .chunks(2)
        .map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A UDP header with a payload.
#[must_use]
pub fn datagram(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::from(sport.to_be_bytes());
    body.extend(dport.to_be_bytes());
    body.extend((8 + payload.len() as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    body
}

/// A TCP header with these flags and nothing behind it.
#[must_use]
pub fn segment(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut body = Vec::from(sport.to_be_bytes());
    body.extend(dport.to_be_bytes());
    body.extend([
        0, 0, 3, 232, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    body
}

/// An ICMP message with an identifier.
#[must_use]
pub fn message(kind: u8, code: u8, identifier: u16) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(identifier.to_be_bytes());
    body.extend([0, 1]);
    body
}

/// An IPv4 fragment: `offset` in bytes.
#[must_use]
pub fn fragment_v4(whole: &[u8], id: u16, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut packet = whole[..20].to_vec();
    packet[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet.extend(body);
    seal(&mut packet);
    packet
}

/// An IPv6 fragment: `offset` in bytes.
#[must_use]
pub fn fragment_v6(whole: &[u8], id: u16, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut packet = whole[..40].to_vec();
    packet[4..6].copy_from_slice(&(8 + body.len() as u16).to_be_bytes());
    let next = std::mem::replace(&mut packet[6], 44);
    packet.extend([next, 0]);
    packet.extend((offset | u16::from(more)).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(id.to_be_bytes());
    packet.extend(body);
    packet
}

/// Drops by direction and reason, those that happened.
pub type Drops = BTreeMap<(String, String), u64>;

/// Every drop counter that is not zero.
#[must_use]
pub fn drops(scene: &Scene) -> Drops {
    let status = scene.status();
    let counts = status["drops"].as_array().expect("drops are a list");
    let word =
        |count: &serde_json::Value, name: &str| count[name].as_str().expect("a word").to_owned();
    counts
        .iter()
        .map(|count| {
            let packets = count["packets"].as_u64().expect("a number");
            ((word(count, "direction"), word(count, "reason")), packets)
        })
        .filter(|(_, packets)| *packets != 0)
        .collect()
}

/// What a pod sends, and what another one gets of it.
#[derive(Debug)]
pub struct Trial<'a> {
    scene: &'a Scene,
    /// The pod that sends.
    pub from: &'a Wire,
    /// Who must not be reached.
    pub to: &'a Wire,
    src: IpAddr,
    dst: IpAddr,
}

impl<'a> Trial<'a> {
    /// Frames of `from`, whose address is `src`; ordinary datagrams go to `dst`, which is `to`'s.
    #[must_use]
    pub fn new(scene: &'a Scene, from: (&'a Wire, IpAddr), to: (&'a Wire, IpAddr)) -> Self {
        Self {
            scene,
            from: from.0,
            to: to.0,
            src: from.1,
            dst: to.1,
        }
    }

    /// All these frames arrive, and nothing is counted.
    pub fn passes(&self, what: &str, frames: &[Vec<u8>]) {
        self.run(what, frames, frames.len(), None);
    }

    /// This one does not arrive and is counted as a drop of the sender's egress.
    pub fn refuses(&self, what: &str, frame: Vec<u8>, reason: &str) {
        self.run(what, &[frame], 0, Some(reason));
    }

    /// Of these the first `arrive` do, and the others are counted.
    pub fn run(&self, what: &str, frames: &[Vec<u8>], arrive: usize, reason: Option<&str>) {
        let mut expected = drops(self.scene);
        if let Some(reason) = reason {
            let key = ("egress".to_owned(), reason.to_owned());
            *expected.entry(key).or_default() += (frames.len() - arrive) as u64;
        }
        let _ = self.to.frames();
        for frame in frames {
            self.from.send_bytes(frame);
        }
        // What is behind it is through, so what is before it is too.
        let sibling = udp((self.src, 40_000), (self.dst, 9));
        self.from.send(sibling);
        let mut arrived = Vec::new();
        wait_until(
            &format!("{what}: a datagram behind it arrives"),
            SOON,
            || {
                arrived.extend(self.to.frames());
                arrived.last().is_some_and(|frame| Wire::is(frame, sibling))
            },
        );
        assert_eq!(arrived.len(), arrive + 1, "{what}: {arrived:02x?}");
        let mut counted = drops(self.scene);
        let deadline = std::time::Instant::now() + SOON;
        while counted != expected && std::time::Instant::now() < deadline {
            counted = drops(self.scene);
        }
        assert_eq!(counted, expected, "{what}");
        assert_eq!(self.to.frames(), Vec::<Vec<u8>>::new(), "{what}");
    }
}
