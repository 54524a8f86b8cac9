//! What the rules in force ask of the other side: selectors, ipBlocks, the lists that rules make of them, and port names.
//!
//! ```text
//! rule.peers = [a, b] ──> list 7 ──> atoms a, b          another rule with the same peers, in whatever order, has list 7 too
//!                atom b ──> lists 7, 9                   what an address matches = the lists of the atoms that hold there
//! ```
//! Only policies that govern somebody on this node count. Each version of a policy is read once, when it comes into force; what nobody asks any more
//! goes. Numbers are never used twice, so that whoever remembers one is not misled, and their order means nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use ipnet::IpNet;

use crate::govern::{Governed, rules};
use crate::model::{AtEnd, Peer, Peers, PodSelector, Policy, PortMatch, Ports, Protocol};
use crate::tables::Direction;

/// Number of a selector or of an ipBlock.
pub(crate) type AtomIx = u32;
/// Number of a list of atoms.
pub(crate) type ListIx = u32;
/// Number of a port name.
pub(crate) type NameIx = u32;

/// A `cidr` and its exceptions in canonical form: equal ones of different rules are one.
pub(crate) type CidrUnit = (IpNet, Vec<IpNet>);

/// Everything that is asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) selectors: BTreeMap<Arc<PodSelector>, AtomIx>,
    pub(crate) cidrs: BTreeMap<CidrUnit, AtomIx>,
    lists: BTreeMap<Vec<AtomIx>, ListIx>,
    /// The atoms of each list, and how many rules have it.
    uses: BTreeMap<ListIx, (Vec<AtomIx>, usize)>,
    /// The lists that an atom is in.
    lists_of: BTreeMap<AtomIx, Vec<ListIx>>,
    /// Port names of egress rules, which are resolved on the peer, and how many rules have them.
    names: BTreeMap<String, BTreeMap<Protocol, (NameIx, usize)>>,
    /// Versions of policies by the address of their record, which they keep alive.
    policies: BTreeMap<usize, Version>,
    next: u32,
}

/// One version of a policy.
struct Version {
    policy: Arc<Policy>,
    /// Another one for each version.
    number: u32,
    /// For each rule the list of its peers, `None` = anyone; for ingress and egress, as far as it governs somebody.
    peers: [Option<Vec<Option<ListIx>>>; 2],
}

/// What an update has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) selectors: bool,
    pub(crate) cidrs: bool,
    pub(crate) lists: bool,
    pub(crate) names: bool,
}

impl Asked {
    /// Brings this to what `governed` asks.
    pub(crate) fn update(&mut self, governed: &Governed) -> Changed {
        let mut changed = Changed::default();
        let mut gone: BTreeMap<usize, [bool; 2]> = self
            .policies
            .iter()
            .map(|(key, version)| (*key, version.peers.each_ref().map(Option::is_some)))
            .collect();
        // What comes before what goes: a list that both have keeps its number.
        for ranked in &governed.policies {
            let key = address(&ranked.policy);
            for direction in [Direction::Ingress, Direction::Egress] {
                if !ranked.governs[direction as usize] {
                    continue;
                }
                if let Some(gone) = gone.get_mut(&key) {
                    gone[direction as usize] = false;
                }
                self.take_in(&ranked.policy, direction, &mut changed);
            }
        }
        for (key, gone) in gone {
            for direction in [Direction::Ingress, Direction::Egress] {
                if gone[direction as usize] {
                    self.let_go(key, direction, &mut changed);
                }
            }
        }
        self.forget_atoms(&mut changed);
        changed
    }

    /// Whether numbers are about to run out. Nobody sees that within months.
    pub(crate) fn is_worn(&self) -> bool {
        self.next > u32::MAX / 2
    }

    /// The versions of governing policies, another number for each that differs in anything, and what their tiers do at their ends.
    pub(crate) fn versions(&self, governed: &Governed, ranks: &[usize]) -> Vec<(u32, AtEnd)> {
        let policies = ranks.iter().map(|rank| &governed.policies[*rank]);
        policies
            .filter_map(|ranked| {
                let version = self.policies.get(&address(&ranked.policy))?;
                Some((version.number, ranked.at_end))
            })
            .collect()
    }

