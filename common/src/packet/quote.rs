//! The packet that an ICMP error quotes: enough of it to find the connection that the error speaks of.

use super::{Packet, Parsed};
use crate::addr::{self, Addr};
use crate::conntrack::{SCTP, TCP, UDP};
use crate::icmp::{ICMP, ICMPV6};
use crate::reason;

/// The packet that an ICMP error quotes, as its sender wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port; ICMP: the identifier.
    pub sport: u16,
    /// Destination port; ICMP: type << 8 | code.
    pub dport: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// Reads the quote of an ICMP error (RFC 792, RFC 4443 3). Later fragments and truncated quotes are refused.
#[inline(always)]
pub fn quoted<P: Packet>(packet: &P, error: &Parsed, quoted: &mut Quoted) -> Result<(), u8> {
    let at = error.transport + 8;
    let mut ports = at + 40;
    if error.family == addr::V4 as u8 {
        let [version] = packet.load::<1>(at).ok_or(reason::ICMP_ERROR)?;
        let [hi, lo, _, protocol] = packet.load::<4>(at + 6).ok_or(reason::ICMP_ERROR)?;
        quoted.src = addr::mapped(packet.load::<4>(at + 12).ok_or(reason::ICMP_ERROR)?);
        quoted.dst = addr::mapped(packet.load::<4>(at + 16).ok_or(reason::ICMP_ERROR)?);
        quoted.protocol = protocol;
        let header = u32::from(version & 0xf) * 4;
        if version >> 4 != 4 || header < 20 || u16::from_be_bytes([hi, lo]) & 0x1fff != 0 {
            return Err(reason::ICMP_ERROR);
        }
        ports = at + header;
    } else {
        let [version] = packet.load::<1>(at).ok_or(reason::ICMP_ERROR)?;
        let [next] = packet.load::<1>(at + 6).ok_or(reason::ICMP_ERROR)?;
        quoted.src = packet.load::<16>(at + 8).ok_or(reason::ICMP_ERROR)?;
        quoted.dst = packet.load::<16>(at + 24).ok_or(reason::ICMP_ERROR)?;
        quoted.protocol = next;
        if version >> 4 != 6 {
            return Err(reason::ICMP_ERROR);
        }
        // One fragment header is common in the quote of a packet that was too big.
        if next == 44 {
            let [next, _, hi, lo] = packet.load::<4>(ports).ok_or(reason::ICMP_ERROR)?;
            if u16::from_be_bytes([hi, lo]) & 0xfff8 != 0 {
                return Err(reason::ICMP_ERROR);
            }
            quoted.protocol = next;
            ports += 8;
        }
    }
    let [a, b, c, d] = packet.load::<4>(ports).ok_or(reason::ICMP_ERROR)?;
    match quoted.protocol {
        TCP | UDP | SCTP => {
            quoted.sport = u16::from_be_bytes([a, b]);
            quoted.dport = u16::from_be_bytes([c, d]);
        }
        ICMP | ICMPV6 => {
            quoted.sport =
                u16::from_be_bytes(packet.load::<2>(ports + 4).ok_or(reason::ICMP_ERROR)?);
            quoted.dport = u16::from_be_bytes([a, b]);
        }
        _ => {}
    }
    Ok(())
}
