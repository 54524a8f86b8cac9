//! From a world to the tables of one node.
//!
//! ```text
//! govern: endpoints and their policies, by rank     index, identity: classes of addresses
//!                        \                             /
//!    one table for each distinct (direction, policies, port numbers of the subject): for each class the rules that fit it, walked by `cell`
//! ```
//! Everything that policy objects can say is gone afterwards: tiers, orders, Pass, defaults and names are one verdict for each class, protocol
//! and port. Endpoints whose verdicts come from the same rules share a table.

use std::collections::BTreeMap;

use crate::cell::{Names, Span, spans};
use crate::govern::{Endpoint, Governed, rules};
use crate::identity::Identities;
use crate::index::{InUse, unit};
use crate::model::{Peer, Peers, PortMatch, Ports, Protocol, Rule, RuleAction, World};
use crate::tables::{Cell, ClassIx, Direction, EndpointPolicies, PolicyIx, PolicyTable, Tables};

mod plan;

use plan::Plan;

/// Compiles the tables of `world.node`.
#[must_use]
pub fn compile(world: &World) -> Tables {
    Compilation::new(world, Some(&world.node)).tables
}

/// The tables of a node and what they were made from, for those who have to explain them.
pub(crate) struct Compilation<'w> {
    pub(crate) tables: Tables,
    pub(crate) governed: Governed<'w>,
    in_use: InUse<'w>,
    identities: Identities,
}

/// What endpoints must have in common to share a table: direction, ranks of the policies, the subject's numbers for port names in their rules.
type Shape<'w> = (Direction, Vec<usize>, Vec<(Protocol, &'w str, u16)>);

/// All that a cell depends on within a table: the steps that fit, and the class's port names if the table asks for any.
type Ground = (Vec<u32>, Vec<(u32, u16)>);

impl<'w> Compilation<'w> {
    pub(crate) fn new(world: &'w World, node: Option<&str>) -> Self {
        let governed = Governed::new(world, node);
        let in_use = InUse::new(&governed);
        let mut identities = Identities::new(&in_use, world);
        let tables = Tables {
            classes: identities.signatures.len() as u32,
            addresses: std::mem::take(&mut identities.addresses),
            prefixes: std::mem::take(&mut identities.prefixes),
            ..Tables::default()
        };
        let mut compilation = Self {
            tables,
            governed,
            in_use,
            identities,
        };
        compilation.fill();
        compilation
    }

