//! A compiler that remembers against one that has seen nothing: whatever happens to the world, in whatever steps, both give the same tables, and neither
//! keeps what the other does not have.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use crate::fixture::{
    all, block, labels, named, pod, pods_in, pods_where, range, rule_any, rule_from, selector, tcp,
    udp,
};
use crate::model::{
    AtEnd, Labels, NamespaceScope, Node, Peer, PodSelector, Policy, PolicyKind, PolicyRef, Port,
    Protocol, Rule, Tier, Workload, World,
};
use crate::{Compiler, compile};

const PODS: usize = 8;
const POLICIES: usize = 6;
const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const SELECTORS: [&str; 9] = [
    "",
    "app=x",
    "app=y",
    "app!=x",
    "app",
    "!app",
    "app=x,y tier",
    "tier!=f",
    "tier=f",
];
const BLOCKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/8!10.0.1.0/24",
    "10.0.0.0/16!10.0.0.1/32",
    "10.0.1.0/24",
    "10.0.0.1/32",
    "::/0!fd00::/16",
    "fd00::/16",
];
const ADDRESSES: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "192.0.2.1",
    "fd00::1",
    "fd01::1",
];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Pod(usize, Option<Workload>),
    Namespace(&'static str, Option<Labels>),
    Policy(usize, Option<Policy>),
    Tier(&'static str, Option<Tier>),
    Node(&'static str, &'static str),
    /// The agent looks from another node.
    Move(&'static str),
}

fn a_pod() -> impl Strategy<Value = Workload> {
    let place = (
        select(NAMESPACES.to_vec()),
        select(vec!["n1", "n1", "n2"]),
        0_u8..12,
        0_u8..12,
    );
    let text = select(vec![
        "",
        "app=x",
        "app=y",
        "app=z",
        "tier=f",
        "app=x tier=g",
    ]);
    let addresses = prop::collection::vec(select(ADDRESSES.to_vec()), 0..3);
    let ports = prop::collection::vec((select(vec!["http", "dns"]), 79_u16..82), 0..2);
    (place, text, addresses, ports).prop_map(
        |((namespace, node, finished, host), text, addresses, ports)| {
            let mut pod = pod(&format!("{namespace}/p")).on(node);
            pod.labels = labels(text).into();
            pod.finished = finished == 0;
            pod.host_network = host == 0;
            for (name, number) in ports {
                pod = pod.port(name, Protocol::TCP, number);
            }
            addresses.into_iter().fold(pod, Workload::at)
        },
    )
}

fn a_peer() -> impl Strategy<Value = Peer> {
    let scope = select(vec!["", "team=red", "team!=red", "!team"]);
    prop_oneof![
        (select(NAMESPACES.to_vec()), select(SELECTORS.to_vec()))
            .prop_map(|(namespace, pods)| pods_in(namespace, pods)),
        (scope, select(SELECTORS.to_vec())).prop_map(|(scope, pods)| pods_where(scope, pods)),
        select(BLOCKS.to_vec()).prop_map(block),
    ]
}

fn a_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        (79_u16..82).prop_map(tcp),
        (79_u16..82).prop_map(udp),
        Just(range(Protocol::TCP, 79, 81)),
        Just(all(Protocol::UDP)),
        select(vec!["http", "dns"]).prop_map(|name| named(Protocol::TCP, name)),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let peers = prop::option::weighted(0.8, prop::collection::vec(a_peer(), 0..4));
    let ports = prop::option::weighted(0.5, prop::collection::vec(a_port(), 0..3));
    let rule = (peers, ports, 0_u8..8).prop_map(|(peers, ports, action)| {
        let rule = peers.map_or_else(rule_any, rule_from);
        let rule = match ports {
            Some(ports) => rule.on(ports),
            None => rule,
        };
        match action {
            0 => rule.deny(),
            1 => rule.pass(),
            _ => rule,
        }
    });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..4))
}