    /// For each rule of a policy in force the list of its peers, `None` = anyone.
    pub(crate) fn peers(&self, policy: &Arc<Policy>, direction: Direction) -> &[Option<ListIx>] {
        let version = self.policies.get(&address(policy));
        version
            .and_then(|version| version.peers[direction as usize].as_deref())
            .unwrap_or_default()
    }

    /// The lists that hold for what all of `atoms` hold for, ascending.
    pub(crate) fn lists(&self, atoms: impl Iterator<Item = AtomIx>) -> Vec<ListIx> {
        let mut lists = Vec::new();
        for atom in atoms {
            lists.extend(self.lists_of.get(&atom).into_iter().flatten());
        }
        lists.sort_unstable();
        lists.dedup();
        lists
    }

    /// The list of a rule's peers; `None` if no rule in force has it.
    pub(crate) fn list(&self, peers: &[Peer]) -> Option<ListIx> {
        let atoms = peers.iter().map(|peer| match peer {
            Peer::Pods(selector) => self.selectors.get(selector).copied(),
            Peer::Cidr { cidr, except } => self.cidrs.get(&unit(cidr, except)).copied(),
        });
        let atoms: Option<Vec<AtomIx>> = atoms.collect();
        self.lists.get(&sorted(atoms?)).copied()
    }

    /// The number of a port name.
    pub(crate) fn name(&self, protocol: Protocol, name: &str) -> Option<NameIx> {
        let (number, _) = self.names.get(name)?.get(&protocol)?;
        Some(*number)
    }