    /// The subject's own numbers for the port names in the ingress rules that govern it.
    pub(crate) fn subject_names(&self, endpoint: &Endpoint<'w>) -> Vec<(Protocol, &'w str, u16)> {
        let mut names = Vec::new();
        for &rank in &endpoint.ingress {
            let policy = self.governed.policies[rank].policy;
            for rule in rules(policy, Direction::Ingress).unwrap_or_default() {
                let Ports::OneOf(ports) = &rule.ports else {
                    continue;
                };
                for wanted in ports {
                    let PortMatch::Named(name) = &wanted.port else {
                        continue;
                    };
                    let declared = endpoint
                        .workload
                        .ports
                        .iter()
                        .filter(|port| port.name == *name && port.protocol == wanted.protocol);
                    names.extend(declared.map(|port| (port.protocol, name.as_str(), port.number)));
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The numbers of the port names in use on the addresses of `class`.
    pub(crate) fn class_names(&self, class: ClassIx) -> Vec<(Protocol, &'w str, u16)> {
        let numbers = &self.identities.signatures[class as usize].ports;
        let names = numbers.iter().filter_map(|(wanted, number)| {
            let (name, _) = self.in_use.ports.iter().find(|(_, name)| *name == wanted)?;
            Some((name.0, name.1, *number))
        });
        names.collect()
    }

    /// Whether `peers` match the addresses of `class`.
    pub(crate) fn peers_match(&self, peers: &'w Peers, class: ClassIx) -> bool {
        let Peers::OneOf(peers) = peers else {
            return true;
        };
        let signature = &self.identities.signatures[class as usize];
        peers.iter().any(|peer| match self.number(peer) {
            Some(Number::Selector(number)) => signature.selectors.binary_search(&number).is_ok(),
            Some(Number::Cidr(number)) => signature.cidrs.binary_search(&number).is_ok(),
            None => false,
        })
    }

    fn number(&self, peer: &'w Peer) -> Option<Number> {
        match peer {
            Peer::Pods(selector) => self
                .in_use
                .selectors
                .get(selector)
                .copied()
                .map(Number::Selector),
            Peer::Cidr { cidr, except } => self
                .in_use
                .cidrs
                .get(&unit(cidr, except))
                .copied()
                .map(Number::Cidr),
        }
    }

    fn fill(&mut self) {
        let mut shapes: BTreeMap<Shape<'w>, Vec<&'w str>> = BTreeMap::new();
        for (&uid, endpoint) in &self.governed.endpoints {
            self.tables
                .endpoints
                .insert(uid.to_owned(), EndpointPolicies::default());
            for direction in [Direction::Ingress, Direction::Egress] {
                let governing = endpoint.governing(direction);
                if governing.is_empty() {
                    continue;
                }
                let names = match direction {
                    Direction::Ingress => self.subject_names(endpoint),
                    Direction::Egress => Vec::new(),
                };
                shapes
                    .entry((direction, governing.to_vec(), names))
                    .or_default()
                    .push(uid);
            }
        }
        let members = Members::new(&self.identities);
        let mut numbers: BTreeMap<PolicyTable, PolicyIx> = BTreeMap::new();
        let mut obeyed: Vec<(Direction, Vec<&'w str>, PolicyIx)> = Vec::new();
        for ((direction, governing, names), uids) in shapes {
            let table = self.table(&members, direction, &governing, &names);
            let next = numbers.len() as PolicyIx;
            obeyed.push((direction, uids, *numbers.entry(table).or_insert(next)));
        }
        for (direction, uids, number) in obeyed {
            for uid in uids {
                let Some(policies) = self.tables.endpoints.get_mut(uid) else {
                    continue;
                };
                match direction {
                    Direction::Ingress => policies.ingress = [Some(number); 2],
                    Direction::Egress => policies.egress = [Some(number); 2],
                }
            }
        }
        let mut tables: Vec<(PolicyTable, PolicyIx)> = numbers.into_iter().collect();
        tables.sort_unstable_by_key(|(_, number)| *number);
        self.tables.policies = tables.into_iter().map(|(table, _)| table).collect();
    }

    fn table(
        &self,
        members: &Members,
        direction: Direction,
        governing: &[usize],
        subject: &Names<'w>,
    ) -> PolicyTable {
        let plan = Plan::new(&self.governed, direction, governing);
        let fitting = self.fitting(members, &plan);
        // What a class adds beyond the rules that fit it: numbers of port names, if this table asks for any.
        let asks_names =
            direction == Direction::Egress && plan.steps.iter().any(|step| asks_name(step.rule));
        let fixed: Vec<Option<Vec<Span>>> = plan
            .steps
            .iter()
            .map(|step| {
                let peer_decides = direction == Direction::Egress && asks_name(step.rule);
                (!peer_decides).then(|| spans(&step.rule.ports, subject))
            })
            .collect();
        let mut fitting = (0..).zip(fitting);
        let world = fitting
            .next()
            .map_or_else(Vec::new, |(_world, fitting): (ClassIx, _)| fitting);
        let default = plan.walk(&world, &fixed, &[]);
        let mut known: BTreeMap<Ground, Cell> = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for (class, fitting) in fitting {
            let numbers = &self.identities.signatures[class as usize].ports;
            let numbers = if asks_names {
                numbers.clone()
            } else {
                Vec::new()
            };
            if fitting == world && numbers.is_empty() {
                continue;
            }
            let cell = known
                .entry((fitting, numbers))
                .or_insert_with_key(|(fitting, numbers)| {
                    let names = if numbers.is_empty() {
                        Vec::new()
                    } else {
                        self.class_names(class)
                    };
                    plan.walk(fitting, &fixed, &names)
                });
            if *cell != default {
                rows.insert(class, cell.clone());
            }
        }
        PolicyTable {
            default,
            rows,
            isolated_by: plan.isolated_by(),
        }
    }

    /// For each class the steps that can decide something for it, in their order.
    fn fitting(&self, members: &Members, plan: &Plan<'_, 'w>) -> Vec<Vec<u32>> {
        let classes = self.identities.signatures.len();
        let mut fitting = vec![Vec::new(); classes];
        // Behind a final rule for every protocol nothing else is asked, unless a Pass before it has put something aside for a later tier.
        let mut closed = vec![false; classes];
        let mut passed = vec![false; classes];
        for (number, step) in (0..).zip(&plan.steps) {
            let pass = step.rule.action == RuleAction::Pass;
            let last = step.rule.ports == Ports::Any && !pass;
            let mut fits = |class: ClassIx| {
                let class = class as usize;
                if !closed[class] && fitting[class].last() != Some(&number) {
                    fitting[class].push(number);
                    passed[class] |= pass;
                    closed[class] |= last && !passed[class];
                }
            };
            match &step.rule.peers {
                Peers::Any => (0..classes as ClassIx).for_each(&mut fits),
                Peers::OneOf(peers) => {
                    for number in peers.iter().filter_map(|peer| self.number(peer)) {
                        members.of(number).iter().copied().for_each(&mut fits);
                    }
                }
            }
        }
        fitting
    }
}

fn asks_name(rule: &Rule) -> bool {
    let Ports::OneOf(ports) = &rule.ports else {
        return false;
    };
    ports
        .iter()
        .any(|port| matches!(port.port, PortMatch::Named(_)))
}

/// The number of a peer in [`InUse`].
#[derive(Clone, Copy)]
enum Number {
    Selector(u32),
    Cidr(u32),
}

/// The classes that each peer in use matches: the signatures, read the other way.
struct Members {
    selectors: BTreeMap<u32, Vec<ClassIx>>,
    cidrs: BTreeMap<u32, Vec<ClassIx>>,
}

impl Members {
    fn new(identities: &Identities) -> Self {
        let mut members = Self {
            selectors: BTreeMap::new(),
            cidrs: BTreeMap::new(),
        };
        for (class, signature) in (0..).zip(&identities.signatures) {
            for selector in &signature.selectors {
                members.selectors.entry(*selector).or_default().push(class);
            }
            for cidr in &signature.cidrs {
                members.cidrs.entry(*cidr).or_default().push(class);
            }
        }
        members
    }

    fn of(&self, number: Number) -> &[ClassIx] {
        let classes = match number {
            Number::Selector(number) => self.selectors.get(&number),
            Number::Cidr(number) => self.cidrs.get(&number),
        };
        classes.map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