fn a_policy() -> impl Strategy<Value = Policy> {
    let tier = select(vec!["default", "default", "admin", "absent"]);
    let subject = (select(NAMESPACES.to_vec()), select(SELECTORS.to_vec()));
    let order = 0_u8..3;
    (subject, any::<bool>(), tier, order, rules(), rules()).prop_map(
        |((namespace, pods), everywhere, tier, order, ingress, egress)| Policy {
            name: PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some(namespace.to_owned()),
                name: String::new(),
            },
            tier: tier.to_owned(),
            order: f64::from(order),
            subject: PodSelector {
                namespaces: if everywhere {
                    NamespaceScope::Selected(selector("team=red"))
                } else {
                    NamespaceScope::Named(namespace.to_owned())
                },
                pods: selector(pods),
            },
            ingress,
            egress,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let teams = select(vec!["", "team=red", "team=blue"]).prop_map(labels);
    let tier = (0_u8..3, any::<bool>()).prop_map(|(order, pass)| Tier {
        order: f64::from(order),
        at_end: if pass { AtEnd::Pass } else { AtEnd::Deny },
    });
    prop_oneof![
        12 => (0..PODS, prop::option::weighted(0.8, a_pod())).prop_map(|(number, pod)| Event::Pod(number, pod)),
        3 => (select(NAMESPACES.to_vec()), prop::option::weighted(0.8, teams))
            .prop_map(|(name, team)| Event::Namespace(name, team)),
        6 => (0..POLICIES, prop::option::weighted(0.7, a_policy())).prop_map(|(number, policy)| Event::Policy(number, policy)),
        1 => prop::option::of(tier).prop_map(|tier| Event::Tier("admin", tier)),
        1 => (select(vec!["n1", "n2"]), select(ADDRESSES.to_vec())).prop_map(|(name, address)| Event::Node(name, address)),
        1 => select(vec!["n1", "n1", "n2"]).prop_map(Event::Move),
    ]
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::Pod(number, pod) => {
            let uid = format!("u{number}");
            match pod {
                Some(pod) => drop(world.workloads.insert(uid.clone(), Arc::new(pod.uid(&uid)))),
                None => drop(world.workloads.remove(&uid)),
            }
        }
        Event::Namespace(name, Some(team)) => drop(world.namespaces.insert(name.to_owned(), team)),
        Event::Namespace(name, None) => drop(world.namespaces.remove(name)),
        Event::Policy(number, policy) => {
            let name = format!("p{number}");
            let gone = world.policies.keys().find(|of| of.name == name).cloned();
            gone.map(|of| world.policies.remove(&of));
            if let Some(mut policy) = policy {
                policy.name.name = name;
                let of = policy.name.clone();
                world.policies.insert(of, Arc::new(policy));
            }
        }
        Event::Tier(name, Some(tier)) => drop(world.tiers.insert(name.to_owned(), tier)),
        Event::Tier(name, None) => drop(world.tiers.remove(name)),
        Event::Node(name, address) => {
            let node = Node {
                labels: Labels::new(),
                addresses: vec![address.parse().unwrap()],
            };
            world.nodes.insert(name.to_owned(), node);
        }
        Event::Move(node) => node.clone_into(&mut world.node),
    }
}

/// What a compiler keeps, in numbers that do not depend on how it came there.
fn kept(compiler: &Compiler) -> [usize; 9] {
    let [selectors, cidrs, lists, versions] = compiler.asked.sizes();
    let [members, owners] = compiler.identities.sizes();
    [
        selectors,
        cidrs,
        lists,
        versions,
        members,
        owners,
        compiler.identities.classes.len(),
        compiler.memory.len(),
        compiler.local.len(),
    ]
}

