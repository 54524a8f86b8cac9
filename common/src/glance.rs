//! A first look at a packet: is it an ordinary one, in the middle of a conversation, and which?
//!
//! Ordinary is TCP without FIN and RST, or UDP, in a whole packet without IPv4 options or IPv6 extension headers, whose lengths agree. Of such a packet
//! all that [`crate::packet::parse`] would find out is its addresses, ports and protocol, and whether it opens a connection; so two that agree in these
//! are judged alike. Whatever is not ordinary, malformed packets first, gets no glance and is parsed. Invariant: what has a glance is parsed without
//! error, into the same tuple.

use crate::addr;
use crate::conntrack::{TCP, UDP, tcp};
use crate::packet::{self, ETH_IPV4, ETH_IPV6, Header, Parsed, fragment};

/// Marks a kind that was written: a zeroed record matches nothing.
const WRITTEN: u32 = 1 << 31;
const IPV6: u32 = 1 << 8;
/// A SYN alone.
const OPENS: u32 = 1 << 9;
/// TCP flags that change a connection.
const CHANGES: u8 = tcp::SYN | tcp::FIN | tcp::RST;

/// What is known of an ordinary packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Family, protocol, and whether it opens a connection of TCP; never 0.
    pub kind: u32,
    /// A number that depends on addresses and ports; the upper bits are the best.
    pub hash: u64,
}

/// Addresses and ports of an ordinary packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address as words on the wire; IPv4 mapped.
    pub src: [u32; 4],
    /// Destination address likewise.
    pub dst: [u32; 4],
    /// Both ports as on the wire.
    pub ports: u32,
}

impl Glance {
    /// Looks at the packet that a frame of type `ethertype` carries.
    #[inline(always)]
    pub fn at<P: Header>(packet: &P, ethertype: u16) -> Option<Self> {
        match ethertype {
            ETH_IPV4 => Self::at_v4(packet),
            ETH_IPV6 => Self::at_v6(packet),
            _ => None,
        }
    }

    /// What decides is read before what is remembered: few registers are left over the checks, and memory would cost a barrier for each word where the
    /// kernel fears speculation.
    #[inline(always)]
    fn at_v4<P: Header>(packet: &P) -> Option<Self> {
        let [first, second, third] = packet.fixed::<0, 3>()?;
        let first = u32::from_be(first);
        let total = first & 0xffff;
        // Version 4, 20 bytes of header; neither a fragment nor the first of several.
        if first >> 24 != 0x45 || second & 0x3fff_u32.to_be() != 0 || total > packet.len() {
            return None;
        }
        let protocol = u32::from_be(third) >> 16 & 0xff;
        // Wraps below zero to what is beyond every length.
        let opens = ordinary::<P, 20>(packet, protocol, total.wrapping_sub(20))?;
        let [src, dst, ports] = packet.fixed::<12, 3>()?;
        Some(Self {
            kind: WRITTEN | protocol | opens,
            hash: hash(mapped(src), mapped(dst), ports),
        })
    }

    #[inline(always)]
    fn at_v6<P: Header>(packet: &P) -> Option<Self> {
        let [first, second] = packet.fixed::<0, 2>()?;
        let second = u32::from_be(second);
        let left = second >> 16;
        if u32::from_be(first) >> 28 != 6 || left + 40 > packet.len() {
            return None;
        }
        let protocol = second >> 8 & 0xff;
        let opens = ordinary::<P, 40>(packet, protocol, left)?;
        let [a, b, c, d, e, f, g, h, ports] = packet.fixed::<8, 9>()?;
        Some(Self {
            kind: WRITTEN | IPV6 | protocol | opens,
            hash: hash([a, b, c, d], [e, f, g, h], ports),
        })
    }

    /// The glance at a packet that was parsed, if it is an ordinary one.
    #[must_use]
    #[inline(always)]
    pub fn of(parsed: &Parsed) -> Option<(Self, Tuple)> {
        let v6 = parsed.family == addr::V6 as u8;
        let plain =
            parsed.fragment == fragment::WHOLE && parsed.transport == if v6 { 40 } else { 20 };
        let opens = match parsed.protocol {
            TCP => opens(parsed.tcp_flags)?,
            UDP if !packet::is_overlay_port(parsed.dport) => 0,
            _ => return None,
        };
        if !plain {
            return None;
        }
        let [a, b] = parsed.sport.to_be_bytes();
        let [c, d] = parsed.dport.to_be_bytes();
        let tuple = Tuple {
            src: addr::words(&parsed.src),
            dst: addr::words(&parsed.dst),
            ports: u32::from_ne_bytes([a, b, c, d]),
        };
        let kind = WRITTEN | u32::from(parsed.protocol) | opens | if v6 { IPV6 } else { 0 };
        let hash = hash(tuple.src, tuple.dst, tuple.ports);
        Some((Self { kind, hash }, tuple))
    }

    /// Whether it is a SYN alone.
    #[must_use]
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.kind & OPENS != 0
    }

    /// Whether the packet that this glance was taken at has these addresses and ports. `tuple` is of the same kind.
    ///
    /// Reads the packet again: to keep nine words meanwhile would cost more.
    #[inline(always)]
    pub fn agrees<P: Header>(&self, packet: &P, tuple: &Tuple) -> bool {
        if self.kind & IPV6 == 0 {
            let Some([src, dst, ports]) = packet.fixed::<12, 3>() else {
                return false;
            };
            return src == tuple.src[3] && dst == tuple.dst[3] && ports == tuple.ports;
        }
        let Some([a, b, c, d, e, f, g, h, ports]) = packet.fixed::<8, 9>() else {
            return false;
        };
        [a, b, c, d] == tuple.src && [e, f, g, h] == tuple.dst && ports == tuple.ports
    }
}

