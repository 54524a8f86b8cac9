use super::*;
use crate::fixture::{
    Fixture, all, block, decision, named, pod, pods_in, pods_where, range, rule_any, rule_from,
    tcp, udp, verdict,
};
use crate::model::Policy;
use crate::tables::{Cell, Decision, EndpointPolicies, PortRange, RuleRef};

mod classes;
mod memory;
mod oracle;
mod tiers;

const INGRESS: Direction = Direction::Ingress;
const EGRESS: Direction = Direction::Egress;
const WEB: &str = "10.0.0.1";
const DB: &str = "10.0.0.2";
const B_WEB: &str = "10.0.0.3";
const OUTSIDE: &str = "203.0.113.9";

/// The world of policy-spec 9, all on one node.
fn shop() -> Fixture {
    Fixture::on("n1")
        .namespace("b", "team=red")
        .pod(
            pod("a/web")
                .on("n1")
                .at(WEB)
                .label("app", "web")
                .port("http", Protocol::TCP, 8080),
        )
        .pod(
            pod("a/db")
                .on("n1")
                .at(DB)
                .label("app", "db")
                .port("http", Protocol::TCP, 5432),
        )
        .pod(pod("b/web").on("n1").at(B_WEB).label("app", "web"))
}

/// One policy in namespace `a` that selects everybody there.
fn with(fill: impl FnOnce(Policy) -> Policy) -> Tables {
    compile(&shop().policy("a/p", "", fill).world())
}

/// Whether egress side and ingress side let a connection through.
fn passes(
    tables: &Tables,
    src: (&str, &str),
    dst: (&str, &str),
    port: (Protocol, u16),
) -> [bool; 2] {
    let side = |direction, uid: &str, address| {
        !tables.endpoints.contains_key(uid) || verdict(tables, direction, uid, address, port).0
    };
    [side(EGRESS, src.0, dst.1), side(INGRESS, dst.0, src.1)]
}

#[test]
fn worked_examples_of_network_policy() {
    let web = ("a/web", WEB);
    let db = ("a/db", DB);
    let b_web = ("b/web", B_WEB);
    let outside = ("", OUTSIDE);
    let tcp80 = (Protocol::TCP, 80);
    let http = || [named(Protocol::TCP, "http")];

    let isolate = with(|p| p.ingress([]));
    assert_eq!(
        passes(&isolate, b_web, web, tcp80),
        [true, false],
        "N1, N2, N4"
    );
    assert_eq!(passes(&isolate, web, outside, tcp80), [true, true], "N2");
    let no_egress = with(|p| p.egress([]));
    assert_eq!(passes(&no_egress, web, db, tcp80), [false, true], "N4");
    assert_eq!(passes(&no_egress, b_web, db, tcp80), [true, true], "N2");
    let anyone = with(|p| p.ingress([rule_any()]));
    assert_eq!(passes(&anyone, outside, web, tcp80), [true, true], "N5");
    let namespaces = with(|p| p.ingress([rule_from([pods_where("", "")])]));
    assert_eq!(
        passes(&namespaces, outside, web, tcp80),
        [true, false],
        "N10"
    );
    assert_eq!(passes(&namespaces, b_web, web, tcp80), [true, true], "N8");
    let own = with(|p| p.ingress([rule_from([pods_in("a", "app=web")])]));
    assert_eq!(passes(&own, b_web, db, tcp80), [true, false], "N8");
    assert_eq!(passes(&own, web, db, tcp80), [true, true], "N8");
    let any_tcp = with(|p| p.ingress([rule_any().on([all(Protocol::TCP)])]));
    assert_eq!(
        passes(&any_tcp, b_web, web, (Protocol::UDP, 53)),
        [true, false],
        "N15"
    );
    assert_eq!(
        passes(&any_tcp, b_web, web, (Protocol::TCP, 53)),
        [true, true],
        "N15"
    );
    let by_name = with(|p| p.ingress([rule_any().on(http())]));
    assert_eq!(
        passes(&by_name, b_web, web, (Protocol::TCP, 8080)),
        [true, true],
        "N18"
    );
    assert_eq!(
        passes(&by_name, b_web, db, (Protocol::TCP, 8080)),
        [true, false],
        "N18"
    );
    assert_eq!(
        passes(&by_name, b_web, db, (Protocol::TCP, 5432)),
        [true, true],
        "N18"
    );
    let to_name = with(|p| p.ingress([]).egress([rule_any().on(http())]));
    assert_eq!(
        passes(&to_name, web, b_web, (Protocol::TCP, 8080)),
        [false, true],
        "N18"
    );
    assert_eq!(
        passes(&to_name, web, outside, (Protocol::TCP, 8080)),
        [false, true],
        "N18"
    );
    assert_eq!(
        passes(&to_name, web, db, (Protocol::TCP, 5432)),
        [true, false],
        "N18, N2"
    );
    let everywhere = with(|p| p.ingress([]).egress([rule_from([block("0.0.0.0/0")])]));
    assert_eq!(
        passes(&everywhere, web, db, tcp80),
        [true, false],
        "N11, N2"
    );
    let holes = with(|p| {
        p.ingress([rule_from([
            block("10.0.0.0/8!10.1.0.0/16"),
            block("10.1.2.0/24"),
        ])])
    });
    assert_eq!(
        passes(&holes, ("", "10.1.2.3"), web, tcp80),
        [true, true],
        "N12"
    );
    assert_eq!(
        passes(&holes, ("", "10.1.3.3"), web, tcp80),
        [true, false],
        "N12"
    );
    assert_eq!(
        passes(&holes, ("", "10.2.3.3"), web, tcp80),
        [true, true],
        "N12"
    );
}

