//! The packet parser: bytes of an IP packet to a [`Parsed`] tuple, or the reason why not.
//!
//! One source for the kernel programs, the fuzzers and the tests. There is no path from "could not parse" to "pass": every short read, unknown
//! value and contradiction is an `Err` with a reason. What it knows, in this order:
//!
//! 1. IPv4: version, header length, total length against the packet; source routing is refused, other options are skipped.
//! 2. IPv6: payload length; at most 8 extension headers; routing headers, jumbo payloads and "no next header" are refused.
//! 3. Fragments: a first one holds the whole transport header; later ones carry no ports ([`Parsed::fragment`]). An IPv6 fragment header that
//!    splits nothing (RFC 6946) is skipped.
//! 4. Transport: TCP (20 bytes, data offset), UDP (8 bytes, length field), SCTP (12), ICMP (8); other protocols have no ports.
//!
//! A super-packet (GSO) is read like any other: size alone decides nothing. Port 0 is a port.

use crate::addr::{self, Addr};
use crate::conntrack::{SCTP, TCP, UDP};
use crate::icmp::{ICMP, ICMPV6};
use crate::reason;

#[cfg(any(test, feature = "testing"))]
pub mod build;
#[cfg(any(test, feature = "testing"))]
pub mod check;
mod quote;

pub use quote::{Quoted, quoted};

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;

/// The first bytes of a packet, from its IP header on.
#[expect(
    clippy::len_without_is_empty,
    reason = "no packet is empty, and nobody asks"
)]
pub trait Header {
    /// Length from the IP header to the end of the packet, paged parts included.
    fn len(&self) -> u32;
    /// `N` words as on the wire, at an offset known at compile time, within what was prepared; `None` beyond the end.
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]>;
}

/// All bytes of a packet, from its IP header on.
pub trait Packet: Header {
    /// Whether it is a super-packet that the device or stack will cut.
    fn is_gso(&self) -> bool;
    /// Makes the first `N` bytes, or all if there are fewer, readable by [`Header::fixed`].
    fn prepare<const N: usize>(&self);
    /// `N` bytes at any offset; `None` beyond the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// `value`; the kernel's verifier forgets what it knows of it, so that it does not follow each possible value on its own.
    fn forget(&self, value: u32) -> u32 {
        value
    }
    /// [`finish_rare`], called in the way that suits where it runs: it is large, and few packets need it.
    fn finish_rare(&self, parsed: &mut Parsed, total: u32) -> Result<(), u8>;
}

/// What the dataplane knows of a packet; nobody looks at its bytes after this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Source, as on the wire; IPv4 mapped.
    pub src: Addr,
    /// Destination likewise.
    pub dst: Addr,
    /// Source port; ICMP: the identifier (or 0).
    pub sport: u16,
    /// Destination port; ICMP: type << 8 | code.
    pub dport: u16,
    /// IANA number of the real transport protocol.
    pub protocol: u8,
    /// [`addr::V4`] or [`addr::V6`].
    pub family: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// [`fragment`].
    pub fragment: u8,
    /// Identification of a fragment.
    pub fragment_id: u32,
    /// Where a fragment begins in the datagram, in bytes.
    pub fragment_start: u32,
    /// Where it ends.
    pub fragment_end: u32,
    /// Offset of the transport header from the IP header.
    pub transport: u32,
}

/// Values of [`Parsed::fragment`].
pub mod fragment {
    /// Whole packet.
    pub const WHOLE: u8 = 0;
    /// First of several.
    pub const FIRST: u8 = 1;
    /// A later one, without ports; more follow.
    pub const LATER: u8 = 2;
    /// The last one, without ports.
    pub const LAST: u8 = 3;
}

impl Parsed {
    /// ICMP type; meaningless for other protocols.
    #[must_use]
    #[inline(always)]
    pub const fn icmp_type(&self) -> u8 {
        (self.dport >> 8) as u8
    }

    /// Whether it is ICMP of its family.
    #[must_use]
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.protocol == ICMP || self.protocol == ICMPV6
    }
}

