//! What a pod can send to a guarded address, packet by packet; outside of the node none of it is seen.

use std::net::IpAddr;

use portcullis_tests::scene::frame::{
    IPV4, IPV6, Trial, datagram, fragment_v4, fragment_v6, ip as packet, ipv4_with, message,
    protocol, segment,
};
use portcullis_tests::scene::wire::Wire;
use portcullis_tests::scene::{Scene, ip, pod};

use super::GUARDED;

const OWN: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
/// Somebody outside to whom everything may be sent.
const FAR: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
const GUARD: &str = "metadata-guard";

struct Node {
    scene: Scene,
    pod: Wire,
    outside: Wire,
}

impl Node {
    fn up(test: &str) -> Self {
        let pods = [
            pod("shop/web", &OWN.join(" ")),
            pod("shop/db", "10.0.1.2 fd00:1::2"),
        ];
        let scene = Scene::up(test, &pods, "");
        let [pod, _] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
        let outside = Wire::outside(&scene);
        Self {
            scene,
            pod,
            outside,
        }
    }

    fn trial(&self, family: usize) -> Trial<'_> {
        let (own, far) = (ip(OWN[family]), ip(FAR[family]));
        Trial::new(&self.scene, (&self.pod, own), (&self.outside, far))
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        self.pod
            .framed(if packet[0] >> 4 == 6 { IPV6 } else { IPV4 }, packet)
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// From the pod to somewhere.
fn to(dst: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    packet(ip(OWN[family(dst)]), dst, protocol, body)
}

#[test]
fn every_protocol_and_port_of_every_guarded_address_is_blocked_and_its_neighbours_are_not() {
    let node = Node::up("gd-every");
    for dst in GUARDED.map(ip) {
        let trial = node.trial(family(dst));
        let refuses = |what: &str, protocol: u8, body: &[u8]| {
            let frame = node.frame(&to(dst, protocol, body));
            trial.refuses(&format!("{what} to {dst}"), frame, GUARD);
        };
        for port in [80, 443, 53, 0, 2775, 65_535] {
            refuses("a SYN", protocol::TCP, &segment(4000, port, 2));
            refuses("a datagram", protocol::UDP, &datagram(4000, port, b"x"));
        }
        for flags in [0, 1, 4, 0x10, 0x12, 0x18, 0x3f, 0xff] {
            refuses("a segment", protocol::TCP, &segment(4000, 80, flags));
        }
        let (icmp, request, reply, error) = match dst {
            IpAddr::V4(_) => (protocol::ICMP, 8, 0, 3),
            IpAddr::V6(_) => (protocol::ICMPV6, 128, 129, 1),
        };
        for kind in [request, reply, error] {
            refuses("ICMP", icmp, &message(kind, 0, 7));
        }
        refuses("SCTP", protocol::SCTP, &[1; 16]);
        for other in [4, 41, 47, 50, 99, 253] {
            refuses("another protocol", other, &[0; 40]);
        }
    }
    for near in [
        "169.254.169.253",
        "169.254.169.123",
        "169.254.170.3",
        "fd00:ec2::253",
    ]
    .map(ip)
    {
        let frame = node.frame(&to(near, protocol::UDP, &datagram(4000, 53, b"x")));
        node.trial(family(near))
            .passes(&format!("to {near}"), &[frame]);
    }
    node.scene.down();
}

#[test]
fn an_address_inside_an_address_and_odd_packets_get_no_further() {
    let node = Node::up("gd-forms");
    let body = datagram(4000, 80, b"x");
    for form in [
        "::169.254.169.254",
        "::ffff:169.254.170.2",
        "::ffff:0:169.254.170.23",
        "2002:a9fe:a9fe::1",
        "2002:a9fe:aa02:7::9",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.170.23",
        "fe80::5efe:169.254.169.254",
        "2001:db8::200:5efe:169.254.169.254",
    ] {
        let frame = node.frame(&to(ip(form), protocol::UDP, &body));
        node.trial(1).refuses(form, frame, GUARD);
    }
    for dst in GUARDED.map(ip) {
        let family = family(dst);
        let trial = node.trial(family);
        let plain = to(dst, protocol::UDP, &body);
        for (what, mac) in [
            (
                "another pod's hardware address",
                node.scene.lab.pod("shop/db").expect("a pod").host_mac(),
            ),
            ("its own hardware address", node.pod.mac()),
            ("every hardware address", [0xff; 6]),
            ("a hardware address of nobody's", [2, 0, 0, 0, 0, 7]),
        ] {
            let mut frame = node.frame(&plain);
            frame[..6].copy_from_slice(&mac);
            trial.refuses(&format!("{dst} at {what}"), frame, GUARD);
        }
        let ethertype = [IPV4, IPV6][family];
        let tagged = [&[0xe0, 0][..], &ethertype.to_be_bytes(), &plain].concat();
        trial.refuses("with a priority", node.pod.framed(0x8100, &tagged), GUARD);
        for src in ["10.0.1.2", "10.0.0.10", "fd00:1::2", "fd00:10::10"].map(ip) {
            if src.is_ipv6() == dst.is_ipv6() {
                let forged = node.frame(&packet(src, dst, protocol::UDP, &body));
                trial.refuses(&format!("as {src}"), forged, "spoofed-source");
            }
        }
        let cut = [fragment_v4, fragment_v6][family];
        let frames = [(0, true), (24, true), (48, false)];
        for (offset, more) in frames {
            let mut part = datagram(4000, 80, &[7; 64]);
            part.truncate(24);
            let part = cut(&plain, 9, offset, more, &part);
            let what = format!("a fragment at {offset} to {dst}");
            trial.refuses(&what, node.frame(&part), GUARD);
        }
        if family == 0 {
            let own = ip(OWN[0]);
            let with = |options: &[u8]| ipv4_with(own, dst, options, protocol::UDP, &body);
            for options in [&[1; 4][..], &[148, 4, 0, 0], &[1; 40]] {
                trial.refuses("with options", node.frame(&with(options)), GUARD);
            }
            // Its last hop is the guarded address, the destination in the header another.
            let IpAddr::V4(last) = dst else { continue };
            let route = [&[131, 7, 4][..], &last.octets(), &[0]].concat();
            let routed = ipv4_with(own, ip(FAR[0]), &route, protocol::UDP, &body);
            trial.refuses("a source route", node.frame(&routed), "source-route");
        } else {
            let mut headers = Vec::new();
            for next in [60, 60, 60, 60, 60, 60, 60, protocol::UDP] {
                headers.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            let chain = to(dst, 60, &[&headers[..], &body].concat());
            trial.refuses("behind eight headers", node.frame(&chain), GUARD);
            let IpAddr::V6(last) = dst else { continue };
            let route = [
                &[protocol::UDP, 2, 0, 1, 0, 0, 0, 0][..],
                &last.octets(),
                &body,
            ]
            .concat();
            let routed = node.frame(&to(ip(FAR[1]), 43, &route));
            trial.refuses("a routing header", routed, "extension-header");
        }
    }
    node.scene.down();
}
