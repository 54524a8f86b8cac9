//! How people write the ends of a connection, and what they mean by it.
//!
//! | typed | means |
//! |---|---|
//! | `shop/web` | a pod; `node/NAME` and `node:NAME` are nodes |
//! | `svc/shop/db` | a Service: every backend of it; as destination only, its port by number, by name, or left out if it has one |
//! | `pod/web`, `svc/db` | the same in the namespace that is meant; whoever knows it makes them `shop/web` and `svc/shop/db` (`qualified`) |
//! | `10.0.0.7`, `ip:10.0.0.7`, `fd00::7` | whoever has the address |
//! | `internet` | an address that is nobody's here: 203.0.113.1 (RFC 5737) |
//! | `metadata` | 169.254.169.254, port 80 if none is given |
//!
//! A destination ends in `:PORT`, `:PORT/PROTOCOL` or `:icmp`; IPv6 then stands in brackets. `ip:10.96.0.7:80` where a Service is translated is that Service.

use std::net::{IpAddr, Ipv6Addr};

use portcullis_policy::model::Protocol;
use portcullis_policy::probe::{Probe, ProbeId};

use crate::failure::Failure;
use crate::world::WantedPort;

const METADATA: &str = "ip:169.254.169.254";
const INTERNET: &str = "ip:203.0.113.1";

/// What a person means by both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Who opens the connection, as a probe writes it.
    pub(super) source: String,
    /// To whom.
    pub(super) destination: Destination,
}

/// To whom a connection is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To one end.
    End {
        /// As a probe writes it.
        end: String,
        /// None for ICMP.
        port: Option<u16>,
        protocol: Protocol,
    },
    /// To whatever stands behind a Service.
    Service {
        namespace: String,
        name: String,
        port: WantedPort,
    },
}

/// Both ends with the namespace that is meant where none is typed: `pod/web` and `svc/web` of `shop` are `shop/web` and `svc/shop/web`.
#[must_use]
pub fn qualified(source: &str, destination: &str, namespace: &str) -> (String, String) {
    let one = |text: &str| {
        let (kind, rest) = text.split_once('/').unwrap_or_default();
        let has_namespace = rest.split(':').next().unwrap_or_default().contains('/');
        match kind {
            "pod" | "pods" | "po" if !has_namespace => format!("{namespace}/{rest}"),
            "pod" | "pods" | "po" => rest.to_owned(),
            "svc" | "service" | "services" if !has_namespace => format!("svc/{namespace}/{rest}"),
            "service" | "services" => format!("svc/{rest}"),
            _ => text.to_owned(),
        }
    };
    (one(source), one(destination))
}

/// Reads both ends, which are qualified.
pub(super) fn read(source: &str, destination: &str) -> Result<Target, Failure> {
    let wrong_source = |why| wrong("source", source, why);
    let wrong_destination = |why| wrong("destination", destination, why);
    if service_name(source).is_some() {
        return Err(wrong_source(
            "a Service opens no connections; name a pod behind it",
        ));
    }
    let source = end(source)
        .ok_or_else(|| wrong_source("wants NAMESPACE/POD, an address, node/NAME or internet"))?;
    let (host, port) = split(destination)
        .ok_or_else(|| wrong_destination("an address in brackets wants `[ADDRESS]:PORT`"))?;
    if let Some((namespace, name)) = service_name(host) {
        let port = match port {
            None => WantedPort::Only,
            Some(port) => service_port(port).ok_or_else(|| {
                wrong_destination("a Service wants :PORT, :PORT/PROTOCOL with tcp, udp or sctp, or the name of a port")
            })?,
        };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        return Ok(Target {
            source,
            destination: Destination::Service {
                namespace,
                name,
                port,
            },
        });
    }
    let end = end(host).ok_or_else(|| {
        wrong_destination(
            "wants NAMESPACE/POD, svc/NAMESPACE/NAME, an address, node/NAME, internet or metadata before the port",
        )
    })?;
    let (port, protocol) = match port {
        Some(port) => port_and_protocol(port).ok_or_else(|| {
            wrong_destination("wants :PORT or :PORT/PROTOCOL with tcp, udp or sctp, or :icmp")
        })?,
        None if host == "metadata" => (Some(80), Protocol::TCP),
        None => {
            return Err(wrong_destination(
                "has no port; IPv6 with a port stands in brackets",
            ));
        }
    };
    Ok(Target {
        source,
        destination: Destination::End {
            end,
            port,
            protocol,
        },
    })
}

impl Target {
    /// The packet to one end.
    pub(super) fn probe(&self, end: &str, port: Option<u16>, protocol: Protocol) -> Probe {
        Probe {
            id: ProbeId::Text(format!("{} {end}", self.source)),
            src: self.source.clone(),
            dst: end.to_owned(),
            protocol: protocol.to_string(),
            dst_port: port.map(i64::from),
            family: None,
            src_port: None,
            icmp_type: None,
            icmp_code: None,
        }
    }
}

