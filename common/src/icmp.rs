//! What an ICMP message is to a firewall. One table for both families; whoever asks says the protocol number.
//!
//! Sources: RFC 792, RFC 4443, RFC 4861, RFC 6918 (obsolete IPv4 types), RFC 8335 (extended echo).

/// IANA protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// IANA protocol number of ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// Part that a message plays in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Opens a conversation that a [`Class::Reply`] with the same identifier answers.
    Request,
    /// Answers a request; never a first packet.
    Reply,
    /// Speaks about another packet, which it quotes; never a first packet.
    Error,
    /// Neighbour and router discovery (IPv6): plumbing between an endpoint and its gateway, not a connection.
    Neighbour,
    /// Deprecated, or able to change routes: never let through.
    Obsolete,
    /// Anything else: a connection of one packet, judged by policy.
    Other,
}

/// The class of message type `kind` of `protocol` ([`ICMP`] or [`ICMPV6`]).
#[must_use]
#[inline(always)]
pub fn classify(protocol: u8, kind: u8) -> Class {
    if protocol == ICMPV6 {
        return match kind {
            128 | 160 => Class::Request,
            129 | 161 => Class::Reply,
            1..=4 => Class::Error,
            133..=136 => Class::Neighbour,
            // Redirect, and multicast listener reports, which nobody beyond the link needs.
            137 | 130..=132 | 143 => Class::Obsolete,
            _ => Class::Other,
        };
    }
    match kind {
        8 | 13 | 42 => Class::Request,
        0 | 14 | 43 => Class::Reply,
        3 | 11 | 12 => Class::Error,
        // Source quench, redirect, alternate host address, router discovery, information and mask requests, traceroute ... domain name.
        4..=6 | 9 | 10 | 15..=18 | 30..=39 => Class::Obsolete,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_and_unknown_types_can_open_a_conversation() {
        assert_eq!(classify(ICMP, 8), Class::Request);
        assert_eq!(classify(ICMP, 0), Class::Reply);
        assert_eq!(classify(ICMP, 3), Class::Error);
        assert_eq!(classify(ICMP, 5), Class::Obsolete);
        assert_eq!(classify(ICMPV6, 128), Class::Request);
        assert_eq!(classify(ICMPV6, 129), Class::Reply);
        assert_eq!(classify(ICMPV6, 2), Class::Error);
        assert_eq!(classify(ICMPV6, 135), Class::Neighbour);
        assert_eq!(classify(ICMPV6, 137), Class::Obsolete);
        assert_eq!(classify(ICMPV6, 200), Class::Other);
    }
}
