mod random;

use super::*;
use crate::fixture::{
    Fixture, all, block, named, pod, pods_in, pods_where, range, rule_any, rule_from, tcp, udp,
};
use crate::model::{AtEnd, Protocol};

/// Findings of policy `a/p` for `app=web`, with these ingress rules and nothing else there, as `check field: problem`.
fn of_rules(rules: impl IntoIterator<Item = Rule>) -> Vec<String> {
    let world = Fixture::on("n1")
        .policy("a/p", "app=web", |p| p.ingress(rules))
        .world();
    found(&world)
}

fn found(world: &World) -> Vec<String> {
    let lines = lint(world).into_iter().map(|finding| {
        let policy = match &finding.policy.name[..] {
            "p" => String::new(),
            other => format!("{other} "),
        };
        format!(
            "{policy}{} {}: {}",
            finding.check, finding.field, finding.problem
        )
    });
    lines.collect()
}

const NONE: [&str; 0] = [];

fn unreachable(index: usize, by: &str) -> String {
    format!("unreachable-rule spec.ingress[{index}]: all that it matches is decided by {by}")
}

#[test]
fn a_rule_within_another_of_its_policy_decides_nothing() {
    let web = || rule_from([pods_in("a", "app=web")]);
    let inner = [
        web(),
        rule_from([pods_in("a", "app=web tier=f")]),
        rule_from([pods_where("team=red", "app=web"), pods_in("a", "")]),
        rule_from([block("10.1.0.0/16!10.1.2.0/24")]),
        web().on([tcp(80), udp(53)]),
        web().on([named(Protocol::TCP, "http")]),
        rule_any().on([all(Protocol::SCTP)]),
    ];
    for rule in inner {
        let expected = [unreachable(1, "spec.ingress[0]")];
        assert_eq!(of_rules([rule_any(), rule.clone()]), expected, "{rule:?}");
        // Where all rules allow, order makes no difference.
        let expected = [unreachable(0, "spec.ingress[1]")];
        assert_eq!(of_rules([rule.clone(), rule_any()]), expected, "{rule:?}");
    }
}

#[test]
fn of_two_equal_rules_the_later_one_is_named() {
    let rule = || rule_from([pods_in("a", "app=x")]).on([tcp(80)]);
    assert_eq!(
        of_rules([rule(), rule(), rule()]),
        [
            unreachable(1, "spec.ingress[0]"),
            unreachable(2, "spec.ingress[0]"),
        ]
    );
}

#[test]
fn peers_are_compared_by_what_they_say() {
    let cases = [
        (pods_in("a", "app=x"), pods_in("a", "app=x,y"), true),
        (pods_in("a", "app=x,y"), pods_in("a", "app=x"), false),
        (pods_in("a", "app=x"), pods_in("b", "app=x"), false),
        (pods_in("a", "app=x"), pods_where("", "app"), true),
        (pods_in("a", "app=x"), pods_where("team=red", "app"), false),
        (
            pods_in("a", "app=x"),
            pods_where("kubernetes.io/metadata.name=a,b", ""),
            true,
        ),
        (block("10.1.0.0/16"), block("10.0.0.0/8"), true),
        (block("10.0.0.0/8"), block("10.1.0.0/16"), false),
        (block("10.0.0.0/8"), block("0.0.0.0/0"), true),
        (block("10.0.0.0/8"), block("::/0"), false),
        (block("10.1.0.0/16"), block("10.0.0.0/8!10.2.0.0/16"), true),
        (block("10.1.0.0/16"), block("10.0.0.0/8!10.1.2.0/24"), false),
        (
            block("10.1.0.0/16!10.1.2.0/24"),
            block("10.0.0.0/8!10.1.2.0/25"),
            true,
        ),
        (
            block("10.1.0.0/16!10.1.2.0/25!10.1.2.128/25"),
            block("10.0.0.0/8!10.1.2.0/24"),
            true,
        ),
        (block("10.1.2.0/24"), block("10.0.0.0/8!10.1.0.0/16"), false),
        // A selector finds pods of both families.
        (pods_in("a", ""), block("0.0.0.0/0"), false),
        (block("10.0.0.1/32"), pods_where("", ""), false),
    ];
    for (inner, outer, within) in cases {
        // Behind a rule that denies, order counts: only the first can take the second in.
        let rules = [
            rule_from([outer.clone()]).deny(),
            rule_from([inner.clone()]),
        ];
        let expected = within.then(|| unreachable(1, "spec.ingress[0]"));
        assert_eq!(
            of_rules(rules),
            Vec::from_iter(expected),
            "{inner:?} within {outer:?}"
        );
    }
    let everyone = rule_from([block("0.0.0.0/0"), block("::/0")]);
    assert_eq!(
        of_rules([everyone, rule_from([pods_in("a", "")]), rule_any()]),
        [
            unreachable(1, "spec.ingress[0]"),
            unreachable(2, "spec.ingress[0]"),
        ]
    );
}

