//! IPv6 headers: lengths, chains of extension headers.

use portcullis_tests::scene::frame::{IPV6, datagram, protocol};

use super::{Node, ordinary, sent};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NOTHING: u8 = 59;
const DESTINATION: u8 = 60;

/// A datagram behind these extension headers, each of eight bytes of padding, or a fragment header that splits nothing.
fn chain(headers: &[u8]) -> Vec<u8> {
    let first = *headers.first().expect("a chain has a header");
    let mut body = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let next = *headers.get(index + 1).unwrap_or(&protocol::UDP);
        body.extend(match *header {
            FRAGMENT => [next, 0, 0, 0, 0, 0, 0, 9],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        });
    }
    body.extend(datagram(4000, 9, b"chain"));
    sent(1, first, &body)
}

/// What is done to a packet.
type Change = fn(&mut Vec<u8>);

#[test]
fn an_ipv6_header_that_contradicts_itself_or_the_packet_is_malformed() {
    let node = Node::up("pk-v6");
    let trial = node.trial(1);
    let spoilt = |change: Change| {
        let mut packet = ordinary(1);
        change(&mut packet);
        node.from.framed(IPV6, &packet)
    };
    let cases: &[(&str, Change)] = &[
        ("one byte of a header", |packet| packet.truncate(1)),
        ("39 bytes of a header", |packet| packet.truncate(39)),
        ("version 4", |packet| packet[0] = 0x40),
        ("version 7", |packet| packet[0] = 0x70),
        ("a payload length of 0", |packet| packet[4..6].fill(0)),
        ("a payload length beyond the packet", |packet| {
            packet[5] += 1;
        }),
        ("a payload length of 65535", |packet| {
            packet[4..6].fill(0xff);
        }),
        ("no next header", |packet| packet[6] = NOTHING),
    ];
    for (what, change) in cases {
        trial.refuses(what, spoilt(*change), "malformed");
    }
    let padded = spoilt(|packet| packet.extend([0; 20]));
    trial.passes("padding behind the packet", &[padded]);
    node.down();
}

#[test]
fn extension_headers_are_stepped_over_eight_at_most_and_none_that_routes() {
    let node = Node::up("pk-chain");
    let trial = node.trial(1);
    let passes = |what: &str, headers: &[u8]| {
        trial.passes(what, &[node.frame(&chain(headers))]);
    };
    passes("options for the destination", &[DESTINATION]);
    passes("options for each hop", &[HOP_BY_HOP]);
    passes("a fragment header that splits nothing", &[FRAGMENT]);
    passes("three kinds", &[HOP_BY_HOP, DESTINATION, FRAGMENT]);
    passes("eight", &[DESTINATION; 8]);
    let refuses = |what: &str, headers: &[u8]| {
        trial.refuses(what, node.frame(&chain(headers)), "extension-header");
    };
    refuses("nine", &[DESTINATION; 9]);
    refuses("twenty", &[DESTINATION; 20]);
    refuses("a routing header", &[ROUTING]);
    refuses("one behind others", &[DESTINATION, DESTINATION, ROUTING]);
    refuses(
        "options for each hop behind others",
        &[DESTINATION, HOP_BY_HOP],
    );
    refuses("options for each hop twice", &[HOP_BY_HOP, HOP_BY_HOP]);
    let mut jumbo = chain(&[HOP_BY_HOP]);
    jumbo[42..48].copy_from_slice(&[0xc2, 4, 0, 1, 0, 0]);
    trial.refuses("a jumbo payload", node.frame(&jumbo), "extension-header");
    let mut long = chain(&[DESTINATION]);
    long[41] = 200;
    trial.refuses("a header beyond the packet", node.frame(&long), "malformed");
    let mut cut = chain(&[DESTINATION]);
    cut.truncate(44);
    cut[5] = 4;
    trial.refuses("half a header", node.frame(&cut), "malformed");
    let mut nothing = chain(&[DESTINATION]);
    nothing[40] = NOTHING;
    trial.refuses("nothing behind a header", node.frame(&nothing), "malformed");
    node.down();
}
