//! Which policies govern which endpoint of a node, and in what order they are asked.
//!
//! Order of policies (policy-spec 5.1), used everywhere in this crate as their *rank*:
//! 1. order of the tier, low first; ties by the tier's name;
//! 2. order of the policy; ties by its reference (kind, namespace, name).
//!
//! A tier that no object declares stands behind all others and denies at its end: a policy that names it by mistake still isolates.

use std::collections::BTreeMap;

use crate::model::{AtEnd, NamespaceScope, Policy, PolicyRef, Rule, Tier, Workload, World};
use crate::tables::Direction;

/// Name of the tier that exists even when no object declares it.
pub const DEFAULT_TIER: &str = "default";
const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;

/// The endpoints of one node, and every policy that governs one of them.
pub(crate) struct Governed<'w> {
    /// By rank.
    pub(crate) policies: Vec<Standing<'w>>,
    /// By pod uid: every workload of the node that is an endpoint.
    pub(crate) endpoints: BTreeMap<&'w str, Endpoint<'w>>,
}

/// A policy in its tier.
pub(crate) struct Standing<'w> {
    pub(crate) policy: &'w Policy,
    pub(crate) at_end: AtEnd,
}

/// An endpoint and the ranks of its policies, ascending.
pub(crate) struct Endpoint<'w> {
    pub(crate) workload: &'w Workload,
    pub(crate) ingress: Vec<usize>,
    pub(crate) egress: Vec<usize>,
}

impl Endpoint<'_> {
    pub(crate) fn governing(&self, direction: Direction) -> &[usize] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The policy's rules for `direction`; `None` if it does not govern it.
pub(crate) fn rules(policy: &Policy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

impl<'w> Governed<'w> {
    /// Finds endpoints of `node` (`None`: those of no node yet) and their policies.
    pub(crate) fn new(world: &'w World, node: Option<&str>) -> Self {
        let shelf = Shelf::new(world);
        let selected: Vec<(&Workload, Vec<&Policy>)> = world
            .workloads
            .values()
            .map(AsRef::as_ref)
            .filter(|workload: &&Workload| {
                workload.node.as_deref() == node && workload.is_endpoint()
            })
            .map(|workload| (workload, shelf.selecting(workload)))
            .collect();
        let (policies, ranks) = rank(
            world,
            selected.iter().flat_map(|(_, policies)| policies).copied(),
        );
        let governing = |chosen: &[&Policy], direction| {
            let mut found: Vec<usize> = chosen
                .iter()
                .filter(|policy| rules(policy, direction).is_some())
                .filter_map(|policy| ranks.get(&policy.name).copied())
                .collect();
            found.sort_unstable();
            found
        };
        let endpoints = selected
            .iter()
            .map(|(workload, chosen)| {
                let endpoint = Endpoint {
                    workload,
                    ingress: governing(chosen, Direction::Ingress),
                    egress: governing(chosen, Direction::Egress),
                };
                (workload.uid.as_str(), endpoint)
            })
            .collect();
        Self {
            policies,
            endpoints,
        }
    }
}

/// Policies by the namespace that they name, so that an endpoint asks only those that could select it.
struct Shelf<'w> {
    world: &'w World,
    named: BTreeMap<&'w str, Vec<&'w Policy>>,
    anywhere: Vec<&'w Policy>,
}

impl<'w> Shelf<'w> {
    fn new(world: &'w World) -> Self {
        let mut shelf = Self {
            world,
            named: BTreeMap::new(),
            anywhere: Vec::new(),
        };
        for policy in world.policies.values() {
            match &policy.subject.namespaces {
                NamespaceScope::Named(name) => shelf.named.entry(name).or_default().push(policy),
                NamespaceScope::Selected(_) => shelf.anywhere.push(policy),
            }
        }
        shelf
    }

    fn selecting(&self, workload: &Workload) -> Vec<&'w Policy> {
        let named = self
            .named
            .get(workload.namespace.as_str())
            .into_iter()
            .flatten();
        named
            .chain(&self.anywhere)
            .filter(|policy| policy.subject.selects(workload, &self.world.namespaces))
            .copied()
            .collect()
    }
}

/// Sorts the distinct ones of `policies` by rank.
pub(crate) fn rank<'w>(
    world: &'w World,
    policies: impl Iterator<Item = &'w Policy>,
) -> (Vec<Standing<'w>>, BTreeMap<&'w PolicyRef, usize>) {
    let distinct: BTreeMap<&PolicyRef, &Policy> =
        policies.map(|policy| (&policy.name, policy)).collect();
    let mut sorted: Vec<(Tier, &Policy)> = distinct
        .into_values()
        .map(|policy| (tier(world, &policy.tier), policy))
        .collect();
    sorted.sort_by(|(a_tier, a), (b_tier, b)| {
        let tiers = a_tier
            .order
            .total_cmp(&b_tier.order)
            .then_with(|| a.tier.cmp(&b.tier));
        tiers
            .then_with(|| a.order.total_cmp(&b.order))
            .then_with(|| a.name.cmp(&b.name))
    });
    let ranks = sorted
        .iter()
        .enumerate()
        .map(|(rank, (_, policy))| (&policy.name, rank))
        .collect();
    let standing = sorted
        .into_iter()
        .map(|(tier, policy)| Standing {
            policy,
            at_end: tier.at_end,
        })
        .collect();
    (standing, ranks)
}

fn tier(world: &World, name: &str) -> Tier {
    let absent = || Tier {
        order: if name == DEFAULT_TIER {
            DEFAULT_TIER_ORDER
        } else {
            f64::INFINITY
        },
        at_end: AtEnd::Deny,
    };
    world.tiers.get(name).cloned().unwrap_or_else(absent)
}
