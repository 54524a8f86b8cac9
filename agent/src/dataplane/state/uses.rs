//! What refers to what in the tables, counted along with each write, so that nobody has to look through all of them for what is not used any more.

use std::collections::BTreeMap;

use portcullis_common::policy::WORLD;

use super::CellState;

/// Who needs identities and port sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    identities: BTreeMap<u32, OfIdentity>,
    /// Cells that refer to a port set.
    sets: BTreeMap<u32, usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OfIdentity {
    /// Addresses and prefixes that have it.
    members: usize,
    /// Rows that are about it.
    rows: usize,
}

impl Uses {
    /// Identities that have members, and the world.
    pub(super) fn identities(&self) -> impl Iterator<Item = u32> {
        let of = self.identities.iter();
        let others = of.filter(|(identity, of)| **identity != WORLD && of.members > 0);
        [WORLD]
            .into_iter()
            .chain(others.map(|(identity, _)| *identity))
    }

    pub(super) fn has_identity(&self, identity: u32) -> bool {
        let members = self.identities.get(&identity).map(|of| of.members);
        identity == WORLD || members.is_some_and(|members| members > 0)
    }

    pub(super) fn without_members(&self) -> impl Iterator<Item = u32> {
        self.identities
            .iter()
            .filter(|(identity, of)| **identity != WORLD && of.members == 0)
            .map(|(identity, _)| *identity)
    }

    pub(super) fn has_set(&self, set: u32) -> bool {
        self.sets.contains_key(&set)
    }

    /// An address or a prefix has another identity.
    pub(super) fn member(&mut self, before: Option<u32>, after: Option<u32>) {
        if before == after {
            return;
        }
        if let Some(identity) = after {
            self.identities.entry(identity).or_default().members += 1;
        }
        if let Some(identity) = before {
            self.change(identity, |of| of.members -= 1);
        }
    }

    /// A row about an identity is there or not.
    pub(super) fn row(&mut self, identity: u32, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.identities.entry(identity).or_default().rows += 1,
            (true, false) => self.change(identity, |of| of.rows -= 1),
            (true, true) | (false, false) => {}
        }
    }

    /// A cell is another one.
    pub(super) fn cell(&mut self, before: Option<CellState>, after: Option<CellState>) {
        if before == after {
            return;
        }
        if let Some(CellState::Ports(set)) = after {
            *self.sets.entry(set).or_default() += 1;
        }
        if let Some(CellState::Ports(set)) = before
            && let Some(count) = self.sets.get_mut(&set)
        {
            *count -= 1;
            if *count == 0 {
                self.sets.remove(&set);
            }
        }
    }

    fn change(&mut self, identity: u32, change: impl FnOnce(&mut OfIdentity)) {
        if let Some(of) = self.identities.get_mut(&identity) {
            change(of);
            if *of == OfIdentity::default() {
                self.identities.remove(&identity);
            }
        }
    }
}
