//! How people write the ends of a connection, turned into a probe.
//!
//! | typed | means |
//! |---|---|
//! | `shop/web` | a pod; `node/NAME` and `node:NAME` are nodes |
//! | `10.0.0.7`, `ip:10.0.0.7`, `fd00::7` | whoever has the address |
//! | `internet` | an address that is nobody's here: 203.0.113.1 (RFC 5737) |
//! | `metadata` | 169.254.169.254, port 80 if none is given |
//!
//! A destination ends in `:PORT`, `:PORT/PROTOCOL` or `:icmp`; IPv6 then stands in brackets.

use std::net::{IpAddr, Ipv6Addr};

use portcullis_policy::probe::{Probe, ProbeId};

use crate::failure::Failure;

const METADATA: &str = "ip:169.254.169.254";
const INTERNET: &str = "ip:203.0.113.1";

/// The packet that a person means.
pub(super) fn probe(source: &str, destination: &str) -> Result<Probe, Failure> {
    let src = end(source).ok_or_else(|| {
        wrong(
            "source",
            source,
            "wants NAMESPACE/POD, an address, node/NAME or internet",
        )
    })?;
    let (host, port) = split(destination).ok_or_else(|| {
        wrong(
            "destination",
            destination,
            "an address in brackets wants `[ADDRESS]:PORT`",
        )
    })?;
    let dst = end(host).ok_or_else(|| {
        wrong(
            "destination",
            destination,
            "wants NAMESPACE/POD, an address, node/NAME, internet or metadata before the port",
        )
    })?;
    let (number, protocol) = match port {
        Some(port) => service(port).ok_or_else(|| {
            wrong(
                "destination",
                destination,
                "wants :PORT or :PORT/PROTOCOL with tcp, udp or sctp, or :icmp",
            )
        })?,
        None if host == "metadata" => (Some(80), "TCP"),
        None => {
            return Err(wrong(
                "destination",
                destination,
                "has no port; IPv6 with a port stands in brackets",
            ));
        }
    };
    Ok(Probe {
        id: ProbeId::Text(format!("{source} {destination}")),
        src,
        dst,
        protocol: protocol.to_owned(),
        dst_port: number,
        family: None,
        src_port: None,
        icmp_type: None,
        icmp_code: None,
    })
}

fn wrong(which: &str, text: &str, why: &str) -> Failure {
    Failure::new(
        "PC5001",
        format!("cannot read the {which} {text:?}"),
        why,
        "write it as in `portcullis explain shop/web shop/db:5432/tcp -f DIR`",
    )
}

/// Host and port; `None` for a bracket without its fellow.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let address = text.strip_prefix("ip:").unwrap_or(text);
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = if rest.is_empty() {
            None
        } else {
            Some(rest.strip_prefix(':')?)
        };
        return Some((host, port));
    }
    if address.parse::<IpAddr>().is_ok() {
        return Some((address, None));
    }
    // The colon of `node:` is no port's.
    let prefix = if text.starts_with("node:") {
        "node:".len()
    } else {
        text.len() - address.len()
    };
    match text[prefix..].rsplit_once(':') {
        Some((host, port)) => Some((&text[..prefix + host.len()], Some(port))),
        None => Some((text, None)),
    }
}

/// An end as a probe file writes it.
fn end(text: &str) -> Option<String> {
    match text {
        "metadata" => return Some(METADATA.to_owned()),
        "internet" => return Some(INTERNET.to_owned()),
        _ => {}
    }
    let address = text.strip_prefix("ip:").unwrap_or(text);
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(format!("ip:{address}"));
    }
    if let Some(name) = text
        .strip_prefix("node:")
        .or_else(|| text.strip_prefix("node/"))
    {
        return Some(format!("node:{name}")).filter(|_| !name.is_empty());
    }
    let (namespace, name) = text.split_once('/')?;
    let plain = |part: &str| !part.is_empty() && !part.contains(['/', ':']);
    (plain(namespace) && plain(name)).then(|| text.to_owned())
}

/// Port and protocol.
fn service(text: &str) -> Option<(Option<i64>, &'static str)> {
    let lower = text.to_ascii_lowercase();
    if lower == "icmp" || lower == "icmpv6" {
        return Some((None, "ICMP"));
    }
    let (port, protocol) = lower.split_once('/').unwrap_or((&lower, "tcp"));
    let protocol = match protocol {
        "tcp" => "TCP",
        "udp" => "UDP",
        "sctp" => "SCTP",
        _ => return None,
    };
    Some((Some(i64::from(port.parse::<u16>().ok()?)), protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(destination: &str) -> Option<(String, Option<i64>, String)> {
        let probe = probe("shop/web", destination).ok()?;
        Some((probe.dst, probe.dst_port, probe.protocol))
    }

    #[test]
    fn destinations_are_read_in_every_form() {
        let cases = [
            ("shop/db:5432", "shop/db", Some(5432), "TCP"),
            ("shop/db:53/UDP", "shop/db", Some(53), "UDP"),
            ("shop/db:icmp", "shop/db", None, "ICMP"),
            ("10.0.0.7:80", "ip:10.0.0.7", Some(80), "TCP"),
            ("ip:10.0.0.7:80", "ip:10.0.0.7", Some(80), "TCP"),
            ("[fd00::7]:80/sctp", "ip:fd00::7", Some(80), "SCTP"),
            ("ip:[fd00::7]:80", "ip:fd00::7", Some(80), "TCP"),
            ("node/a:10250", "node:a", Some(10250), "TCP"),
            ("node:a:10250", "node:a", Some(10250), "TCP"),
            ("metadata", METADATA, Some(80), "TCP"),
            ("metadata:443", METADATA, Some(443), "TCP"),
            ("internet:443", INTERNET, Some(443), "TCP"),
        ];
        for (text, dst, port, protocol) in cases {
            assert_eq!(
                read(text),
                Some((dst.to_owned(), port, protocol.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_clear_is_wrong_usage() {
        for text in [
            "shop/db",
            "10.0.0.7",
            "fd00::7",
            "[fd00::7]",
            "[fd00::7",
            "shop/db:http",
            "shop/db:80/gre",
            "shop/db:70000",
            "db:80",
            ":80",
            "a/b/c:80",
            "",
        ] {
            let failure = probe("shop/web", text).expect_err(text);
            assert_eq!(failure.code, "PC5001", "{text}");
        }
        assert!(probe("web", "shop/db:80").is_err());
        assert!(probe("node/", "shop/db:80").is_err());
    }
}
