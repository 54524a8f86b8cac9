//! What a rule matches, taken apart so that two rules can be compared: symbolic peers, and ports as spans of numbers and as names.
//!
//! A comparison that says yes is right whatever pods, labels and addresses there are; one that says no may only not have seen it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::imply::Selection;
use crate::cell::{Span, point, spans};
use crate::model::{Peer, Peers, Port, PortMatch, Ports, Protocol, Rule, RuleAction};

/// A rule, made ready for comparing.
pub(super) struct Shape<'w> {
    rule: &'w Rule,
    pub(super) peers: PeerSet<'w>,
    ports: PortSet<'w>,
}

impl<'w> Shape<'w> {
    pub(super) fn new(rule: &'w Rule) -> Self {
        Self {
            rule,
            peers: PeerSet::new(&rule.peers),
            ports: PortSet::new(&rule.ports),
        }
    }

    pub(super) fn action(&self) -> RuleAction {
        self.rule.action
    }

    /// Whether there is nothing to compare: no port at all, as in a rule that could not be read, of which somebody else tells.
    pub(super) fn is_blank(&self) -> bool {
        self.rule.ports == Ports::OneOf(Vec::new())
    }

    /// Which of `others` take in everything that it matches, ascending; `None` if something is left.
    pub(super) fn covered_by(&self, others: &[&Self]) -> Option<Vec<usize>> {
        let mut by = Vec::new();
        for (_, atom) in self.peers.atoms() {
            let around = others
                .iter()
                .enumerate()
                .filter(|(_, other)| other.peers.holder(&atom, |_| true).is_some())
                .map(|(at, other)| (at, &other.ports));
            by.extend(self.ports.covered_by(around)?);
        }
        by.sort_unstable();
        by.dedup();
        Some(by)
    }
}

/// The peers of a rule without those that nothing can match.
pub(super) struct PeerSet<'w> {
    any: bool,
    /// With the peer's index.
    selections: Vec<(usize, Selection)>,
    /// By the block: the peer's index and the exceptions.
    blocks: BTreeMap<IpNet, Vec<(usize, &'w [IpNet])>>,
}

/// A part of a rule's peers that lies within one peer of another rule, or does not.
pub(super) enum Atom<'a> {
    /// All addresses of a family.
    Everyone(Family),
    /// A block without its exceptions.
    Block(IpNet, &'a [IpNet]),
    /// The addresses of a family that pods of a selection have.
    Pods(&'a Selection, Family),
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The block of all its addresses.
    fn whole(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            Self::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        }
    }
}

impl<'w> PeerSet<'w> {
    pub(super) fn new(peers: &'w Peers) -> Self {
        let mut set = Self {
            any: *peers == Peers::Any,
            selections: Vec::new(),
            blocks: BTreeMap::new(),
        };
        let Peers::OneOf(peers) = peers else {
            return set;
        };
        for (index, peer) in peers.iter().enumerate() {
            match peer {
                Peer::Pods(selector) => {
                    let selection = Selection::new(selector);
                    if !selection.is_contradiction() {
                        set.selections.push((index, selection));
                    }
                }
                Peer::Cidr { cidr, except } if is_emptied(cidr, except) => {}
                Peer::Cidr { cidr, except } => {
                    let same = set.blocks.entry(cidr.trunc()).or_default();
                    same.push((index, except));
                }
            }
        }
        set
    }

    /// Whether nothing can match.
    pub(super) fn is_impossible(&self) -> bool {
        !self.any && self.selections.is_empty() && self.blocks.is_empty()
    }

    /// All of it, part by part, with the peer's index.
    pub(super) fn atoms(&self) -> impl Iterator<Item = (usize, Atom<'_>)> {
        let everyone = Family::BOTH.into_iter().filter(|_| self.any);
        let pods = self.selections.iter().flat_map(|(index, selection)| {
            Family::BOTH.map(|family| (*index, Atom::Pods(selection, family)))
        });
        let blocks = self.blocks.iter().flat_map(|(net, same)| {
            same.iter()
                .map(|(index, except)| (*index, Atom::Block(*net, except)))
        });
        everyone
            .map(|family| (0, Atom::Everyone(family)))
            .chain(pods)
            .chain(blocks)
    }

