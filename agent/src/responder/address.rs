//! Where the responder listens: an address that no other instance has, whatever else runs on the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_common::abi::Owner;

use crate::dataplane::names::uid_digest;

/// The first of the responder's ports, one for each guarded address. Nothing that is usual on a node listens at these.
pub const PORT: u16 = 9480;

/// The responder's addresses. The same whenever the agent starts in this network namespace of this boot, so that open connections outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Link-local (RFC 3927), in 169.254.32.0/19 and 169.254.64.0/19: metadata, DNS and time services, node-local caches and the gateways of CNI plugins lie
    /// outside.
    pub v4: Ipv4Addr,
    /// Unique local (RFC 4193), its global id from the same digest.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Those of a boot and network namespace.
    #[must_use]
    pub fn of(owner: &Owner) -> Self {
        let name = format!(
            "responder {:x} {}",
            u128::from_be_bytes(owner.boot_id),
            owner.netns_cookie
        );
        let [a, b, c, d, e, f, g, ..] = uid_digest(&name);
        Self {
            v4: Ipv4Addr::new(169, 254, 32 + a % 64, 1 + b % 254),
            v6: Ipv6Addr::from([0xfd, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        }
    }

    /// Both.
    #[must_use]
    pub fn all(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_between_namespaces_and_stay_off_those_of_services() {
        let of = |netns_cookie| {
            Addresses::of(&Owner {
                netns_cookie,
                ..Owner::default()
            })
        };
        assert_eq!(of(7), of(7));
        let mut seen = std::collections::BTreeSet::new();
        for cookie in 0..200 {
            let Addresses { v4, v6 } = of(cookie);
            let [169, 254, third @ 32..=95, 1..=254] = v4.octets() else {
                panic!("{v4}");
            };
            assert!(third != 169 && v6.is_unique_local());
            seen.insert(v6);
        }
        assert_eq!(seen.len(), 200);
    }
}