/// Parses the packet that an Ethernet frame of type `ethertype` carries. `parsed` comes in as its default and is filled in place: the kernel's stack
/// has no room for copies. On an error it holds what was read so far.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, ethertype: u16, parsed: &mut Parsed) -> Result<(), u8> {
    match ethertype {
        ETH_IPV4 => parse_v4(packet, parsed),
        ETH_IPV6 => parse_v6(packet, parsed),
        _ => Err(reason::ETHERTYPE),
    }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), u8> {
    packet.prepare::<40>();
    // Addresses first and by themselves: words that are held over the checks would have to leave the registers.
    let [src, dst] = packet.fixed::<12, 2>().ok_or(reason::MALFORMED)?;
    parsed.src = addr::mapped(src.to_ne_bytes());
    parsed.dst = addr::mapped(dst.to_ne_bytes());
    let [first, second, third] = packet.fixed::<0, 3>().ok_or(reason::MALFORMED)?;
    let first = u32::from_be(first);
    let header = (first >> 24 & 0xf) * 4;
    if first >> 28 != 4 || header < 20 {
        return Err(reason::MALFORMED);
    }
    let total = payload_end(packet, first & 0xffff, 0)?;
    if total < header {
        return Err(reason::MALFORMED);
    }
    parsed.protocol = (u32::from_be(third) >> 16) as u8;
    parsed.family = addr::V4 as u8;
    parsed.transport = header;
    let second = u32::from_be(second);
    let fragment = second & 0x3fff;
    if fragment != 0 {
        parsed.fragment_id = second >> 16;
        set_fragment(
            parsed,
            (fragment & 0x1fff) * 8,
            fragment & 0x2000 != 0,
            total - header,
        )?;
    }
    if header == 20 {
        transport::<P, 20>(packet, parsed, total)
    } else {
        packet.finish_rare(parsed, total)
    }
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), u8> {
    packet.prepare::<60>();
    let [a, b, c, d] = packet.fixed::<8, 4>().ok_or(reason::MALFORMED)?;
    parsed.src = addr::join(a, b, c, d);
    let [a, b, c, d] = packet.fixed::<24, 4>().ok_or(reason::MALFORMED)?;
    parsed.dst = addr::join(a, b, c, d);
    let [first, second] = packet.fixed::<0, 2>().ok_or(reason::MALFORMED)?;
    let second = u32::from_be(second);
    if u32::from_be(first) >> 28 != 6 {
        return Err(reason::MALFORMED);
    }
    let total = payload_end(packet, second >> 16, 40)?;
    parsed.protocol = (second >> 8) as u8;
    parsed.family = addr::V6 as u8;
    parsed.transport = 40;
    match parsed.protocol {
        TCP | UDP | ICMPV6 | SCTP => transport::<P, 40>(packet, parsed, total),
        _ => packet.finish_rare(parsed, total),
    }
}

/// What few packets need: IPv4 options, IPv6 extension headers, transports other than TCP, UDP, SCTP and ICMP over IPv6. Goes on from addresses,
/// first protocol and offset in `parsed`; `total` is where the packet ends.
#[inline(always)]
pub fn finish_rare<P: Packet>(packet: &P, parsed: &mut Parsed, total: u32) -> Result<(), u8> {
    if parsed.family == addr::V6 as u8 {
        return parse_v6_extended(packet, parsed, total);
    }
    refuse_source_routes(packet, parsed.transport)?;
    transport::<P, 0>(packet, parsed, total)
}

/// Bytes from the IP header to the end of what the header counts. `base` = what the length field does not count.
///
/// A length of zero is a BIG TCP super-packet (Linux 6.3 for IPv4, 5.19 for IPv6) or a lie.
#[inline(always)]
fn payload_end<P: Packet>(packet: &P, length: u32, base: u32) -> Result<u32, u8> {
    let len = packet.len();
    if length == 0 {
        if packet.is_gso() && len > 0xffff {
            return Ok(len);
        }
        // An IPv6 packet without payload is honest: "no next header" is refused later.
        return if base == 40 {
            Ok(40)
        } else {
            Err(reason::MALFORMED)
        };
    }
    if length + base > len {
        return Err(reason::MALFORMED);
    }
    Ok(length + base)
}

/// Writes a step once for each of the numbers, and leaves the block `$done` where it answers `false`.
///
/// No loop: without `CAP_PERFMON` the verifier also follows what a processor may execute speculatively, and there a loop's bound does not hold it
/// (Linux 6.18 gives up after 8,192 rounds). Linux 6.1 moreover knows fewer shapes of loops than the compiler makes.
macro_rules! unrolled {
    ($done:lifetime, $step:expr, $($number:literal)*) => {
        $(if !$step($number)? { break $done; })*
    };
}

