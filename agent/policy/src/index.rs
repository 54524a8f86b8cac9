//! Who matches which selector, for the selectors that matter on this node.
//!
//! ```text
//! governing policies -> InUse (selectors, cidrs, port names, each with a number)
//! workload -> the labels that InUse asks about -> group -> selectors that hold
//! ```
//! A selector of a policy that governs nobody here is never evaluated. Workloads that no selector in use can tell apart form one group, and
//! each group is evaluated once, against the few selectors whose namespace and first listed value fit: the cost follows the rules of this
//! node, not the size of the cluster.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::govern::{Governed, rules};
use crate::model::{
    Labels, NamespaceScope, Peer, Peers, PodSelector, PortMatch, Ports, Protocol, Requirement,
    Workload,
};
use crate::tables::Direction;

/// A `cidr` without its exceptions, in canonical form: equal ones of different rules are one.
pub(crate) type CidrUnit = (IpNet, Vec<IpNet>);

/// What the rules in use ask of peers; numbers follow the order of the things themselves.
#[derive(Default)]
pub(crate) struct InUse<'w> {
    pub(crate) selectors: BTreeMap<&'w PodSelector, u32>,
    pub(crate) cidrs: BTreeMap<CidrUnit, u32>,
    /// Port names of egress rules: those are resolved on the peer.
    pub(crate) ports: BTreeMap<(Protocol, &'w str), u32>,
}

impl<'w> InUse<'w> {
    pub(crate) fn new(governed: &Governed<'w>) -> Self {
        let mut in_use = Self::default();
        for direction in [Direction::Ingress, Direction::Egress] {
            // Somebody governed is not enough: a policy may select nobody here in this direction.
            let mut governs = vec![false; governed.policies.len()];
            for endpoint in governed.endpoints.values() {
                for &rank in endpoint.governing(direction) {
                    governs[rank] = true;
                }
            }
            for (standing, _) in governed
                .policies
                .iter()
                .zip(governs)
                .filter(|(_, governs)| *governs)
            {
                for rule in rules(standing.policy, direction).unwrap_or_default() {
                    in_use.add_peers(&rule.peers);
                    if direction == Direction::Egress {
                        in_use.add_names(&rule.ports);
                    }
                }
            }
        }
        for (number, slot) in (0..).zip(in_use.selectors.values_mut()) {
            *slot = number;
        }
        for (number, slot) in (0..).zip(in_use.cidrs.values_mut()) {
            *slot = number;
        }
        for (number, slot) in (0..).zip(in_use.ports.values_mut()) {
            *slot = number;
        }
        in_use
    }

    fn add_peers(&mut self, peers: &'w Peers) {
        let Peers::OneOf(peers) = peers else { return };
        for peer in peers {
            match peer {
                Peer::Pods(selector) => drop(self.selectors.insert(selector, 0)),
                Peer::Cidr { cidr, except } => drop(self.cidrs.insert(unit(cidr, except), 0)),
            }
        }
    }

    fn add_names(&mut self, ports: &'w Ports) {
        let Ports::OneOf(ports) = ports else { return };
        for port in ports {
            if let PortMatch::Named(name) = &port.port {
                self.ports.insert((port.protocol, name), 0);
            }
        }
    }
}

/// The canonical form of an ipBlock.
pub(crate) fn unit(cidr: &IpNet, except: &[IpNet]) -> CidrUnit {
    let mut except: Vec<IpNet> = except.iter().map(IpNet::trunc).collect();
    except.sort_unstable();
    except.dedup();
    (cidr.trunc(), except)
}

/// A label key and one of its listed values, as numbers; value 0 stands for every value that no selector lists.
type Pair = (u32, u32);

/// The namespace that a selector names and a pair that it requires; `None` = no such condition.
type Bucket<'w> = (Option<&'w str>, Option<Pair>);

/// Groups of workloads and the selectors that hold for them.
pub(crate) struct Index<'w> {
    namespaces: &'w BTreeMap<String, Labels>,
    keys: BTreeMap<&'w str, Key<'w>>,
    buckets: BTreeMap<Bucket<'w>, Vec<(&'w PodSelector, u32)>>,
    groups: BTreeMap<&'w str, BTreeMap<Vec<Pair>, u32>>,
    holding: Vec<Vec<u32>>,
}

/// A label key in use.
#[derive(Default)]
struct Key<'w> {
    number: u32,
    values: BTreeMap<&'w str, u32>,
}

impl<'w> Index<'w> {
    pub(crate) fn new(in_use: &InUse<'w>, namespaces: &'w BTreeMap<String, Labels>) -> Self {
        let mut index = Self {
            namespaces,
            keys: BTreeMap::new(),
            buckets: BTreeMap::new(),
            groups: BTreeMap::new(),
            holding: Vec::new(),
        };
        for selector in in_use.selectors.keys() {
            for requirement in &selector.pods.0 {
                index.learn(requirement);
            }
        }
        for (&selector, &number) in &in_use.selectors {
            let namespace = match &selector.namespaces {
                NamespaceScope::Named(name) => Some(name.as_str()),
                NamespaceScope::Selected(_) => None,
            };
            for pair in index.required(selector) {
                index
                    .buckets
                    .entry((namespace, pair))
                    .or_default()
                    .push((selector, number));
            }
        }
        index
    }