#[test]
fn several_rules_take_another_in_together_port_by_port_and_peer_by_peer() {
    let x = || rule_from([pods_in("a", "app=x")]);
    let tcp_all = |first, last| [range(Protocol::TCP, first, last)];
    assert_eq!(
        of_rules([
            x().on(tcp_all(0, 80)),
            rule_any().on(tcp_all(81, 65535)),
            x().on([all(Protocol::TCP)])
        ]),
        [unreachable(2, "spec.ingress[0] and spec.ingress[1]")]
    );
    assert_eq!(
        of_rules([
            x().on(tcp_all(0, 80)),
            x().on(tcp_all(82, 65535)),
            x().on([all(Protocol::TCP)])
        ]),
        [
            unreachable(0, "spec.ingress[2]"),
            unreachable(1, "spec.ingress[2]"),
        ]
    );
    assert_eq!(
        of_rules([
            x(),
            rule_from([block("10.0.0.0/8")]),
            rule_from([block("10.1.0.0/16"), pods_in("a", "app=x tier")]).on([tcp(80)])
        ]),
        [unreachable(2, "spec.ingress[0] and spec.ingress[1]")]
    );
}

#[test]
fn a_port_name_is_any_number_of_its_protocol() {
    let http = || rule_any().on([named(Protocol::TCP, "http")]);
    let found = |outer: Port| of_rules([rule_any().on([outer]), http()]);
    let taken = [unreachable(1, "spec.ingress[0]")];
    assert_eq!(found(all(Protocol::TCP)), taken);
    assert_eq!(found(range(Protocol::TCP, 1, 65535)), taken);
    assert_eq!(found(named(Protocol::TCP, "http")), taken);
    assert_eq!(found(named(Protocol::UDP, "http")), NONE);
    assert_eq!(found(range(Protocol::TCP, 2, 65535)), NONE);
    assert_eq!(found(all(Protocol::UDP)), NONE);
    assert_eq!(found(tcp(80)), NONE);
}

#[test]
fn a_rule_whose_peers_nobody_can_match_is_named_and_one_of_several_peers_too() {
    let nobody = "nobody can match any of its peers, so it matches nothing";
    let emptied = || block("10.0.0.0/8!10.0.0.0/9!10.128.0.0/9");
    let torn = || pods_in("a", "app=x !app");
    for rule in [
        rule_from([emptied()]),
        rule_from([torn()]),
        rule_from([torn(), emptied()]),
    ] {
        let expected = [format!("unreachable-rule spec.ingress[0]: {nobody}")];
        assert_eq!(of_rules([rule.clone()]), expected, "{rule:?}");
    }
    assert_eq!(
        of_rules([rule_from([pods_in("a", "app=x"), emptied(), torn()])]),
        [
            "empty-block spec.ingress[0].from[1].ipBlock: its exceptions leave nothing of it",
            "contradictory-selector spec.ingress[0].from[2]: no pod can match all of it",
        ]
    );
    let world = Fixture::on("n1")
        .policy("a/p", "app=x app=y", |p| p.ingress([rule_any()]))
        .world();
    assert_eq!(
        found(&world),
        ["contradictory-selector spec.podSelector: no pod can match all of it"]
    );
}

#[test]
fn a_rule_that_could_not_be_read_is_left_to_who_read_it() {
    let unread = || rule_from([]).on([]);
    assert_eq!(of_rules([unread(), rule_any(), unread()]), NONE);
}

#[test]
fn a_rule_that_other_policies_for_the_same_pods_repeat_is_a_note() {
    let x = || rule_from([pods_in("a", "app=x")]).on([tcp(80)]);
    let two = |subject: &str, rules: Vec<Rule>| {
        let world = Fixture::on("n1")
            .policy("a/other", subject, |p| p.ingress(rules))
            .policy("a/p", "app=web tier=f", |p| p.ingress([x()]))
            .policy("b/elsewhere", "", |p| p.ingress([rule_any()]))
            .policy("a/egress", "", |p| p.egress([rule_any()]))
            .world();
        found(&world)
    };
    let repeated = |by: &str| {
        vec![format!(
            "repeated-rule spec.ingress[0]: all that it matches is decided by {by}"
        )]
    };
    let by = "spec.ingress[0] of NetworkPolicy a/other";
    assert_eq!(two("", vec![rule_any()]), repeated(by));
    assert_eq!(two("app=web", vec![x()]), repeated(by));
    assert_eq!(two("app=web,db tier", vec![rule_any()]), repeated(by));
    assert_eq!(two("app=db", vec![rule_any()]), NONE);
    assert_eq!(two("app=web tier=f env", vec![rule_any()]), NONE);
    // Two equal policies: one of them stays.
    assert_eq!(two("app=web tier=f", vec![x()]), repeated(by));
}

