//! Old and new tables laid over each other: which addresses they treat as one.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::addr::{self, Addr};
use portcullis_common::policy::WORLD;
use portcullis_policy::tables::{ClassIx, Tables};

use super::super::state::{Longest, Prefix, State, masked};
use super::{address_bytes, prefix};

/// The prefix of all mapped addresses.
const ALL_V4: Prefix = (96, addr::mapped([0; 4]));

/// The smallest sets of addresses on which old and new tables both agree: exact addresses, prefixes (without what is longer), the rest of the world.
pub(super) struct Atoms {
    /// Address -> (identity in force, wanted class).
    pub(super) addresses: BTreeMap<Addr, (u32, ClassIx)>,
    /// Prefix likewise.
    pub(super) prefixes: BTreeMap<Prefix, (u32, ClassIx)>,
    /// Prefixes that the wanted tables have.
    pub(super) wanted_prefixes: BTreeSet<Prefix>,
    /// Addresses that the wanted tables have.
    pub(super) wanted_addresses: BTreeSet<Addr>,
}

impl Atoms {
    pub(super) fn new(state: &State, tables: &Tables) -> Self {
        let mut classes: BTreeMap<Prefix, ClassIx> = tables
            .prefixes
            .iter()
            .map(|(net, class)| (prefix(net), *class))
            .collect();
        // A prefix like ::/0 must not catch IPv4, which the kernel sees mapped into it (policy-spec A8).
        if classes
            .keys()
            .any(|(length, addr)| *length < ALL_V4.0 && masked(&ALL_V4.1, *length) == *addr)
        {
            classes.entry(ALL_V4).or_insert(0);
        }
        let wanted: BTreeMap<Addr, ClassIx> = tables
            .addresses
            .iter()
            .map(|(address, class)| (address_bytes(*address), *class))
            .collect();
        let (old, new) = (Longest::new(&state.cidrs), Longest::new(&classes));
        let pair = |addr: &Addr, length: u32| {
            (
                old.find(addr, length).copied().unwrap_or(WORLD),
                new.find(addr, length).copied().unwrap_or(0),
            )
        };
        let prefixes = state
            .cidrs
            .keys()
            .chain(classes.keys())
            .map(|prefix| (*prefix, pair(&prefix.1, prefix.0)))
            .collect();
        let addresses = state
            .peers
            .keys()
            .chain(wanted.keys())
            .map(|addr| {
                let identity = state
                    .peers
                    .get(addr)
                    .copied()
                    .unwrap_or_else(|| old.find(addr, 128).copied().unwrap_or(WORLD));
                let class = wanted
                    .get(addr)
                    .copied()
                    .unwrap_or_else(|| new.find(addr, 128).copied().unwrap_or(0));
                (*addr, (identity, class))
            })
            .collect();
        Self {
            addresses,
            prefixes,
            wanted_prefixes: classes.into_keys().collect(),
            wanted_addresses: wanted.into_keys().collect(),
        }
    }

    /// How many atoms each pair has. The world's own is always there.
    pub(super) fn pairs(&self) -> BTreeMap<(u32, ClassIx), usize> {
        let mut pairs = BTreeMap::from([((WORLD, 0), usize::MAX / 2)]);
        for pair in self.addresses.values().chain(self.prefixes.values()) {
            *pairs.entry(*pair).or_default() += 1;
        }
        pairs
    }
}
