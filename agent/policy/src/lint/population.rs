//! Who is there: the pods behind each selector and the port names that they declare.
//!
//! The compiler's index groups pods that no selector in use can tell apart, so that each group is asked once. Finished pods count here, and pods without
//! an address: what a selector finds now is the tables' question, whether it names pods that exist is this one. Labels that controllers write on the pods
//! they make do not stand in templates, so selectors that ask for one are not judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::asked::AtomIx;
use crate::index::{GroupIx, Index};
use crate::model::{
    LabelSelector, NamespaceScope, Peer, Peers, PodSelector, Policy, Protocol, Requirement, World,
};

/// Labels that controllers write, whose values nobody knows beforehand.
const GENERATED: [&str; 12] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/cronjob-scheduled-timestamp",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Most values of a label that a hint lists.
const LISTED: usize = 5;

/// The pods of a world, by what selectors can tell of them.
pub(super) struct Population<'w> {
    world: &'w World,
    numbers: BTreeMap<Arc<PodSelector>, AtomIx>,
    /// By the selector's number: the groups for which it holds.
    holding: Vec<Vec<usize>>,
    groups: Vec<Group<'w>>,
    /// Namespace, label key and value of pods; both empty for each namespace that pods are in.
    labels: BTreeSet<(&'w str, &'w str, &'w str)>,
}

/// Pods for which the same selectors hold.
#[derive(Default)]
struct Group<'w> {
    endpoints: bool,
    /// In the network of their node.
    hosts: bool,
    /// Port names of endpoints.
    names: Vec<(&'w str, Protocol)>,
}

/// The pods of a selector, of several, or all.
#[derive(Default)]
pub(super) struct Pods<'w> {
    /// Whether there is a pod with a network of its own.
    pub(super) endpoints: bool,
    /// Whether there is one in the network of its node.
    pub(super) hosts: bool,
    /// The port names that endpoints declare, with their protocols.
    pub(super) names: Vec<(&'w str, Protocol)>,
}

impl<'w> Population<'w> {
    /// The pods of the world; `None` if it has none at all, for then nothing can be said.
    pub(super) fn new(world: &'w World) -> Option<Self> {
        if world.workloads.is_empty() {
            return None;
        }
        let mut numbers: BTreeMap<Arc<PodSelector>, AtomIx> = BTreeMap::new();
        for selector in world.policies.values().flat_map(|policy| selectors(policy)) {
            if !numbers.contains_key(selector) {
                let number = numbers.len() as AtomIx;
                numbers.insert(Arc::new(selector.clone()), number);
            }
        }
        let mut index = Index::default();
        index.set_selectors(&numbers);
        let mut population = Self {
            world,
            holding: vec![Vec::new(); numbers.len()],
            numbers,
            groups: Vec::new(),
            labels: BTreeSet::new(),
        };
        for workload in world.workloads.values() {
            let number = index.join(workload, &world.namespaces) as usize;
            // Groups are numbered as they are found.
            if number == population.groups.len() {
                population.groups.push(Group::default());
                for selector in index.holding(number as GroupIx) {
                    population.holding[*selector as usize].push(number);
                }
            }
            let group = &mut population.groups[number];
            let namespace = workload.namespace.as_str();
            population.labels.insert((namespace, "", ""));
            for (key, value) in workload.labels.iter() {
                population.labels.insert((namespace, key, value));
            }
            if workload.host_network {
                group.hosts = true;
            } else {
                group.endpoints = true;
                for port in workload.ports.iter() {
                    add(&mut group.names, (port.name.as_str(), port.protocol));
                }
            }
        }
        Some(population)
    }

    /// The pods that a selector of one of the policies holds for.
    pub(super) fn of(&self, selector: &PodSelector) -> Pods<'w> {
        let number = self.numbers.get(selector);
        let groups = number.map_or(&[][..], |number| &self.holding[*number as usize]);
        gather(groups.iter().map(|group| &self.groups[*group]))
    }

    /// All of them.
    pub(super) fn all(&self) -> Pods<'w> {
        gather(self.groups.iter())
    }

    /// Whether there are pods in a namespace of the scope.
    pub(super) fn lives_in(&self, scope: &NamespaceScope) -> bool {
        self.namespaces(scope).next().is_some()
    }

    /// The namespaces of the scope that pods are in.
    fn namespaces(&self, scope: &NamespaceScope) -> impl Iterator<Item = &'w str> {
        let lived_in = self.labels.iter().filter(|(_, key, _)| key.is_empty());
        lived_in
            .map(|(name, ..)| *name)
            .filter(|name| scope.holds(name, &self.world.namespaces))
    }

    /// What the pods in scope have in place of a label that none of them has: `app is db, web there`.
    pub(super) fn hint(&self, selector: &PodSelector) -> Option<String> {
        selector.pods.0.iter().find_map(|requirement| {
            let (Requirement::In(key, _) | Requirement::Exists(key)) = requirement else {
                return None;
            };
            let mut values: Vec<&str> = Vec::new();
            for namespace in self.namespaces(&selector.namespaces) {
                let from = (namespace, key.as_str(), "");
                let same = |(n, k, _): &&(&str, &str, &str)| (*n, *k) == (namespace, key);
                let there = self.labels.range(from..).take_while(same);
                values.extend(there.map(|(.., value)| *value));
            }
            values.sort_unstable();
            values.dedup();
            if values.is_empty() {
                return Some(format!("none of the pods there has a label {key}"));
            }
            let wanted = requirement.values();
            if wanted.is_empty() || wanted.iter().any(|value| values.contains(&value.as_str())) {
                return None;
            }
            let more = if values.len() > LISTED { ", ..." } else { "" };
            let listed: Vec<&str> = values.into_iter().take(LISTED).collect();
            Some(format!("{key} is {}{more} there", listed.join(", ")))
        })
    }
}

/// Whether a selector asks for what controllers write.
pub(super) fn asks_generated(selector: &LabelSelector) -> bool {
    let mut keys = selector.0.iter().map(Requirement::key);
    keys.any(|key| GENERATED.contains(&key))
}

fn selectors(policy: &Policy) -> impl Iterator<Item = &PodSelector> {
    let rules = [&policy.ingress, &policy.egress].into_iter().flatten();
    let peers = rules.flatten().flat_map(|rule| match &rule.peers {
        Peers::Any => &[][..],
        Peers::OneOf(peers) => &peers[..],
    });
    let of_peers = peers.filter_map(|peer| match peer {
        Peer::Pods(selector) => Some(selector),
        Peer::Cidr { .. } => None,
    });
    std::iter::once(&policy.subject).chain(of_peers)
}

fn gather<'g, 'w: 'g>(groups: impl Iterator<Item = &'g Group<'w>>) -> Pods<'w> {
    let mut pods = Pods::default();
    for group in groups {
        pods.endpoints |= group.endpoints;
        pods.hosts |= group.hosts;
        for name in &group.names {
            add(&mut pods.names, *name);
        }
    }
    pods
}

/// Port names are few, so a list will do.
fn add<'w>(names: &mut Vec<(&'w str, Protocol)>, name: (&'w str, Protocol)) {
    if !names.contains(&name) {
        names.push(name);
    }
}
