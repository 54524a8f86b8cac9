//! Any packet, as a strategy.

use proptest::prelude::*;
use proptest::sample::select;

use crate::packet::build::{Extension, Part, Spec, Transport};

fn transport() -> impl Strategy<Value = Transport> {
    // No extension header and none of those with ports.
    let others = select(vec![2_u8, 4, 41, 47, 50, 51, 59, 103, 112, 255]);
    prop_oneof![
        3 => (any::<u8>(), 0_u8..11).prop_map(|(flags, options)| Transport::Tcp { flags, options }),
        3 => Just(Transport::Udp),
        1 => Just(Transport::Sctp),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(kind, code)| Transport::Icmp(kind, code)),
        1 => others.prop_map(Transport::Other),
    ]
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        4 => (select(vec![60_u8, 60, 60, 60, 0, 43]), 0_u8..3).prop_map(|(number, units)| Extension::Raw(number, units)),
        2 => Just(Extension::Atomic),
        1 => Just(Extension::Jumbo),
    ]
}

/// Extension headers in any order, now and then with one that splits the datagram.
fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let first = prop::option::of((0_u8..3).prop_map(|units| Extension::Raw(0, units)));
    let usual = prop_oneof![3 => Just(0..1_usize), 2 => Just(1..4), 1 => Just(7..11)];
    let others = usual.prop_flat_map(|count| prop::collection::vec(extension(), count));
    (
        first,
        others,
        prop::option::weighted(0.4, any::<prop::sample::Index>()),
    )
        .prop_map(|(first, others, split)| {
            let mut all: Vec<Extension> = first.into_iter().chain(others).collect();
            if let Some(split) = split {
                all.insert(split.index(all.len() + 1), Extension::Fragment);
            }
            all
        })
}

fn part() -> impl Strategy<Value = Option<Part>> {
    let offset = prop_oneof![Just(0_u16), 0_u16..8, 0_u16..0x2000];
    let part = (offset, any::<bool>(), any::<u32>()).prop_map(|(offset, more, id)| Part {
        offset,
        more,
        id,
    });
    prop::option::weighted(0.4, part)
}

/// Any packet.
pub(crate) fn spec() -> impl Strategy<Value = Spec> {
    let options = prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(select(vec![0_u8, 1, 1, 7, 68, 130, 148, 131, 137]), 1..9),
    ];
    let addresses = (any::<[u8; 16]>(), any::<[u8; 16]>());
    let ports = (any::<u16>(), any::<u16>());
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (
        any::<bool>(),
        addresses,
        ports,
        transport(),
        payload,
        options,
        extensions(),
        part(),
    )
        .prop_map(
            |(v6, (src, dst), (sport, dport), transport, payload, options, extensions, part)| {
                Spec {
                    v6,
                    src,
                    dst,
                    sport,
                    dport,
                    transport,
                    payload,
                    options,
                    extensions,
                    part,
                }
            },
        )
}
