//! Address classes: which addresses the rules in use on this node cannot tell apart.
//!
//! An address has a *signature*: the selectors in use that hold for a live workload on it, the ipBlocks that contain it, and the numbers that
//! each port name in use has there. Equal signatures, one class; classes are numbered in the order of their signatures, so the empty one is
//! [`WORLD`](crate::tables::WORLD) and nothing depends on the way in which objects arrived.
//!
//! ```text
//! prefixes of the rules, sorted:  10/8 ── 10.1/16 ── 10.1.2/24        each piece: the ipBlocks that hold there
//! addresses of pods, sorted:          ·      ··          ·            swept once along them
//! ```
//! IPv4 and IPv6 never meet: both sort and contain within their own family only.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::index::{InUse, Index};
use crate::model::{Protocol, Workload, World};
use crate::tables::ClassIx;

/// What the rules in use know of an address. All lists ascend; the numbers are those of [`InUse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Signature {
    pub(crate) selectors: Vec<u32>,
    pub(crate) cidrs: Vec<u32>,
    /// Port name and number.
    pub(crate) ports: Vec<(u32, u16)>,
}

/// The classes and who is in them.
pub(crate) struct Identities {
    /// By class.
    pub(crate) signatures: Vec<Signature>,
    pub(crate) addresses: BTreeMap<IpAddr, ClassIx>,
    pub(crate) prefixes: BTreeMap<IpNet, ClassIx>,
}

impl Identities {
    pub(crate) fn new<'w>(in_use: &InUse<'w>, world: &'w World) -> Self {
        let mut interner = Interner::new();
        let pieces = Pieces::new(in_use);
        let prefixes: Vec<(IpNet, u32)> = pieces
            .list
            .iter()
            .filter(|piece| piece.set != piece.parent)
            .map(|piece| (piece.net, interner.prefix(&pieces.sets, piece.set)))
            .collect();
        let addresses = addresses(in_use, world, &pieces, &mut interner);
        let (signatures, classes) = interner.finish();
        Self {
            signatures,
            addresses: addresses
                .into_iter()
                .map(|(addr, at)| (addr, classes[at as usize]))
                .collect(),
            prefixes: prefixes
                .into_iter()
                .map(|(net, at)| (net, classes[at as usize]))
                .collect(),
        }
    }
}

/// The addresses whose signature is not that of the prefix around them.
fn addresses<'w>(
    in_use: &InUse<'w>,
    world: &'w World,
    pieces: &Pieces,
    interner: &mut Interner,
) -> Vec<(IpAddr, u32)> {
    if in_use.selectors.is_empty() && in_use.ports.is_empty() {
        return Vec::new();
    }
    let mut index = Index::new(in_use, &world.namespaces);
    let mut numbers = Numbers::new(in_use);
    let mut owners: Vec<(IpAddr, Owner)> = Vec::new();
    for workload in world
        .workloads
        .values()
        .filter(|workload| workload.is_endpoint())
    {
        if workload.addresses.is_empty() {
            continue;
        }
        let owner = (index.group(workload), numbers.set(workload));
        owners.extend(workload.addresses.iter().map(|addr| (*addr, owner)));
    }
    owners.sort_unstable();
    owners.dedup();
    let mut sweep = Sweep::new(pieces);
    let mut found = Vec::new();
    for run in owners.chunk_by(|(a, _), (b, _)| a == b) {
        let Some(&(addr, first)) = run.first() else {
            continue;
        };
        let set = sweep.set_at(addr);
        let describe = |owners: &mut dyn Iterator<Item = Owner>| {
            let mut signature = Signature {
                cidrs: pieces.sets.0[set as usize].clone(),
                ..Signature::default()
            };
            for (group, ports) in owners {
                signature.selectors.extend_from_slice(index.holding(group));
                signature
                    .ports
                    .extend_from_slice(&numbers.sets.0[ports as usize]);
            }
            signature.selectors.sort_unstable();
            signature.selectors.dedup();
            signature.ports.sort_unstable();
            signature.ports.dedup();
            signature
        };
        let at = if run.len() == 1 {
            interner.lone(first, set, || describe(&mut std::iter::once(first)))
        } else {
            interner.intern(describe(&mut run.iter().map(|(_, owner)| *owner)))
        };
        if !interner.is_plain(at) {
            found.push((addr, at));
        }
    }
    found
}

/// What one workload brings to its addresses: its group and its set of port numbers.
type Owner = (u32, u32);

/// Distinct lists, numbered; number 0 is the empty one.
struct Sets<T>(Vec<Vec<T>>, BTreeMap<Vec<T>, u32>);

impl<T: Ord + Clone> Sets<T> {
    fn new() -> Self {
        Self(vec![Vec::new()], BTreeMap::from([(Vec::new(), 0)]))
    }

    fn intern(&mut self, set: Vec<T>) -> u32 {
        if let Some(&number) = self.1.get(&set) {
            return number;
        }
        let number = self.0.len() as u32;
        self.0.push(set.clone());
        self.1.insert(set, number);
        number
    }
}

