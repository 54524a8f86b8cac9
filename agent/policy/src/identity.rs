//! Address classes: which addresses the rules in use on this node cannot tell apart.
//!
//! An address has a *signature*: the lists of peers that match it (by selectors that hold for a live workload on it, or by ipBlocks that contain it), and
//! the numbers that each port name in use has there. Equal signatures, one class. Classes are numbered as they appear: [`WORLD`], which no rule mentions,
//! then along the prefixes, then along the addresses; so nothing depends on the way in which objects arrived.
//!
//! ```text
//! prefixes of the rules, sorted:  10/8 ── 10.1/16 ── 10.1.2/24        each piece: the ipBlocks that hold there
//! addresses of pods, sorted:          ·      ··          ·            swept once along them
//! ```
//! IPv4 and IPv6 never meet: both sort and contain within their own family only.
//!
//! [`WORLD`]: crate::tables::WORLD

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::asked::{Asked, AtomIx, Changed, ListIx, NameIx};
use crate::index::GroupIx;
use crate::model::World;
use crate::tables::ClassIx;

mod pieces;
mod roll;

use pieces::{Pieces, SetIx, Sweep};
pub(crate) use roll::WorkloadChange;
use roll::{Owner, PortsIx, Roll};

/// Number of a signature; never used twice.
pub(crate) type SignatureIx = u32;

/// What the rules in use know of an address. Both lists ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Signature {
    pub(crate) lists: Vec<ListIx>,
    /// Port name and number.
    pub(crate) ports: Vec<(NameIx, u16)>,
}

/// A class: what its addresses have in common.
pub(crate) struct Class {
    pub(crate) number: SignatureIx,
    pub(crate) signature: Arc<Signature>,
}

/// The classes and who is in them.
#[derive(Default)]
pub(crate) struct Identities {
    /// By number; the first is the world.
    pub(crate) classes: Vec<Class>,
    /// Addresses that have another class than the prefix around them, sorted.
    pub(crate) addresses: Arc<Vec<(IpAddr, ClassIx)>>,
    /// Prefixes that have another class than the next shorter one around them.
    pub(crate) prefixes: Arc<BTreeMap<IpNet, ClassIx>>,
    roll: Roll,
    pieces: Pieces,
    signatures: Signatures,
}

impl Identities {
    /// Brings the classes to what is asked and who is there. Says whether classes have come, gone or another number.
    pub(crate) fn update(
        &mut self,
        asked: &Asked,
        changed: Changed,
        world: &World,
        relabelled: &BTreeSet<&str>,
        workloads: &[WorkloadChange<'_>],
    ) -> bool {
        let holdings = changed.selectors || !relabelled.is_empty();
        let is_first = self.classes.is_empty();
        if !holdings && changed == Changed::default() && workloads.is_empty() && !is_first {
            return false;
        }
        self.roll
            .update(asked, changed, world, relabelled, workloads);
        if changed.cidrs || is_first {
            self.pieces = Pieces::new(asked);
        }
        if holdings || changed != Changed::default() {
            self.signatures.forget_kinds();
        }
        self.signatures
            .forget_kinds_of(self.roll.take_fresh_groups());
        let before = std::mem::take(&mut self.classes);
        let (prefixes, addresses) = self.number(asked);
        if *self.prefixes != prefixes {
            self.prefixes = Arc::new(prefixes);
        }
        if *self.addresses != addresses {
            self.addresses = Arc::new(addresses);
        }
        let numbers = |classes: &[Class]| -> Vec<SignatureIx> {
            classes.iter().map(|class| class.number).collect()
        };
        numbers(&before) != numbers(&self.classes)
    }

    /// Whether numbers are about to run out.
    pub(crate) fn is_worn(&self) -> bool {
        self.signatures.next > SignatureIx::MAX / 2
    }

    /// No signature that was given out has a number as high as this.
    pub(crate) fn next_signature(&self) -> SignatureIx {
        self.signatures.next
    }

    /// How much is kept: workloads, addresses.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 2] {
        assert_eq!(self.signatures.numbers.len(), self.classes.len());
        self.roll.sizes()
    }