    /// The index of a peer that `atom` lies within, one of those that `may`; 0 where there is no list of peers.
    pub(super) fn holder(&self, atom: &Atom<'_>, may: impl Fn(usize) -> bool) -> Option<usize> {
        if self.any {
            return Some(0);
        }
        let whole = |family: Family| {
            let same = self.blocks.get(&family.whole()).into_iter().flatten();
            same.filter(|(_, except)| except.is_empty())
                .map(|(index, _)| *index)
                .find(|index| may(*index))
        };
        match atom {
            Atom::Everyone(family) => whole(*family),
            Atom::Pods(inner, family) => self
                .selections
                .iter()
                .filter(|(index, _)| may(*index))
                .find(|(_, outer)| outer.takes_in(inner))
                .map(|(index, _)| *index)
                .or_else(|| whole(*family)),
            Atom::Block(net, except) => {
                let except = IpNet::aggregate(&except.to_vec());
                let left_out = |hole: &IpNet| {
                    let apart = !hole.contains(net) && !net.contains(hole);
                    apart || except.iter().any(|outer| outer.contains(hole))
                };
                let around = (0..=net.prefix_len())
                    .rev()
                    .filter_map(|length| IpNet::new(net.addr(), length).ok())
                    .filter_map(|outer| self.blocks.get(&outer.trunc()));
                around
                    .flatten()
                    .filter(|(index, _)| may(*index))
                    .find(|(_, holes)| holes.iter().all(left_out))
                    .map(|(index, _)| *index)
            }
        }
    }
}

/// Whether the exceptions leave nothing of the block.
pub(super) fn is_emptied(cidr: &IpNet, except: &[IpNet]) -> bool {
    IpNet::aggregate(&except.to_vec())
        .iter()
        .any(|hole| hole.contains(cidr))
}

/// Protocols and ports: by number, protocols without numbers among them, and by name.
pub(super) struct PortSet<'w> {
    numbers: Vec<Span>,
    names: Vec<(Protocol, &'w str)>,
}

impl<'w> PortSet<'w> {
    fn new(ports: &'w Ports) -> Self {
        let listed = match ports {
            Ports::Any => &[],
            Ports::OneOf(ports) => &ports[..],
        };
        Self {
            numbers: spans(ports, &[]),
            names: listed.iter().filter_map(name).collect(),
        }
    }

    /// One entry of a list.
    pub(super) fn of(port: &'w Port) -> Self {
        Self {
            numbers: spans(&Ports::OneOf(vec![port.clone()]), &[]),
            names: name(port).into_iter().collect(),
        }
    }

    /// Which of `others` take in all of it, together, in their order; `None` if something is left.
    ///
    /// A name is a number from 1 to 65535 of its protocol, the same one for all rules about a packet.
    pub(super) fn covered_by<'o>(
        &self,
        others: impl Iterator<Item = (usize, &'o Self)>,
    ) -> Option<Vec<usize>>
    where
        'w: 'o,
    {
        let mut open = self.numbers.clone();
        let numbers = |protocol: Protocol| (point(protocol.0, 1), point(protocol.0, u16::MAX));
        let mut names: Vec<_> = self
            .names
            .iter()
            .map(|name| (*name, vec![numbers(name.0)]))
            .collect();
        let mut by = Vec::new();
        for (at, other) in others {
            let mut took = take(&mut open, &other.numbers);
            names.retain_mut(|(name, open)| {
                if other.names.contains(name) {
                    took = true;
                    return false;
                }
                took |= take(open, &other.numbers);
                !open.is_empty()
            });
            if took {
                by.push(at);
            }
            if open.is_empty() && names.is_empty() {
                return Some(by);
            }
        }
        None
    }
}

fn name(port: &Port) -> Option<(Protocol, &str)> {
    match &port.port {
        PortMatch::Named(name) => Some((port.protocol, name)),
        PortMatch::All | PortMatch::Range(..) => None,
    }
}

/// Cuts `taken` out of what is open; whether there was anything to cut.
fn take(open: &mut Vec<Span>, taken: &[Span]) -> bool {
    let mut took = false;
    for &(first, last) in taken {
        let mut left = Vec::with_capacity(open.len() + 1);
        for &(start, end) in open.iter() {
            if end < first || last < start {
                left.push((start, end));
                continue;
            }
            took = true;
            if start < first {
                left.push((start, first - 1));
            }
            if last < end {
                left.push((last + 1, end));
            }
        }
        *open = left;
    }
    took
}
