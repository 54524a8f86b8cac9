//! What in policies that can be read is hardly what was meant: rules that decide nothing, selectors without pods, lists that mean the opposite.
//!
//! ```text
//! World -> reach (rules that others take in: by what they say, whatever pods there are) --\
//!      \-> population (pods behind selectors, by the compiler's index) -------------------- Finding, by policy and field
//! ```
//! No verdict is made here: that is the compiler's. Invariant: all rules called unreachable or repeated can be taken out at once, and no verdict changes.
//! Where something cannot be told, nothing is said.

use std::collections::BTreeMap;

use crate::govern::rules;
use crate::model::{
    NamespaceScope, Peer, Peers, PodSelector, Policy, PolicyRef, Port, PortMatch, Ports, Rule,
    World,
};
use crate::tables::Direction;
use crate::words;

mod check;
mod imply;
mod population;
mod reach;
mod shape;

pub use check::{Check, Severity};

use imply::{Selection, is_contradiction};
use population::{Pods, Population, asks_generated};
use reach::Place;
use shape::{PortSet, Shape, is_emptied};

/// Something worth a look in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub check: Check,
    /// In which policy.
    pub policy: PolicyRef,
    /// Where in it: `spec.ingress[0].from[1].podSelector`.
    pub field: String,
    /// What stands there, in words.
    pub value: String,
    /// What is wrong with it, as a part of a sentence.
    pub problem: String,
}

/// Looks at all policies of a world: findings by policy, each policy's in the order of its fields. In a world without pods, [`Check::OF_PODS`] find
/// nothing.
#[must_use]
pub fn lint(world: &World) -> Vec<Finding> {
    let population = Population::new(world);
    let covered = reach::covered(world);
    let mut found = Vec::new();
    for policy in world.policies.values() {
        Lint {
            policy,
            population: population.as_ref(),
            covered: &covered,
            found: &mut found,
        }
        .run();
    }
    found
}

/// One policy being looked at.
struct Lint<'a, 'w> {
    policy: &'w Policy,
    population: Option<&'a Population<'w>>,
    covered: &'a BTreeMap<Place<'w>, Vec<Place<'w>>>,
    found: &'a mut Vec<Finding>,
}

