mod near;

use serde_json::json;

use super::*;
use crate::fixture::{Fixture, block, pod, pods_in, rule_any, rule_from, tcp, udp};
use crate::probe::{Probe, Resolver};

const GUARDED: [&str; 7] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
];

fn world() -> World {
    Fixture::on("elsewhere")
        .node("n1", &["192.168.0.1", "fd01::1"])
        .node("n2", &["192.168.0.2"])
        .pod(
            pod("shop/web")
                .on("n1")
                .at("10.0.0.1")
                .at("fd00::1")
                .label("app", "web"),
        )
        .pod(
            pod("shop/db")
                .on("n2")
                .at("10.0.0.2")
                .at("fd00::2")
                .label("app", "db"),
        )
        .pod(
            pod("ops/batch")
                .on("n2")
                .at("10.0.0.3")
                .at("fd00::3")
                .label("app", "batch"),
        )
        .pod(pod("shop/host").on("n2").at("192.168.0.2").host_network())
        .policy("shop/db-allow", "app=db", |p| {
            p.ingress([
                rule_from([pods_in("shop", "app=api")]).on([tcp(5432)]),
                rule_from([pods_in("shop", "app=web")]).on([tcp(5432)]),
                rule_from([pods_in("shop", "app=api")]).on([udp(53)]),
                rule_from([block("198.51.100.0/24")]).deny(),
            ])
        })
        .policy("ops/out", "", |p| p.egress([rule_any()]))
        .world()
}

fn ask(text: &str, options: Options) -> Explanation {
    let world = world();
    let probe: Probe = serde_json::from_str(text).unwrap();
    let probe = Resolver::new(&world).resolve(&probe).unwrap();
    Explainer::new(&world, options).explain_in_steps(&probe)
}

