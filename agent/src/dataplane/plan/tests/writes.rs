//! How many map writes a change costs, and how much memory tables need: plain counts, so that nobody has to measure them again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use portcullis_common::abi::{Cell, L4Key, L4Value, PolicyKey};
use portcullis_common::addr::{self, Addr};
use portcullis_policy::Compiler;
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, Peer, Peers, PodSelector, Policy, Port, PortMatch,
    Ports, Protocol, Requirement, Rule, RuleAction, Workload, World,
};

use super::super::super::names::uid_digest;
use super::super::super::state::{Action, State};
use super::super::{Desired, Memory, Want, WantPolicies, plan};
use super::wild::reference;

/// A node that takes in whatever its world becomes.
#[derive(Default)]
struct Node {
    world: World,
    compiler: Compiler,
    memory: Memory,
    state: State,
}

impl Node {
    /// `local` pods of this node with the label `app=db`, `remote` ones of others with `app=web`, `number` on each.
    fn with(local: u32, remote: u32) -> Self {
        let mut node = Self::default();
        "n1".clone_into(&mut node.world.node);
        for number in 0..local {
            node.pod(number, "n1", "app=db");
        }
        for number in local..local + remote {
            node.pod(number, "n2", "app=web");
        }
        node.take_in();
        node
    }

    fn pod(&mut self, number: u32, node: &str, labels: &str) {
        let mut labels: Labels = labels.split(' ').filter_map(pair).collect();
        labels.insert("number".to_owned(), number.to_string());
        let workload = Workload {
            uid: format!("pod {number:06}"),
            namespace: "shop".to_owned(),
            name: format!("pod-{number}"),
            labels: labels.into(),
            service_account: "default".into(),
            node: Some(node.into()),
            addresses: vec![address(number)],
            host_network: false,
            finished: false,
            ports: Arc::default(),
        };
        let uid = workload.uid.clone();
        self.world.workloads.insert(uid, Arc::new(workload));
    }

    fn policy(&mut self, name: &str, subject: &str, rules: Vec<Rule>) {
        let policy = Policy {
            name: reference("shop", name),
            tier: "default".to_owned(),
            order: 1000.0,
            subject: in_shop(subject),
            ingress: Some(rules),
            egress: None,
        };
        let name = policy.name.clone();
        self.world.policies.insert(name, Arc::new(policy));
    }

    /// Brings the tables to the world; says how many writes of each kind that took.
    fn take_in(&mut self) -> BTreeMap<&'static str, usize> {
        let tables = self.compiler.compile(&self.world);
        let endpoints = tables.endpoints.iter().zip(10..);
        let endpoints = endpoints.map(|((uid, policies), ifindex)| {
            let want = Want {
                uid: uid_digest(uid),
                addresses: [addr::NONE; 2],
                flags: 0,
                policies: WantPolicies::Compiled(*policies),
            };
            (ifindex, want)
        });
        let desired = Desired {
            endpoints: endpoints.collect(),
            tables: Arc::clone(&tables),
            ..Desired::default()
        };
        let mut writes = BTreeMap::new();
        for action in plan(&self.state, &mut self.memory, &desired) {
            self.state.apply(&action);
            let (kind, count) = match &action {
                Action::PutSet { set, .. } | Action::DropSet { set, .. } => {
                    ("port sets", 1 + set.spilled())
                }
                Action::PutRow { .. } | Action::DropRow { .. } => ("rows", 1),
                Action::PutDefault { .. } | Action::DropDefault { .. } => ("policies", 1),
                Action::PutPeer { .. } | Action::DropPeer { .. } => ("peers", 1),
                Action::PutCidr { .. } | Action::DropCidr { .. } => ("cidrs", 1),
                Action::PutEndpoint { .. } | Action::DropEndpoint { .. } => ("endpoints", 1),
                Action::PutSlot { .. } => ("slots", 1),
                Action::PutConfig { .. } => ("settings", 1),
                Action::Barrier => continue,
                other => panic!("{other:?} in a world without services"),
            };
            *writes.entry(kind).or_default() += count;
        }
        writes
    }
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// `key=value`, or everybody.
fn in_shop(text: &str) -> PodSelector {
    let requirement = pair(text).map(|(key, value)| Requirement::In(key, vec![value]));
    PodSelector {
        namespaces: NamespaceScope::Named("shop".to_owned()),
        pods: LabelSelector(requirement.into_iter().collect()),
    }
}

fn from(peers: Vec<Peer>) -> Rule {
    Rule {
        action: RuleAction::Allow,
        peers: Peers::OneOf(peers),
        ports: Ports::Any,
    }
}

fn on(rule: Rule, first: u16, last: u16) -> Rule {
    Rule {
        ports: Ports::OneOf(vec![Port {
            protocol: Protocol::TCP,
            port: PortMatch::Range(first, last),
        }]),
        ..rule
    }
}

fn blocks(count: u32) -> Vec<Peer> {
    let net = |number: u32| Ipv4Net::new_assert(Ipv4Addr::from(0xc000_0000 + (number << 9)), 24);
    (0..count)
        .map(|number| Peer::Cidr {
            cidr: net(number).into(),
            except: Vec::new(),
        })
        .collect()
}

