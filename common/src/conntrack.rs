//! Connection tracking without a table: keys, states, time limits, quota kinds. `ebpf/src/flow.rs` walks a packet through them.
//!
//! One entry serves both directions of a connection and belongs to one endpoint; a connection between two endpoints of the node has two entries,
//! each made at its own hook. Expiry is tested at look-up, so a late sweep is never wrong.

use crate::abi::{Endpoint, FlowKey};
use crate::addr::Addr;
use crate::icmp;

/// Bits of `Flow::flags`.
pub mod flags {
    /// The endpoint opened it; else the other side did.
    pub const OUTBOUND: u32 = 1;
    /// The side that did not open it has answered.
    pub const REPLIED: u32 = 2;
    /// No longer half-open: TCP's handshake is complete, other protocols were answered.
    pub const CONFIRMED: u32 = 4;
    /// The endpoint sent FIN.
    pub const FIN_LOCAL: u32 = 8;
    /// The other side sent FIN.
    pub const FIN_REMOTE: u32 = 16;
    /// Either side sent RST.
    pub const RESET: u32 = 32;
    /// To a Service address: what the endpoint sends on it is judged behind the translation.
    pub const PENDING: u32 = 64;
    /// Opened by the endpoint's own node, or by the endpoint to itself: never judged.
    pub const EXEMPT: u32 = 128;
    /// Counted against the shared pool.
    pub const BORROWED: u32 = 256;
    /// Being removed by the sweep; neither used nor revived.
    pub const DEAD: u32 = 512;
}

/// TCP header flags (RFC 9293 3.1).
pub mod tcp {
    /// No more data from sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Acknowledgment field is significant.
    pub const ACK: u8 = 16;

    /// Whether a segment opens a connection: SYN without ACK, FIN or RST.
    #[must_use]
    #[inline(always)]
    pub const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK | FIN | RST) == SYN
    }
}

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;
/// IANA protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Coarse time: 2^30 ns (1.07 s) since boot; a shift instead of a division.
#[must_use]
#[inline(always)]
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

/// Ticks without a packet after which an entry counts as gone.
///
/// 1. closed (RST, or FIN of both sides): 10
/// 2. TCP: confirmed 7,600 (2 h 16 min, more than the default keepalive interval of 2 h 11 min), with one FIN 120, half-open 60
/// 3. UDP: answered 170 (3 min), else 30
/// 4. ICMP: 30
/// 5. SCTP and others: answered 900, else 60
#[must_use]
#[inline(always)]
pub const fn lifetime(state: u32, protocol: u8) -> u32 {
    let both = flags::FIN_LOCAL | flags::FIN_REMOTE;
    if state & flags::RESET != 0 || state & both == both {
        return 10;
    }
    let confirmed = state & flags::CONFIRMED != 0;
    match protocol {
        TCP if state & both != 0 => 120,
        TCP if confirmed => 7_600,
        TCP => 60,
        UDP if confirmed => 170,
        UDP | icmp::ICMP | icmp::ICMPV6 => 30,
        _ if confirmed => 900,
        _ => 60,
    }
}

/// Whether an entry that expires at `expires` is gone at `now`. Right across the wrap of ticks, after 146 years.
#[must_use]
#[inline(always)]
pub const fn expired(expires: u32, now: u32) -> bool {
    now.wrapping_sub(expires) as i32 > 0
}

/// Whether the connection is over but for its tail.
#[must_use]
#[inline(always)]
pub const fn closed(state: u32) -> bool {
    let both = flags::FIN_LOCAL | flags::FIN_REMOTE;
    state & flags::RESET != 0 || state & both == both
}

/// Quota kind of an entry: 0 outbound, 1 inbound, 2 and 3 the same half-open.
#[must_use]
#[inline(always)]
pub const fn kind(state: u32) -> u32 {
    (state & flags::OUTBOUND == 0) as u32 + if state & flags::CONFIRMED == 0 { 2 } else { 0 }
}