/// Half as many cases as usual: each has many worlds.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases / 2,
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_compiler_that_remembers_gives_the_tables_of_one_that_does_not(
        rounds in prop::collection::vec(prop::collection::vec(event(), 1..8), 1..14),
    ) {
        let mut world = World { node: "n1".to_owned(), ..World::default() };
        let mut compiler = Compiler::default();
        for events in rounds {
            for event in events {
                happen(&mut world, event);
            }
            let tables = compiler.compile(&world);
            prop_assert_eq!(&*tables, &compile(&world));
            let mut other = Compiler::default();
            other.compile(&world);
            prop_assert_eq!(kept(&compiler), kept(&other));
        }
    }

    #[test]
    fn the_way_to_a_world_makes_no_difference(
        events in prop::collection::vec(event(), 1..60),
        cuts in prop::collection::vec(any::<bool>(), 60),
        order in Just((0..60_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        // The last word on each object, in any order, in any steps.
        let mut last: Vec<Event> = Vec::new();
        for event in events {
            last.retain(|before| subject(before) != subject(&event));
            last.push(event);
        }
        let start = || World { node: "n1".to_owned(), ..World::default() };
        let mut straight = start();
        for event in last.clone() {
            happen(&mut straight, event);
        }
        let (mut world, mut compiler) = (start(), Compiler::default());
        for number in order {
            if let Some(event) = last.get(number) {
                happen(&mut world, event.clone());
                if cuts[number] {
                    compiler.compile(&world);
                }
            }
        }
        prop_assert_eq!(&*compiler.compile(&world), &compile(&straight));
    }
}

fn subject(event: &Event) -> String {
    match event {
        Event::Pod(number, _) => format!("pod {number}"),
        Event::Namespace(name, _) => format!("namespace {name}"),
        Event::Policy(number, _) => format!("policy {number}"),
        Event::Tier(name, _) => format!("tier {name}"),
        Event::Node(name, _) => format!("node {name}"),
        Event::Move(_) => "agent".to_owned(),
    }
}

#[test]
fn numbers_that_run_out_are_given_out_anew() {
    let world = |app: &str| {
        crate::fixture::Fixture::on("n1")
            .pod(pod("a/web").on("n1").at("10.0.0.1"))
            .pod(pod("a/x").at("10.0.0.2").label("app", "x"))
            .policy("a/p", "", |p| p.ingress([rule_from([pods_in("a", app)])]))
            .world()
    };
    let mut compiler = Compiler::default();
    compiler.compile(&world("app=x"));
    compiler.asked.wear();
    let next = world("app=y");
    assert_eq!(*compiler.compile(&next), compile(&next));
    assert!(!compiler.asked.is_worn());
}

#[test]
fn what_nothing_depends_on_is_not_made_again() {
    let pod = |name: &str, labels: &str| {
        let mut pod = pod(name).on("n1");
        pod.labels = self::labels(labels).into();
        pod
    };
    let mut world = crate::fixture::Fixture::on("n1")
        .pod(pod("a/web", "app=web").at("10.0.0.1"))
        .pod(pod("a/db", "app=db").at("10.0.0.2"))
        .pod(pod("b/x", "app=x").on("n2").at("10.0.0.3"))
        .policy("a/web", "app=web", |p| {
            p.ingress([rule_from([pods_in("b", "app=x")]).on([tcp(80)])])
        })
        .policy("a/db", "app=db", |p| {
            p.ingress([rule_from([pods_in("b", "app=y")])])
        })
        .policy("b/elsewhere", "", |p| p.ingress([]))
        .world();
    let mut compiler = Compiler::default();
    let first = compiler.compile(&world);
    let same = |before: &crate::tables::Tables, after: &crate::tables::Tables| {
        let pairs = std::iter::zip(&before.policies, &after.policies);
        pairs.map(|(a, b)| Arc::ptr_eq(a, b)).collect::<Vec<_>>()
    };
    // A policy of another node, a node, a pod that nobody asks for: the same records.
    world.policies.remove(&PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("b".to_owned()),
        name: "elsewhere".to_owned(),
    });
    world.nodes.insert("n9".to_owned(), Node::default());
    let unasked = Arc::new(pod("b/z", "app=z").on("n2").at("10.0.0.9"));
    world.workloads.insert("b/z".to_owned(), unasked);
    let second = compiler.compile(&world);
    assert_eq!(same(&first, &second), [true, true]);
    assert!(Arc::ptr_eq(&first.addresses, &second.addresses));
    // A pod that one policy asks for: that policy's record alone is another one.
    let asked = Arc::new(pod("b/y", "app=y").on("n2").at("10.0.0.4"));
    world.workloads.insert("b/y".to_owned(), asked);
    let third = compiler.compile(&world);
    assert_eq!(
        std::iter::zip(&second.policies, &third.policies)
            .filter(|(a, b)| !Arc::ptr_eq(a, b))
            .count(),
        1
    );
}
