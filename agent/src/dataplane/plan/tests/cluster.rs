//! A small cluster that changes, and what the compiler makes of it.

use std::sync::Arc;

use portcullis_common::addr;
use portcullis_policy::Compiler;
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, Peer, Peers, PodSelector, Policy, Port, PortMatch,
    Ports, Protocol, Requirement, Rule, RuleAction, Workload, World,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::super::names::uid_digest;
use super::super::{Desired, Want, WantPolicies};
use super::wild::{ADDRESSES, INTERFACES, PODS, PORTS, ip, reference};

const LABELS: [&str; 3] = ["red", "green", "blue"];
const BLOCKS: [(&str, &[&str]); 5] = [
    ("0.0.0.0/0", &[]),
    ("0.0.0.0/0", &["10.0.0.0/24"]),
    ("10.0.0.0/8", &["10.0.1.0/24", "10.0.0.2/31"]),
    ("::/0", &[]),
    ("fd00::/8", &["fd00::/64"]),
];

/// One change of a cluster.
#[derive(Clone, Debug)]
enum Change {
    Pod(usize, Option<(&'static str, Vec<usize>)>),
    Namespace(&'static str, &'static str),
    Policy(usize, Option<Arc<Policy>>),
}

fn a_peer() -> impl Strategy<Value = Peer> {
    let pods = (
        select(vec!["a", "b", ""]),
        prop::option::of(select(LABELS.to_vec())),
    )
        .prop_map(|(namespace, color)| {
            Peer::Pods(PodSelector {
                namespaces: match namespace {
                    "" => NamespaceScope::Selected(colored(Some("red"))),
                    named => NamespaceScope::Named(named.to_owned()),
                },
                pods: colored(color),
            })
        });
    let block = select(BLOCKS.to_vec()).prop_map(|(cidr, except)| Peer::Cidr {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    });
    prop_oneof![pods, block]
}

fn colored(color: Option<&str>) -> LabelSelector {
    let requirement =
        color.map(|color| Requirement::In("color".to_owned(), vec![color.to_owned()]));
    LabelSelector(requirement.into_iter().collect())
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let port = select(PORTS.to_vec()).prop_map(|(protocol, port)| Port {
        protocol: Protocol(protocol),
        port: PortMatch::Range(port, port),
    });
    let ports = prop::option::of(prop::collection::vec(port, 1..3));
    let peers = prop::option::weighted(0.9, prop::collection::vec(a_peer(), 0..3));
    let rule = (peers, ports).prop_map(|(peers, ports)| Rule {
        action: RuleAction::Allow,
        peers: peers.map_or(Peers::Any, Peers::OneOf),
        ports: ports.map_or(Ports::Any, Ports::OneOf),
    });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..3))
}

fn a_policy(name: usize) -> impl Strategy<Value = Arc<Policy>> {
    let subject = (
        select(vec!["a", "b"]),
        prop::option::of(select(LABELS.to_vec())),
    );
    (subject, rules(), rules()).prop_map(move |((namespace, color), ingress, egress)| {
        Arc::new(Policy {
            name: reference(namespace, &format!("p{name}")),
            tier: "default".to_owned(),
            order: 1000.0,
            subject: PodSelector {
                namespaces: NamespaceScope::Named(namespace.to_owned()),
                pods: colored(color),
            },
            ingress,
            egress,
        })
    })
}

fn change() -> impl Strategy<Value = Change> {
    let addresses = subsequence((0..ADDRESSES.len()).collect::<Vec<_>>(), 0..3);
    let pod = prop::option::weighted(0.8, (select(LABELS.to_vec()), addresses));
    let policy = (0..4_usize).prop_flat_map(|name| {
        prop::option::weighted(0.8, a_policy(name))
            .prop_map(move |policy| Change::Policy(name, policy))
    });
    prop_oneof![
        3 => (0..PODS.len(), pod).prop_map(|(name, pod)| Change::Pod(name, pod)),
        1 => (select(vec!["a", "b", "c"]), select(LABELS.to_vec())).prop_map(|(name, color)| Change::Namespace(name, color)),
        2 => policy,
    ]
}

