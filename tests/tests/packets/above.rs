//! Above IP: transport headers, ICMP types, packets in packets, servers that no pod is, loopback.

use portcullis_tests::scene::frame::{datagram, ip as packet, message, protocol, segment};
use portcullis_tests::scene::{NODE_V4, NODE_V6, ip};

use super::{Node, addresses, sent};

/// TCP's SYN.
const SYN: u8 = 2;

#[test]
fn a_transport_header_is_whole_and_fits_its_packet() {
    let node = Node::up("pk-transport");
    for family in 0..2 {
        let trial = node.trial(family);
        let syn = segment(4000, 9, SYN);
        let udp = datagram(4000, 9, b"fits");
        let with = |body: &[u8], at: usize, value: u8| {
            let mut body = body.to_vec();
            body[at] = value;
            body
        };
        let icmp = [protocol::ICMP, protocol::ICMPV6];
        for (what, protocol, body) in [
            ("nothing of TCP", protocol::TCP, vec![]),
            ("19 bytes of TCP", protocol::TCP, syn[..19].to_vec()),
            (
                "a TCP header of 16 bytes",
                protocol::TCP,
                with(&syn, 12, 0x40),
            ),
            (
                "a TCP header beyond the packet",
                protocol::TCP,
                with(&syn, 12, 0x60),
            ),
            ("7 bytes of UDP", protocol::UDP, udp[..7].to_vec()),
            ("a UDP length of 7", protocol::UDP, with(&udp, 5, 7)),
            ("a UDP length of 0", protocol::UDP, with(&udp, 5, 0)),
            (
                "a UDP length beyond the packet",
                protocol::UDP,
                with(&udp, 5, 13),
            ),
            ("11 bytes of SCTP", protocol::SCTP, vec![1; 11]),
            (
                "7 bytes of ICMP",
                icmp[family],
                message(8, 0, 1)[..7].to_vec(),
            ),
            (
                "ICMP of the other family",
                icmp[1 - family],
                message(8, 0, 1),
            ),
        ] {
            let frame = node.frame(&sent(family, protocol, &body));
            trial.refuses(what, frame, "malformed");
        }
        for (what, protocol, body) in [
            ("a SYN", protocol::TCP, syn.clone()),
            ("a SYN to port 0", protocol::TCP, segment(4000, 0, SYN)),
            ("UDP without payload", protocol::UDP, datagram(4001, 9, b"")),
            (
                "UDP shorter than its packet",
                protocol::UDP,
                with(&udp, 5, 8),
            ),
            ("12 bytes of SCTP", protocol::SCTP, vec![1; 12]),
            ("a protocol that nobody has", 253, vec![]),
        ] {
            trial.passes(what, &[node.frame(&sent(family, protocol, &body))]);
        }
    }
    node.down();
}

#[test]
fn icmp_that_is_obsolete_or_answers_nothing_drops() {
    let node = Node::up("pk-icmp");
    let v4 = [4, 5, 6, 9, 10, 15, 16, 17, 18, 30, 31, 37, 39].map(|kind| (0, protocol::ICMP, kind));
    let v6 = [130, 131, 132, 143].map(|kind| (1, protocol::ICMPV6, kind));
    for (family, protocol, kind) in v4.into_iter().chain(v6) {
        let frame = node.frame(&sent(family, protocol, &message(kind, 0, 7)));
        let trial = node.trial(family);
        trial.refuses(&format!("type {kind}"), frame, "icmp-type");
    }
    let kinds = [
        (0, protocol::ICMP, [8, 0, 3, 11, 12]),
        (1, protocol::ICMPV6, [128, 129, 1, 2, 3]),
    ];
    for (family, protocol, [request, reply, errors @ ..]) in kinds {
        let trial = node.trial(family);
        let frame = |kind, body: &[u8]| {
            node.frame(&sent(
                family,
                protocol,
                &[&message(kind, 0, 7), body].concat(),
            ))
        };
        trial.passes("an echo request", &[frame(request, b"echo")]);
        trial.refuses(
            "an echo reply that nobody asked for",
            frame(reply, b"echo"),
            "no-flow",
        );
        // It quotes a datagram that the victim never sent.
        let (src, dst) = addresses(family);
        let quote = packet(dst, src, protocol::UDP, &datagram(53, 777, b"never"));
        for kind in errors {
            trial.refuses(
                &format!("error {kind} about nothing"),
                frame(kind, &quote),
                "icmp-error",
            );
            trial.refuses(
                &format!("error {kind} without a quote"),
                frame(kind, b""),
                "icmp-error",
            );
            let short = &quote[..quote.len() - 13];
            trial.refuses(
                &format!("error {kind}, cut"),
                frame(kind, short),
                "icmp-error",
            );
        }
    }
    node.down();
}

#[test]
fn packets_in_packets_rogue_servers_and_loopback_drop() {
    let node = Node::up("pk-tunnel");
    let nodes = [ip(NODE_V4), ip(NODE_V6)];
    let loops = [&["127.0.0.1", "127.255.255.254"][..], &["::1"]];
    for family in 0..2 {
        let trial = node.trial(family);
        let (src, dst) = addresses(family);
        let inner = sent(family, protocol::UDP, &datagram(1, 2, b"inside"));
        for tunnel in [4, 41, 47, 50, 51, 55, 94, 97, 98, 115, 137] {
            let frame = node.frame(&sent(family, tunnel, &inner));
            trial.refuses(&format!("protocol {tunnel}"), frame, "tunnel");
        }
        for port in [4789, 8472, 6081] {
            let body = datagram(4000, port, b"overlay");
            let to_node = packet(src, nodes[family], protocol::UDP, &body);
            let what = format!("overlay port {port} of the node");
            trial.refuses(&what, node.frame(&to_node), "tunnel");
            let to_pod = packet(src, dst, protocol::UDP, &body);
            trial.passes("the same port of a pod", &[node.frame(&to_pod)]);
        }
        let server = [67, 547][family];
        let offer = sent(family, protocol::UDP, &datagram(server, 4000, b"lease"));
        trial.refuses("a DHCP server's answer", node.frame(&offer), "rogue-server");
        let ask = sent(family, protocol::UDP, &datagram(4000, server, b"ask"));
        trial.passes("a question to one", &[node.frame(&ask)]);
        for own in loops[family] {
            let packet = packet(src, ip(own), protocol::UDP, &datagram(4000, 9, b"loop"));
            trial.refuses(&format!("to {own}"), node.frame(&packet), "loopback");
        }
    }
    node.down();
}
