//! Which number an identity has on the way and at the end, so that numbers stay where their addresses stay together.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::policy::WORLD;
use portcullis_policy::tables::ClassIx;

use super::super::state::State;
use super::atoms::{Atoms, Pair};

/// Which number each pair has on the way, and each class at the end.
pub(super) struct Numbering {
    staged: BTreeMap<Pair, u32>,
    last: BTreeMap<ClassIx, u32>,
    /// Class of every number in `staged` and `last`.
    pub(super) classes: BTreeMap<u32, ClassIx>,
    /// Numbers that were not in use, and the old identity whose verdicts they start with; `None` = nobody has them before their rows stand.
    pub(super) fresh: BTreeMap<u32, Option<u32>>,
}

impl Numbering {
    /// Each class keeps the number of most of its atoms, if no other class has more of that identity.
    fn last(
        state: &State,
        atoms: &Atoms,
    ) -> (BTreeMap<u32, ClassIx>, BTreeMap<ClassIx, u32>, Free) {
        let pairs = atoms.pairs();
        let mut by_size: Vec<_> = pairs
            .iter()
            .map(|((identity, class), size)| (std::cmp::Reverse(*size), *identity, *class))
            .collect();
        by_size.sort_unstable();
        let mut kept = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (_, identity, class) in by_size {
            if let Entry::Vacant(free) = kept.entry(identity) {
                free.insert(class);
                last.entry(class).or_insert(identity);
            }
        }
        let mut free = Free::new(state.identities(), WORLD + 1);
        for (_, class) in pairs.keys() {
            last.entry(*class).or_insert_with(|| free.take());
        }
        (kept, last, free)
    }

    pub(super) fn direct(state: &State, atoms: &Atoms) -> Self {
        let (_, last, _) = Self::last(state, atoms);
        let fresh = last
            .values()
            .filter(|number| !state.has_identity(**number))
            .map(|number| (*number, None))
            .collect();
        let staged = atoms
            .pairs()
            .into_keys()
            .map(|(identity, class)| ((identity, class), last[&class]))
            .collect();
        Self {
            staged,
            classes: invert(&last),
            last,
            fresh,
        }
    }

    pub(super) fn staged(state: &State, atoms: &Atoms) -> Self {
        let (kept, last, mut free) = Self::last(state, atoms);
        let mut fresh: BTreeMap<u32, Option<u32>> = last
            .values()
            .filter(|number| !state.has_identity(**number))
            .map(|number| (*number, None))
            .collect();
        let mut staged = BTreeMap::new();
        for (identity, class) in atoms.pairs().into_keys() {
            let number = if kept.get(&identity) == Some(&class) {
                identity
            } else if let Some(None) = fresh.get(&last[&class]) {
                // The class's own number is new: the first part to arrive may use it at once.
                fresh.insert(last[&class], Some(identity));
                last[&class]
            } else {
                let number = free.take();
                fresh.insert(number, Some(identity));
                number
            };
            staged.insert((identity, class), number);
        }
        let mut of_number = invert(&last);
        of_number.extend(staged.iter().map(|((_, class), number)| (*number, *class)));
        Self {
            staged,
            last,
            classes: of_number,
            fresh,
        }
    }
}

impl Numbering {
    /// The number on the way by the pair's place.
    pub(super) fn staged_by_place(&self, atoms: &Atoms) -> Vec<u32> {
        atoms.list().map(|pair| self.staged[&pair]).collect()
    }

    /// The number at the end by the pair's place.
    pub(super) fn last_by_place(&self, atoms: &Atoms) -> Vec<u32> {
        atoms.list().map(|pair| self.last[&pair.1]).collect()
    }
}

fn invert(last: &BTreeMap<ClassIx, u32>) -> BTreeMap<u32, ClassIx> {
    last.iter()
        .map(|(class, number)| (*number, *class))
        .collect()
}

/// Smallest numbers that are not in use.
pub(super) struct Free {
    used: BTreeSet<u32>,
    next: u32,
}

impl Free {
    pub(super) fn new(used: impl Iterator<Item = u32>, first: u32) -> Self {
        Self {
            used: used.collect(),
            next: first,
        }
    }

    pub(super) fn take(&mut self) -> u32 {
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }
}