fn writes<const N: usize>(of: [(&'static str, usize); N]) -> BTreeMap<&'static str, usize> {
    of.into()
}

#[test]
fn a_policy_of_a_thousand_peers_for_fifty_pods_takes_about_as_many_writes() {
    let label = vec![Peer::Pods(in_shop("app=web"))];
    let one_by_one = (50..1050).map(|number| Peer::Pods(in_shop(&format!("number={number}"))));
    let by_addresses = writes([
        ("peers", 1000),
        ("rows", 1),
        ("port sets", 1),
        ("policies", 1),
        ("endpoints", 50),
    ]);
    for (what, peers, expected) in [
        ("pods by a label", label, by_addresses.clone()),
        (
            "pods by a selector each",
            one_by_one.collect(),
            by_addresses.clone(),
        ),
        (
            "ipBlocks",
            blocks(1000),
            writes([
                ("cidrs", 1000),
                ("rows", 1),
                ("port sets", 1),
                ("policies", 1),
                ("endpoints", 50),
                ("settings", 1),
            ]),
        ),
    ] {
        let mut node = Node::with(50, 1000);
        node.policy("db", "app=db", vec![on(from(peers), 5432, 5432)]);
        let taken = node.take_in();
        assert_eq!(taken, expected, "{what}");
        assert!(taken.values().sum::<usize>() <= 1100, "{what}");
        assert_eq!(node.state.policies().len(), 1, "{what}: not shared");
    }
}

#[test]
fn a_change_of_one_pod_writes_what_depends_on_it() {
    let mut node = Node::with(50, 1000);
    let rules = || vec![on(from(vec![Peer::Pods(in_shop("app=web"))]), 5432, 5432)];
    node.policy("db", "app=db", rules());
    node.policy("cache", "app=cache", rules());
    node.take_in();
    assert_eq!(node.take_in(), writes([]), "nothing has changed");
    node.pod(2000, "n2", "app=web");
    assert_eq!(node.take_in(), writes([("peers", 1)]), "one more peer");
    node.pod(2000, "n2", "app=web tier=front");
    assert_eq!(node.take_in(), writes([]), "a label that nobody asks about");
    node.pod(2000, "n2", "app=other");
    // The address becomes the world's, every subject judges its connections again, and then the entry goes.
    let cut = writes([("peers", 2), ("endpoints", 50), ("settings", 2)]);
    assert_eq!(node.take_in(), cut, "a peer less");
    node.pod(3000, "n2", "app=other");
    assert_eq!(node.take_in(), writes([]), "a pod that is no peer");
    node.pod(7, "n1", "app=db tier=back");
    assert_eq!(node.take_in(), writes([]), "a subject's other label");
    node.pod(7, "n1", "app=plain");
    assert_eq!(node.take_in(), writes([("endpoints", 1)]), "no subject now");
    node.pod(7, "n1", "app=db");
    assert_eq!(
        node.take_in(),
        writes([("endpoints", 1)]),
        "again a subject"
    );
    node.pod(4000, "n1", "app=db");
    let new = node.take_in();
    assert_eq!(
        new,
        writes([("endpoints", 1), ("slots", 1)]),
        "a subject more"
    );
}

/// Bytes of the entries of maps that grow with use, on 64 bits (linux/kernel/bpf, 6.18): a hash entry has 48 bytes before key and value, an LPM node 40,
/// and the allocator hands out sizes from a list.
fn memory(state: &State) -> usize {
    let allocated = |size: usize| {
        let classes = [16, 32, 64, 96, 128, 192, 256, 512];
        classes.into_iter().find(|class| *class >= size).unwrap()
    };
    let words = |size: usize| size.next_multiple_of(8);
    let hash = |key: usize, value: usize| allocated(48 + words(key) + words(value));
    let trie = |key: usize, value: usize| allocated(40 + key + value);
    let rows: usize = state
        .policies()
        .values()
        .map(|policy| policy.rows.len())
        .sum();
    let spilled: usize = state.sets().values().map(|set| set.spilled()).sum();
    state.peers().len() * hash(size_of::<Addr>(), size_of::<u32>())
        + state.cidrs().len() * trie(size_of::<Addr>(), size_of::<u32>())
        + rows * hash(size_of::<PolicyKey>(), size_of::<Cell>())
        + spilled * trie(size_of::<L4Key>(), size_of::<L4Value>())
}

#[test]
fn ten_thousand_peers_of_thirty_workloads_fit_into_five_megabytes() {
    let mut node = Node::with(0, 0);
    for number in 0..30 {
        node.pod(number, "n1", &format!("db={number}"));
    }
    for number in 30..10_030 {
        node.pod(number, "n2", &format!("group={}", number % 100));
    }
    // Each workload has a policy of its own, with a rule and a port for each group of peers.
    for number in 0..30_u16 {
        let rules = (0..100).map(|group| {
            let peers = vec![Peer::Pods(in_shop(&format!("group={group}")))];
            let port = 1000 + 100 * number + group;
            on(from(peers), port, port)
        });
        node.policy(
            &format!("db-{number}"),
            &format!("db={number}"),
            rules.collect(),
        );
    }
    node.take_in();
    assert_eq!(node.state.peers().len(), 10_000);
    assert_eq!(node.state.policies().len(), 30);
    let memory = memory(&node.state);
    assert_eq!(memory, 10_000 * 96 + 3000 * 96);
    assert!(memory < 5_000_000);
}
