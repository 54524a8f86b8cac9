//! Which rules can decide nothing, by what the rules say alone: it holds whatever pods, labels and addresses there are.
//!
//! A rule is taken apart into peers, pod selectors once for each address family. It is covered if for each of these the ports of other rules, of those
//! that have a peer around it, take in all of its own. Which rules may cover another one:
//! 1. of the same policy, those before it; nothing comes past them;
//! 2. of policies before it in its tier that govern all its pods, all;
//! 3. where the tier's rules for the direction all allow, those behind it too, for order then makes no difference.
//!
//! Rules are asked from the last to the first, and one that was found covered covers no other from then on. So a rule of each chain stays, and all that
//! were found can go at once.
//!
//! What is not seen: blocks that fill another one only together, labels that namespaces happen to have, rules of other tiers.

use std::collections::BTreeMap;

use super::imply::Selection;
use super::shape::Shape;
use crate::govern::{rank, rules};
use crate::model::{NamespaceScope, Policy, PolicyRef, RuleAction, World};
use crate::tables::Direction;

/// A rule by its place.
pub(super) type Place<'w> = (&'w PolicyRef, Direction, usize);

/// The rules that decide nothing, each with the places of the rules that take all of it.
pub(super) fn covered(world: &World) -> BTreeMap<Place<'_>, Vec<Place<'_>>> {
    let (standing, _) = rank(world, world.policies.values().map(AsRef::as_ref));
    let mut found = BTreeMap::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for tier in standing.chunk_by(|one, next| one.policy.tier == next.policy.tier) {
            let policies = tier.iter().map(|standing| standing.policy);
            covered_in_tier(policies, direction, &mut found);
        }
    }
    found
}

/// A policy of a tier, with its rules for one direction.
struct Member<'w> {
    policy: &'w Policy,
    subject: Selection,
    rules: Vec<Shape<'w>>,
}

fn covered_in_tier<'w>(
    policies: impl Iterator<Item = &'w Policy>,
    direction: Direction,
    found: &mut BTreeMap<Place<'w>, Vec<Place<'w>>>,
) {
    let governing = policies.filter_map(|policy| Some((policy, rules(policy, direction)?)));
    let members: Vec<Member<'w>> = governing
        .map(|(policy, rules)| Member {
            policy,
            subject: Selection::new(&policy.subject),
            rules: rules.iter().map(Shape::new).collect(),
        })
        .collect();
    let unordered = members
        .iter()
        .flat_map(|member| &member.rules)
        .all(|shape| shape.action() == RuleAction::Allow);
    let shelf = Shelf::new(&members);
    for (at, member) in members.iter().enumerate().rev() {
        let around: Vec<usize> = shelf
            .candidates(member)
            .filter(|other| *other != at && (unordered || *other < at))
            .filter(|other| members[*other].subject.takes_in(&member.subject))
            .collect();
        for (index, shape) in member.rules.iter().enumerate().rev() {
            if shape.is_blank() {
                continue;
            }
            let own = (0..member.rules.len())
                .filter(|other| *other != index && (unordered || *other < index))
                .map(|other| (at, other));
            let others = around
                .iter()
                .flat_map(|other| (0..members[*other].rules.len()).map(|rule| (*other, rule)));
            let coverers: Vec<(Place<'w>, &Shape<'w>)> = own
                .chain(others)
                .map(|(member, rule)| {
                    let member = &members[member];
                    ((&member.policy.name, direction, rule), &member.rules[rule])
                })
                .filter(|(place, _)| !found.contains_key(place))
                .collect();
            let shapes: Vec<&Shape<'w>> = coverers.iter().map(|(_, shape)| *shape).collect();
            if let Some(by) = shape.covered_by(&shapes) {
                let by = by.into_iter().map(|at| coverers[at].0).collect();
                found.insert((&member.policy.name, direction, index), by);
            }
        }
    }
}

/// The policies of a tier by the namespace that they name.
struct Shelf<'w> {
    named: BTreeMap<&'w str, Vec<usize>>,
    anywhere: Vec<usize>,
    all: Vec<usize>,
}

impl<'w> Shelf<'w> {
    fn new(members: &[Member<'w>]) -> Self {
        let mut shelf = Self {
            named: BTreeMap::new(),
            anywhere: Vec::new(),
            all: (0..members.len()).collect(),
        };
        for (at, member) in members.iter().enumerate() {
            match &member.policy.subject.namespaces {
                NamespaceScope::Named(name) => shelf.named.entry(name).or_default().push(at),
                NamespaceScope::Selected(_) => shelf.anywhere.push(at),
            }
        }
        shelf
    }

    /// Those that may select all pods of `member`.
    fn candidates(&self, member: &Member<'w>) -> impl Iterator<Item = usize> {
        let (named, anywhere) = match &member.policy.subject.namespaces {
            NamespaceScope::Named(name) => (self.named.get(name.as_str()), &self.anywhere),
            NamespaceScope::Selected(_) => (None, &self.all),
        };
        named.into_iter().flatten().chain(anywhere).copied()
    }
}
