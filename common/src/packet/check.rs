//! What must hold of the parser's answer whatever the bytes are: for its tests and for fuzzers of other crates (feature `testing`).
//!
//! Each function panics where it does not hold. The second reader is a library that shares nothing with us.

use core::fmt::Debug;

use etherparse::{IpSlice, SlicedPacket, TransportSlice};

use super::{ETH_IPV4, Packet, Parsed, fragment, parse};
use crate::addr;
use crate::conntrack::{SCTP, TCP, UDP};
use crate::glance::{Glance, Tuple};
use crate::icmp::{ICMP, ICMPV6};

/// Where the packet ends by its own header's count; `None` if it has not even that field.
#[must_use]
pub fn declared(bytes: &[u8], ethertype: u16) -> Option<u32> {
    let (at, base) = if ethertype == ETH_IPV4 {
        (2, 0)
    } else {
        (4, 40)
    };
    let field = bytes.get(at..at + 2)?;
    Some(base + u32::from(u16::from_be_bytes([field[0], field[1]])))
}

/// What must hold of every answer, whatever the bytes: nothing lies beyond the packet.
pub fn bounds(bytes: &[u8], ethertype: u16, parsed: &Parsed) {
    let total = declared(bytes, ethertype).expect("what is accepted has a header");
    assert!(total <= bytes.len() as u32, "{parsed:?}");
    let header = match parsed.protocol {
        _ if parsed.fragment >= fragment::LATER => 0,
        TCP => u32::from(bytes[parsed.transport as usize + 12] >> 4) * 4,
        UDP | ICMP | ICMPV6 => 8,
        SCTP => 12,
        _ => 0,
    };
    assert!(parsed.transport + header <= total, "{parsed:?}");
    if parsed.fragment != fragment::WHOLE {
        assert!(parsed.fragment_start < parsed.fragment_end && parsed.fragment_end <= 0xffff);
    }
}

/// Where we accept a packet, another reader finds the same in it: addresses, protocol, ports or ICMP type, code and identifier.
pub fn by_others(bytes: &[u8], parsed: &Parsed) {
    // It reads on behind an authentication header, which is a tunnel to us, and behind the fragment header of later parts, where data is.
    let it_reads_on = parsed.fragment >= fragment::LATER || parsed.protocol == 51;
    let Ok(ip) = IpSlice::from_slice(bytes) else {
        assert!(it_reads_on, "we accept what nobody else does: {parsed:?}");
        return;
    };
    let (src, dst) = match &ip {
        IpSlice::Ipv4(v4) => (
            addr::mapped(v4.header().source()),
            addr::mapped(v4.header().destination()),
        ),
        IpSlice::Ipv6(v6) => (v6.header().source(), v6.header().destination()),
    };
    assert_eq!((parsed.src, parsed.dst), (src, dst));
    if it_reads_on {
        return;
    }
    assert_eq!(parsed.protocol, ip.payload().ip_number.0);
    let icmp = |slice: &[u8]| {
        (
            u16::from_be_bytes([slice[4], slice[5]]),
            u16::from_be_bytes([slice[0], slice[1]]),
        )
    };
    let transport = SlicedPacket::from_ip(bytes)
        .ok()
        .and_then(|packet| packet.transport);
    let ports = transport.and_then(|transport| match transport {
        TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
        TransportSlice::Icmpv4(message) => Some(icmp(message.slice())),
        TransportSlice::Icmpv6(message) => Some(icmp(message.slice())),
        TransportSlice::Igmp(_) => None,
    });
    let has_ports = matches!(parsed.protocol, TCP | UDP | ICMP | ICMPV6);
    // It wants a time stamp of ICMP to have exactly 20 bytes; to us the type alone counts.
    let odd_timestamp = parsed.protocol == ICMP && matches!(parsed.icmp_type(), 13 | 14);
    if parsed.fragment == fragment::WHOLE && has_ports && !(odd_timestamp && ports.is_none()) {
        assert_eq!(ports, Some((parsed.sport, parsed.dport)));
    }
}

/// What has a glance is parsed without error and into the same tuple; what has none and is parsed is no ordinary packet, or a super-packet.
pub fn glance<P: Packet + Debug>(packet: &P, ethertype: u16) {
    let mut parsed = Parsed::default();
    let result = parse(packet, ethertype, &mut parsed);
    match Glance::at(packet, ethertype) {
        Some(glance) => {
            assert_eq!(result, Ok(()), "a glance at what is refused: {packet:?}");
            let (same, tuple) = Glance::of(&parsed).expect("an ordinary packet");
            assert_eq!(glance, same, "{packet:?}");
            assert!(glance.agrees(packet, &tuple), "{packet:?}");
            let other = Tuple {
                ports: !tuple.ports,
                ..tuple
            };
            assert!(!glance.agrees(packet, &other), "{packet:?}");
        }
        None if result.is_ok() && !packet.is_gso() => {
            assert_eq!(Glance::of(&parsed), None, "{packet:?}");
        }
        None => {}
    }
}
