//! Which policies govern which endpoint of a node, and in what order they are asked.
//!
//! Order of policies (policy-spec 5.1), used everywhere in this crate as their *rank*:
//! 1. order of the tier, low first; ties by the tier's name;
//! 2. order of the policy; ties by its reference (kind, namespace, name).
//!
//! A tier that no object declares stands behind all others and denies at its end: a policy that names it by mistake still isolates.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::asked::named;
use crate::model::{
    AtEnd, NamespaceScope, Policy, PolicyRef, Protocol, Rule, Tier, Workload, World,
};
use crate::tables::Direction;

/// Name of the tier that exists even when no object declares it.
pub const DEFAULT_TIER: &str = "default";
const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;

/// The endpoints of one node, and every policy that governs one of them.
#[derive(Default, PartialEq)]
pub(crate) struct Governed {
    /// By rank.
    pub(crate) policies: Vec<Ranked>,
    /// By pod uid: every workload of the node that is an endpoint.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
}

/// A policy that governs, in its tier.
pub(crate) struct Ranked {
    pub(crate) policy: Arc<Policy>,
    pub(crate) at_end: AtEnd,
    /// Whether it governs somebody, for ingress and egress.
    pub(crate) governs: [bool; 2],
}

impl PartialEq for Ranked {
    /// The same version, not equal ones: who remembers what a version asks knows it by its record.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
            && (self.at_end, self.governs) == (other.at_end, other.governs)
    }
}

/// A policy in its tier.
pub(crate) struct Standing<'w> {
    pub(crate) policy: &'w Policy,
    pub(crate) at_end: AtEnd,
}

/// An endpoint and the ranks of its policies, ascending.
#[derive(PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    pub(crate) ingress: Vec<usize>,
    pub(crate) egress: Vec<usize>,
}

impl Endpoint {
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

impl Governed {
    /// Finds the policies of `endpoints`.
    pub(crate) fn new<'w>(
        world: &'w World,
        endpoints: impl Iterator<Item = &'w Arc<Workload>>,
    ) -> Self {
        let shelf = Shelf::new(world);
        let selected: Vec<(&Arc<Workload>, Vec<&Policy>)> = endpoints
            .map(|workload| (workload, shelf.selecting(workload)))
            .collect();
        let (standing, ranks) = rank(
            world,
            selected.iter().flat_map(|(_, policies)| policies).copied(),
        );
        let mut policies: Vec<Ranked> = standing
            .iter()
            .map(|standing| Ranked {
                policy: Arc::clone(&world.policies[&standing.policy.name]),
                at_end: standing.at_end,
                governs: [false; 2],
            })
            .collect();
        let mut governing = |chosen: &[&Policy], direction: Direction| {
            let mut found: Vec<usize> = chosen
                .iter()
                .filter(|policy| rules(policy, direction).is_some())
                .filter_map(|policy| ranks.get(&policy.name).copied())
                .collect();
            found.sort_unstable();
            for rank in &found {
                policies[*rank].governs[direction as usize] = true;
            }
            found
        };
        let endpoints = selected
            .iter()
            .map(|(workload, chosen)| {
                let endpoint = Endpoint {
                    workload: Arc::clone(workload),
                    ingress: governing(chosen, Direction::Ingress),
                    egress: governing(chosen, Direction::Egress),
                };
                (workload.uid.clone(), endpoint)
            })
            .collect();
        Self {
            policies,
            endpoints,
        }
    }

    /// The subject's own numbers for the port names in the ingress rules that govern it.
    pub(crate) fn subject_names(&self, endpoint: &Endpoint) -> Vec<(Protocol, &str, u16)> {
        let mut names = Vec::new();
        for &rank in &endpoint.ingress {
            let rules = rules(&self.policies[rank].policy, Direction::Ingress);
            let wanted = rules.unwrap_or_default().iter();
            for (protocol, name) in wanted.flat_map(|rule| named(&rule.ports)) {
                let ports = endpoint.workload.ports.iter();
                let declared = ports.filter(|port| port.name == name && port.protocol == protocol);
                names.extend(declared.map(|port| (protocol, name, port.number)));
            }
        }
        names.sort_unstable();
        names.dedup();
        names
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
