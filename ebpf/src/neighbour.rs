//! ARP and IPv6 neighbour discovery: plumbing between an endpoint and its gateway, but only about the endpoint's own addresses.

use portcullis_common::abi::Endpoint;
use portcullis_common::addr::{self, Addr};
use portcullis_common::packet::{Packet as _, Parsed};
use portcullis_common::reason;

use crate::ctx::Skb;

/// An ARP packet that the endpoint sent (RFC 826; probes and announcements: RFC 5227). The sender address must be its own, or none for a probe.
#[inline(always)]
pub fn arp_from(skb: &Skb, endpoint: &Endpoint) -> Result<(), u8> {
    // Ethernet and IPv4, 28 bytes; the sender's protocol address is at 14, the target's at 24.
    let header = skb.load::<28>(0).ok_or(reason::MALFORMED)?;
    if header[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(reason::MALFORMED);
    }
    let sender = [header[14], header[15], header[16], header[17]];
    let target = [header[24], header[25], header[26], header[27]];
    let own = addr::low4(&endpoint.v4);
    let has_v4 = addr::is_v4(&endpoint.v4);
    let probe = sender == [0; 4] && target == own && header[7] == 1;
    if has_v4 && (sender == own || probe) {
        Ok(())
    } else {
        Err(reason::FOREIGN_NEIGHBOUR)
    }
}

/// A neighbour discovery message that the endpoint sent (RFC 4861): solicitations and advertisements for its own addresses, router solicitations.
#[inline(always)]
pub fn discovery_from(skb: &Skb, endpoint: &Endpoint, parsed: &Parsed) -> Result<(), u8> {
    let own_source = parsed.src == endpoint.v6 || is_link_local(&parsed.src);
    let unspecified = parsed.src == addr::NONE;
    match parsed.icmp_type() {
        133 if own_source || unspecified => Ok(()),
        135 => {
            let target = skb
                .load::<16>(parsed.transport + 8)
                .ok_or(reason::MALFORMED)?;
            // Duplicate address detection (RFC 4862) asks for one's own address, without a source.
            if own_source || (unspecified && is_own(endpoint, &target)) {
                Ok(())
            } else {
                Err(reason::FOREIGN_NEIGHBOUR)
            }
        }
        136 => {
            let target = skb
                .load::<16>(parsed.transport + 8)
                .ok_or(reason::MALFORMED)?;
            if own_source && is_own(endpoint, &target) {
                Ok(())
            } else {
                Err(reason::FOREIGN_NEIGHBOUR)
            }
        }
        134 | 137 => Err(reason::ROGUE_SERVER),
        _ => Err(reason::FOREIGN_NEIGHBOUR),
    }
}

#[inline(always)]
fn is_own(endpoint: &Endpoint, target: &Addr) -> bool {
    *target == endpoint.v6 || is_link_local(target)
}

/// fe80::/10.
#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    addr[0] == 0xfe && addr[1] & 0xc0 == 0x80
}
