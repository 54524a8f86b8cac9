//! Old and new tables laid over each other: which addresses they treat as one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use imbl::OrdMap;
use portcullis_common::addr::{self, Addr};
use portcullis_common::policy::WORLD;
use portcullis_policy::tables::{ClassIx, Tables};

use super::super::state::{Longest, Prefix, State, masked};
use super::{address_bytes, prefix};

/// The prefix of all mapped addresses.
const ALL_V4: Prefix = (96, addr::mapped([0; 4]));

/// The smallest sets of addresses on which old and new tables both agree: exact addresses, prefixes (without what is longer), the rest of the world.
pub(super) struct Atoms {
    /// Ascending.
    pub(super) addresses: Vec<Atom<Addr>>,
    /// Ascending.
    pub(super) prefixes: Vec<Atom<Prefix>>,
    pairs: Pairs,
}

/// An address or prefix.
pub(super) struct Atom<K> {
    pub(super) at: K,
    /// The place of its pair.
    pub(super) pair: PairIx,
    /// Whether the tables in force have an entry for it, and not only for what is around it.
    pub(super) is_known: bool,
    /// Whether the wanted tables have one.
    pub(super) is_wanted: bool,
}

/// Place of a pair in [`Atoms::pairs`].
pub(super) type PairIx = u32;

/// Identity in force and wanted class.
pub(super) type Pair = (u32, ClassIx);

/// Every pair that occurs, and how many atoms have it.
#[derive(Default)]
struct Pairs {
    list: Vec<(Pair, usize)>,
    /// By class: few identities have parts in it.
    by_class: Vec<Vec<PairIx>>,
}

impl Pairs {
    fn add(&mut self, pair: Pair) -> PairIx {
        let class = pair.1 as usize;
        if self.by_class.len() <= class {
            self.by_class.resize_with(class + 1, Vec::new);
        }
        let of_class = &mut self.by_class[class];
        let known = of_class
            .iter()
            .find(|at| self.list[**at as usize].0 == pair);
        let at = known.copied().unwrap_or_else(|| {
            let at = self.list.len() as PairIx;
            self.list.push((pair, 0));
            of_class.push(at);
            at
        });
        self.list[at as usize].1 += 1;
        at
    }
}

impl Atoms {
    pub(super) fn new(state: &State, tables: &Tables) -> Self {
        let mut classes: OrdMap<Prefix, ClassIx> = tables
            .prefixes
            .iter()
            .map(|(net, class)| (prefix(net), *class))
            .collect();
        // A prefix like ::/0 must not catch IPv4, which the kernel sees mapped into it (policy-spec A8).
        if !classes.contains_key(&ALL_V4)
            && classes
                .keys()
                .any(|(length, addr)| *length < ALL_V4.0 && masked(&ALL_V4.1, *length) == *addr)
        {
            classes.insert(ALL_V4, 0);
        }
        let mut wanted: Vec<(Addr, ClassIx)> = tables
            .addresses
            .iter()
            .map(|(address, class)| (address_bytes(*address), *class))
            .collect();
        // Sorted but for addresses like ::1, which stand before all mapped ones here.
        wanted.sort_unstable();
        let (old, new) = (Longest::new(state.cidrs()), Longest::new(&classes));
        let before = |addr: &Addr, length| old.find(addr, length).copied().unwrap_or(WORLD);
        let after = |addr: &Addr, length| new.find(addr, length).copied().unwrap_or(0);
        let mut pairs = Pairs::default();
        // The world's own is always there.
        pairs.add((WORLD, 0));
        pairs.list[0].1 = usize::MAX / 2;
        let mut prefixes = Vec::with_capacity(classes.len());
        overlay(state.cidrs().iter(), classes.iter(), |at, known, wanted| {
            let identity = known.copied().unwrap_or_else(|| before(&at.1, at.0));
            let class = wanted.copied().unwrap_or_else(|| after(&at.1, at.0));
            prefixes.push(Atom {
                at: *at,
                pair: pairs.add((identity, class)),
                is_known: known.is_some(),
                is_wanted: wanted.is_some(),
            });
        });
        let mut addresses = Vec::with_capacity(wanted.len());
        let wanted = wanted.iter().map(|(addr, class)| (addr, class));
        overlay(state.peers().iter(), wanted, |at, known, wanted| {
            let identity = known.copied().unwrap_or_else(|| before(at, 128));
            let class = wanted.copied().unwrap_or_else(|| after(at, 128));
            addresses.push(Atom {
                at: *at,
                pair: pairs.add((identity, class)),
                is_known: known.is_some(),
                is_wanted: wanted.is_some(),
            });
        });
        Self {
            addresses,
            prefixes,
            pairs,
        }
    }

    /// How many atoms each pair has.
    pub(super) fn pairs(&self) -> BTreeMap<Pair, usize> {
        self.pairs.list.iter().copied().collect()
    }

    /// Every pair by its place.
    pub(super) fn list(&self) -> impl Iterator<Item = Pair> {
        self.pairs.list.iter().map(|(pair, _)| *pair)
    }
}

/// Walks along two ascending lists at once.
fn overlay<'a, K: Ord + 'a, A: 'a, B: 'a>(
    one: impl Iterator<Item = (&'a K, &'a A)>,
    other: impl Iterator<Item = (&'a K, &'a B)>,
    mut visit: impl FnMut(&K, Option<&A>, Option<&B>),
) {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    loop {
        let order = match (one.peek(), other.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let a = if order.is_le() { one.next() } else { None };
        let b = if order.is_ge() { other.next() } else { None };
        if let Some(key) = a.map(|(key, _)| key).or(b.map(|(key, _)| key)) {
            visit(key, a.map(|(_, value)| value), b.map(|(_, value)| value));
        }
    }
}