#[test]
fn where_rules_deny_or_pass_only_those_before_take_others_in() {
    let web = || rule_from([pods_in("a", "app=web")]);
    assert_eq!(
        of_rules([web(), rule_any().deny()]),
        NONE,
        "a deny behind an allow"
    );
    assert_eq!(
        of_rules([rule_any().deny(), web()]),
        [unreachable(1, "spec.ingress[0]")]
    );
    assert_eq!(
        of_rules([rule_any().pass(), web()]),
        [unreachable(1, "spec.ingress[0]")]
    );
    assert_eq!(
        of_rules([web(), rule_from([block("10.0.0.0/8")]).deny(), rule_any()]),
        NONE
    );
    let ordered = |first: f64, tier: &str| {
        let world = Fixture::on("n1")
            .tier("strict", 10.0, AtEnd::Deny)
            .policy("a/deny", "", |p| {
                p.tier(tier).order(first).ingress([rule_any().deny()])
            })
            .policy("a/p", "app=web", |p| p.ingress([web()]))
            .world();
        found(&world)
    };
    assert_eq!(ordered(10.0, "default").len(), 1);
    assert_eq!(ordered(2000.0, "default"), NONE);
    assert_eq!(ordered(10.0, "strict"), NONE, "tiers are not compared");
}

#[test]
fn peers_and_ports_that_others_of_their_rule_take_in_are_notes() {
    let rule = rule_from([
        pods_in("a", "app=x tier"),
        block("10.1.0.0/16"),
        pods_in("a", "app=x"),
        block("10.0.0.0/8"),
        pods_in("a", "app=x"),
    ])
    .on([
        tcp(80),
        range(Protocol::TCP, 8000, 8100),
        range(Protocol::TCP, 8050, 8200),
        range(Protocol::TCP, 8000, 8200),
        tcp(80),
        udp(80),
    ]);
    assert_eq!(
        of_rules([rule]),
        [
            "redundant-peer spec.ingress[0].from[0]: all that it matches is matched by from[2]",
            "redundant-peer spec.ingress[0].from[1]: all that it matches is matched by from[3]",
            "redundant-peer spec.ingress[0].from[4]: all that it matches is matched by from[2]",
            "redundant-port spec.ingress[0].ports[3]: all that it matches is matched by ports[1] and ports[2]",
            "redundant-port spec.ingress[0].ports[4]: all that it matches is matched by ports[0]",
        ]
    );
}

#[test]
fn a_direction_without_rules_denies_all() {
    let world = Fixture::on("n1")
        .policy("a/p", "", |p| p.ingress([]).egress([]))
        .world();
    assert_eq!(
        found(&world),
        [
            "denies-all spec.ingress: no rule, so it denies all ingress of the pods it selects",
            "denies-all spec.egress: no rule, so it denies all egress of the pods it selects",
        ]
    );
}

/// A few pods in `a` and `b`; nobody in `c`.
fn place() -> Fixture {
    Fixture::on("n1")
        .namespace("b", "team=red")
        .namespace("c", "team=blue")
        .pod(
            pod("a/web")
                .label("app", "web")
                .port("http", Protocol::TCP, 80),
        )
        .pod(
            pod("a/db")
                .label("app", "db")
                .port("sql", Protocol::TCP, 5432)
                .port("log", Protocol::UDP, 514),
        )
        .pod(pod("a/done").label("app", "job").finished())
        .pod(pod("a/agent").label("app", "agent").host_network())
        .pod(pod("b/client").label("app", "client"))
}

