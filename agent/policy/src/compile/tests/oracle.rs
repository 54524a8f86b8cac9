//! Random worlds: the tables say what a plain reading of the rules says, and say the same whatever the order of the objects.
//!
//! The reader here goes rule by rule for one packet and shares nothing with the compiler but the model and the selectors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use crate::compile;
use crate::fixture::{
    Fixture, all, block, labels, named, pod, pods_in, pods_where, range, rule_any, rule_from, tcp,
    udp,
};
use crate::model::{
    AtEnd, Peer, Peers, Policy, Port, PortMatch, Ports, Protocol, Rule, RuleAction, Workload, World,
};
use crate::tables::{Direction, RuleRef, Tables};

const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "10.0.1.2",
    "10.1.0.1",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd00:1::1",
];
const SELECTORS: [&str; 8] = [
    "",
    "app=x",
    "app!=x",
    "app",
    "!app",
    "app=x,y tier",
    "tier!=f",
    "app=y tier=f",
];
const BLOCKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/8!10.0.1.0/24",
    "10.0.0.0/16!10.0.0.1/32!10.0.1.0/24",
    "10.0.1.0/24",
    "10.0.0.1/32",
    "::/0!fd00::/16",
    "fd00::/16!fd00::2/128",
];

fn a_pod() -> impl Strategy<Value = Workload> {
    let ports = prop::collection::vec(
        (select(vec!["http", "dns"]), any::<bool>(), 79_u16..83),
        0..3,
    );
    let text = select(vec![
        "",
        "app=x",
        "app=y",
        "app=z tier=f",
        "tier=f",
        "app=x tier=g",
    ]);
    let addresses = prop::collection::vec(select(ADDRESSES.to_vec()), 0..3);
    let state = (
        select(vec!["a", "b", "c"]),
        0_u8..10,
        0_u8..10,
        any::<bool>(),
    );
    (state, text, addresses, ports).prop_map(
        |((namespace, finished, host, local), text, addresses, ports)| {
            let mut pod = pod(&format!("{namespace}/")).on(if local { "n1" } else { "n2" });
            pod.labels = labels(text).into();
            pod.finished = finished == 0;
            pod.host_network = host == 0;
            for (name, tcp, number) in ports {
                let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
                pod = pod.port(name, protocol, number);
            }
            addresses.into_iter().fold(pod, Workload::at)
        },
    )
}

fn a_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (select(vec!["a", "b", "c"]), select(SELECTORS.to_vec())).prop_map(|(n, p)| pods_in(n, p)),
        (
            select(vec!["", "team=red", "team!=red", "!team"]),
            select(SELECTORS.to_vec())
        )
            .prop_map(|(n, p)| pods_where(n, p)),
        select(BLOCKS.to_vec()).prop_map(block),
    ]
}

fn a_port() -> impl Strategy<Value = Port> {
    prop_oneof![
        (79_u16..83).prop_map(tcp),
        (79_u16..83).prop_map(udp),
        (79_u16..82).prop_map(|first| range(Protocol::TCP, first, first + 1)),
        Just(all(Protocol::TCP)),
        Just(all(Protocol::SCTP)),
        (select(vec!["http", "dns"]), any::<bool>()).prop_map(|(name, tcp)| {
            named(if tcp { Protocol::TCP } else { Protocol::UDP }, name)
        }),
    ]
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let peers = prop::option::weighted(0.8, prop::collection::vec(a_peer(), 0..3));
    let ports = prop::option::weighted(0.6, prop::collection::vec(a_port(), 0..3));
    (peers, ports, 0_u8..8).prop_map(|(peers, ports, action)| {
        let rule = peers.map_or_else(rule_any, rule_from);
        let rule = match ports {
            Some(ports) => rule.on(ports),
            None => rule,
        };
        match action {
            0 | 1 => rule.deny(),
            2 | 3 => rule.pass(),
            _ => rule,
        }
    })
}

type Draft = (
    &'static str,
    &'static str,
    &'static str,
    i8,
    [Option<Vec<Rule>>; 2],
);

fn a_policy() -> impl Strategy<Value = Draft> {
    let rules = || prop::option::weighted(0.7, prop::collection::vec(a_rule(), 0..4));
    (
        select(vec!["a", "b"]),
        select(SELECTORS.to_vec()),
        select(vec![
            "default", "default", "default", "admin", "strict", "absent",
        ]),
        0_i8..3,
        [rules(), rules()],
    )
}

fn a_world() -> impl Strategy<Value = (Vec<Workload>, Vec<Draft>)> {
    (
        prop::collection::vec(a_pod(), 1..10),
        prop::collection::vec(a_policy(), 0..8),
    )
}

/// Builds the world; pods are named by their place in `pods` before `turn` objects moved to the end.
fn build(pods: &[Workload], policies: &[Draft], turn: usize) -> World {
    let mut fixture = Fixture::on("n1")
        .namespace("a", "")
        .namespace("b", "team=red")
        .namespace("c", "team=blue")
        .tier("admin", 10.0, AtEnd::Pass)
        .tier("strict", 20.0, AtEnd::Deny);
    let turned = |length: usize| (0..length).map(move |at| (at + turn) % length).enumerate();
    for (uid, at) in turned(pods.len()) {
        let mut pod = pods[at].clone();
        pod.name = format!("p{at}");
        fixture = fixture.pod(pod.uid(&format!("{uid:03}")));
    }
    for (_, at) in turned(policies.len()) {
        let (namespace, subject, tier, order, [ingress, egress]) = policies[at].clone();
        fixture = fixture.policy(&format!("{namespace}/p{at}"), subject, |policy| Policy {
            ingress,
            egress,
            ..policy.tier(tier).order(f64::from(order))
        });
    }
    fixture.world()
}

