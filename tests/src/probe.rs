//! The probe file: which first packets to ask about.
//!
//! ```text
//! [{"id": "p1", "src": "shop/web", "dst": "ip:203.0.113.9", "protocol": "TCP", "dstPort": 443}, ...]
//! ```
//! Each entry is the first packet of a connection of its own. This module knows the spelling only; which pod an address belongs to, and
//! which family a pair of pods speaks, is the oracle's business. Invariant: what is parsed and written again is the same list.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One entry of a probe file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What the answer is told apart by.
    pub id: String,
    /// Who opens the connection.
    pub src: End,
    /// To whom.
    pub dst: End,
    /// The transport; for ICMP the family decides which of the two it really is.
    pub protocol: Protocol,
    /// Needed for TCP, UDP and SCTP, absent for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// Absent: that of an `ip:` end, else of the first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Absent: a fresh ephemeral port. No policy looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Absent: echo request, 8 or 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
}

/// Reads a probe file.
pub fn parse(text: &str) -> Result<Vec<Probe>, serde_json::Error> {
    serde_json::from_str(text)
}

/// A transport as probe files spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Transmission control.
    Tcp,
    /// User datagrams.
    Udp,
    /// Stream control.
    Sctp,
    /// ICMP of IPv4; over IPv6 it means [`Protocol::Icmpv6`].
    Icmp,
    /// ICMP of IPv6; over IPv4 it means [`Protocol::Icmp`].
    #[serde(rename = "ICMPv6")]
    Icmpv6,
}

impl Protocol {
    /// ICMP of either family: no ports, but a type and a code.
    #[must_use]
    pub fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }
}

/// An address family, `4` or `6` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family that packets of this address travel in: an IPv4-mapped address is IPv4 on the wire.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl TryFrom<u8> for Family {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(format!("family {other} is neither 4 nor 6")),
        }
    }
}

impl From<Family> for u8 {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }
}

/// One end of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum End {
    /// `namespace/pod`.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `ip:ADDRESS`; a live pod's address means that pod.
    Address(IpAddr),
    /// `node:NAME`: the node's own stack, with the node's address.
    Node(String),
}

impl End {
    /// The end `namespace/name`.
    #[must_use]
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("ip:") {
            return address
                .parse()
                .map(Self::Address)
                .map_err(|error| format!("end {text:?}: {error}"));
        }
        if let Some(name) = text.strip_prefix("node:") {
            return if name.is_empty() {
                Err(format!("end {text:?}: no node name"))
            } else {
                Ok(Self::Node(name.to_owned()))
            };
        }
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::pod(namespace, name))
            }
            _ => Err(format!(
                "end {text:?} is not namespace/pod, ip:ADDRESS or node:NAME"
            )),
        }
    }
}

impl TryFrom<String> for End {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<End> for String {
    fn from(end: End) -> Self {
        end.to_string()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Address(address) => write!(f, "ip:{address}"),
            Self::Node(name) => write!(f, "node:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_file_is_read_and_written_back_unchanged() {
        let text = r#"[{"id":"1","src":"a/web","dst":"ip:fd10::1","protocol":"ICMPv6","family":6,"icmpType":128,"icmpCode":0},{"id":"2","src":"node:n1","dst":"b/db","protocol":"SCTP","dstPort":5060,"srcPort":40000}]"#;
        let probes = parse(text).unwrap();
        assert_eq!(probes[0].src, End::pod("a", "web"));
        assert_eq!(probes[0].dst, End::Address("fd10::1".parse().unwrap()));
        assert_eq!(probes[1].src, End::Node("n1".to_owned()));
        assert_eq!(probes[1].protocol, Protocol::Sctp);
        assert_eq!(serde_json::to_string(&probes).unwrap(), text);
    }

    #[test]
    fn an_end_that_is_none_of_the_three_is_refused() {
        for text in [
            "web",
            "a/",
            "/web",
            "a/b/c",
            "ip:",
            "ip:10.0.0.300",
            "node:",
            "",
        ] {
            assert!(text.parse::<End>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_protocol_family_or_field_is_refused() {
        for entry in [
            r#"{"id":"1","src":"a/b","dst":"a/c","protocol":"GRE"}"#,
            r#"{"id":"1","src":"a/b","dst":"a/c","protocol":"TCP","dstPort":1,"family":5}"#,
            r#"{"id":"1","src":"a/b","dst":"a/c","protocol":"TCP","dstPort":65536}"#,
            r#"{"id":"1","src":"a/b","dst":"a/c","protocol":"TCP","port":1}"#,
        ] {
            assert!(parse(&format!("[{entry}]")).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_mapped_address_travels_as_ipv4() {
        assert_eq!(Family::of("::ffff:10.0.0.1".parse().unwrap()), Family::V4);
        assert_eq!(Family::of("::1".parse().unwrap()), Family::V6);
    }
}
