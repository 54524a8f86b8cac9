//! Below IP: tags, other protocols, ARP and neighbour discovery; and who a packet says that it is from.

use std::net::IpAddr;

use portcullis_tests::scene::frame::{ARP, IPV4, IPV6, datagram, ip as packet, message, protocol};
use portcullis_tests::scene::ip;

use super::{Node, addresses, ordinary};

#[test]
fn a_source_that_is_not_the_pods_own_is_spoofed() {
    let node = Node::up("pk-source");
    let foreign = [
        "10.0.1.2",
        "10.0.0.10",
        "192.0.2.1",
        "127.0.0.1",
        "169.254.1.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "fd00:1::2",
        "fd00:10::10",
        "2001:db8::1",
        "::1",
        "::",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:10.0.1.1",
        "::10.0.1.1",
    ];
    for src in foreign.map(ip) {
        let family = usize::from(src.is_ipv6());
        let (_, dst) = addresses(family);
        let forged = packet(src, dst, protocol::UDP, &datagram(4000, 9, b"forged"));
        let trial = node.trial(family);
        trial.refuses(
            &format!("from {src}"),
            node.frame(&forged),
            "spoofed-source",
        );
    }
    for family in 0..2 {
        let own = node.frame(&ordinary(family));
        node.trial(family).passes("from its own address", &[own]);
    }
    node.down();
}

#[test]
fn a_tag_other_than_a_priority_and_other_protocols_do_not_pass() {
    let node = Node::up("pk-tags");
    for (family, ethertype) in [(0, IPV4), (1, IPV6)] {
        let trial = node.trial(family);
        let inner = [&ethertype.to_be_bytes()[..], &ordinary(family)].concat();
        let tagged = |kind: u16, tag: u16, inner: &[u8]| {
            node.from
                .framed(kind, &[&tag.to_be_bytes()[..], inner].concat())
        };
        trial.refuses("network 5", tagged(0x8100, 5, &inner), "vlan");
        trial.refuses("network 4094", tagged(0x8100, 0xeffe, &inner), "vlan");
        trial.refuses("a service network", tagged(0x88a8, 5, &inner), "vlan");
        let twice = [&[0x81, 0, 0, 0][..], &inner].concat();
        trial.refuses("two tags", tagged(0x8100, 0, &twice), "ethertype");
        trial.passes("a priority", &[tagged(0x8100, 0xe000, &inner)]);
        for other in [
            0x0842, 0x6558, 0x8035, 0x8847, 0x8863, 0x8864, 0x88cc, 0x88e5,
        ] {
            let frame = node.from.framed(other, &ordinary(family));
            trial.refuses(&format!("EtherType {other:04x}"), frame, "ethertype");
        }
        // Below 1536 it is a length, and what follows LLC.
        let llc = node.from.framed(64, &[0x42, 0x42, 3, 0, 0, 0, 0, 0]);
        trial.refuses("a frame of 802.3", llc, "ethertype");
    }
    node.down();
}

/// An ARP packet about Ethernet and IPv4.
fn arp(operation: u8, mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
    let octets = |text: &str| match ip(text) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("{text} is not IPv4"),
    };
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(mac);
    bytes.extend(octets(sender));
    bytes.extend([0; 6]);
    bytes.extend(octets(target));
    bytes
}

