//! What tables weigh in the kernel: 10,000 peers of 30 workloads.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;
use portcullis::kube::{Change, Entry, Key, Kind, Object, Pod};
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, Peer, Peers, PodSelector, Policy, PolicyKind, PolicyRef,
    Port, PortMatch, Ports, Protocol, Requirement, Rule, RuleAction, Workload,
};

use super::cluster::NODE;
use super::node::Node;

/// Pods that policies allow.
pub const PEERS: u32 = 10_000;
/// Pods of the node, each with a policy of its own.
pub const WORKLOADS: u32 = 30;
/// Kinds of peers: a policy has a rule and a port for each.
pub const GROUPS: u32 = 100;

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
    let namespace = entry(Kind::Namespace, "shop", Object::Namespace(Labels::new()));
    let reset = |kind, live| Change::Reset { kind, live };
    vec![
        reset(Kind::Namespace, vec![namespace]),
        reset(Kind::Pod, local.chain(peers).collect()),
        reset(Kind::NetworkPolicy, policies.collect()),
    ]
}

fn entry(kind: Kind, name: &str, object: Object) -> Entry {
    Entry {
        key: Key {
            kind,
            namespace: kind.namespaced().then(|| "shop".to_owned()),
            name: name.to_owned(),
        },
        object: Some(object),
        problems: Vec::new(),
    }
}

fn pod(number: u32, node: &str, key: &str, value: u32) -> Entry {
    let name = format!("pod-{number}");
    let workload = Workload {
        uid: format!("0000000b-0000-4000-8000-{number:012x}"),
        namespace: "shop".to_owned(),
        name: name.clone(),
        labels: Labels::from([(key.to_owned(), value.to_string())]).into(),
        service_account: "default".into(),
        node: Some(node.into()),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))],
        host_network: false,
        finished: false,
        ports: Arc::default(),
    };
    let pod = Pod {
        workload: Arc::new(workload),
        created_secs: None,
        terminating: false,
        withdrawn: false,
        static_uid: None,
        host_ports: Box::default(),
    };
    entry(Kind::Pod, &name, Object::Pod(pod))
}

fn policy(number: u32) -> Entry {
    let name = format!("db-{number}");
    let rules = (0..GROUPS).map(|group| {
        let port = (1000 + number * GROUPS + group) as u16;
        Rule {
            action: RuleAction::Allow,
            peers: Peers::OneOf(vec![Peer::Pods(selector("group", group))]),
            ports: Ports::OneOf(vec![Port {
                protocol: Protocol::TCP,
                port: PortMatch::Range(port, port),
            }]),
        }
    });
    let policy = Policy {
        name: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some("shop".to_owned()),
            name: name.clone(),
        },
        tier: "default".to_owned(),
        order: 1000.0,
        subject: selector("db", number),
        ingress: Some(rules.collect()),
        egress: None,
    };
    entry(Kind::NetworkPolicy, &name, Object::Policy(Arc::new(policy)))
}

fn selector(key: &str, value: u32) -> PodSelector {
    let values = vec![value.to_string()];
    PodSelector {
        namespaces: NamespaceScope::Named("shop".to_owned()),
        pods: LabelSelector(vec![Requirement::In(key.to_owned(), values)]),
    }
}