impl<'w> Lint<'_, 'w> {
    fn run(&mut self) {
        self.subject();
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some(rules) = rules(self.policy, direction) else {
                continue;
            };
            if rules.is_empty() {
                let way = way(direction);
                let problem = format!("no rule, so it denies all {way} of the pods it selects");
                self.find(Check::DeniesAll, format!("spec.{way}"), "[]", problem);
            }
            for (index, rule) in rules.iter().enumerate() {
                self.rule(direction, index, rule);
            }
        }
    }

    fn find(
        &mut self,
        check: Check,
        field: String,
        value: impl Into<String>,
        problem: impl Into<String>,
    ) {
        self.found.push(Finding {
            check,
            policy: self.policy.name.clone(),
            field,
            value: value.into(),
            problem: problem.into(),
        });
    }

    fn subject(&mut self) {
        let subject = &self.policy.subject;
        let field = || "spec.podSelector".to_owned();
        let value = || words::peer(&Peer::Pods(subject.clone()));
        if is_contradiction(&subject.pods) {
            let problem = "no pod can match all of it";
            self.find(Check::ContradictorySelector, field(), value(), problem);
            return;
        }
        let Some(population) = self.population else {
            return;
        };
        let pods = population.of(subject);
        if !pods.endpoints && !asks_generated(&subject.pods) {
            let problem = nobody(population, subject, &pods);
            self.find(Check::SelectsNothing, field(), value(), problem);
        }
    }

    fn rule(&mut self, direction: Direction, index: usize, rule: &'w Rule) {
        let field = format!("spec.{}[{index}]", way(direction));
        let shape = Shape::new(rule);
        if shape.is_blank() {
            return;
        }
        let place = (&self.policy.name, direction, index);
        if shape.peers.is_impossible() {
            let problem = "nobody can match any of its peers, so it matches nothing";
            let value = words::rule(rule, direction);
            self.find(Check::UnreachableRule, field, value, problem);
            return;
        }
        if let Some(by) = self.covered.get(&place) {
            let own = by.iter().all(|(policy, ..)| **policy == self.policy.name);
            let check = if own {
                Check::UnreachableRule
            } else {
                Check::RepeatedRule
            };
            let by: Vec<String> = by.iter().map(|place| self.named(place)).collect();
            let problem = format!("all that it matches is decided by {}", by.join(" and "));
            self.find(check, field, words::rule(rule, direction), problem);
            return;
        }
        self.peers(direction, &field, rule, &shape);
        self.ports(direction, &field, rule);
    }

    /// A rule as seen from this policy.
    fn named(&self, (policy, direction, index): &Place<'_>) -> String {
        let field = format!("spec.{}[{index}]", way(*direction));
        if **policy == self.policy.name {
            field
        } else {
            format!("{field} of {policy}")
        }
    }

    fn peers(&mut self, direction: Direction, field: &str, rule: &Rule, shape: &Shape<'_>) {
        let Peers::OneOf(peers) = &rule.peers else {
            return;
        };
        let redundant = redundant_peers(peers.len(), shape);
        for (index, peer) in peers.iter().enumerate() {
            let list = list(direction);
            let field = format!("{field}.{list}[{index}]");
            if let Some(by) = &redundant[index] {
                let by: Vec<String> = by.iter().map(|by| format!("{list}[{by}]")).collect();
                let problem = format!("all that it matches is matched by {}", by.join(" and "));
                self.find(Check::RedundantPeer, field, words::peer(peer), problem);
                continue;
            }
            match peer {
                Peer::Pods(selector) => self.pods(&field, selector),
                Peer::Cidr { cidr, except } if is_emptied(cidr, except) => {
                    let problem = "its exceptions leave nothing of it";
                    let field = format!("{field}.ipBlock");
                    self.find(Check::EmptyBlock, field, words::peer(peer), problem);
                }
                Peer::Cidr { .. } => {}
            }
        }
    }

    /// A peer that is a selector.
    fn pods(&mut self, field: &str, selector: &PodSelector) {
        let value = || words::peer(&Peer::Pods(selector.clone()));
        if Selection::new(selector).is_contradiction() {
            let problem = "no pod can match all of it";
            self.find(
                Check::ContradictorySelector,
                field.to_owned(),
                value(),
                problem,
            );
            return;
        }
        let Some(population) = self.population else {
            return;
        };
        let pods = population.of(selector);
        if pods.endpoints || asks_generated(&selector.pods) {
            return;
        }
        let check = if population.lives_in(&selector.namespaces) {
            Check::PeerSelectsNothing
        } else {
            Check::PeerElsewhere
        };
        let problem = nobody(population, selector, &pods);
        self.find(check, field.to_owned(), value(), problem);
    }

    fn ports(&mut self, direction: Direction, field: &str, rule: &Rule) {
        let Ports::OneOf(ports) = &rule.ports else {
            return;
        };
        let redundant = redundant_ports(ports);
        let destinations = self.destinations(direction, rule);
        for (index, port) in ports.iter().enumerate() {
            let field = format!("{field}.ports[{index}]");
            if let Some(by) = &redundant[index] {
                let by: Vec<String> = by.iter().map(|by| format!("ports[{by}]")).collect();
                let problem = format!("all that it matches is matched by {}", by.join(" and "));
                self.find(Check::RedundantPort, field, words::port(port), problem);
            } else if let Some(pods) = &destinations
                && let Some(problem) = unnamed(port, pods, direction)
            {
                let field = format!("{field}.port");
                self.find(Check::UnknownPortName, field, words::port(port), problem);
            }
        }
    }

    /// The pods on which the rule's port names are resolved; `None` if nothing is known of them.
    fn destinations(&self, direction: Direction, rule: &Rule) -> Option<Pods<'w>> {
        let population = self.population?;
        let selector = |selector: &PodSelector| {
            (!asks_generated(&selector.pods)).then(|| population.of(selector))
        };
        let pods = match (direction, &rule.peers) {
            (Direction::Ingress, _) => selector(&self.policy.subject)?,
            (Direction::Egress, Peers::OneOf(peers))
                if peers.iter().all(|peer| matches!(peer, Peer::Pods(_))) =>
            {
                let mut all = Pods::default();
                for peer in peers {
                    let Peer::Pods(peer) = peer else { continue };
                    let pods = selector(peer)?;
                    // Of pods that are not among the objects nobody knows the ports.
                    if !pods.endpoints {
                        return None;
                    }
                    all.endpoints = true;
                    // One name twice does no harm here.
                    all.names.extend(pods.names);
                }
                all
            }
            // An address may become any pod's.
            (Direction::Egress, _) => population.all(),
        };
        pods.endpoints.then_some(pods)
    }
}

