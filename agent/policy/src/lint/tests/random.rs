//! Random worlds: what is said to make no difference makes none, all of it at once.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::compile;
use crate::fixture::random::{ADDRESSES, a_world, build};
use crate::model::RuleAction;

/// The world without what these checks found; how much that was.
fn without(world: &World, checks: &[Check]) -> (World, usize) {
    let mut reduced = world.clone();
    let mut count = 0;
    // The last ones first, so that the indices of the others stay.
    for finding in lint(world).iter().rev() {
        if !checks.contains(&finding.check) {
            continue;
        }
        count += 1;
        let mut policy = Arc::clone(&reduced.policies[&finding.policy]);
        remove(Arc::make_mut(&mut policy), &finding.field);
        reduced.policies.insert(finding.policy.clone(), policy);
    }
    (reduced, count)
}

/// Takes out what stands at `spec.ingress[1]`, `spec.ingress[1].from[2]` or `spec.ingress[1].ports[0]`.
fn remove(policy: &mut Policy, field: &str) {
    let parts: Vec<&str> = field
        .split(['[', ']', '.'])
        .filter(|part| !part.is_empty())
        .collect();
    let rules = match parts[1] {
        "ingress" => policy.ingress.as_mut(),
        _ => policy.egress.as_mut(),
    };
    let (rules, index): (_, usize) = (rules.unwrap(), parts[2].parse().unwrap());
    match parts.get(3..) {
        Some([]) => drop(rules.remove(index)),
        Some(["ports", entry]) => match &mut rules[index].ports {
            Ports::OneOf(ports) => drop(ports.remove(entry.parse().unwrap())),
            Ports::Any => panic!("{field}"),
        },
        Some([_, entry, ..]) => match &mut rules[index].peers {
            Peers::OneOf(peers) => drop(peers.remove(entry.parse().unwrap())),
            Peers::Any => panic!("{field}"),
        },
        _ => panic!("{field}"),
    }
}

/// Whether each packet of a set passes each endpoint, in each direction.
fn verdicts(world: &World) -> Vec<bool> {
    let tables = compile(world);
    let ports = [0, 1, 79, 80, 81, 82, 83, 65535];
    let packets = [
        Protocol::TCP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol(255),
    ]
    .into_iter()
    .flat_map(|protocol| ports.map(|port| (protocol, port)));
    let mut verdicts = Vec::new();
    for policies in tables.endpoints.values() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for address in ADDRESSES {
                let address: IpAddr = address.parse().unwrap();
                let policy = policies.policy(direction, address);
                let policy = policy.map(|policy| tables.policy(policy).unwrap());
                let class = tables.class_of(address);
                verdicts.extend(packets.clone().map(|(protocol, port)| {
                    policy.is_none_or(|policy| policy.decide(class, protocol.0, port).allow)
                }));
            }
        }
    }
    verdicts
}

/// Takes out what `checks` find in many worlds; fails if a verdict changes anywhere, or if hardly anything was found.
fn make_no_difference(checks: &[Check], allow_only: bool, least: usize) {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(600)
    };
    let removed = Cell::new(0);
    let outcome = TestRunner::new(config).run(&a_world(), |(pods, mut drafts)| {
        for (_, subject, tier, _, rules) in &mut drafts {
            if allow_only {
                *tier = "default";
                for rule in rules.iter_mut().flatten().flatten() {
                    rule.action = RuleAction::Allow;
                }
            }
            // Policies of one subject meet more often.
            if subject.len() > 6 {
                *subject = "";
            }
        }
        let world = build(&pods, &drafts, 0);
        let (reduced, count) = without(&world, checks);
        removed.set(removed.get() + count);
        prop_assert_eq!(verdicts(&reduced), verdicts(&world), "{:?}", lint(&world));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(removed.get() >= least, "only {} were found", removed.get());
}

#[test]
fn rules_that_decide_nothing_can_go_together() {
    let checks = [Check::UnreachableRule, Check::RepeatedRule];
    make_no_difference(&checks, true, 200);
}

#[test]
fn rules_that_decide_nothing_can_go_together_where_rules_deny_and_pass_too() {
    let checks = [Check::UnreachableRule, Check::RepeatedRule];
    make_no_difference(&checks, false, 100);
}

#[test]
fn redundant_and_impossible_peers_and_ports_can_go_together() {
    let checks = [
        Check::RedundantPeer,
        Check::RedundantPort,
        Check::EmptyBlock,
        Check::ContradictorySelector,
    ];
    make_no_difference(&checks, false, 100);
}