#[test]
fn arp_is_about_the_pods_own_address() {
    let node = Node::up("pk-arp");
    let trial = node.trial(0);
    let mac = node.from.mac();
    let refuses = |what: &str, bytes: &[u8], reason: &str| {
        trial.refuses(what, node.from.framed(ARP, bytes), reason);
    };
    let own = arp(1, mac, "10.0.1.1", "169.254.1.1");
    for (what, operation, sender, target) in [
        ("asks as the victim", 1, "10.0.1.2", "169.254.1.1"),
        ("asks as the gateway", 1, "169.254.1.1", "10.0.1.1"),
        ("says that it is the victim", 2, "10.0.1.2", "169.254.1.1"),
        ("says that it is the node", 2, "10.0.0.10", "10.0.0.10"),
        ("announces the victim's address", 1, "10.0.1.2", "10.0.1.2"),
        (
            "announces metadata",
            2,
            "169.254.169.254",
            "169.254.169.254",
        ),
        ("probes for the victim's address", 1, "0.0.0.0", "10.0.1.2"),
        ("answers as nobody", 2, "0.0.0.0", "10.0.1.1"),
    ] {
        let claim = arp(operation, mac, sender, target);
        refuses(what, &claim, "foreign-neighbour");
    }
    refuses("27 bytes", &own[..27], "malformed");
    let mut other = own.clone();
    other[1] = 6;
    refuses("not of Ethernet", &other, "malformed");
    let mut other = own.clone();
    other[5] = 16;
    refuses("not about IPv4", &other, "malformed");
    // It goes to the node and no further, and nothing is counted.
    for (what, allowed) in [
        ("asks for its gateway", own.clone()),
        ("answers for itself", arp(2, mac, "10.0.1.1", "169.254.1.1")),
        ("announces itself", arp(1, mac, "10.0.1.1", "10.0.1.1")),
        (
            "probes for its own address",
            arp(1, mac, "0.0.0.0", "10.0.1.1"),
        ),
    ] {
        trial.run(what, &[node.from.framed(ARP, &allowed)], 0, None);
    }
    node.down();
}

#[test]
fn neighbour_discovery_is_about_the_pods_own_addresses_and_no_pod_is_a_router() {
    let node = Node::up("pk-nd");
    let trial = node.trial(1);
    let about = |kind: u8, src: &str, dst: &str, target: &str| {
        let IpAddr::V6(target) = ip(target) else {
            panic!("{target} is not IPv6")
        };
        let mut body = message(kind, 0, 0);
        body.extend(target.octets());
        let mut bytes = packet(ip(src), ip(dst), protocol::ICMPV6, &body);
        bytes[7] = 255;
        node.frame(&bytes)
    };
    let foreign = "foreign-neighbour";
    for (what, kind, src, target, reason) in [
        (
            "says that it is the victim",
            136,
            "fd00:1::1",
            "fd00:1::2",
            foreign,
        ),
        (
            "says so as the victim",
            136,
            "fd00:1::2",
            "fd00:1::2",
            foreign,
        ),
        (
            "says that it is metadata",
            136,
            "fd00:1::1",
            "fd00:ec2::254",
            foreign,
        ),
        ("asks as the victim", 135, "fd00:1::2", "fe80::1", foreign),
        (
            "probes for the victim's address",
            135,
            "::",
            "fd00:1::2",
            foreign,
        ),
        (
            "solicits routers as the victim",
            133,
            "fd00:1::2",
            "::",
            foreign,
        ),
        ("advertises a router", 134, "fe80::7", "::", "rogue-server"),
        (
            "advertises one as itself",
            134,
            "fd00:1::1",
            "::",
            "rogue-server",
        ),
        ("redirects", 137, "fd00:1::1", "fd00:1::2", "rogue-server"),
        (
            "redirects as the gateway",
            137,
            "fe80::1",
            "fd00:1::2",
            "rogue-server",
        ),
    ] {
        for dst in ["ff02::1", "fd00:1::2"] {
            let frame = about(kind, src, dst, target);
            trial.refuses(&format!("{what}, to {dst}"), frame, reason);
        }
    }
    for (what, kind, src, target) in [
        ("asks for its gateway", 135, "fd00:1::1", "fe80::1"),
        ("says who it is", 136, "fd00:1::1", "fd00:1::1"),
        ("probes for its own address", 135, "::", "fd00:1::1"),
        ("solicits routers", 133, "fd00:1::1", "::"),
    ] {
        trial.run(what, &[about(kind, src, "ff02::1", target)], 0, None);
    }
    node.down();
}