/// Why a selector finds nobody.
fn nobody(population: &Population<'_>, selector: &PodSelector, pods: &Pods<'_>) -> String {
    if pods.hosts {
        return "all pods that match live in the network of their node, where policy does not see them"
            .to_owned();
    }
    if !population.lives_in(&selector.namespaces) {
        return match &selector.namespaces {
            NamespaceScope::Named(name) => {
                format!("the objects hold no pod in namespace {name}")
            }
            NamespaceScope::Selected(_) => "the objects hold no pod in such a namespace".to_owned(),
        };
    }
    let hint = population.hint(selector);
    let hint = hint.map_or_else(String::new, |hint| format!(": {hint}"));
    format!("no pod matches{hint}")
}

/// Why a port name means nothing on these pods.
fn unnamed(port: &Port, pods: &Pods<'_>, direction: Direction) -> Option<String> {
    let PortMatch::Named(name) = &port.port else {
        return None;
    };
    if pods.names.contains(&(name.as_str(), port.protocol)) {
        return None;
    }
    let which = match direction {
        Direction::Ingress => "that it selects",
        Direction::Egress => "that it leads to",
    };
    let other = pods.names.iter().find(|(known, _)| known == name);
    Some(match other {
        Some((_, protocol)) => {
            format!("on the pods {which} {name} is {protocol}")
        }
        None => format!("no pod {which} has a port of this name"),
    })
}

/// For each peer those of the same rule that take it in; one of equal ones stays.
fn redundant_peers(count: usize, shape: &Shape<'_>) -> Vec<Option<Vec<usize>>> {
    let mut atoms: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for (index, atom) in shape.peers.atoms() {
        atoms[index].push(atom);
    }
    let mut found: Vec<Option<Vec<usize>>> = vec![None; count];
    for (index, atoms) in atoms.iter().enumerate().rev() {
        let may = |other: usize| other != index && found[other].is_none();
        let by: Option<Vec<usize>> = atoms
            .iter()
            .map(|atom| shape.peers.holder(atom, may))
            .collect();
        found[index] = by.filter(|by| !by.is_empty()).map(|mut by| {
            by.sort_unstable();
            by.dedup();
            by
        });
    }
    found
}

/// The same for ports.
fn redundant_ports(ports: &[Port]) -> Vec<Option<Vec<usize>>> {
    let sets: Vec<PortSet<'_>> = ports.iter().map(PortSet::of).collect();
    let mut found: Vec<Option<Vec<usize>>> = vec![None; ports.len()];
    for (index, set) in sets.iter().enumerate().rev() {
        let others = sets.iter().enumerate();
        let others = others.filter(|(other, _)| *other != index && found[*other].is_none());
        found[index] = set.covered_by(others);
    }
    found
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

#[cfg(test)]
mod tests;
