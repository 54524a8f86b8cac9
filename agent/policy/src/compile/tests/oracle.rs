//! Random worlds: the tables say what a plain reading of the rules says, and say the same whatever the order of the objects.
//!
//! The reader here goes rule by rule for one packet and shares nothing with the compiler but the model and the selectors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use crate::compile;
use crate::fixture::random::{ADDRESSES, a_world, build};
use crate::model::{
    AtEnd, Peer, Peers, Policy, PortMatch, Ports, Protocol, Rule, RuleAction, Workload, World,
};
use crate::tables::{Direction, RuleRef, Tables};

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
                let policy = policy.name.clone().into();
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
