//! Near misses: what is said to have missed is what missed, and is said in a line that a person can act on.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fixture::random::{ADDRESSES, Draft, a_world, build};
use crate::fixture::{all, named, pods_where, range};
use crate::model::{Peers, Port, Ports, Rule, RuleAction};

const PORT: u16 = 5432;

/// A client in `ops` and in `shop`, and a server whose port `sql` is 5432 over TCP and whose port `log` is 514 over UDP.
fn place() -> Fixture {
    Fixture::on("n1")
        .node("n1", &["192.168.0.1"])
        .node("n2", &["192.168.0.2"])
        .namespace("ops", "team=red")
        .pod(pod("shop/web").at("10.0.0.1").label("app", "web"))
        .pod(pod("ops/job").at("10.0.0.2").label("app", "job"))
        .pod(
            pod("shop/db")
                .on("n1")
                .at("10.0.0.3")
                .label("app", "db")
                .port("sql", Protocol::TCP, PORT)
                .port("log", Protocol::UDP, 514),
        )
}

fn ports(ports: impl IntoIterator<Item = Port>) -> Rule {
    rule_any().on(ports)
}

/// The only step of a policy for `shop/db` with this rule.
fn step(rule: Rule, source: &str, packet: (Protocol, u16)) -> Step {
    let world = place()
        .policy("shop/p", "app=db", |p| p.ingress([rule]))
        .world();
    let protocol = packet.0;
    let text = format!(
        r#"{{"id":"p","src":"{source}","dst":"shop/db","protocol":"{protocol}","dstPort":{}}}"#,
        packet.1
    );
    let probe: Probe = serde_json::from_str(&text).unwrap();
    let probe = probe.resolve(&world).unwrap();
    let answer = Explainer::new(&world, Options::default()).explain_in_steps(&probe);
    answer.ingress.steps.into_iter().next().unwrap()
}

#[test]
fn a_near_miss_says_in_one_line_what_missed_and_what_is_there_instead() {
    let (web, query) = ((Protocol::TCP, 80), (Protocol::UDP, PORT));
    let peers = |peer| rule_from([peer]);
    let holed = block("10.0.0.0/8!10.0.0.2/32");
    let cases = [
        // the port
        (
            ports([tcp(81)]),
            "ops/job",
            web,
            Missed::Port,
            "port, 80/tcp",
        ),
        (
            ports([range(Protocol::TCP, 8000, 9000), all(Protocol::SCTP)]),
            "ops/job",
            web,
            Missed::Port,
            "port, 80/tcp",
        ),
        (
            ports([udp(53)]),
            "ops/job",
            web,
            Missed::Port,
            "port, 80/tcp",
        ),
        (
            ports([tcp(81), named(Protocol::TCP, "sql")]),
            "ops/job",
            web,
            Missed::Port,
            "port, 80/tcp; sql is 5432 on shop/db",
        ),
        // a name
        (
            ports([named(Protocol::TCP, "sql")]),
            "ops/job",
            web,
            Missed::NamedPort,
            "named port: it is 80/tcp, and sql is 5432 on shop/db",
        ),
        (
            ports([named(Protocol::TCP, "http")]),
            "ops/job",
            web,
            Missed::NamedPort,
            "named port: it is 80/tcp, and shop/db has no tcp port named http",
        ),
        (
            ports([named(Protocol::TCP, "log")]),
            "ops/job",
            web,
            Missed::NamedPort,
            "named port: it is 80/tcp, and log is udp and not tcp on shop/db",
        ),
        // the protocol
        (
            ports([tcp(PORT)]),
            "ops/job",
            query,
            Missed::Protocol,
            "protocol, udp",
        ),
        (
            ports([named(Protocol::TCP, "sql")]),
            "ops/job",
            query,
            Missed::Protocol,
            "protocol, udp",
        ),
        (
            ports([all(Protocol::TCP)]),
            "ops/job",
            (Protocol::ICMP, 0),
            Missed::Protocol,
            "protocol: a rule with ports does not match icmp",
        ),
        // the peer
        (
            peers(pods_in("shop", "app=web")),
            "ops/job",
            web,
            Missed::Peer,
            "peer: ops/job is in ops, and has app=job",
        ),
        (
            peers(pods_in("shop", "app=api tier")),
            "shop/web",
            web,
            Missed::Peer,
            "peer: shop/web has app=web and no label tier",
        ),
        (
            peers(pods_where("team=blue !gone env", "")),
            "ops/job",
            web,
            Missed::Peer,
            "peer: ops/job is in ops, which has team=red and no label env",
        ),
        (
            peers(pods_where("", "")),
            "ip:203.0.113.9",
            web,
            Missed::Peer,
            "peer: 203.0.113.9 is no pod",
        ),
        (
            peers(pods_where("", "")),
            "node:n2",
            web,
            Missed::Peer,
            "peer: node:n2 is no pod",
        ),
        (
            peers(holed.clone()),
            "ops/job",
            web,
            Missed::Peer,
            "peer: ops/job has 10.0.0.2, which is in except 10.0.0.2/32",
        ),
        (
            peers(holed),
            "ip:203.0.113.9",
            web,
            Missed::Peer,
            "peer: 203.0.113.9 is not in 10.0.0.0/8",
        ),
        (
            rule_from([pods_in("shop", ""), block("203.0.113.0/24")]),
            "ops/job",
            web,
            Missed::Peer,
            "peer: ops/job (app=job; namespace kubernetes.io/metadata.name=ops team=red) is none of them",
        ),
    ];
    for (rule, source, packet, missed, words) in cases {
        let step = step(rule.clone(), source, packet);
        assert_eq!(step.missed, [missed], "{rule:?}");
        assert!(step.is_near_miss(), "{rule:?}");
        assert_eq!(step.why_not, format!("would match but for the {words}"));
    }
}