/// [`OPENS`] of an ordinary packet, or 0. `AT` = where the transport header begins, `left` = bytes from there on.
#[inline(always)]
fn ordinary<P: Header, const AT: usize>(packet: &P, protocol: u32, left: u32) -> Option<u32> {
    if protocol == u32::from(TCP) {
        let flags = match AT {
            20 => packet.fixed::<32, 1>(),
            _ => packet.fixed::<52, 1>(),
        };
        let flags = u32::from_be(flags?[0]);
        let header = (flags >> 28) * 4;
        let fits = header >= 20 && header <= left && left <= 0xffff;
        return if fits {
            opens((flags >> 16) as u8)
        } else {
            None
        };
    }
    let words = match AT {
        20 => packet.fixed::<20, 2>(),
        _ => packet.fixed::<40, 2>(),
    };
    let [ports, length] = words?.map(u32::from_be);
    let length = length >> 16;
    let fits = length >= 8 && length <= left && left <= 0xffff;
    (protocol == u32::from(UDP) && fits && !packet::is_overlay_port(ports as u16)).then_some(0)
}

/// [`OPENS`] or 0 by the flags of a segment; `None` where they end a connection or contradict each other.
#[inline(always)]
const fn opens(flags: u8) -> Option<u32> {
    if flags & CHANGES == 0 {
        Some(0)
    } else if tcp::opens(flags) {
        Some(OPENS)
    } else {
        None
    }
}

#[inline(always)]
const fn mapped(v4: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), v4]
}

/// Multiplies each word pair by an odd number of its own; the upper bits depend on all lower ones.
#[inline(always)]
const fn hash(src: [u32; 4], dst: [u32; 4], ports: u32) -> u64 {
    pair(src[2], src[3])
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(pair(dst[2], dst[3]).wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
        .wrapping_add((ports as u64).wrapping_mul(0x1656_67b1_9e37_79f9))
        .wrapping_add(
            (pair(src[0], src[1]) ^ pair(dst[1], dst[0])).wrapping_mul(0x85eb_ca77_c2b2_ae63),
        )
}

#[inline(always)]
const fn pair(hi: u32, lo: u32) -> u64 {
    (hi as u64) << 32 | lo as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::check;

    /// TCP over IPv4, UDP over IPv4, TCP over IPv6, UDP over IPv6, all ordinary.
    fn ordinary(which: usize) -> Vec<u8> {
        let tcp: &[u8] = &[
            0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xfa, 0xf0, 0, 0, 0, 0, 1,
            2, 3, 4,
        ];
        let udp: &[u8] = &[
            0x9c, 0x40, 0x15, 0x38, 0, 24, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
            16,
        ];
        let (protocol, transport) = if which.is_multiple_of(2) {
            (TCP, tcp)
        } else {
            (UDP, udp)
        };
        let mut bytes = if which < 2 {
            vec![
                0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 1, 3, 10, 128, 0, 6,
            ]
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 24, protocol, 64];
            header.extend([0xfd, 0, 0, 0x10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            header.extend([0xfd, 0, 0, 0x10, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
            header
        };
        bytes.extend_from_slice(transport);
        bytes
    }

    fn ethertype(which: usize) -> u16 {
        if which < 2 { ETH_IPV4 } else { ETH_IPV6 }
    }

    #[test]
    fn ordinary_packets_have_a_glance() {
        for which in 0..4 {
            let bytes = ordinary(which);
            assert!(
                Glance::at(&bytes.as_slice(), ethertype(which)).is_some(),
                "{which}"
            );
        }
    }

    #[test]
    fn a_syn_is_of_another_kind_than_what_follows_it() {
        let mut bytes = ordinary(0);
        let later = Glance::at(&bytes.as_slice(), ETH_IPV4).expect("an ordinary packet");
        bytes[33] = tcp::SYN;
        let syn = Glance::at(&bytes.as_slice(), ETH_IPV4).expect("an ordinary packet");
        assert!(syn.opens() && !later.opens());
        assert_eq!(syn.hash, later.hash);
    }

    #[test]
    fn a_segment_that_answers_or_ends_and_an_overlays_datagram_have_none() {
        for flag in [tcp::FIN, tcp::RST, tcp::SYN | tcp::ACK, tcp::SYN | tcp::FIN] {
            let mut bytes = ordinary(0);
            bytes[33] = flag;
            assert_eq!(Glance::at(&bytes.as_slice(), ETH_IPV4), None, "{flag:#x}");
        }
        let mut bytes = ordinary(1);
        bytes[22..24].copy_from_slice(&4789_u16.to_be_bytes());
        assert_eq!(Glance::at(&bytes.as_slice(), ETH_IPV4), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_has_a_glance_is_parsed_into_the_same_tuple(
            which in 0..4_usize,
            changes in prop::collection::vec((0..64_usize, any::<u8>()), 0..4),
            length in prop::option::weighted(0.2, 0..64_usize),
        ) {
            let mut bytes = ordinary(which);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(length.unwrap_or(bytes.len()));
            check::glance(&bytes.as_slice(), ethertype(which));
        }
    }
}
