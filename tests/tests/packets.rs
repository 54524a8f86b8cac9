//! Packets that no honest pod sends, one by one: each is dropped for the reason that is its own, and what is well formed beside it passes.
//!
//! No policy is in force: what drops here drops for every pod. Segments out of place and ICMP errors about nothing are in `conntrack`, metadata
//! addresses in `guard`.

#[path = "packets/above.rs"]
mod above;
#[path = "packets/fragments.rs"]
mod fragments;
#[path = "packets/link.rs"]
mod link;
#[path = "packets/v4.rs"]
mod v4;
#[path = "packets/v6.rs"]
mod v6;

use std::net::IpAddr;

use portcullis_tests::scene::frame::{IPV4, IPV6, Trial, datagram, ip as packet, protocol};
use portcullis_tests::scene::wire::Wire;
use portcullis_tests::scene::{Scene, pod};

/// Who sends.
const SENDER: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
/// Who is sent to.
const VICTIM: [&str; 2] = ["10.0.1.2", "fd00:1::2"];

/// Both pods, deaf: only frames made by hand are on their wires.
struct Node {
    scene: Scene,
    from: Wire,
    to: Wire,
}

impl Node {
    fn up(test: &str) -> Self {
        let pods = [
            pod("shop/sender", &SENDER.join(" ")),
            pod("shop/victim", &VICTIM.join(" ")),
        ];
        let scene = Scene::up(test, &pods, "");
        let [from, to] = ["shop/sender", "shop/victim"].map(|key| Wire::deaf(&scene, key));
        Self { scene, from, to }
    }

    /// Trials in one family: 0 is IPv4.
    fn trial(&self, family: usize) -> Trial<'_> {
        let (src, dst) = addresses(family);
        Trial::new(&self.scene, (&self.from, src), (&self.to, dst))
    }

    /// A frame of the sender's that holds an IP packet.
    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        self.from
            .framed(if packet[0] >> 4 == 6 { IPV6 } else { IPV4 }, packet)
    }

    fn down(self) {
        self.scene.down();
    }
}

/// Sender and victim.
fn addresses(family: usize) -> (IpAddr, IpAddr) {
    let address = |text: &str| text.parse().expect("an IP address");
    (address(SENDER[family]), address(VICTIM[family]))
}

/// What the sender sends the victim above IP.
fn sent(family: usize, protocol: u8, body: &[u8]) -> Vec<u8> {
    let (src, dst) = addresses(family);
    packet(src, dst, protocol, body)
}

/// An ordinary datagram to the victim.
fn ordinary(family: usize) -> Vec<u8> {
    sent(family, protocol::UDP, &datagram(4000, 9, b"ordinary"))
}
