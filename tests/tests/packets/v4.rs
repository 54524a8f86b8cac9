//! IPv4 headers: lengths that lie, options.

use portcullis_tests::scene::frame::{IPV4, datagram, ipv4_with, protocol, seal};

use super::{Node, addresses, ordinary};

/// What is done to a packet.
type Change = fn(&mut Vec<u8>);

#[test]
fn an_ipv4_header_that_contradicts_itself_or_the_packet_is_malformed() {
    let node = Node::up("pk-v4");
    let trial = node.trial(0);
    let spoilt = |change: Change| {
        let mut packet = ordinary(0);
        change(&mut packet);
        if packet.len() >= 20 {
            seal(&mut packet);
        }
        node.from.framed(IPV4, &packet)
    };
    let cases: &[(&str, Change)] = &[
        ("one byte of a header", |packet| packet.truncate(1)),
        ("19 bytes of a header", |packet| packet.truncate(19)),
        ("version 5", |packet| packet[0] = 0x55),
        ("version 6", |packet| packet[0] = 0x65),
        ("a header of 16 bytes", |packet| packet[0] = 0x44),
        ("a header longer than the packet", |packet| {
            packet[0] = 0x4f;
        }),
        ("a total length of 0", |packet| packet[2..4].fill(0)),
        ("a total length below the header's", |packet| {
            packet[3] = 19;
        }),
        ("a total length beyond the packet", |packet| packet[3] += 1),
        ("a total length of 65535", |packet| packet[2..4].fill(0xff)),
    ];
    for (what, change) in cases {
        trial.refuses(what, spoilt(*change), "malformed");
    }
    let padded = spoilt(|packet| packet.extend([0; 20]));
    trial.passes("padding behind the packet", &[padded]);
    node.down();
}

#[test]
fn ipv4_options_are_stepped_over_but_for_source_routes() {
    let node = Node::up("pk-options");
    let trial = node.trial(0);
    let (src, dst) = addresses(0);
    let body = datagram(4000, 9, b"options");
    let with = |options: &[u8]| {
        let packet = ipv4_with(src, dst, options, protocol::UDP, &body);
        node.frame(&packet)
    };
    let via = [10, 0, 1, 9];
    for (what, options) in [
        (
            "a loose source route",
            [&[131, 7, 4][..], &via, &[0]].concat(),
        ),
        ("a strict one", [&[137, 7, 4][..], &via, &[0]].concat()),
        (
            "one behind fillers",
            [&[1, 1, 1, 1, 131, 7, 4][..], &via, &[1]].concat(),
        ),
        (
            "one behind an alert",
            [&[148, 4, 0, 0, 137, 7, 4][..], &via, &[0]].concat(),
        ),
        ("one that is too short to be used", vec![131, 3, 4, 0]),
        (
            "one at the very end",
            [&[1; 36][..], &[1, 131, 3, 4]].concat(),
        ),
    ] {
        trial.refuses(what, with(&options), "source-route");
    }
    for (what, options) in [
        ("an option without length", vec![7, 0, 0, 0]),
        ("an option of one byte", vec![7, 1, 0, 0]),
        ("an option beyond the header", vec![7, 5, 4, 0]),
        ("an option that ends far outside", vec![7, 255, 4, 0]),
    ] {
        trial.refuses(what, with(&options), "malformed");
    }
    for (what, options) in [
        ("fillers", vec![1, 1, 1, 1]),
        ("an end of options, then anything", vec![0, 131, 3, 4]),
        ("a router alert", vec![148, 4, 0, 0]),
        ("forty bytes of fillers", vec![1; 40]),
    ] {
        trial.passes(what, &[with(&options)]);
    }
    node.down();
}