fn wrong(which: &str, text: &str, why: &str) -> Failure {
    Failure::new(
        "PC5001",
        format!("cannot read the {which} {text:?}"),
        why,
        "write it as in `explain shop/web shop/db:5432/tcp` or `explain pod/web svc/db -n shop`",
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
    (is_plain(namespace) && is_plain(name)).then(|| text.to_owned())
}

/// Namespace and name of `svc/NAMESPACE/NAME`.
fn service_name(host: &str) -> Option<(&str, &str)> {
    let (namespace, name) = host.strip_prefix("svc/")?.split_once('/')?;
    (is_plain(namespace) && is_plain(name)).then_some((namespace, name))
}

fn is_plain(part: &str) -> bool {
    !part.is_empty() && !part.contains(['/', ':'])
}

/// A Service's port, by number or by name.
fn service_port(text: &str) -> Option<WantedPort> {
    match port_and_protocol(text) {
        Some((Some(number), protocol)) => Some(WantedPort::Number(number, protocol)),
        // At least one letter makes it a name (RFC 6335).
        None if is_plain(text) && text.contains(|c: char| c.is_ascii_alphabetic()) => {
            Some(WantedPort::Named(text.to_owned()))
        }
        // ICMP is no port of a Service's.
        Some((None, _)) | None => None,
    }
}

/// Port and protocol.
fn port_and_protocol(text: &str) -> Option<(Option<u16>, Protocol)> {
    let lower = text.to_ascii_lowercase();
    if lower == "icmp" || lower == "icmpv6" {
        return Some((None, Protocol::ICMP));
    }
    let (port, protocol) = lower.split_once('/').unwrap_or((&lower, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => return None,
    };
    Some((Some(port.parse::<u16>().ok()?), protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_end(destination: &str) -> Option<(String, Option<u16>, Protocol)> {
        match read("shop/web", destination).ok()?.destination {
            Destination::End {
                end,
                port,
                protocol,
            } => Some((end, port, protocol)),
            Destination::Service { .. } => None,
        }
    }

    #[test]
    fn destinations_are_read_in_every_form() {
        let (tcp, udp, sctp) = (Protocol::TCP, Protocol::UDP, Protocol::SCTP);
        let cases = [
            ("shop/db:5432", "shop/db", Some(5432), tcp),
            ("shop/db:53/UDP", "shop/db", Some(53), udp),
            ("shop/db:icmp", "shop/db", None, Protocol::ICMP),
            ("10.0.0.7:80", "ip:10.0.0.7", Some(80), tcp),
            ("ip:10.0.0.7:80", "ip:10.0.0.7", Some(80), tcp),
            ("[fd00::7]:80/sctp", "ip:fd00::7", Some(80), sctp),
            ("ip:[fd00::7]:80", "ip:fd00::7", Some(80), tcp),
            ("node/a:10250", "node:a", Some(10250), tcp),
            ("node:a:10250", "node:a", Some(10250), tcp),
            ("metadata", METADATA, Some(80), tcp),
            ("metadata:443", METADATA, Some(443), tcp),
            ("internet:443", INTERNET, Some(443), tcp),
        ];
        for (text, end, port, protocol) in cases {
            let expected = Some((end.to_owned(), port, protocol));
            assert_eq!(read_end(text), expected, "{text}");
        }
    }

    #[test]
    fn services_are_named_with_any_port_that_they_may_have() {
        for (text, wanted) in [
            ("svc/shop/db", WantedPort::Only),
            ("svc/shop/db:sql", WantedPort::Named("sql".to_owned())),
            ("svc/shop/db:80", WantedPort::Number(80, Protocol::TCP)),
            ("svc/shop/db:53/udp", WantedPort::Number(53, Protocol::UDP)),
        ] {
            let expected = Destination::Service {
                namespace: "shop".to_owned(),
                name: "db".to_owned(),
                port: wanted,
            };
            let target = read("shop/web", text).expect(text);
            assert_eq!(target.destination, expected, "{text}");
        }
    }

    #[test]
    fn a_kind_without_a_namespace_is_of_the_one_that_is_meant() {
        let both = |source, destination| qualified(source, destination, "shop");
        let expect = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
        assert_eq!(
            both("pod/web", "svc/db:53/udp"),
            expect("shop/web", "svc/shop/db:53/udp")
        );
        assert_eq!(
            both("pod/ops/web", "service/ops/db"),
            expect("ops/web", "svc/ops/db")
        );
        assert_eq!(
            both("po/web", "pod/db:80/tcp"),
            expect("shop/web", "shop/db:80/tcp")
        );
        for text in [
            "ops/web",
            "node/n1",
            "internet",
            "10.0.0.7",
            "[fd00::7]:80",
            "svc/a/b:80",
        ] {
            assert_eq!(both(text, text), expect(text, text));
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
            "svc/a/b/c:80",
            "svc/a/:80",
            "svc/shop/db:",
            "svc/shop/db:70000",
            "svc/shop/db:icmp",
            "svc/shop/db:80/gre",
            "",
        ] {
            let failure = read("shop/web", text).expect_err(text);
            assert_eq!(failure.code, "PC5001", "{text}");
        }
        for source in ["web", "node/", "svc/shop/web"] {
            assert!(read(source, "shop/db:80").is_err(), "{source}");
        }
    }
}
