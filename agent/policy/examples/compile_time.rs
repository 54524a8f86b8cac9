//! How long one compilation takes: 110 endpoints under 110 policies of 20 rules, 1,000 kinds of pods, 100,000 pods, 1,000 CIDRs, and 10,000
//! policies that govern somebody else.
//!
//! `cargo run --release -p portcullis-policy --example compile_time`
#![expect(
    clippy::disallowed_types,
    reason = "a measurement needs a clock; the compiler has none"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use portcullis_policy::compile;
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, Peer, Peers, PodSelector, Policy, PolicyKind, PolicyRef,
    Port, PortMatch, Ports, Protocol, Requirement, Rule, RuleAction, Workload, World,
};

const PODS: u32 = 100_000;
const LOCAL: u32 = 110;
const APPS: u32 = 1_000;
const RULES: u32 = 20;
const OTHERS: u32 = 10_000;

fn main() {
    let world = world();
    for round in 0..5 {
        let start = Instant::now();
        let tables = compile(&world);
        let rows: usize = tables.policies.iter().map(|policy| policy.rows.len()).sum();
        println!(
            "round {round}: {} ms, {} classes, {} addresses, {} prefixes, {} policies, {rows} rows",
            start.elapsed().as_millis(),
            tables.classes,
            tables.addresses.len(),
            tables.prefixes.len(),
            tables.policies.len(),
        );
    }
}

fn world() -> World {
    let mut world = World {
        node: "n0".to_owned(),
        ..World::default()
    };
    for namespace in 0..50 {
        let name = format!("ns{namespace}");
        let labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.clone())]);
        world.namespaces.insert(name, labels);
    }
    for number in 0..PODS {
        let pod = workload(number);
        world.workloads.insert(pod.uid.clone(), Arc::new(pod));
    }
    for number in 0..LOCAL {
        add(&mut world, policy(number, "n0-subject", number));
    }
    for number in 0..OTHERS {
        add(&mut world, policy(LOCAL + number, "app", number % APPS));
    }
    world
}

fn add(world: &mut World, policy: Policy) {
    world.policies.insert(policy.name.clone(), Arc::new(policy));
}

fn workload(number: u32) -> Workload {
    let mut labels: Labels = (0..6)
        .map(|label| (format!("unasked{label}"), "x".to_owned()))
        .collect();
    labels.insert("app".to_owned(), format!("app{}", number % APPS));
    labels.insert("pod-name".to_owned(), format!("pod{number}"));
    if number < LOCAL {
        labels.insert("n0-subject".to_owned(), format!("app{number}"));
    }
    Workload {
        uid: format!("{number:08}"),
        namespace: format!("ns{}", number % 50),
        name: format!("pod{number}"),
        labels: labels.into(),
        service_account: "default".into(),
        node: Some(format!("n{}", number / LOCAL).into()),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))],
        host_network: false,
        finished: false,
        ports: Arc::default(),
    }
}

fn policy(number: u32, key: &str, app: u32) -> Policy {
    let rules = |salt: u32| {
        Some(
            (0..RULES)
                .map(|rule| self::rule(number, rule + salt))
                .collect(),
        )
    };
    Policy {
        name: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(format!("ns{}", app % 50)),
            name: format!("policy{number}"),
        },
        tier: "default".to_owned(),
        order: 1000.0,
        subject: PodSelector {
            namespaces: NamespaceScope::Named(format!("ns{}", app % 50)),
            pods: is(key, app),
        },
        ingress: rules(0),
        egress: rules(7),
    }
}

fn rule(policy: u32, rule: u32) -> Rule {
    let salt = policy * 31 + rule * 7;
    let pods = (0..5).map(|peer| {
        let namespaces = NamespaceScope::Selected(LabelSelector::default());
        Peer::Pods(PodSelector {
            namespaces,
            pods: is("app", (salt * 5 + peer * 11) % APPS),
        })
    });
    let net = Ipv4Addr::from(0xac10_0000 + ((salt % 1000) << 8));
    let block = Peer::Cidr {
        cidr: ipnet::Ipv4Net::new_assert(net, 24).into(),
        except: Vec::new(),
    };
    let port = (8000 + salt % 50) as u16;
    Rule {
        action: RuleAction::Allow,
        peers: Peers::OneOf(pods.chain([block]).collect()),
        ports: Ports::OneOf(vec![Port {
            protocol: Protocol::TCP,
            port: PortMatch::Range(port, port + 2),
        }]),
    }
}

fn is(key: &str, app: u32) -> LabelSelector {
    LabelSelector(vec![Requirement::In(
        key.to_owned(),
        vec![format!("app{app}")],
    )])
}
