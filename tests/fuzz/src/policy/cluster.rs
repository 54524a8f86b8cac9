//! Files as the agent takes them in: its world, what it refused, and the tables of every node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis::kube::{Key, manifests};
use portcullis::world::{Refusal, World};
use portcullis_policy::compile;
use portcullis_policy::model::{self, Workload};
use portcullis_policy::tables::{Direction, Tables};

use super::reading::Claim;
use super::samples::Sample;

/// Nodes whose tables are made; an input may name as many as it likes.
const NODES: usize = 4;

/// Longest line that a report may be. Names that Kubernetes would not take are the file's own business.
const LONGEST_REPORT: usize = 1000;

/// Most problems of one object: 32, how many more there are, and a second object of the same name.
const MOST_PROBLEMS: usize = 34;

pub(super) struct Cluster {
    world: World,
    model: Arc<model::World>,
    tables: BTreeMap<String, Tables>,
}

impl Cluster {
    pub(super) fn of(files: &[(&str, &[u8])]) -> Self {
        let mut world = World::new("n1");
        world.apply_batch(
            manifests::parse(files.iter().copied()),
            SystemTime::UNIX_EPOCH,
        );
        let model = world.snapshot();
        let named = model
            .workloads
            .values()
            .filter_map(|pod| pod.node.as_deref());
        let mut nodes: Vec<&str> = named.collect();
        nodes.sort_unstable();
        nodes.dedup();
        let of_node = |node: &&str| {
            let model = model::World {
                node: (*node).to_owned(),
                ..model::World::clone(&model)
            };
            ((*node).to_owned(), compile(&model))
        };
        let tables = nodes.iter().take(NODES).map(of_node).collect();
        Self {
            world,
            model,
            tables,
        }
    }

    pub(super) fn refused(&self) -> &BTreeMap<Key, Refusal> {
        self.world.refused()
    }

    pub(super) fn tables(&self) -> &BTreeMap<String, Tables> {
        &self.tables
    }

    /// Pods with tables and addresses.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Workload> {
        let known = |pod: &&Arc<Workload>| {
            pod.is_endpoint()
                && pod
                    .node
                    .as_deref()
                    .is_some_and(|node| self.tables.contains_key(node))
        };
        self.model
            .workloads
            .values()
            .filter(known)
            .map(AsRef::as_ref)
    }

    /// Addresses of pods.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.model
            .workloads
            .values()
            .flat_map(|pod| pod.addresses.iter().copied())
    }

    /// Whether the pod's own tables let the connection pass.
    pub(super) fn allows(&self, sample: &Sample<'_>) -> bool {
        let Sample {
            pod,
            direction,
            peer,
            protocol,
            port,
        } = *sample;
        let Some(tables) = pod.node.as_deref().and_then(|node| self.tables.get(node)) else {
            panic!("a sample's pod has a node with tables: {sample:?}");
        };
        let endpoint = tables
            .endpoints
            .get(&pod.uid)
            .expect("every endpoint of a node has tables");
        endpoint.policy(direction, peer).is_none_or(|number| {
            let table = tables.policy(number).expect("an endpoint's policy exists");
            table.decide(tables.class_of(peer), protocol, port).allow
        })
    }

    /// Every pod of the namespace obeys a policy, in both families.
    pub(super) fn check_isolated(&self, claim: &Claim) {
        let members = self
            .endpoints()
            .filter(|pod| pod.namespace == claim.namespace);
        for pod in members {
            let node = pod.node.as_deref().unwrap_or_default();
            let policies = self.tables[node].endpoints[&pod.uid];
            let open = [
                (Direction::Ingress, policies.ingress),
                (Direction::Egress, policies.egress),
            ];
            for (direction, of_family) in open {
                let isolated = of_family.iter().all(Option::is_some);
                assert!(
                    isolated || !claim.holds(direction),
                    "{claim:?} leaves {}/{} open: {direction:?}",
                    pod.namespace,
                    pod.name
                );
            }
        }
    }

    /// What the agent would log and show.
    pub(super) fn check_reports(&self) {
        for (key, refusal) in self.refused() {
            assert!(
                !refusal.problems.is_empty(),
                "{key:?} is refused for nothing"
            );
            assert!(refusal.problems.len() <= MOST_PROBLEMS, "{key:?}");
            for problem in &refusal.problems {
                let text = problem.to_string();
                // A uid's first owner is an object, and its name the file's own business.
                let names = key.to_string().len() + text.matches('/').count();
                assert!(text.len() <= LONGEST_REPORT + names, "{text}");
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
    }
}
