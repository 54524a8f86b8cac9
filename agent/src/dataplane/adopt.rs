//! Connections that were open before the programs came, as entries of `pc_conntrack`.
//!
//! ```text
//! a connection of the kernel's tracking -> the ends of it that are endpoints, each as its hooks will see it -> entries, judged at their first packet
//! ```
//! An entry has another revision than its endpoint, so that its first packet asks policy, in the direction in which the connection was opened; it is
//! cut if that is not allowed. One that carries no packet for the time that the operator gave is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use portcullis_common::abi::{Endpoint, Existing};
use portcullis_common::addr::{self, Addr};
use portcullis_common::conntrack::{self, flags};

use crate::endpoint::tracked::{Tracked, Way};

/// The entries that stand for open connections of these endpoints.
#[must_use]
pub fn existing(
    open: &[Tracked],
    endpoints: &[Endpoint],
    node: &BTreeSet<IpAddr>,
    patience: u32,
) -> Vec<Existing> {
    let by_address: BTreeMap<Addr, &Endpoint> = endpoints
        .iter()
        .flat_map(|endpoint| [(endpoint.v4, endpoint), (endpoint.v6, endpoint)])
        .filter(|(address, _)| *address != addr::NONE)
        .collect();
    let at = |end: SocketAddr| by_address.get(&bytes(end.ip())).copied();
    let entry = |connection: &Tracked, endpoint: &Endpoint, ends: Ends, state: u32| Existing {
        key: conntrack::key(
            endpoint,
            bytes(ends.remote.ip()),
            ends.local_port,
            ends.remote.port(),
            connection.protocol,
        ),
        flags: state | answered(connection),
        revision: endpoint.revision.wrapping_sub(1),
        patience,
        reserved: 0,
    };
    let mut entries = Vec::new();
    for connection in open {
        if let Some(endpoint) = at(connection.original.src) {
            let ends = of_opener(connection).into_iter();
            entries.extend(ends.map(|(ends, state)| entry(connection, endpoint, ends, state)));
        }
        if let Some(endpoint) = at(connection.reply.src) {
            let (ends, state) = of_answerer(connection, node);
            entries.push(entry(connection, endpoint, ends, state));
        }
    }
    entries
}

/// A connection as one endpoint sees it.
struct Ends {
    local_port: u16,
    remote: SocketAddr,
}

/// What an endpoint opened: to whom it asked for, and if that was translated, to whom it was led.
fn of_opener(connection: &Tracked) -> Vec<(Ends, u32)> {
    let Way { src, dst } = connection.original;
    let to = |remote| Ends {
        local_port: src.port(),
        remote,
    };
    let real = connection.reply.src;
    if real == dst {
        return vec![(to(dst), flags::OUTBOUND)];
    }
    vec![
        (to(dst), flags::OUTBOUND | flags::PENDING),
        (to(real), flags::OUTBOUND),
    ]
}

/// What was opened to an endpoint, by whom it sees. Its own node and it itself are never judged.
fn of_answerer(connection: &Tracked, node: &BTreeSet<IpAddr>) -> (Ends, u32) {
    let Way { src, dst } = connection.reply;
    // Whom the node hides behind its address did not open from that address.
    let opener = connection.original.src.ip();
    let exempt = node.contains(&opener) || opener == src.ip();
    let ends = Ends {
        local_port: src.port(),
        remote: dst,
    };
    (ends, if exempt { flags::EXEMPT } else { 0 })
}

fn answered(connection: &Tracked) -> u32 {
    if connection.answered {
        flags::REPLIED | flags::CONFIRMED
    } else {
        0
    }
}

fn bytes(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_common::conntrack::{TCP, UDP};

    use super::*;

    fn endpoint(slot: u16, v4: &str) -> Endpoint {
        Endpoint {
            v4: bytes(v4.parse().unwrap()),
            slot,
            generation: 1,
            revision: 7,
            ..Endpoint::default()
        }
    }

    fn way(src: &str, dst: &str) -> Way {
        Way {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    fn entries(connection: Tracked) -> Vec<(u16, String, u16, u32)> {
        let endpoints = [endpoint(1, "10.0.1.1"), endpoint(2, "10.0.1.2")];
        let node = BTreeSet::from(["10.0.0.10".parse().unwrap()]);
        existing(&[connection], &endpoints, &node, 100)
            .into_iter()
            .map(|entry| {
                assert_eq!((entry.revision, entry.patience), (6, 100));
                let remote = IpAddr::from(entry.key.remote).to_canonical();
                let remote = SocketAddr::new(remote, entry.key.remote_port).to_string();
                (entry.key.slot, remote, entry.key.local_port, entry.flags)
            })
            .collect()
    }

    const OPEN: u32 = flags::REPLIED | flags::CONFIRMED;

    #[test]
    fn between_two_endpoints_each_has_its_own_entry() {
        let connection = Tracked {
            protocol: TCP,
            original: way("10.0.1.1:40000", "10.0.1.2:5432"),
            reply: way("10.0.1.2:5432", "10.0.1.1:40000"),
            answered: true,
        };
        assert_eq!(
            entries(connection),
            [
                (1, "10.0.1.2:5432".into(), 40_000, OPEN | flags::OUTBOUND),
                (2, "10.0.1.1:40000".into(), 5432, OPEN),
            ]
        );
    }

    #[test]
    fn through_a_service_the_opener_has_one_in_front_of_the_translation_and_one_behind() {
        let connection = Tracked {
            protocol: UDP,
            original: way("10.0.1.1:40000", "10.100.0.10:53"),
            reply: way("10.0.9.9:5353", "10.0.1.1:40000"),
            answered: false,
        };
        assert_eq!(
            entries(connection),
            [
                (
                    1,
                    "10.100.0.10:53".into(),
                    40_000,
                    flags::OUTBOUND | flags::PENDING
                ),
                (1, "10.0.9.9:5353".into(), 40_000, flags::OUTBOUND),
            ]
        );
    }

    #[test]
    fn the_node_is_exempt_and_whom_it_hides_is_not() {
        let from_node = Tracked {
            protocol: TCP,
            original: way("10.0.0.10:40000", "10.0.1.2:80"),
            reply: way("10.0.1.2:80", "10.0.0.10:40000"),
            answered: true,
        };
        assert_eq!(
            entries(from_node),
            [(2, "10.0.0.10:40000".into(), 80, OPEN | flags::EXEMPT)]
        );
        let masqueraded = Tracked {
            original: way("203.0.113.7:40000", "10.0.0.10:30080"),
            reply: way("10.0.1.2:80", "10.0.0.10:50000"),
            ..from_node
        };
        assert_eq!(
            entries(masqueraded),
            [(2, "10.0.0.10:50000".into(), 80, OPEN)]
        );
    }

    #[test]
    fn what_concerns_no_endpoint_is_left_alone() {
        let connection = Tracked {
            protocol: TCP,
            original: way("10.0.0.10:40000", "203.0.113.7:443"),
            reply: way("203.0.113.7:443", "10.0.0.10:40000"),
            answered: true,
        };
        assert_eq!(entries(connection), []);
    }
}
