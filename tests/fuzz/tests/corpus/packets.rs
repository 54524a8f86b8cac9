//! The packet fuzzer's seeds: one packet of every form that the parser tells apart, by name.

use portcullis_common::packet::build::{Extension, Part, Spec, Transport};

/// Name and bytes of each file of `corpus/packet`.
pub(crate) fn packets() -> Vec<(String, Vec<u8>)> {
    let mut packets = Vec::new();
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        for (name, transport, payload) in transports(v6) {
            let spec = Spec {
                payload,
                ..packet(v6, transport)
            };
            packets.push((format!("{family}-{name}"), spec.bytes()));
        }
        for (name, part) in parts() {
            let spec = Spec {
                part: Some(part),
                payload: vec![7; 32],
                extensions: vec![Extension::Fragment],
                ..packet(v6, Transport::Udp)
            };
            packets.push((format!("{family}-fragment-{name}"), spec.bytes()));
        }
        packets.extend(
            lies(v6)
                .into_iter()
                .map(|(name, bytes)| (format!("{family}-{name}"), bytes)),
        );
    }
    for (name, options) in options() {
        let spec = Spec {
            options,
            ..packet(false, SYN)
        };
        packets.push((format!("ipv4-options-{name}"), spec.bytes()));
    }
    for (name, extensions) in extensions() {
        let spec = Spec {
            extensions,
            ..packet(true, SYN)
        };
        packets.push((format!("ipv6-headers-{name}"), spec.bytes()));
    }
    packets
}

const SYN: Transport = Transport::Tcp {
    flags: 2,
    options: 0,
};

fn packet(v6: bool, transport: Transport) -> Spec {
    let (src, dst) = if v6 {
        (
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4],
        )
    } else {
        (
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 1, 4],
        )
    };
    Spec {
        v6,
        src,
        dst,
        sport: 40_000,
        dport: 443,
        transport,
        payload: Vec::new(),
        options: Vec::new(),
        extensions: Vec::new(),
        part: None,
    }
}

fn transports(v6: bool) -> Vec<(&'static str, Transport, Vec<u8>)> {
    let tcp = |flags, options| Transport::Tcp { flags, options };
    let quoted = |transport| packet(v6, transport).bytes();
    let inner = quoted(SYN);
    let (too_big, unreachable, exceeded, request, reply) = if v6 {
        ((2, 0), (1, 4), (3, 0), 128, 129)
    } else {
        ((3, 4), (3, 3), (11, 0), 8, 0)
    };
    let icmp = |(kind, code)| Transport::Icmp(kind, code);
    let part = Spec {
        part: Some(Part {
            offset: 0,
            more: true,
            id: 9,
        }),
        payload: vec![7; 8],
        extensions: vec![Extension::Fragment],
        ..packet(v6, Transport::Udp)
    };
    let mut all = vec![
        ("tcp-syn", SYN, Vec::new()),
        ("tcp-syn-ack-with-options", tcp(18, 10), Vec::new()),
        ("tcp-data", tcp(24, 3), vec![b'x'; 20]),
        ("tcp-fin", tcp(17, 0), Vec::new()),
        ("tcp-rst", tcp(4, 0), Vec::new()),
        ("tcp-all-flags", tcp(255, 0), Vec::new()),
        ("udp", Transport::Udp, vec![b'x'; 12]),
        ("udp-without-data", Transport::Udp, Vec::new()),
        ("sctp", Transport::Sctp, vec![1, 0, 0, 4]),
        ("echo-request", icmp((request, 0)), vec![0; 8]),
        ("echo-reply", icmp((reply, 0)), Vec::new()),
        ("too-big-quotes-tcp", icmp(too_big), inner.clone()),
        (
            "unreachable-quotes-udp",
            icmp(unreachable),
            quoted(Transport::Udp),
        ),
        (
            "exceeded-quotes-an-echo",
            icmp(exceeded),
            quoted(Transport::Icmp(request, 0)),
        ),
        ("error-quotes-a-fragment", icmp(exceeded), part.bytes()),
        (
            "error-quotes-eight-bytes",
            icmp(unreachable),
            inner[..8].to_vec(),
        ),
        ("error-quotes-nothing", icmp(unreachable), Vec::new()),
        (
            "error-quotes-an-unknown-protocol",
            icmp(unreachable),
            quoted(Transport::Other(250)),
        ),
        ("tunnel-ipip", Transport::Other(4), inner.clone()),
        ("tunnel-6in4", Transport::Other(41), inner.clone()),
        ("tunnel-gre", Transport::Other(47), vec![0, 0, 8, 0]),
        ("tunnel-esp", Transport::Other(50), vec![1; 16]),
        (
            "tunnel-ah",
            Transport::Other(51),
            vec![6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        ),
        ("no-next-header", Transport::Other(59), Vec::new()),
        ("unknown-protocol", Transport::Other(250), vec![1; 4]),
        (
            "nothing-behind-the-header",
            Transport::Other(250),
            Vec::new(),
        ),
    ];
    if v6 {
        for (name, kind) in [
            ("router-advertisement", 134),
            ("neighbour-solicitation", 135),
            ("redirect", 137),
        ] {
            all.push((name, icmp((kind, 0)), vec![0; 16]));
        }
    } else {
        all.push(("redirect", icmp((5, 1)), inner));
    }
    all
}

fn parts() -> [(&'static str, Part); 6] {
    let part = |offset, more| Part {
        offset,
        more,
        id: 0x0001_0002,
    };
    [
        ("first", part(0, true)),
        ("middle", part(16, true)),
        ("last", part(64, false)),
        ("at-a-tiny-offset", part(1, true)),
        ("beyond-the-end", part(0x1fff, false)),
        ("of-nothing", part(0, false)),
    ]
}

fn options() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("no-operation", vec![1; 4]),
        ("end", vec![0; 4]),
        ("record-route", vec![7]),
        ("timestamp", vec![68]),
        ("router-alert", vec![148]),
        ("loose-source-route", vec![1, 131]),
        ("strict-source-route", vec![137]),
        ("source-route-behind-the-end", vec![0, 131]),
        ("forty-bytes", vec![148; 10]),
    ]
}