#[test]
fn a_rule_without_ports_matches_every_protocol_and_one_with_ports_only_those() {
    let tables = with(|p| p.ingress([rule_any()]));
    let echo = (Protocol::ICMP, 0x0800);
    assert!(verdict(&tables, INGRESS, "a/web", OUTSIDE, echo).0);
    let tables = with(|p| {
        p.ingress([rule_any().on([tcp(80), all(Protocol::UDP), range(Protocol::SCTP, 7, 9)])])
    });
    for ((protocol, port), allow) in [
        (echo, false),
        ((Protocol::TCP, 80), true),
        ((Protocol::TCP, 0), false),
        ((Protocol::UDP, 0), true),
        ((Protocol::SCTP, 6), false),
        ((Protocol::SCTP, 7), true),
        ((Protocol::SCTP, 9), true),
        ((Protocol::SCTP, 10), false),
        ((Protocol(50), 80), false),
    ] {
        let got = verdict(&tables, INGRESS, "a/web", OUTSIDE, (protocol, port)).0;
        assert_eq!(got, allow, "{protocol:?} {port}");
    }
}

#[test]
fn a_peer_list_or_port_list_that_was_refused_matches_nothing() {
    let tables = with(|p| p.ingress([rule_from([]), rule_any().on([])]));
    assert_eq!(
        *tables.policies[0].default,
        Cell::All(Decision {
            allow: false,
            rule: None
        })
    );
    assert!(tables.policies[0].rows.is_empty());
}

#[test]
fn the_first_rule_in_canonical_order_is_the_one_named() {
    let world = shop()
        .policy("a/y", "", |p| p.ingress([rule_any().on([tcp(80)])]))
        .policy("a/x", "", |p| {
            p.ingress([
                rule_any().on([udp(1)]),
                rule_from([pods_where("team=red", "")]),
                rule_any(),
            ])
        })
        .world();
    let tables = compile(&world);
    let named = |address| verdict(&tables, INGRESS, "a/web", address, (Protocol::TCP, 80)).1;
    assert_eq!(named(B_WEB).as_deref(), Some("x#1"));
    assert_eq!(named(OUTSIDE).as_deref(), Some("x#2"));
    let isolated: Vec<_> = tables.policies[0]
        .isolated_by
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(isolated, ["x", "y"]);
}

#[test]
fn a_cell_is_disjoint_sorted_and_merged() {
    let tables = with(|p| {
        p.ingress([rule_any().on([
            range(Protocol::TCP, 20, 30),
            udp(53),
            range(Protocol::TCP, 10, 25),
            tcp(31),
        ])])
    });
    let allow = Decision {
        allow: true,
        rule: Some(RuleRef {
            policy: tables.policies[0].isolated_by[0].clone().into(),
            index: 0,
            direction: INGRESS,
        }),
    };
    let range = |protocol, first, last| PortRange {
        protocol,
        first,
        last,
        decision: allow.clone(),
    };
    let expected = Cell::ByPort {
        ranges: vec![range(6, 10, 31), range(17, 53, 53)],
        otherwise: Decision {
            allow: false,
            rule: None,
        },
    };
    assert_eq!(*tables.policies[0].default, expected);
}

#[test]
fn endpoints_with_the_same_policies_share_a_table_unless_a_port_name_differs() {
    let plain = with(|p| p.ingress([rule_any().on([tcp(80)])]));
    assert_eq!(plain.policies.len(), 1);
    assert_eq!(plain.endpoints["a/web"], plain.endpoints["a/db"]);
    let by_name = with(|p| p.ingress([rule_any().on([named(Protocol::TCP, "http")])]));
    assert_eq!(by_name.policies.len(), 2);
    assert_eq!(plain.endpoints["b/web"], EndpointPolicies::default());
}

#[test]
fn every_local_endpoint_has_an_entry_and_nobody_else() {
    let world = Fixture::on("n1")
        .pod(pod("a/bound").on("n1"))
        .pod(pod("a/finished").on("n1").finished())
        .pod(pod("a/host").on("n1").host_network())
        .pod(pod("a/remote"))
        .policy("a/p", "", |p| p.ingress([]))
        .world();
    let tables = compile(&world);
    let names: Vec<&str> = tables.endpoints.keys().map(String::as_str).collect();
    assert_eq!(names, ["a/bound"]);
    assert_eq!(tables.endpoints["a/bound"].ingress, [Some(0), Some(0)]);
    assert_eq!(tables.endpoints["a/bound"].egress, [None, None]);
    let closed = decision(&tables, INGRESS, "a/bound", OUTSIDE, (Protocol::TCP, 1));
    assert_eq!(
        closed,
        Some(Decision {
            allow: false,
            rule: None
        })
    );
}

#[test]
fn the_empty_world_compiles_to_one_class() {
    let tables = compile(&Fixture::on("n1").world());
    assert_eq!(
        tables,
        Tables {
            classes: 1,
            ..Tables::default()
        }
    );
}