fn change_world(world: &mut World, change: Change) {
    let color = |color: &str| Labels::from([("color".to_owned(), color.to_owned())]);
    match change {
        Change::Pod(name, None) => drop(world.workloads.remove(PODS[name])),
        Change::Pod(name, Some((label, addresses))) => {
            let (namespace, short) = PODS[name].split_once('/').unwrap();
            let workload = Workload {
                uid: PODS[name].to_owned(),
                namespace: namespace.to_owned(),
                name: short.to_owned(),
                labels: color(label).into(),
                service_account: "default".into(),
                node: Some(if name < INTERFACES.len() { "n1" } else { "n2" }.into()),
                addresses: addresses.into_iter().map(ip).collect(),
                host_network: false,
                finished: false,
                ports: Arc::default(),
            };
            world
                .workloads
                .insert(PODS[name].to_owned(), Arc::new(workload));
        }
        Change::Namespace(name, label) => {
            drop(world.namespaces.insert(name.to_owned(), color(label)));
        }
        Change::Policy(name, policy) => {
            let own = format!("p{name}");
            let gone = world.policies.keys().find(|key| key.name == own).cloned();
            gone.map(|key| world.policies.remove(&key));
            world
                .policies
                .extend(policy.map(|policy| (policy.name.clone(), policy)));
        }
    }
}

/// What the compiler makes of a cluster that changes.
pub(super) fn walk() -> impl Strategy<Value = Vec<Desired>> {
    let steps = prop::collection::vec(prop::collection::vec(change(), 1..4), 1..5);
    (prop::collection::vec(change(), 8..20), steps).prop_map(|(first, steps)| {
        let mut world = World {
            node: "n1".to_owned(),
            ..World::default()
        };
        let mut compiler = Compiler::default();
        let mut walk = Vec::new();
        for step in std::iter::once(first).chain(steps) {
            for change in step {
                change_world(&mut world, change);
            }
            walk.push(desired_of(&mut compiler, &world));
        }
        walk
    })
}

/// Two ways from an empty cluster to the same one: the last word on each object, in any order.
pub(super) fn two_ways() -> impl Strategy<Value = [Vec<Desired>; 2]> {
    let subject = |change: &Change| match change {
        Change::Pod(name, _) => format!("pod {name}"),
        Change::Namespace(name, _) => format!("namespace {name}"),
        Change::Policy(name, _) => format!("policy {name}"),
    };
    prop::collection::vec(change(), 10..50)
        .prop_flat_map(move |changes| {
            let mut last: Vec<Change> = Vec::new();
            for change in changes {
                last.retain(|before| subject(before) != subject(&change));
                last.push(change);
            }
            let order = || (Just(last.clone()).prop_shuffle(), 1..4_usize);
            [order(), order()]
        })
        .prop_map(|ways| {
            ways.map(|(changes, at_once)| {
                let mut world = World {
                    node: "n1".to_owned(),
                    ..World::default()
                };
                let mut compiler = Compiler::default();
                let steps = changes.chunks(at_once).map(|step| {
                    for change in step {
                        change_world(&mut world, change.clone());
                    }
                    desired_of(&mut compiler, &world)
                });
                steps.collect()
            })
        })
}

fn desired_of(compiler: &mut Compiler, world: &World) -> Desired {
    let tables = compiler.compile(world);
    let local = PODS.iter().zip(INTERFACES).filter_map(|(pod, ifindex)| {
        let policies = tables.endpoints.get(*pod)?;
        Some((
            ifindex,
            Want {
                uid: uid_digest(pod),
                addresses: [addr::NONE; 2],
                flags: 0,
                policies: WantPolicies::Compiled(*policies),
            },
        ))
    });
    Desired {
        endpoints: local.collect(),
        tables: Arc::clone(&tables),
        ..Desired::default()
    }
}
