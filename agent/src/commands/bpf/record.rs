//! Values of records in words: addresses, protocols, bits, verdicts.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_common::abi::direction;
use portcullis_common::addr::{self, Addr};
use portcullis_common::policy::action;
use portcullis_common::{conntrack, icmp};
use serde_json::{Value, json};

/// An address as people write it; null for none.
pub(super) fn address(addr: &Addr) -> Value {
    if *addr == addr::NONE {
        Value::Null
    } else {
        json!(ip(addr))
    }
}

fn ip(addr: &Addr) -> IpAddr {
    if addr::is_v4(addr) {
        IpAddr::V4(Ipv4Addr::from(addr::low4(addr)))
    } else {
        IpAddr::V6(Ipv6Addr::from(*addr))
    }
}

/// A prefix of mapped addresses; IPv4 with its own length.
pub(super) fn prefix(length: u32, addr: &Addr) -> Value {
    if length >= 96 && addr::is_v4(addr) {
        json!(format!("{}/{}", ip(addr), length - 96))
    } else {
        json!(format!("{}/{length}", Ipv6Addr::from(*addr)))
    }
}

pub(super) fn protocol(number: u8) -> Value {
    let name = match number {
        icmp::ICMP => "icmp",
        conntrack::TCP => "tcp",
        conntrack::UDP => "udp",
        icmp::ICMPV6 => "icmpv6",
        conntrack::SCTP => "sctp",
        other => return json!(format!("protocol {other}")),
    };
    json!(name)
}

pub(super) fn verdict(number: u32) -> Value {
    match number {
        action::DENY => json!("deny"),
        action::ALLOW => json!("allow"),
        action::BY_PORT => json!("by-port"),
        other => json!(format!("action {other}")),
    }
}

pub(super) fn direction(number: u32) -> &'static str {
    if number == u32::from(direction::EGRESS) {
        "egress"
    } else {
        "ingress"
    }
}

/// Names of the bits that are set; a bit without a name as its number.
pub(super) fn bits(value: u32, names: &[(u32, &str)]) -> Value {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    let mut set: Vec<String> = names
        .iter()
        .filter(|(bit, _)| value & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if value & !known != 0 {
        set.push(format!("{:#x}", value & !known));
    }
    json!(set)
}

/// A pod's uid as it is written in objects.
pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let text = hex(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

/// Two digits for each byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// One port, or a range of them.
pub(super) fn ports(first: u16, last: u16) -> Value {
    if first == last {
        json!(first.to_string())
    } else {
        json!(format!("{first}-{last}"))
    }
}

/// A rule's number; null for none.
pub(super) fn rule(number: u32) -> Value {
    if number == 0 {
        Value::Null
    } else {
        json!(format!("{number:#010x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_are_written_in_their_own_family() {
        let v4 = addr::mapped([10, 0, 0, 7]);
        assert_eq!(address(&v4), json!("10.0.0.7"));
        assert_eq!(address(&addr::NONE), Value::Null);
        assert_eq!(
            prefix(96 + 8, &addr::mapped([10, 0, 0, 0])),
            json!("10.0.0.0/8")
        );
        assert_eq!(prefix(0, &addr::NONE), json!("::/0"));
        assert_eq!(
            prefix(8, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            json!("fd00::/8")
        );
    }

    #[test]
    fn unknown_bits_and_protocols_keep_their_numbers() {
        assert_eq!(bits(5, &[(1, "one")]), json!(["one", "0x4"]));
        assert_eq!(protocol(47), json!("protocol 47"));
        assert_eq!(verdict(9), json!("action 9"));
    }

    #[test]
    fn uids_and_ports_read_as_in_objects() {
        assert_eq!(uuid(&[0x12; 16]), "12121212-1212-1212-1212-121212121212");
        assert_eq!(
            (ports(80, 80), ports(1, 65_535)),
            (json!("80"), json!("1-65535"))
        );
    }
}