fn extensions() -> Vec<(&'static str, Vec<Extension>)> {
    let raw = Extension::Raw;
    vec![
        ("hop-by-hop", vec![raw(0, 0)]),
        ("hop-by-hop-second", vec![raw(60, 0), raw(0, 0)]),
        ("destination-options", vec![raw(60, 2)]),
        ("routing", vec![raw(43, 0)]),
        ("jumbo", vec![Extension::Jumbo]),
        ("atomic-fragment", vec![Extension::Atomic]),
        ("eight", vec![raw(60, 0); 8]),
        ("nine", vec![raw(60, 0); 9]),
        (
            "all",
            vec![raw(0, 1), raw(60, 0), Extension::Atomic, raw(60, 1)],
        ),
    ]
}

/// Packets whose fields do not agree with each other or with their bytes.
fn lies(v6: bool) -> Vec<(&'static str, Vec<u8>)> {
    let tcp = packet(v6, SYN).bytes();
    let udp = packet(v6, Transport::Udp).bytes();
    let (length, transport) = if v6 { (4, 40) } else { (2, 20) };
    let with = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    vec![
        ("length-zero-of-a-super-packet", with(&tcp, length, &[0, 0])),
        ("length-beyond-the-packet", with(&tcp, length, &[2, 0])),
        ("length-below-the-header", with(&tcp, length, &[0, 4])),
        ("padding-behind-the-packet", [&tcp[..], &[0; 6]].concat()),
        ("version-five", with(&tcp, 0, &[0x55])),
        (
            "of-the-other-version",
            with(&tcp, 0, &[if v6 { 0x45 } else { 0x60 }]),
        ),
        (
            "tcp-header-of-four-words",
            with(&tcp, transport + 12, &[0x40]),
        ),
        (
            "tcp-header-beyond-the-packet",
            with(&tcp, transport + 12, &[0xf0]),
        ),
        ("tcp-cut-in-its-header", tcp[..transport + 13].to_vec()),
        ("udp-length-of-seven", with(&udp, transport + 4, &[0, 7])),
        (
            "udp-length-beyond-the-packet",
            with(&udp, transport + 4, &[0, 99]),
        ),
        (
            "icmp-of-the-other-family",
            with(&udp, if v6 { 6 } else { 9 }, &[if v6 { 1 } else { 58 }]),
        ),
        ("cut-in-the-addresses", tcp[..transport - 3].to_vec()),
    ]
}