/// What a packet adds to an entry's state.
///
/// `local` = the endpoint sent it. TCP is confirmed by the opener's first segment after an answer; other protocols by the answer.
#[must_use]
#[inline(always)]
pub const fn advance(state: u32, protocol: u8, local: bool, tcp_flags: u8) -> u32 {
    let by_opener = (state & flags::OUTBOUND != 0) == local;
    let mut add = 0;
    if !by_opener {
        add |= flags::REPLIED;
        if protocol != TCP {
            add |= flags::CONFIRMED;
        }
    } else if protocol == TCP && state & flags::REPLIED != 0 && tcp_flags & tcp::SYN == 0 {
        add |= flags::CONFIRMED;
    }
    if protocol == TCP {
        if tcp_flags & tcp::FIN != 0 {
            add |= if local {
                flags::FIN_LOCAL
            } else {
                flags::FIN_REMOTE
            };
        }
        if tcp_flags & tcp::RST != 0 {
            add |= flags::RESET;
        }
    }
    add
}

/// Whether a packet that is no SYN, FIN or RST adds nothing to an entry's state. A half-open TCP connection is never steady.
#[must_use]
#[inline(always)]
pub const fn is_steady(state: u32, protocol: u8, local: bool) -> bool {
    let half_open = protocol == TCP && state & flags::CONFIRMED == 0;
    !half_open && advance(state, protocol, local, tcp::ACK) & !state == 0
}

/// Ports of an ICMP message in a key, local first: the identifier stands on the side that asked, so that the two directions never meet.
///
/// `endpoint_asked` = the endpoint sent a request or receives a reply. Messages that are neither use type and code, and 1 on the other side.
#[must_use]
#[inline(always)]
pub const fn icmp_ports(identifier: u16, endpoint_asked: bool) -> (u16, u16) {
    if endpoint_asked {
        (identifier, 0)
    } else {
        (0, identifier)
    }
}

/// The key of a connection of `endpoint`.
#[must_use]
#[inline(always)]
pub const fn key(
    endpoint: &Endpoint,
    remote: Addr,
    local_port: u16,
    remote_port: u16,
    protocol: u8,
) -> FlowKey {
    FlowKey {
        remote,
        local_port,
        remote_port,
        slot: endpoint.slot,
        generation: endpoint.generation,
        protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_confirms_with_the_openers_second_segment() {
        let mut state = flags::OUTBOUND;
        assert_eq!(kind(state), 2);
        state |= advance(state, TCP, false, tcp::SYN | tcp::ACK);
        assert_eq!(
            state & flags::CONFIRMED,
            0,
            "a SYN-ACK alone leaves it half-open"
        );
        state |= advance(state, TCP, true, tcp::ACK);
        assert_eq!(kind(state), 0);
        assert_eq!(lifetime(state, TCP), 7_600);
    }

    #[test]
    fn a_retransmitted_syn_confirms_nothing() {
        let state = flags::REPLIED;
        assert_eq!(advance(state, TCP, false, tcp::SYN), 0);
    }

    #[test]
    fn closed_flows_linger_for_the_tail_only() {
        let state = flags::CONFIRMED | flags::FIN_LOCAL | flags::FIN_REMOTE;
        assert!(closed(state) && lifetime(state, TCP) == 10);
        assert!(closed(flags::RESET));
        assert!(!closed(flags::FIN_LOCAL));
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(tcp::opens(tcp::SYN) && tcp::opens(tcp::SYN | 0x40));
        for flags in [
            tcp::ACK,
            tcp::SYN | tcp::ACK,
            tcp::SYN | tcp::FIN,
            tcp::SYN | tcp::RST,
            0,
            tcp::RST,
        ] {
            assert!(!tcp::opens(flags), "{flags:#x}");
        }
    }

    #[test]
    fn an_entry_lives_up_to_its_last_tick() {
        assert!(!expired(101, 100) && !expired(101, 101) && expired(101, 102));
        assert!(
            !expired(3, u32::MAX) && expired(u32::MAX, 3),
            "also where ticks wrap"
        );
    }
}