#[test]
fn a_rule_that_misses_twice_or_cannot_be_read_is_no_near_miss() {
    let twice = step(
        rule_from([pods_in("shop", "")]).on([udp(1)]),
        "ops/job",
        (Protocol::TCP, 80),
    );
    assert_eq!(twice.missed, [Missed::Peer, Missed::Port]);
    assert!(!twice.is_near_miss());
    let unread = step(rule_from([]).on([]), "ops/job", (Protocol::TCP, 80));
    assert_eq!(unread.missed, [Missed::Unread]);
    assert!(!unread.is_near_miss());
    assert_eq!(unread.why_not, "cannot be read, so it matches nothing");
}

#[test]
fn a_default_deny_names_every_policy_that_isolates_also_those_without_rules() {
    let world = place()
        .policy("shop/a", "app=db", |p| {
            p.ingress([rule_from([pods_in("shop", "")])])
        })
        .policy("shop/b", "", |p| p.ingress([]).egress([]))
        .policy("shop/egress-only", "", |p| p.egress([]))
        .policy("shop/elsewhere", "app=web", |p| p.ingress([]))
        .world();
    let probe: Probe = serde_json::from_str(&tcp_to("ops/job", "shop/db", PORT)).unwrap();
    let probe = probe.resolve(&world).unwrap();
    let answer = Explainer::new(&world, Options::default()).explain_in_steps(&probe);
    let isolating = ["NetworkPolicy shop/a", "NetworkPolicy shop/b"];
    assert_eq!(answer.ingress.isolated_by, isolating);
    let line = "ingress  shop/db  isolated by NetworkPolicy shop/a, NetworkPolicy shop/b";
    assert!(answer.to_string().contains(line), "{answer}");
}

/// The drafts with allow rules in one tier only, as NetworkPolicy has them.
fn allowing(mut drafts: Vec<Draft>) -> Vec<Draft> {
    for (_, _, tier, _, rules) in &mut drafts {
        *tier = "default";
        for rule in rules.iter_mut().flatten().flatten() {
            rule.action = RuleAction::Allow;
        }
    }
    drafts
}

/// What decides, by the tables.
fn decision(world: &World, probe: &ResolvedProbe, direction: Direction) -> Option<(String, u32)> {
    let answer = Explainer::new(world, Options::default()).explain(probe);
    let side = match direction {
        Direction::Ingress => answer.ingress,
        Direction::Egress => answer.egress,
    };
    side.policy.zip(side.rule)
}

fn relaxed(world: &World, step: &Step, direction: Direction, relax: impl Fn(&mut Rule)) -> World {
    let mut relaxed = world.clone();
    for (name, policy) in &world.policies {
        if name.to_string() == step.policy {
            let mut policy = (**policy).clone();
            let rules = match direction {
                Direction::Ingress => policy.ingress.as_mut(),
                Direction::Egress => policy.egress.as_mut(),
            };
            relax(&mut rules.unwrap()[step.rule as usize]);
            relaxed.policies.insert(name.clone(), Arc::new(policy));
        }
    }
    relaxed
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn without_the_one_thing_that_missed_the_rule_decides(
        (pods, drafts) in a_world(),
        ends in (0..ADDRESSES.len(), 0..ADDRESSES.len()),
        packet in (prop::sample::select(vec!["TCP", "UDP", "SCTP", "ICMP"]), 79_u16..83),
    ) {
        let world = build(&pods, &allowing(drafts), 0);
        let text = format!(
            r#"{{"id":"p","src":"ip:{}","dst":"ip:{}","protocol":"{}","dstPort":{}}}"#,
            ADDRESSES[ends.0], ADDRESSES[ends.1], packet.0, packet.1
        );
        let probe: Probe = serde_json::from_str(&text).unwrap();
        let Ok(probe) = probe.resolve(&world) else {
            // One end is of another family.
            return Ok(());
        };
        let answer = Explainer::new(&world, Options::default()).explain_in_steps(&probe);
        for (side, direction) in [(&answer.egress, Direction::Egress), (&answer.ingress, Direction::Ingress)] {
            for step in &side.steps {
                let this = Some((step.policy.clone(), step.rule));
                let peers = relaxed(&world, step, direction, |rule| rule.peers = Peers::Any);
                let ports = relaxed(&world, step, direction, |rule| rule.ports = Ports::Any);
                let decides = [&peers, &ports].map(|world| decision(world, &probe, direction) == this);
                let expected = match &step.missed[..] {
                    [] => [true, true],
                    [Missed::Peer] => [true, false],
                    [Missed::Port | Missed::NamedPort | Missed::Protocol] => [false, true],
                    _ => [false, false],
                };
                prop_assert_eq!(decides, expected, "{:?}", step);
            }
        }
    }
}