/// Walks the extension headers.
#[inline(always)]
fn parse_v6_extended<P: Packet>(packet: &P, parsed: &mut Parsed, total: u32) -> Result<(), u8> {
    let mut step = |index| extension_header(packet, parsed, total, index);
    'transport: {
        unrolled!('transport, step, 0 1 2 3 4 5 6 7);
        // The eighth header was the last that anybody needs.
        if step(8)? {
            return Err(reason::EXTENSION_HEADER);
        }
    }
    transport::<P, 0>(packet, parsed, total)
}

/// Steps over one extension header; whether there was one. Each has its own unit of length (RFC 8200 4, RFC 4302).
#[inline(always)]
fn extension_header<P: Packet>(
    packet: &P,
    parsed: &mut Parsed,
    total: u32,
    index: u32,
) -> Result<bool, u8> {
    if parsed.fragment >= fragment::LATER {
        return Ok(false);
    }
    let [next, length, hi, lo, id @ ..] = match parsed.protocol {
        0 | 60 | 43 | 44 => packet
            .load::<8>(parsed.transport)
            .ok_or(reason::MALFORMED)?,
        59 => return Err(reason::MALFORMED),
        _ => return Ok(false),
    };
    // Hop-by-hop options come first or not at all.
    if parsed.protocol == 43 || (parsed.protocol == 0 && index != 0) {
        return Err(reason::EXTENSION_HEADER);
    }
    if parsed.protocol == 44 {
        let offset = u32::from(u16::from_be_bytes([hi, lo]));
        parsed.protocol = next;
        parsed.transport += 8;
        if parsed.transport > total {
            return Err(reason::MALFORMED);
        }
        if offset & 0xfff9 != 0 {
            if parsed.fragment != fragment::WHOLE {
                return Err(reason::FRAGMENT);
            }
            parsed.fragment_id = u32::from_be_bytes(id);
            let length = total - parsed.transport;
            set_fragment(parsed, offset & 0xfff8, offset & 1 != 0, length)?;
        }
        return Ok(true);
    }
    // The jumbo payload option (RFC 2675) is hop-by-hop and stands first where Linux writes it.
    if parsed.protocol == 0 && hi == 0xc2 && !packet.is_gso() {
        return Err(reason::EXTENSION_HEADER);
    }
    parsed.protocol = next;
    parsed.transport += (u32::from(length) + 1) * 8;
    if parsed.transport > total {
        return Err(reason::MALFORMED);
    }
    Ok(true)
}

/// Notes a fragment. A first one must be a multiple of eight bytes; none may reach beyond 65,535; a tiny offset would overwrite ports.
#[inline(always)]
fn set_fragment(parsed: &mut Parsed, offset: u32, more: bool, length: u32) -> Result<(), u8> {
    if (more && length & 7 != 0)
        || length == 0
        || offset + length > 0xffff
        || (offset != 0 && offset < 20)
    {
        return Err(reason::FRAGMENT);
    }
    parsed.fragment_start = offset;
    parsed.fragment_end = offset + length;
    parsed.fragment = match (offset, more) {
        (0, _) => fragment::FIRST,
        (_, true) => fragment::LATER,
        (_, false) => fragment::LAST,
    };
    Ok(())
}