    /// All port names that are asked.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Protocol, &str, NameIx)> {
        self.names.iter().flat_map(|(name, of_protocol)| {
            let name = name.as_str();
            let of_protocol = of_protocol.iter();
            of_protocol.map(move |(protocol, (number, _))| (*protocol, name, *number))
        })
    }

    #[cfg(test)]
    pub(crate) fn wear(&mut self) {
        self.next = u32::MAX / 2 + 1;
    }

    /// How much is kept: selectors, ipBlocks, lists, versions of policies.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 4] {
        assert_eq!(self.lists_of.len(), self.selectors.len() + self.cidrs.len());
        assert_eq!(self.uses.len(), self.lists.len());
        [
            self.selectors.len(),
            self.cidrs.len(),
            self.lists.len(),
            self.policies.len(),
        ]
    }

    fn take_in(&mut self, policy: &Arc<Policy>, direction: Direction, changed: &mut Changed) {
        let key = address(policy);
        if !self.policies.contains_key(&key) {
            let number = self.number();
            let version = Version {
                policy: Arc::clone(policy),
                number,
                peers: [None, None],
            };
            self.policies.insert(key, version);
        } else if self.policies[&key].peers[direction as usize].is_some() {
            return;
        }
        let rules = rules(policy, direction).unwrap_or_default();
        let mut lists = Vec::with_capacity(rules.len());
        for rule in rules {
            lists.push(match &rule.peers {
                Peers::Any => None,
                Peers::OneOf(peers) => Some(self.take_in_list(peers, changed)),
            });
            if direction == Direction::Egress {
                for name in named(&rule.ports) {
                    self.take_in_name(name, changed);
                }
            }
        }
        if let Some(version) = self.policies.get_mut(&key) {
            version.peers[direction as usize] = Some(lists);
        }
    }

    fn let_go(&mut self, key: usize, direction: Direction, changed: &mut Changed) {
        let Some(version) = self.policies.get_mut(&key) else {
            return;
        };
        let lists = version.peers[direction as usize].take();
        let policy = Arc::clone(&version.policy);
        if version.peers == [None, None] {
            self.policies.remove(&key);
        }
        for list in lists.into_iter().flatten().flatten() {
            self.let_go_list(list, changed);
        }
        if direction == Direction::Egress {
            for rule in rules(&policy, direction).unwrap_or_default() {
                for name in named(&rule.ports) {
                    self.let_go_name(name, changed);
                }
            }
        }
    }

    fn take_in_list(&mut self, peers: &[Peer], changed: &mut Changed) -> ListIx {
        let atoms = peers.iter().map(|peer| self.atom(peer, changed)).collect();
        let atoms = sorted(atoms);
        if let Some(list) = self.lists.get(&atoms) {
            if let Some((_, uses)) = self.uses.get_mut(list) {
                *uses += 1;
            }
            return *list;
        }
        let list = self.number();
        changed.lists = true;
        for atom in &atoms {
            // The highest number there is: the lists of an atom stay sorted.
            self.lists_of.entry(*atom).or_default().push(list);
        }
        self.lists.insert(atoms.clone(), list);
        self.uses.insert(list, (atoms, 1));
        list
    }

    fn let_go_list(&mut self, list: ListIx, changed: &mut Changed) {
        let Entry::Occupied(mut entry) = self.uses.entry(list) else {
            return;
        };
        entry.get_mut().1 -= 1;
        if entry.get().1 > 0 {
            return;
        }
        let (atoms, _) = entry.remove();
        self.lists.remove(&atoms);
        changed.lists = true;
        for atom in atoms {
            if let Some(lists) = self.lists_of.get_mut(&atom)
                && let Ok(at) = lists.binary_search(&list)
            {
                lists.remove(at);
            }
        }
    }

    /// Atoms of which no list is left.
    fn forget_atoms(&mut self, changed: &mut Changed) {
        if !changed.lists {
            return;
        }
        let before = self.lists_of.len();
        self.lists_of.retain(|_, lists| !lists.is_empty());
        if self.lists_of.len() == before {
            return;
        }
        let (selectors, cidrs) = (self.selectors.len(), self.cidrs.len());
        let lists_of = &self.lists_of;
        self.selectors.retain(|_, atom| lists_of.contains_key(atom));
        self.cidrs.retain(|_, atom| lists_of.contains_key(atom));
        changed.selectors |= self.selectors.len() < selectors;
        changed.cidrs |= self.cidrs.len() < cidrs;
    }

    fn atom(&mut self, peer: &Peer, changed: &mut Changed) -> AtomIx {
        let next = self.next;
        let atom = match peer {
            Peer::Pods(selector) => match self.selectors.get(selector) {
                Some(atom) => *atom,
                None => *self
                    .selectors
                    .entry(Arc::new(selector.clone()))
                    .or_insert(next),
            },
            Peer::Cidr { cidr, except } => *self.cidrs.entry(unit(cidr, except)).or_insert(next),
        };
        if atom == next {
            self.next += 1;
            match peer {
                Peer::Pods(_) => changed.selectors = true,
                Peer::Cidr { .. } => changed.cidrs = true,
            }
        }
        atom
    }

    fn take_in_name(&mut self, (protocol, name): (Protocol, &str), changed: &mut Changed) {
        let next = self.next;
        let of_protocol = self.names.entry(name.to_owned()).or_default();
        let (number, uses) = of_protocol.entry(protocol).or_insert((next, 0));
        *uses += 1;
        if *number == next {
            self.next += 1;
            changed.names = true;
        }
    }

    fn let_go_name(&mut self, (protocol, name): (Protocol, &str), changed: &mut Changed) {
        let Some(of_protocol) = self.names.get_mut(name) else {
            return;
        };
        let Some((_, uses)) = of_protocol.get_mut(&protocol) else {
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            changed.names = true;
            of_protocol.remove(&protocol);
            if of_protocol.is_empty() {
                self.names.remove(name);
            }
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }
}

/// The canonical form of an ipBlock.
pub(crate) fn unit(cidr: &IpNet, except: &[IpNet]) -> CidrUnit {
    let mut except: Vec<IpNet> = except.iter().map(IpNet::trunc).collect();
    except.sort_unstable();
    except.dedup();
    (cidr.trunc(), except)
}

/// The port names of a rule.
pub(crate) fn named(ports: &Ports) -> impl Iterator<Item = (Protocol, &str)> {
    let ports = match ports {
        Ports::Any => &[],
        Ports::OneOf(ports) => &ports[..],
    };
    ports.iter().filter_map(|port| match &port.port {
        PortMatch::Named(name) => Some((port.protocol, name.as_str())),
        PortMatch::All | PortMatch::Range(..) => None,
    })
}

fn address(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy).addr()
}

fn sorted(mut atoms: Vec<AtomIx>) -> Vec<AtomIx> {
    atoms.sort_unstable();
    atoms.dedup();
    atoms
}
