//! The address space cut by the ipBlocks in use: which of them hold where.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::asked::{Asked, AtomIx};

/// Number of a set of ipBlocks; 0 is the empty one.
pub(super) type SetIx = u32;

/// The prefixes of the rules in use, each with the ipBlocks that hold for addresses whose longest prefix it is.
#[derive(Default)]
pub(super) struct Pieces {
    list: Vec<Piece>,
    sets: Sets<AtomIx>,
}

pub(super) struct Piece {
    pub(super) net: IpNet,
    pub(super) set: SetIx,
    /// The set of the next shorter prefix around it.
    pub(super) parent: SetIx,
}

impl Pieces {
    pub(super) fn new(asked: &Asked) -> Self {
        // An address in a prefix is in every prefix around it. So walking from the widest to the narrowest, an ipBlock begins to hold at its
        // `cidr` and ends at each of its exceptions, which lie inside it.
        let mut edges: BTreeMap<IpNet, (Vec<AtomIx>, BTreeSet<AtomIx>)> = BTreeMap::new();
        for ((cidr, except), &number) in &asked.cidrs {
            if except.iter().any(|hole| hole.contains(cidr)) {
                continue;
            }
            edges.entry(*cidr).or_default().0.push(number);
            for hole in except {
                edges.entry(*hole).or_default().1.insert(number);
            }
        }
        let mut sets = Sets::default();
        let mut list = Vec::with_capacity(edges.len());
        let mut around: Vec<(IpNet, SetIx)> = Vec::new();
        for (net, (begin, end)) in edges {
            while around.pop_if(|(outer, _)| !outer.contains(&net)).is_some() {}
            let parent = around.last().map_or(0, |(_, set)| *set);
            let mut held: Vec<AtomIx> = sets.get(parent).to_vec();
            held.extend(begin);
            held.retain(|number| !end.contains(number));
            held.sort_unstable();
            let set = sets.intern(held);
            around.push((net, set));
            list.push(Piece { net, set, parent });
        }
        Self { list, sets }
    }

    /// From the widest to the narrowest, by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.list.iter()
    }

    /// All sets by number.
    pub(super) fn sets(&self) -> impl Iterator<Item = &[AtomIx]> {
        self.sets.list.iter().map(Vec::as_slice)
    }

    pub(super) fn set(&self, number: SetIx) -> &[AtomIx] {
        self.sets.get(number)
    }
}

/// Distinct lists, numbered; number 0 is the empty one.
pub(super) struct Sets<T> {
    list: Vec<Vec<T>>,
    numbers: BTreeMap<Vec<T>, u32>,
}

impl<T: Ord + Clone> Sets<T> {
    pub(super) fn intern(&mut self, set: Vec<T>) -> u32 {
        if let Some(&number) = self.numbers.get(&set) {
            return number;
        }
        let number = self.list.len() as u32;
        self.list.push(set.clone());
        self.numbers.insert(set, number);
        number
    }

    pub(super) fn get(&self, number: u32) -> &[T] {
        &self.list[number as usize]
    }
}

impl<T: Ord> Default for Sets<T> {
    fn default() -> Self {
        Self {
            list: vec![Vec::new()],
            numbers: BTreeMap::from([(Vec::new(), 0)]),
        }
    }
}

/// Walks ascending addresses along the pieces.
pub(super) struct Sweep<'a> {
    ahead: Peekable<std::slice::Iter<'a, Piece>>,
    around: Vec<(IpNet, SetIx)>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(pieces: &'a Pieces) -> Self {
        Self {
            ahead: pieces.list.iter().peekable(),
            around: Vec::new(),
        }
    }

    /// The set that holds at `addr`, which must not be below the one asked before.
    pub(super) fn set_at(&mut self, addr: IpAddr) -> SetIx {
        while let Some(piece) = self.ahead.next_if(|piece| piece.net.network() <= addr) {
            while self
                .around
                .pop_if(|(outer, _)| !outer.contains(&piece.net))
                .is_some()
            {}
            self.around.push((piece.net, piece.set));
        }
        while self
            .around
            .pop_if(|(outer, _)| !outer.contains(&addr))
            .is_some()
        {}
        self.around.last().map_or(0, |(_, set)| *set)
    }
}