    /// Numbers the classes along prefixes and addresses.
    fn number(&mut self, asked: &Asked) -> (BTreeMap<IpNet, ClassIx>, Vec<(IpAddr, ClassIx)>) {
        let signatures = &mut self.signatures;
        let of_sets: Vec<SignatureIx> = self
            .pieces
            .sets()
            .map(|set| signatures.intern(asked, set.iter().copied(), Vec::new()))
            .collect();
        let mut numbers = Numbers::new(of_sets[0]);
        let mut prefixes = Vec::new();
        for piece in self.pieces.iter() {
            let number = of_sets[piece.set as usize];
            if number != of_sets[piece.parent as usize] {
                prefixes.push((piece.net, numbers.class(number)));
            }
        }
        let mut addresses = Vec::with_capacity(self.addresses.len() + 1);
        let mut sweep = Sweep::new(&self.pieces);
        self.roll.each_address(|address, owners| {
            let set = sweep.set_at(address);
            let number = match owners {
                [owner] => signatures.of_kind(asked, &self.roll, &self.pieces, *owner, set),
                _ => signatures.of_owners(asked, &self.roll, &self.pieces, owners, set),
            };
            if number != of_sets[set as usize] {
                addresses.push((address, numbers.class(number)));
            }
        });
        self.classes = signatures.keep(&numbers);
        (prefixes.into_iter().collect(), addresses)
    }
}

/// Classes as they appear.
struct Numbers {
    classes: BTreeMap<SignatureIx, ClassIx>,
    /// The one that was asked for last.
    last: (SignatureIx, ClassIx),
}

impl Numbers {
    fn new(world: SignatureIx) -> Self {
        Self {
            classes: BTreeMap::from([(world, 0)]),
            last: (world, 0),
        }
    }

    fn class(&mut self, signature: SignatureIx) -> ClassIx {
        if self.last.0 != signature {
            let next = self.classes.len() as ClassIx;
            let class = *self.classes.entry(signature).or_insert(next);
            self.last = (signature, class);
        }
        self.last.1
    }
}

/// All signatures that some address has.
#[derive(Default)]
struct Signatures {
    numbers: BTreeMap<Arc<Signature>, SignatureIx>,
    next: SignatureIx,
    /// By group: what its members' addresses have, by their port numbers and the ipBlocks around them. Most groups have one entry.
    kinds: Vec<Vec<(PortsIx, SetIx, SignatureIx)>>,
}

impl Signatures {
    fn intern(
        &mut self,
        asked: &Asked,
        atoms: impl Iterator<Item = AtomIx>,
        ports: Vec<(NameIx, u16)>,
    ) -> SignatureIx {
        let signature = Signature {
            lists: asked.lists(atoms),
            ports,
        };
        if let Some(number) = self.numbers.get(&signature) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(Arc::new(signature), number);
        number
    }

    /// The common case, an address with one owner, without building the signature again.
    fn of_kind(
        &mut self,
        asked: &Asked,
        roll: &Roll,
        pieces: &Pieces,
        owner: Owner,
        set: SetIx,
    ) -> SignatureIx {
        let group = owner.group as usize;
        let known = self.kinds.get(group).into_iter().flatten();
        let mut known = known.filter(|(ports, at, _)| (*ports, *at) == (owner.ports, set));
        if let Some((_, _, number)) = known.next() {
            return *number;
        }
        let number = self.of_owners(asked, roll, pieces, &[owner], set);
        if self.kinds.len() <= group {
            self.kinds.resize_with(group + 1, Vec::new);
        }
        self.kinds[group].push((owner.ports, set, number));
        number
    }

    fn of_owners(
        &mut self,
        asked: &Asked,
        roll: &Roll,
        pieces: &Pieces,
        owners: &[Owner],
        set: SetIx,
    ) -> SignatureIx {
        let held = owners.iter().flat_map(|owner| roll.holding(*owner));
        let atoms = held.chain(pieces.set(set)).copied();
        let ports = owners.iter().flat_map(|owner| roll.ports(*owner));
        let mut ports: Vec<(NameIx, u16)> = ports.copied().collect();
        ports.sort_unstable();
        ports.dedup();
        self.intern(asked, atoms, ports)
    }

    fn forget_kinds(&mut self) {
        self.kinds.clear();
    }

    fn forget_kinds_of(&mut self, groups: impl Iterator<Item = GroupIx>) {
        for group in groups {
            if let Some(kinds) = self.kinds.get_mut(group as usize) {
                kinds.clear();
            }
        }
    }

    /// Forgets what no class has, and returns the classes.
    fn keep(&mut self, numbers: &Numbers) -> Vec<Class> {
        let class_of = |number: &SignatureIx| numbers.classes.get(number).copied();
        self.numbers.retain(|_, number| class_of(number).is_some());
        for kinds in &mut self.kinds {
            kinds.retain(|(_, _, number)| class_of(number).is_some());
        }
        let mut classes: Vec<(ClassIx, Class)> = self
            .numbers
            .iter()
            .filter_map(|(signature, number)| {
                let class = Class {
                    number: *number,
                    signature: Arc::clone(signature),
                };
                Some((class_of(number)?, class))
            })
            .collect();
        classes.sort_unstable_by_key(|(number, _)| *number);
        classes.into_iter().map(|(_, class)| class).collect()
    }
}