#[test]
fn selectors_without_pods_are_found_if_there_are_pods_at_all() {
    let subject = |subject: &str| {
        found(
            &place()
                .policy("a/p", subject, |p| p.ingress([rule_any()]))
                .world(),
        )
    };
    assert_eq!(subject(""), NONE);
    assert_eq!(
        subject("app=job"),
        NONE,
        "a finished pod shows that there are such pods"
    );
    assert_eq!(
        subject("pod-template-hash=5"),
        NONE,
        "only a controller knows"
    );
    assert_eq!(
        subject("app=wbe"),
        ["selects-nothing spec.podSelector: no pod matches: app is agent, db, job, web there"]
    );
    assert_eq!(
        subject("role=web"),
        [
            "selects-nothing spec.podSelector: no pod matches: none of the pods there has a label role"
        ]
    );
    assert_eq!(
        subject("app=web app!=web"),
        ["contradictory-selector spec.podSelector: no pod can match all of it"]
    );
    assert_eq!(
        subject("app=agent"),
        [
            "selects-nothing spec.podSelector: all pods that match live in the network of their node, where policy does not see them"
        ]
    );
    let elsewhere = place().policy("c/p", "", |p| p.ingress([rule_any()]));
    assert_eq!(
        found(&elsewhere.world()),
        ["selects-nothing spec.podSelector: the objects hold no pod in namespace c"]
    );
    assert_eq!(
        of_rules([rule_from([pods_in("a", "app=nobody")])]),
        NONE,
        "no pods at all"
    );
}

#[test]
fn peers_without_pods_are_found_and_only_noted_where_nothing_is_known() {
    let peer = |peer| {
        found(
            &place()
                .policy("a/p", "", |p| p.ingress([rule_from([peer])]))
                .world(),
        )
    };
    assert_eq!(peer(pods_in("a", "app=web")), NONE);
    assert_eq!(peer(pods_where("team=red", "app=client")), NONE);
    assert_eq!(peer(block("192.0.2.0/24")), NONE, "an address needs no pod");
    assert_eq!(
        peer(pods_in("a", "app=client")),
        [
            "peer-selects-nothing spec.ingress[0].from[0]: no pod matches: app is agent, db, job, web there"
        ]
    );
    assert_eq!(
        peer(pods_where("team=red", "app=db")),
        ["peer-selects-nothing spec.ingress[0].from[0]: no pod matches: app is client there"]
    );
    assert_eq!(
        peer(pods_where("team=blue", "")),
        ["peer-elsewhere spec.ingress[0].from[0]: the objects hold no pod in such a namespace"]
    );
    assert_eq!(
        peer(pods_where("", "app=agent")),
        [
            "peer-selects-nothing spec.ingress[0].from[0]: all pods that match live in the network of their node, where policy does not see them"
        ]
    );
}

#[test]
fn port_names_are_looked_for_where_the_packet_goes() {
    let http = || [named(Protocol::TCP, "http")];
    let ingress = |subject: &str, port| {
        found(
            &place()
                .policy("a/p", subject, |p| p.ingress([rule_any().on([port])]))
                .world(),
        )
    };
    let egress = |rule: Rule| found(&place().policy("a/p", "", |p| p.egress([rule])).world());
    assert_eq!(
        ingress("", named(Protocol::TCP, "http")),
        NONE,
        "one of them has it"
    );
    assert_eq!(
        ingress("app=db", named(Protocol::TCP, "http")),
        [
            "unknown-port-name spec.ingress[0].ports[0].port: no pod that it selects has a port of this name"
        ]
    );
    assert_eq!(
        ingress("app=db", named(Protocol::TCP, "log")),
        ["unknown-port-name spec.ingress[0].ports[0].port: on the pods that it selects log is udp"]
    );
    assert_eq!(
        ingress("app=none", named(Protocol::TCP, "x")).len(),
        1,
        "that it selects nobody"
    );
    assert_eq!(
        egress(rule_from([pods_in("a", "app=web")]).on(http())),
        NONE
    );
    assert_eq!(egress(rule_from([pods_where("", "")]).on(http())), NONE);
    assert_eq!(egress(rule_any().on(http())), NONE);
    assert_eq!(egress(rule_from([block("10.0.0.0/8")]).on(http())), NONE);
    assert_eq!(
        egress(rule_from([pods_where("team=blue", "")]).on(http())).len(),
        1,
        "elsewhere"
    );
    let missing = "unknown-port-name spec.egress[0].ports[0].port: no pod that it leads to has a port of this name";
    assert_eq!(
        egress(rule_from([pods_in("a", "app=db")]).on(http())),
        [missing]
    );
    let nowhere = [named(Protocol::TCP, "nowhere")];
    assert_eq!(egress(rule_any().on(nowhere.clone())), [missing]);
    assert_eq!(
        egress(rule_from([block("10.0.0.0/8")]).on(nowhere)),
        [missing]
    );
}
