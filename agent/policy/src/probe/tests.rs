use super::*;
use crate::fixture::{Fixture, pod};

fn world() -> World {
    Fixture::on("n1")
        .node("n1", &["192.168.0.1", "fd01::1"])
        .node("n2", &["192.168.0.2"])
        .node("bare", &[])
        .pod(pod("a/web").on("n1").at("10.0.0.1").at("fd00::1"))
        .pod(pod("a/six").at("fd00::2").at("10.0.0.2"))
        .pod(pod("a/only6").at("fd00::3"))
        .pod(pod("a/done").at("10.0.0.1").finished())
        .pod(pod("a/host").on("n2").at("192.168.0.2").host_network())
        .pod(pod("a/pending"))
        .pod(pod("a/twin").uid("old").at("10.0.0.9").finished())
        .pod(pod("a/twin").uid("zz-new").at("10.0.0.8"))
        .pod(pod("z/local").on("n1").at("10.0.0.7"))
        .pod(pod("a/remote").at("10.0.0.7"))
        .world()
}

fn probe(text: &str) -> Probe {
    serde_json::from_str(text).unwrap()
}

fn resolve(src: &str, dst: &str) -> Result<ResolvedProbe, String> {
    let text = format!(r#"{{"id":"p","src":"{src}","dst":"{dst}","protocol":"TCP","dstPort":80}}"#);
    probe(&text)
        .resolve(&world())
        .map_err(|error| error.to_string())
}

/// Addresses and owners of both ends.
fn ends(src: &str, dst: &str) -> String {
    let show = |end: &End| match &end.owner {
        Owner::Address => end.to_string(),
        _ => format!("{end}@{}", end.address),
    };
    resolve(src, dst).map_or_else(
        |error| error,
        |p| format!("{} > {}", show(&p.src), show(&p.dst)),
    )
}

#[test]
fn ends_are_pods_nodes_and_addresses() {
    assert_eq!(ends("a/web", "a/six"), "a/web@10.0.0.1 > a/six@10.0.0.2");
    assert_eq!(ends("a/six", "a/web"), "a/six@fd00::2 > a/web@fd00::1");
    assert_eq!(
        ends("node:n1", "ip:1.1.1.1"),
        "node:n1@192.168.0.1 > 1.1.1.1"
    );
    assert_eq!(
        ends("ip:10.0.0.2", "ip:192.168.0.1"),
        "a/six@10.0.0.2 > 192.168.0.1"
    );
    assert_eq!(
        ends("ip:::ffff:10.0.0.2", "a/web"),
        "a/six@10.0.0.2 > a/web@10.0.0.1"
    );
}

#[test]
fn the_family_is_the_probe_s_else_that_of_an_address_else_the_first_both_have() {
    assert_eq!(
        ends("a/web", "ip:2001:db8::1"),
        "a/web@fd00::1 > 2001:db8::1"
    );
    assert_eq!(
        ends("ip:2001:db8::1", "a/web"),
        "2001:db8::1 > a/web@fd00::1"
    );
    assert_eq!(ends("a/web", "a/only6"), "a/web@fd00::1 > a/only6@fd00::3");
    assert_eq!(
        ends("a/web", "node:n2"),
        "a/web@10.0.0.1 > node:n2@192.168.0.2"
    );
    let six = probe(
        r#"{"id":1,"src":"a/web","dst":"a/six","protocol":"udp","dstPort":53,"family":6,"srcPort":40000}"#,
    );
    let six = six.resolve(&world()).unwrap();
    assert_eq!(
        (six.src.address, six.dst.address),
        ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
    );
    assert_eq!(
        (six.protocol, six.src_port, six.dst_port, six.icmp),
        (17, Some(40000), 53, None)
    );
    assert_eq!(six.id, ProbeId::Number(1));
}

#[test]
fn a_name_or_address_means_the_pod_that_lives() {
    assert_eq!(ends("a/twin", "ip:10.0.0.9"), "a/twin@10.0.0.8 > 10.0.0.9");
    assert_eq!(
        ends("ip:10.0.0.1", "ip:10.0.0.7"),
        "a/web@10.0.0.1 > z/local@10.0.0.7"
    );
    assert_eq!(
        ends("a/host", "a/web"),
        "node:n2@192.168.0.2 > a/web@10.0.0.1"
    );
}

#[test]
fn errors_name_the_probe_the_field_and_the_value() {
    for (src, dst, expected) in [
        ("a/none", "a/web", r#"probe p: src "a/none": no such pod"#),
        (
            "a/web",
            "a/done",
            r#"probe p: dst "a/done": it has no address"#,
        ),
        (
            "a/web",
            "a/pending",
            r#"probe p: dst "a/pending": it has no address"#,
        ),
        (
            "node:bare",
            "a/web",
            r#"probe p: src "node:bare": it has no address"#,
        ),
        (
            "node:n9",
            "a/web",
            r#"probe p: src "node:n9": no such node"#,
        ),
        (
            "web",
            "a/web",
            r#"probe p: src "web": expected namespace/pod, ip:ADDRESS or node:NAME"#,
        ),
        (
            "a/web",
            "ip:10.0.0",
            r#"probe p: dst "ip:10.0.0": expected namespace/pod, ip:ADDRESS or node:NAME"#,
        ),
        (
            "a/only6",
            "ip:1.1.1.1",
            r#"probe p: src "a/only6": it has no address of this family"#,
        ),
    ] {
        assert_eq!(resolve(src, dst).unwrap_err(), expected);
    }
    for (fields, expected) in [
        (
            r#""protocol":"TCP""#,
            r#"probe 7: dstPort "": this protocol needs a destination port"#,
        ),
        (
            r#""protocol":"TCP","dstPort":65536"#,
            r#"probe 7: dstPort "65536": expected a port, 0-65535"#,
        ),
        (
            r#""protocol":"TCP","dstPort":1,"srcPort":-1"#,
            r#"probe 7: srcPort "-1": expected a port, 0-65535"#,
        ),
        (
            r#""protocol":"GRE""#,
            r#"probe 7: protocol "GRE": expected TCP, UDP, SCTP, ICMP or ICMPv6"#,
        ),
        (
            r#""protocol":"ICMP","icmpType":256"#,
            r#"probe 7: icmpType "256": expected a number, 0-255"#,
        ),
        (
            r#""protocol":"TCP","dstPort":1,"family":5"#,
            r#"probe 7: family "5": expected 4 or 6"#,
        ),
        (
            r#""protocol":"TCP","dstPort":1,"family":6"#,
            r#"probe 7: src "node:n2": it has no address of this family"#,
        ),
    ] {
        let text = format!(r#"{{"id":7,"src":"node:n2","dst":"a/web",{fields}}}"#);
        assert_eq!(
            probe(&text).resolve(&world()).unwrap_err().to_string(),
            expected
        );
    }
}

#[test]
fn icmp_is_that_of_the_family_and_an_echo_request_by_default() {
    for (fields, protocol, message) in [
        (r#""protocol":"ICMP""#, 1, (8, 0)),
        (r#""protocol":"icmpv6""#, 1, (8, 0)),
        (r#""protocol":"ICMP","family":6,"dstPort":0"#, 58, (128, 0)),
        (
            r#""protocol":"ICMPv6","family":6,"icmpType":1,"icmpCode":4"#,
            58,
            (1, 4),
        ),
    ] {
        let text = format!(r#"{{"id":"x","src":"a/web","dst":"a/six",{fields}}}"#);
        let resolved = probe(&text).resolve(&world()).unwrap();
        assert_eq!(
            (resolved.protocol, resolved.icmp),
            (protocol, Some(message)),
            "{fields}"
        );
        assert_eq!((resolved.src_port, resolved.dst_port), (None, 0));
    }
}

#[test]
fn an_unknown_field_is_an_error() {
    let text = r#"{"id":"x","src":"a/b","dst":"a/b","protocol":"TCP","dst_port":1}"#;
    assert!(serde_json::from_str::<Probe>(text).is_err());
}