/// Reads ports. `AT` is the transport header's offset where it is known at compile time, else 0.
#[inline(always)]
fn transport<P: Packet, const AT: usize>(
    packet: &P,
    parsed: &mut Parsed,
    total: u32,
) -> Result<(), u8> {
    if parsed.fragment >= fragment::LATER {
        return Ok(());
    }
    let left = total - parsed.transport;
    let need = match parsed.protocol {
        TCP => 20,
        UDP | ICMP | ICMPV6 => 8,
        SCTP => 12,
        _ => return Ok(()),
    };
    if left < need {
        return Err(reason::MALFORMED);
    }
    let [first, second] = words::<P, AT>(packet, parsed)?;
    let first = u32::from_be(first);
    let second = u32::from_be(second);
    match parsed.protocol {
        TCP => {
            let flags = match AT {
                20 => packet.fixed::<32, 1>(),
                40 => packet.fixed::<52, 1>(),
                _ => packet
                    .load::<4>(parsed.transport + 12)
                    .map(|bytes| [u32::from_ne_bytes(bytes)]),
            };
            let [flags] = flags.ok_or(reason::MALFORMED)?;
            let flags = u32::from_be(flags);
            let header = (flags >> 28) * 4;
            if header < 20 || header > left {
                return Err(reason::MALFORMED);
            }
            parsed.tcp_flags = (flags >> 16) as u8;
        }
        UDP => {
            let length = second >> 16;
            // A super-packet of BIG TCP's kind does not exist for UDP; a fragment's length is the datagram's.
            if length < 8 || (parsed.fragment == fragment::WHOLE && length > left) {
                return Err(reason::MALFORMED);
            }
        }
        ICMP | ICMPV6 => {
            let family_matches = (parsed.protocol == ICMP) == (parsed.family == addr::V4 as u8);
            if !family_matches {
                return Err(reason::MALFORMED);
            }
            parsed.sport = (second >> 16) as u16;
            parsed.dport = (first >> 16) as u16;
            return Ok(());
        }
        _ => {}
    }
    parsed.sport = (first >> 16) as u16;
    parsed.dport = first as u16;
    Ok(())
}

#[inline(always)]
fn words<P: Packet, const AT: usize>(packet: &P, parsed: &Parsed) -> Result<[u32; 2], u8> {
    match AT {
        20 => packet.fixed::<20, 2>(),
        40 => packet.fixed::<40, 2>(),
        _ => packet
            .load::<8>(parsed.transport)
            .map(|[a, b, c, d, e, f, g, h]| {
                [
                    u32::from_ne_bytes([a, b, c, d]),
                    u32::from_ne_bytes([e, f, g, h]),
                ]
            }),
    }
    .ok_or(reason::MALFORMED)
}

/// Loose and strict source routing (RFC 791; refused as RFC 7126 advises). Malformed options are refused too.
///
/// Walks byte by byte with a cursor, not option by option: every load is at a known offset, which keeps the verifier's work linear (80,000
/// instructions less).
#[inline(always)]
fn refuse_source_routes<P: Packet>(packet: &P, header: u32) -> Result<(), u8> {
    let mut option = packet.forget(20);
    let mut step = |at| {
        if at >= header {
            return Ok(false);
        }
        if at != option {
            return Ok(true);
        }
        let [kind] = packet.load::<1>(at).ok_or(reason::MALFORMED)?;
        match kind {
            // The end of the list.
            0 => {
                option = header;
                return Ok(false);
            }
            1 => option = packet.forget(at + 1),
            131 | 137 => return Err(reason::SOURCE_ROUTE),
            _ => {
                let [length] = packet.load::<1>(at + 1).ok_or(reason::MALFORMED)?;
                if length < 2 {
                    return Err(reason::MALFORMED);
                }
                option = packet.forget(at + u32::from(length));
            }
        }
        Ok(true)
    };
    'end: {
        unrolled!('end, step, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
        unrolled!('end, step, 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
    }
    // The last option ends with the header, not behind it.
    if option > header {
        Err(reason::MALFORMED)
    } else {
        Ok(())
    }
}

/// Protocols that carry packets in packets: IPIP, 6in4, GRE, ESP, AH, mobile IP, IPIP (94), Ethernet in IP, encapsulation, L2TP, MPLS in IP.
#[must_use]
#[inline(always)]
pub const fn is_tunnel_protocol(protocol: u8) -> bool {
    matches!(
        protocol,
        4 | 41 | 47 | 50 | 51 | 55 | 94 | 97 | 98 | 115 | 137
    )
}

/// UDP ports of VXLAN (IANA and Linux's old default) and Geneve.
#[must_use]
#[inline(always)]
pub const fn is_overlay_port(port: u16) -> bool {
    matches!(port, 4789 | 8472 | 6081)
}

/// A packet in memory: for tests, fuzzers and whoever holds the bytes.
impl Header for &[u8] {
    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }

    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        let bytes = self.get(OFFSET..OFFSET + 4 * N)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Some(words)
    }
}

impl Packet for &[u8] {
    fn is_gso(&self) -> bool {
        false
    }

    fn prepare<const N: usize>(&self) {}

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn finish_rare(&self, parsed: &mut Parsed, total: u32) -> Result<(), u8> {
        finish_rare(self, parsed, total)
    }
}

#[cfg(test)]
mod tests;
