//! Why a packet passed or was dropped: append-only numbers, spelled the same in logs, metrics, events and `explain`.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $drops:literal;)*) => {
        $($(#[$doc])* pub const $name: u8 = $number;)*

        /// Every reason: its number, its spelling, whether it drops.
        pub const ALL: &[(u8, &str, bool)] = &[$(($number, $text, $drops)),*];

        /// The spelling of a reason; `unknown` for a number of a newer version.
        #[must_use]
        pub fn name(reason: u8) -> &'static str {
            match reason { $($number => $text,)* _ => "unknown" }
        }
    };
}

/// Room for reasons in every counter table. Numbers stay below it.
pub const COUNT: usize = 64;

reasons! {
    /// No reason: nothing was decided.
    NONE = 0, "none", false;
    /// A rule allows it.
    ALLOW_RULE = 1, "allow-rule", false;
    /// No policy selects the endpoint for this direction.
    NOT_ISOLATED = 2, "not-isolated", false;
    /// Part of a connection that was allowed.
    ESTABLISHED = 3, "established", false;
    /// Sent by the stack of the endpoint's own node.
    HOST_EXEMPT = 4, "host-exempt", false;
    /// Sent by the endpoint to itself.
    SELF = 5, "self", false;
    /// To a Service address; decided behind the translation.
    DEFERRED = 6, "deferred", false;
    /// Neighbour discovery or ARP for the endpoint's own addresses.
    NEIGHBOUR = 7, "neighbour", false;
    /// A rule denies it.
    DENY_RULE = 8, "deny-rule", true;
    /// Policies isolate the endpoint and none allows it.
    DEFAULT_DENY = 9, "default-deny", true;
    /// To a guarded metadata address, in whatever form.
    METADATA_GUARD = 10, "metadata-guard", true;
    /// The source address is not one of the endpoint's.
    SPOOFED_SOURCE = 11, "spoofed-source", true;
    /// A header is short, contradicts itself or cannot be read.
    MALFORMED = 12, "malformed", true;
    /// The interface has no endpoint or the endpoint has no tables yet.
    NOT_READY = 13, "not-ready", true;
    /// Not the first packet of a connection, and no connection is remembered.
    NO_FLOW = 14, "no-flow", true;
    /// A connection that policy no longer allows.
    POLICY_CHANGED = 15, "policy-changed", true;
    /// A later fragment without an allowed first one, or out of order, overlapping, over-long.
    FRAGMENT = 16, "fragment", true;
    /// IP in IP, GRE, ESP, AH and the like, or VXLAN and Geneve to a node.
    TUNNEL = 17, "tunnel", true;
    /// ARP or neighbour discovery about an address that is not the endpoint's.
    FOREIGN_NEIGHBOUR = 18, "foreign-neighbour", true;
    /// Not IPv4, IPv6 or ARP.
    ETHERTYPE = 19, "ethertype", true;
    /// A VLAN tag other than one priority tag.
    VLAN = 20, "vlan", true;
    /// IPv4 source routing.
    SOURCE_ROUTE = 21, "source-route", true;
    /// An IPv6 routing header, too many extension headers, or a jumbo payload.
    EXTENSION_HEADER = 22, "extension-header", true;
    /// An ICMP type that is obsolete or can change routes.
    ICMP_TYPE = 23, "icmp-type", true;
    /// An ICMP error that quotes no packet of a live connection.
    ICMP_ERROR = 24, "icmp-error", true;
    /// A destination in 127.0.0.0/8, or `::1`.
    LOOPBACK = 25, "loopback", true;
    /// A router advertisement, redirect or DHCP server answer from a pod.
    ROGUE_SERVER = 26, "rogue-server", true;
    /// The endpoint's own quota of connections is used up.
    QUOTA = 27, "quota", true;
    /// The endpoint's own quota of half-open connections is used up.
    HALF_OPEN_QUOTA = 28, "half-open-quota", true;
    /// The connection table refused an entry although quotas were free.
    TABLE_FULL = 29, "table-full", true;
    /// The entry was being removed, or its bucket was locked: the sender's next try passes.
    TABLE_BUSY = 30, "table-busy", true;
    /// A socket option that would let frames pass round the uplink guard.
    BYPASS_OPTION = 31, "bypass-option", true;
}

/// Whether a reason drops; unknown ones do.
#[must_use]
pub fn drops(reason: u8) -> bool {
    ALL.iter()
        .find(|(number, ..)| *number == reason)
        .is_none_or(|(_, _, drops)| *drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_below_the_room_for_them() {
        for (index, (number, name, _)) in ALL.iter().enumerate() {
            assert_eq!(index, usize::from(*number), "{name}");
            assert!(index < COUNT);
        }
        assert!(drops(63), "a reason nobody knows must not read as a pass");
    }
}
