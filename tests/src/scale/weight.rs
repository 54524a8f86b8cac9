//! What tables weigh in the kernel: 10,000 peers of 30 workloads.

use std::collections::BTreeMap;

use anyhow::Result;
use portcullis::kube::{Change, Entry, Kind, Object};
use portcullis_policy::model::{
    Labels, NamespaceScope, Peer, Peers, PodSelector, Policy, Port, PortMatch, Ports, Protocol,
    Rule, RuleAction,
};

use super::cluster::NODE;
use super::node::Node;
use super::objects::{self, entry, policy_entry, requires};

/// Pods that policies allow.
pub const PEERS: u32 = 10_000;
/// Pods of the node, each with a policy of its own.
pub const WORKLOADS: u32 = 30;
/// Kinds of peers: a policy has a rule and a port for each.
pub const GROUPS: u32 = 100;

/// The namespace of all of them.
const SHOP: &str = "shop";
/// Maps that grow with policies and peers; the others are there for packets.
const OF_POLICY: [&str; 7] = [
    "pc_peers",
    "pc_cidrs",
    "pc_policies",
    "pc_policy",
    "pc_l4sets",
    "pc_l4lpm",
    "pc_endpoints",
];

/// Bytes of each map that policies are in, empty and with all of it.
#[derive(Clone, Debug, Default)]
pub struct Weight {
    /// By map: before, after.
    pub maps: BTreeMap<String, (u64, u64)>,
}

impl Weight {
    /// What peers and policies added to all of them.
    #[must_use]
    pub fn grown(&self) -> u64 {
        self.maps
            .values()
            .map(|(before, after)| after.saturating_sub(*before))
            .sum()
    }
}

/// Fills tables and asks the kernel.
pub fn weigh() -> Result<Weight> {
    let mut node = Node::open("weight")?;
    let before = node.map_memory()?;
    node.take_in(lists())?;
    let after = node.map_memory()?;
    let maps = OF_POLICY.into_iter().map(|name| {
        let of = |maps: &BTreeMap<String, u64>| maps.get(name).copied().unwrap_or_default();
        (name.to_owned(), (of(&before), of(&after)))
    });
    Ok(Weight {
        maps: maps.collect(),
    })
}

fn lists() -> Vec<Change> {
    let local = (0..WORKLOADS).map(|number| pod(number, NODE, "db", number));
    let peers =
        (0..PEERS).map(|number| pod(WORKLOADS + number, "node-1", "group", number % GROUPS));
    let policies = (0..WORKLOADS).map(policy);
    let namespace = entry(
        Kind::Namespace,
        None,
        SHOP,
        Object::Namespace(Labels::new()),
    );
    let reset = |kind, live| Change::Reset { kind, live };
    vec![
        reset(Kind::Namespace, vec![namespace]),
        reset(Kind::Pod, local.chain(peers).collect()),
        reset(Kind::NetworkPolicy, policies.collect()),
    ]
}

fn pod(number: u32, node: &str, key: &str, value: u32) -> Entry {
    let labels = Labels::from([(key.to_owned(), value.to_string())]);
    objects::pod(number, SHOP, node, labels)
}

fn policy(number: u32) -> Entry {
    let rules = (0..GROUPS).map(|group| {
        let port = (1000 + number * GROUPS + group) as u16;
        let peer = PodSelector {
            namespaces: NamespaceScope::Named(SHOP.to_owned()),
            pods: requires("group", &group.to_string()),
        };
        Rule {
            action: RuleAction::Allow,
            peers: Peers::OneOf(vec![Peer::Pods(peer)]),
            ports: Ports::OneOf(vec![Port {
                protocol: Protocol::TCP,
                port: PortMatch::Range(port, port),
            }]),
        }
    });
    let subject = requires("db", &number.to_string());
    policy_entry(Policy {
        ingress: Some(rules.collect()),
        ..objects::policy(SHOP, &format!("db-{number}"), subject)
    })
}