fn tcp_to(src: &str, dst: &str, port: u16) -> String {
    format!(r#"{{"id":"p","src":"{src}","dst":"{dst}","protocol":"TCP","dstPort":{port}}}"#)
}

/// Reasons of both sides, `-` for an end that is no endpoint.
fn reasons(text: &str) -> [&'static str; 2] {
    let answer = ask(text, Options::default());
    [answer.egress, answer.ingress].map(|side| side.reason.map_or("-", Reason::as_str))
}

fn icmp(src: &str, dst: &str, family: u8, kind: u8) -> [&'static str; 2] {
    reasons(&format!(
        r#"{{"id":"p","src":"{src}","dst":"{dst}","protocol":"ICMP","family":{family},"icmpType":{kind}}}"#
    ))
}

#[test]
fn the_answer_serializes_as_the_probe_file_s_users_expect() {
    let world = world();
    let mut explainer = Explainer::new(&world, Options::default());
    let mut answer = |text: &str| {
        let probe: Probe = serde_json::from_str(text).unwrap();
        serde_json::to_value(explainer.explain(&probe.resolve(&world).unwrap())).unwrap()
    };
    assert_eq!(
        answer(&tcp_to("shop/web", "shop/db", 5432)),
        json!({
            "id": "p", "verdict": "allow",
            "egress": {"verdict": "allow", "reason": "not-isolated"},
            "ingress": {"verdict": "allow", "reason": "allow-rule", "tier": "default",
                "policy": "NetworkPolicy shop/db-allow", "rule": 1},
        })
    );
    assert_eq!(
        answer(&tcp_to("ip:203.0.113.9", "shop/db", 5432)),
        json!({
            "id": "p", "verdict": "deny",
            "egress": {"verdict": "none"},
            "ingress": {"verdict": "deny", "reason": "default-deny", "tier": "default",
                "isolatedBy": ["NetworkPolicy shop/db-allow"]},
        })
    );
    let denied = answer(&tcp_to("ip:198.51.100.1", "shop/db", 5432));
    assert_eq!(denied["ingress"]["reason"], "deny-rule");
    assert_eq!(denied["ingress"]["rule"], 3);
}

#[test]
fn the_guard_comes_before_everything_and_only_an_exempt_account_passes_it() {
    let exempt = Options {
        metadata_allow: BTreeSet::from([("ops".to_owned(), "default".to_owned())]),
    };
    for address in GUARDED {
        let text = tcp_to("ops/batch", &format!("ip:{address}"), 80);
        assert_eq!(reasons(&text), ["metadata-guard", "-"], "{address}");
        let allowed = ask(&text, exempt.clone());
        assert_eq!(allowed.egress.reason, Some(Reason::AllowRule), "{address}");
        let other = tcp_to("shop/web", &format!("ip:{address}"), 80);
        assert_eq!(
            ask(&other, exempt.clone()).verdict,
            Verdict::Deny,
            "{address}"
        );
    }
    assert_eq!(
        icmp("ops/batch", "ip:169.254.169.254", 4, 0),
        ["metadata-guard", "-"]
    );
    assert_eq!(
        reasons(&tcp_to("node:n1", "ip:169.254.169.254", 80)),
        ["-", "-"]
    );
    assert_eq!(
        reasons(&tcp_to("shop/host", "ip:169.254.169.254", 80)),
        ["-", "-"]
    );
    assert_eq!(
        reasons(&tcp_to("ops/batch", "ip:169.254.169.253", 80)),
        ["allow-rule", "-"]
    );
}

#[test]
fn loopback_destinations_never_leave_the_pod() {
    assert_eq!(
        reasons(&tcp_to("ops/batch", "ip:127.1.2.3", 80)),
        ["loopback", "-"]
    );
    assert_eq!(
        reasons(&tcp_to("ops/batch", "ip:::1", 80)),
        ["loopback", "-"]
    );
}

#[test]
fn icmp_that_cannot_be_a_first_packet_is_no_flow_on_both_sides() {
    assert_eq!(icmp("ops/batch", "shop/web", 4, 0), ["no-flow", "no-flow"]);
    assert_eq!(icmp("ops/batch", "shop/web", 6, 1), ["no-flow", "no-flow"]);
    assert_eq!(
        icmp("ops/batch", "shop/web", 4, 5),
        ["icmp-type", "icmp-type"]
    );
    assert_eq!(icmp("ip:203.0.113.9", "shop/web", 4, 3), ["-", "no-flow"]);
    assert_eq!(
        icmp("ops/batch", "shop/db", 4, 8),
        ["allow-rule", "default-deny"]
    );
    assert_eq!(icmp("node:n1", "shop/web", 6, 135), ["-", "host-exempt"]);
    assert_eq!(icmp("shop/web", "node:n1", 6, 135), ["neighbour", "-"]);
    assert_eq!(icmp("shop/web", "node:n1", 6, 134), ["rogue-server", "-"]);
    assert_eq!(
        icmp("ip:2001:db8::1", "shop/web", 6, 134),
        ["-", "icmp-type"]
    );
    assert_eq!(
        icmp("ip:2001:db8::1", "shop/web", 6, 135),
        ["-", "neighbour"]
    );
}

#[test]
fn tunnels_are_denied_by_protocol_anywhere_and_by_port_to_nodes() {
    let udp = |dst: &str, port: u16| {
        reasons(&format!(
            r#"{{"id":"p","src":"ops/batch","dst":"{dst}","protocol":"UDP","dstPort":{port}}}"#
        ))
    };
    for port in [4789, 8472, 6081] {
        assert_eq!(udp("node:n2", port)[0], "tunnel");
        assert_eq!(udp("ip:192.168.0.1", port)[0], "tunnel");
        assert_eq!(udp("shop/host", port)[0], "tunnel");
        assert_eq!(udp("ip:203.0.113.9", port)[0], "allow-rule");
    }
    assert_eq!(udp("node:n2", 4790)[0], "allow-rule");
    let world = world();
    let probe: Probe = serde_json::from_str(&tcp_to("ops/batch", "ip:203.0.113.9", 0)).unwrap();
    let mut probe = probe.resolve(&world).unwrap();
    let mut explainer = Explainer::new(&world, Options::default());
    for protocol in [4, 41, 47, 50, 51, 55, 94, 97, 98, 115, 137] {
        probe.protocol = protocol;
        assert_eq!(
            explainer.explain(&probe).egress.reason,
            Some(Reason::Tunnel)
        );
    }
}

#[test]
fn a_pod_is_no_dhcp_server() {
    let udp = |src: &str, family: u8, port: u16| {
        reasons(&format!(
            r#"{{"id":"p","src":"{src}","dst":"shop/web","protocol":"UDP","dstPort":68,"family":{family},"srcPort":{port}}}"#
        ))
    };
    assert_eq!(udp("ops/batch", 4, 67), ["rogue-server", "not-isolated"]);
    assert_eq!(udp("ops/batch", 6, 547), ["rogue-server", "not-isolated"]);
    assert_eq!(udp("ops/batch", 4, 547), ["allow-rule", "not-isolated"]);
    assert_eq!(udp("node:n2", 4, 67), ["-", "not-isolated"]);
}

#[test]
fn every_reason_is_spelled_as_in_the_kernel_s_list() {
    assert_eq!(serde_json::to_value(Reason::Itself).unwrap(), "self");
    assert_eq!(Reason::MetadataGuard.as_str(), "metadata-guard");
    for denied in [
        Reason::DefaultDeny,
        Reason::NoFlow,
        Reason::NotReady,
        Reason::RogueServer,
    ] {
        assert!(
            portcullis_common::reason::drops(denied.number()),
            "{denied:?}"
        );
    }
}

#[test]
fn an_endpoint_reaches_itself_and_its_own_node_reaches_it() {
    assert_eq!(reasons(&tcp_to("shop/db", "shop/db", 80)), ["self", "self"]);
    assert_eq!(icmp("shop/db", "shop/db", 4, 0), ["self", "self"]);
    assert_eq!(
        reasons(&tcp_to("node:n2", "shop/db", 80)),
        ["-", "host-exempt"]
    );
    assert_eq!(
        reasons(&tcp_to("shop/host", "shop/db", 80)),
        ["-", "host-exempt"]
    );
    assert_eq!(
        reasons(&tcp_to("node:n1", "shop/db", 80)),
        ["-", "default-deny"]
    );
    assert_eq!(
        reasons(&tcp_to("ip:192.168.0.2", "shop/db", 80)),
        ["-", "default-deny"]
    );
    assert_eq!(
        reasons(&tcp_to("ops/batch", "node:n2", 80)),
        ["allow-rule", "-"]
    );
}

#[test]
fn the_form_for_people_is_this() {
    let denied = ask(&tcp_to("ops/batch", "shop/db", 5432), Options::default()).to_string();
    let expected = "\
VERDICT  DENY (ingress, default-deny)
 egress   ops/batch  allowed by NetworkPolicy ops/out, rule 1     allow
   NetworkPolicy ops/out
     rule 1  to anyone, every port  match
 ingress  shop/db    isolated by NetworkPolicy shop/db-allow      deny
   NetworkPolicy shop/db-allow
     rule 1  from pods app=api in shop, 5432/tcp       would match but for the peer: ops/batch is in ops, and has app=batch
     rule 2  from pods app=web in shop, 5432/tcp       would match but for the peer: ops/batch is in ops, and has app=batch
     rule 4  deny from 198.51.100.0/24, every port     would match but for the peer: ops/batch has 10.0.0.3, which is not in 198.51.100.0/24
   1 other rule matches neither peer nor port
";
    assert_eq!(strip(&denied), strip(expected));
    let allowed = ask(
        &tcp_to("shop/web", "ip:203.0.113.9", 443),
        Options::default(),
    )
    .to_string();
    let expected = "\
VERDICT  ALLOW
 egress   shop/web     no policy with policyType Egress isolates it  allow
 ingress  203.0.113.9  no endpoint, so no policy here                -
";
    assert_eq!(allowed, expected);
}

/// Without the widths of columns.
fn strip(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn an_answer_that_was_sent_is_the_answer_that_was_given() {
    for (destination, port) in [
        ("shop/db", 5432),
        ("ops/batch", 1),
        ("ip:169.254.169.254", 80),
    ] {
        let answer = ask(&tcp_to("shop/web", destination, port), Options::default());
        let sent = |side: &Side| -> Side {
            let text = serde_json::to_string(side).unwrap();
            let read: Side = serde_json::from_str(&text).unwrap();
            // Not sent with the side.
            assert_eq!(read.end, "");
            Side {
                end: side.end.clone(),
                ..read
            }
        };
        let (egress, ingress) = (sent(&answer.egress), sent(&answer.ingress));
        assert_eq!(Explanation::of(answer.id.clone(), egress, ingress), answer);
    }
    let every = serde_json::to_string(&Reason::ALL).unwrap();
    let read: Vec<Reason> = serde_json::from_str(&every).unwrap();
    assert_eq!(read, Reason::ALL);
}