/// Port names in use and what they are on each workload.
struct Numbers<'a, 'w> {
    names: &'a BTreeMap<(Protocol, &'w str), u32>,
    sets: Sets<(u32, u16)>,
}

impl<'a, 'w> Numbers<'a, 'w> {
    fn new(in_use: &'a InUse<'w>) -> Self {
        Self {
            names: &in_use.ports,
            sets: Sets::new(),
        }
    }

    fn set(&mut self, workload: &'w Workload) -> u32 {
        let ports = workload.ports.iter();
        let mut set: Vec<(u32, u16)> = ports
            .filter_map(|port| {
                let name = self.names.get(&(port.protocol, port.name.as_str()))?;
                Some((*name, port.number))
            })
            .collect();
        set.sort_unstable();
        set.dedup();
        self.sets.intern(set)
    }
}

/// The prefixes of the rules in use, each with the ipBlocks that hold for addresses whose longest prefix it is.
struct Pieces {
    list: Vec<Piece>,
    sets: Sets<u32>,
}

struct Piece {
    net: IpNet,
    set: u32,
    /// The set of the next shorter prefix around it.
    parent: u32,
}

impl Pieces {
    fn new(in_use: &InUse<'_>) -> Self {
        // An address in a prefix is in every prefix around it. So walking from the widest to the narrowest, an ipBlock begins to hold at its
        // `cidr` and ends at each of its exceptions, which lie inside it.
        let mut edges: BTreeMap<IpNet, (Vec<u32>, BTreeSet<u32>)> = BTreeMap::new();
        for ((cidr, except), &number) in &in_use.cidrs {
            if except.iter().any(|hole| hole.contains(cidr)) {
                continue;
            }
            edges.entry(*cidr).or_default().0.push(number);
            for hole in except {
                edges.entry(*hole).or_default().1.insert(number);
            }
        }
        let mut sets = Sets::new();
        let mut list = Vec::with_capacity(edges.len());
        let mut around: Vec<(IpNet, u32)> = Vec::new();
        for (net, (begin, end)) in edges {
            while around.pop_if(|(outer, _)| !outer.contains(&net)).is_some() {}
            let parent = around.last().map_or(0, |(_, set)| *set);
            let mut held: Vec<u32> = sets.0[parent as usize].clone();
            held.extend(begin);
            held.retain(|number| !end.contains(number));
            held.sort_unstable();
            let set = sets.intern(held);
            around.push((net, set));
            list.push(Piece { net, set, parent });
        }
        Self { list, sets }
    }
}

/// Walks ascending addresses along the pieces.
struct Sweep<'a> {
    ahead: Peekable<std::slice::Iter<'a, Piece>>,
    around: Vec<(IpNet, u32)>,
}

impl<'a> Sweep<'a> {
    fn new(pieces: &'a Pieces) -> Self {
        Self {
            ahead: pieces.list.iter().peekable(),
            around: Vec::new(),
        }
    }

    /// The set that holds at `addr`, which must not be below the one asked before.
    fn set_at(&mut self, addr: IpAddr) -> u32 {
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

/// Signatures in the order of their discovery; the class numbers come at the end.
struct Interner {
    found: BTreeMap<Signature, u32>,
    /// Whether a signature has nothing beyond ipBlocks, which prefixes say already.
    plain: Vec<bool>,
    lone: BTreeMap<(Owner, u32), u32>,
}

impl Interner {
    fn new() -> Self {
        let mut interner = Self {
            found: BTreeMap::new(),
            plain: Vec::new(),
            lone: BTreeMap::new(),
        };
        interner.intern(Signature::default());
        interner
    }

    fn intern(&mut self, signature: Signature) -> u32 {
        let next = self.plain.len() as u32;
        let plain = signature.selectors.is_empty() && signature.ports.is_empty();
        let number = *self.found.entry(signature).or_insert(next);
        if number == next {
            self.plain.push(plain);
        }
        number
    }

    fn prefix(&mut self, sets: &Sets<u32>, set: u32) -> u32 {
        self.intern(Signature {
            cidrs: sets.0[set as usize].clone(),
            ..Signature::default()
        })
    }

    /// The common case, an address with one owner, without building the signature again.
    fn lone(&mut self, owner: Owner, set: u32, signature: impl FnOnce() -> Signature) -> u32 {
        if let Some(&number) = self.lone.get(&(owner, set)) {
            return number;
        }
        let number = self.intern(signature());
        self.lone.insert((owner, set), number);
        number
    }

    fn is_plain(&self, number: u32) -> bool {
        self.plain[number as usize]
    }

    /// Signatures by class, and the class of each number given out.
    fn finish(self) -> (Vec<Signature>, Vec<ClassIx>) {
        let mut classes = vec![0; self.found.len()];
        let mut signatures = Vec::with_capacity(self.found.len());
        for (class, (signature, number)) in (0..).zip(self.found) {
            classes[number as usize] = class;
            signatures.push(signature);
        }
        (signatures, classes)
    }
}
