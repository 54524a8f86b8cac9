//! Reading the tables on the host: what the kernel programs look up, in plain steps.
//!
//! 1. class: the exact address, else the longest prefix around it, else [`WORLD`];
//! 2. cell: the row of the class, else the default;
//! 3. decision: the range that holds the port, else what the cell says otherwise.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_common::addr::{V4, V6};

use crate::tables::{
    Cell, ClassIx, Decision, Direction, EndpointPolicies, PolicyIx, PolicyTable, Tables, WORLD,
};

impl Tables {
    /// The class of `addr`.
    #[must_use]
    pub fn class_of(&self, addr: IpAddr) -> ClassIx {
        if let Ok(at) = self.addresses.binary_search_by_key(&addr, |(at, _)| *at) {
            return self.addresses[at].1;
        }
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(|length| IpNet::new(addr, length).ok())
            .find_map(|net| self.prefixes.get(&net.trunc()))
            .copied()
            .unwrap_or(WORLD)
    }

    /// The policy with this number.
    #[must_use]
    pub fn policy(&self, policy: PolicyIx) -> Option<&PolicyTable> {
        self.policies.get(policy as usize).map(AsRef::as_ref)
    }
}

impl EndpointPolicies {
    /// The policy for what `direction` has to say about packets of the family of `addr`.
    #[must_use]
    pub const fn policy(&self, direction: Direction, addr: IpAddr) -> Option<PolicyIx> {
        let family = if addr.is_ipv4() { V4 } else { V6 };
        match direction {
            Direction::Ingress => self.ingress[family],
            Direction::Egress => self.egress[family],
        }
    }
}

impl PolicyTable {
    /// The cell of `class`.
    #[must_use]
    pub fn cell(&self, class: ClassIx) -> &Cell {
        match self.rows.binary_search_by_key(&class, |(of, _)| *of) {
            Ok(at) => &self.cells[self.rows[at].1 as usize],
            Err(_) => &self.default,
        }
    }

    /// What happens to a connection with the other side in `class`. For ICMP, `port` is type and code (`type << 8 | code`).
    #[must_use]
    pub fn decide(&self, class: ClassIx, protocol: u8, port: u16) -> &Decision {
        self.cell(class).decide(protocol, port)
    }
}

impl Cell {
    /// The decision for `protocol` and `port`.
    #[must_use]
    pub fn decide(&self, protocol: u8, port: u16) -> &Decision {
        match self {
            Self::All(decision) => decision,
            Self::ByPort { ranges, otherwise } => {
                let behind = ranges
                    .partition_point(|range| (range.protocol, range.first) <= (protocol, port));
                ranges[..behind]
                    .last()
                    .filter(|range| range.protocol == protocol && range.last >= port)
                    .map_or(otherwise, |range| &range.decision)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::tables::PortRange;

    const ALLOW: Decision = Decision {
        allow: true,
        rule: None,
    };
    const DENY: Decision = Decision {
        allow: false,
        rule: None,
    };

    #[test]
    fn an_exact_address_beats_every_prefix_and_the_longest_prefix_the_others() {
        let tables = Tables {
            classes: 4,
            addresses: Arc::new(vec![("10.1.0.1".parse().unwrap(), 3)]),
            prefixes: Arc::new(BTreeMap::from([
                ("10.0.0.0/8".parse().unwrap(), 1),
                ("10.1.0.0/16".parse().unwrap(), 2),
                ("10.1.2.0/24".parse().unwrap(), WORLD),
            ])),
            ..Tables::default()
        };
        for (addr, class) in [
            ("10.1.0.1", 3),
            ("10.1.0.2", 2),
            ("10.2.0.1", 1),
            ("10.1.2.3", 0),
            ("11.0.0.1", 0),
        ] {
            assert_eq!(tables.class_of(addr.parse().unwrap()), class, "{addr}");
        }
        assert_eq!(tables.class_of("::ffff:10.1.0.1".parse().unwrap()), WORLD);
    }

    #[test]
    fn a_range_holds_both_of_its_ends_and_only_its_protocol() {
        let range = |protocol, first, last| PortRange {
            protocol,
            first,
            last,
            decision: ALLOW,
        };
        let cell = Cell::ByPort {
            ranges: vec![range(6, 80, 90), range(6, 100, 100), range(17, 0, 65535)],
            otherwise: DENY,
        };
        for (protocol, port, allow) in [
            (6, 79, false),
            (6, 80, true),
            (6, 90, true),
            (6, 91, false),
            (6, 100, true),
            (6, 101, false),
            (17, 0, true),
            (17, 65535, true),
            (132, 80, false),
            (1, 80, false),
        ] {
            assert_eq!(
                cell.decide(protocol, port).allow,
                allow,
                "{protocol} {port}"
            );
        }
    }
}