/// The decision of `pod`, rule by rule; `None` = not isolated.
fn read(
    world: &World,
    pod: &Workload,
    direction: Direction,
    address: IpAddr,
    packet: (Protocol, u16),
) -> Option<(bool, Option<RuleRef>)> {
    let mut governing: Vec<(&Policy, &Vec<Rule>)> = Vec::new();
    for policy in world.policies.values() {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        if let (Some(rules), true) = (rules, policy.subject.selects(pod, &world.namespaces)) {
            governing.push((policy, rules));
        }
    }
    if governing.is_empty() {
        return None;
    }
    for (tier, at_end) in [
        ("admin", AtEnd::Pass),
        ("strict", AtEnd::Deny),
        ("default", AtEnd::Deny),
        ("absent", AtEnd::Deny),
    ] {
        let mut standing: Vec<_> = governing.iter().filter(|(p, _)| p.tier == tier).collect();
        standing.sort_by_key(|(policy, _)| (policy.order as i64, policy.name.clone()));
        let matching = standing.iter().flat_map(|(policy, rules)| {
            let matching = rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| holds(world, pod, direction, rule, address, packet));
            matching.map(|(index, rule)| (*policy, index, rule.action))
        });
        match matching.into_iter().next() {
            Some((_, _, RuleAction::Pass)) => {}
            Some((policy, index, action)) => {
                let policy = policy.name.clone();
                let rule = RuleRef {
                    policy,
                    index: index as u32,
                    direction,
                };
                return Some((action == RuleAction::Allow, Some(rule)));
            }
            None if !standing.is_empty() && at_end == AtEnd::Deny => return Some((false, None)),
            None => {}
        }
    }
    Some((true, None))
}

fn holds(
    world: &World,
    pod: &Workload,
    direction: Direction,
    rule: &Rule,
    address: IpAddr,
    (protocol, number): (Protocol, u16),
) -> bool {
    let live = |pod: &&Workload| !pod.finished && !pod.host_network;
    let there: Vec<&Workload> = world
        .workloads
        .values()
        .map(AsRef::as_ref)
        .filter(live)
        .filter(|pod| pod.addresses.contains(&address))
        .collect();
    let peer = match &rule.peers {
        Peers::Any => true,
        Peers::OneOf(peers) => peers.iter().any(|peer| match peer {
            Peer::Pods(selector) => there
                .iter()
                .any(|pod| selector.selects(pod, &world.namespaces)),
            Peer::Cidr { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
            }
        }),
    };
    let destinations = if direction == Direction::Ingress {
        vec![pod]
    } else {
        there
    };
    let declared = |wanted: &str| {
        destinations
            .iter()
            .flat_map(|pod| pod.ports.iter())
            .any(|port| port.name == wanted && port.protocol == protocol && port.number == number)
    };
    let port = match &rule.ports {
        Ports::Any => true,
        Ports::OneOf(ports) => ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .any(|port| match &port.port {
                PortMatch::All => true,
                PortMatch::Range(first, last) => (*first..=*last).contains(&number),
                PortMatch::Named(name) => declared(name),
            }),
    };
    peer && port
}

type ByName = BTreeMap<String, [[Option<u32>; 2]; 2]>;

/// The tables with endpoints by name instead of uid.
fn by_name(world: &World, tables: Tables) -> (Tables, ByName) {
    let named = tables.endpoints.iter().map(|(uid, policies)| {
        let pod = &world.workloads[uid];
        (
            format!("{}/{}", pod.namespace, pod.name),
            [policies.ingress, policies.egress],
        )
    });
    let named = named.collect();
    (
        Tables {
            endpoints: BTreeMap::new(),
            ..tables
        },
        named,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn tables_say_what_the_rules_say((pods, policies) in a_world()) {
        let world = build(&pods, &policies, 0);
        let tables = compile(&world);
        let packets = [79, 80, 81, 82, 83]
            .into_iter()
            .flat_map(|port| [(Protocol::TCP, port), (Protocol::UDP, port)])
            .chain([(Protocol::SCTP, 80), (Protocol::ICMP, 0x800), (Protocol(255), 0xffff)]);
        for (uid, policies) in &tables.endpoints {
            let pod = &world.workloads[uid];
            for direction in [Direction::Ingress, Direction::Egress] {
                for address in ADDRESSES {
                    let address: IpAddr = address.parse().unwrap();
                    let policy = policies.policy(direction, address).map(|policy| tables.policy(policy).unwrap());
                    for (protocol, port) in packets.clone() {
                        let expected = read(&world, pod, direction, address, (protocol, port));
                        let decision = policy.map(|policy| {
                            let decision = policy.decide(tables.class_of(address), protocol.0, port);
                            (decision.allow, decision.rule.clone())
                        });
                        prop_assert_eq!(decision, expected, "{} {:?} {} {:?} {}", pod.name, direction, address, protocol, port);
                    }
                }
            }
        }
    }

    #[test]
    fn the_order_of_objects_makes_no_difference((pods, policies) in a_world(), turn in 0_usize..9) {
        let (one, other) = (build(&pods, &policies, 0), build(&pods, &policies, turn));
        prop_assert_eq!(by_name(&one, compile(&one)), by_name(&other, compile(&other)));
    }
}