    /// The group of `workload`: equal numbers mean that the same selectors hold.
    pub(crate) fn group(&mut self, workload: &'w Workload) -> u32 {
        let mut pairs: Vec<Pair> = Vec::new();
        for (key, value) in workload.labels.iter() {
            if let Some(key) = self.keys.get(key.as_str()) {
                pairs.push((
                    key.number,
                    key.values.get(value.as_str()).copied().unwrap_or(0),
                ));
            }
        }
        let groups = self.groups.entry(&workload.namespace).or_default();
        if let Some(&group) = groups.get(&pairs) {
            return group;
        }
        let group = self.holding.len() as u32;
        groups.insert(pairs.clone(), group);
        let holding = self.evaluate(workload, &pairs);
        self.holding.push(holding);
        group
    }

    /// The selectors that hold for a group, ascending.
    pub(crate) fn holding(&self, group: u32) -> &[u32] {
        &self.holding[group as usize]
    }

    fn learn(&mut self, requirement: &'w Requirement) {
        let number = self.keys.len() as u32;
        let key = self.keys.entry(requirement.key()).or_insert_with(|| Key {
            number,
            values: BTreeMap::new(),
        });
        for value in requirement.values() {
            let number = key.values.len() as u32 + 1;
            key.values.entry(value).or_insert(number);
        }
    }

    /// The pairs one of which a workload must have: those of the first `In`.
    fn required(&self, selector: &'w PodSelector) -> Vec<Option<Pair>> {
        let first_in = selector
            .pods
            .0
            .iter()
            .find_map(|requirement| match requirement {
                Requirement::In(key, values) => Some((&self.keys[key.as_str()], values)),
                _ => None,
            });
        let Some((key, values)) = first_in else {
            return vec![None];
        };
        let mut pairs: Vec<Option<Pair>> = values
            .iter()
            .map(|value| Some((key.number, key.values[value.as_str()])))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    fn evaluate(&self, workload: &Workload, pairs: &[Pair]) -> Vec<u32> {
        let mut holding = Vec::new();
        for namespace in [None, Some(workload.namespace.as_str())] {
            for pair in pairs.iter().copied().map(Some).chain([None]) {
                let candidates = self.buckets.get(&(namespace, pair)).into_iter().flatten();
                holding.extend(
                    candidates
                        .filter(|(selector, _)| selector.selects(workload, self.namespaces))
                        .map(|(_, number)| *number),
                );
            }
        }
        holding.sort_unstable();
        holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, pod, pods_in, pods_where, rule_from};

    #[test]
    fn selectors_of_policies_that_govern_nobody_here_are_not_in_use() {
        let world = Fixture::on("n1")
            .pod(pod("a/web").on("n1").label("app", "web"))
            .pod(pod("a/db").on("n2").label("app", "db"))
            .policy("a/local", "app=web", |p| {
                p.ingress([rule_from([pods_in("a", "app=api")])])
            })
            .policy("a/remote", "app=db", |p| {
                p.ingress([rule_from([pods_in("a", "app=x")])])
            })
            .policy("b/other", "", |p| {
                p.ingress([rule_from([pods_in("b", "app=y")])])
            })
            .world();
        let governed = Governed::new(&world, Some("n1"));
        let in_use = InUse::new(&governed);
        assert_eq!(in_use.selectors.len(), 1);
        assert_eq!(governed.policies.len(), 1);
    }

    #[test]
    fn workloads_that_differ_in_unasked_labels_share_a_group() {
        let world = Fixture::on("n1")
            .namespace("b", "team=red")
            .pod(pod("a/web").on("n1").label("app", "web"))
            .pod(pod("b/x-0").label("app", "x").label("pod-name", "x-0"))
            .pod(pod("b/x-1").label("app", "x").label("pod-name", "x-1"))
            .pod(pod("b/y-0").label("app", "y").label("pod-name", "y-0"))
            .policy("a/local", "", |p| {
                p.ingress([rule_from([
                    pods_where("team=red", "app=x"),
                    pods_where("", "pod-name"),
                ])])
            })
            .world();
        let governed = Governed::new(&world, Some("n1"));
        let in_use = InUse::new(&governed);
        let mut index = Index::new(&in_use, &world.namespaces);
        let mut group = |name: &str| {
            let group = index.group(&world.workloads[name]);
            (group, index.holding(group).len())
        };
        let (x0, x0_holding) = group("b/x-0");
        let (x1, _) = group("b/x-1");
        let (y0, y0_holding) = group("b/y-0");
        assert_eq!(x0, x1);
        assert_ne!(x0, y0);
        assert_eq!((x0_holding, y0_holding), (2, 1));
    }
}
