//! Who an address is (A1 to A11), nodes (G7, G8), the metadata guard, and what one node alone can say.

use serde_json::{Value, json};

use super::{check, namespace, node, pod, pods_of_the_examples, policy, probe};
use crate::oracle::{
    Expected, METADATA_ADDRESSES, Oracle, ProbeError, Reason, SideVerdict, Verdict,
};
use crate::probe::{End, Family};

/// Everyone's ingress in `a` open to pods only.
fn pods_only() -> Value {
    policy(
        "a",
        &json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
    )
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}

#[test]
fn a_finished_pod_has_lost_its_address_even_to_another_pod() {
    let mut objects = pods_of_the_examples();
    objects.push(pods_only());
    let finished = with(
        pod("b", "job", "10.2.0.7", &json!({}), &json!([])),
        "/status/phase",
        json!("Succeeded"),
    );
    objects.push(finished);
    check(&objects, "ip:10.2.0.7 > a/web TCP 80", Verdict::Deny);
    objects.push(pod("b", "heir", "10.2.0.7", &json!({}), &json!([])));
    check(&objects, "ip:10.2.0.7 > a/web TCP 80", Verdict::Allow);
    let error = Oracle::new(&objects)
        .judge(&probe("b/job > a/web TCP 80"))
        .unwrap_err();
    assert_eq!(error, ProbeError::NoAddress(End::pod("b", "job")));
}

#[test]
fn a_terminating_pod_keeps_its_address_until_the_cni_took_it_back() {
    for annotation in ["cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips"] {
        let taken = json!({annotation: ""});
        let cases = [
            (json!("2026-01-01T00:00:00Z"), json!(null), Verdict::Allow),
            (
                json!("2026-01-01T00:00:00Z"),
                json!({annotation: "10.2.0.7"}),
                Verdict::Allow,
            ),
            (json!(null), taken.clone(), Verdict::Allow),
            (json!("2026-01-01T00:00:00Z"), taken, Verdict::Deny),
        ];
        for (deleted, annotations, expected) in cases {
            let old = with(
                pod("b", "old", "10.2.0.7", &json!({}), &json!([])),
                "/metadata/deletionTimestamp",
                deleted,
            );
            let mut objects = pods_of_the_examples();
            objects.extend([pods_only(), with(old, "/metadata/annotations", annotations)]);
            check(&objects, "ip:10.2.0.7 > a/web TCP 80", expected);
        }
    }
}

#[test]
fn a_pending_pod_with_an_address_is_bound_already() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", &json!({})));
    objects.push(with(
        pod("a", "new", "10.2.0.7", &json!({}), &json!([])),
        "/status/phase",
        json!("Pending"),
    ));
    check(&objects, "b/web > a/new TCP 80", Verdict::Deny);
}

#[test]
fn several_pods_on_one_address_are_found_by_any_of_them() {
    let mut objects = pods_of_the_examples();
    objects.push(policy(
        "a",
        &json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "second"}}}]}]}),
    ));
    objects.push(pod(
        "a",
        "one",
        "10.2.0.7",
        &json!({"app": "first"}),
        &json!([]),
    ));
    check(&objects, "a/one > a/web TCP 80", Verdict::Deny);
    objects.push(pod(
        "a",
        "two",
        "10.2.0.7",
        &json!({"app": "second"}),
        &json!([]),
    ));
    check(&objects, "a/one > a/web TCP 80", Verdict::Allow);
    assert!(Oracle::new(&objects).is_shared(&End::pod("a", "one")));
    assert!(!Oracle::new(&objects).is_shared(&End::pod("a", "web")));
}

#[test]
fn both_families_are_governed_and_pod_ip_alone_is_enough() {
    let dual = with(
        pod("a", "dual", "", &json!({}), &json!([])),
        "/status/podIPs",
        json!([{"ip": "10.2.0.7"}, {"ip": "fd10::7"}]),
    );
    let single = with(
        pod("a", "single", "", &json!({}), &json!([])),
        "/status",
        json!({"podIP": "fd10::8"}),
    );
    let mut objects = pods_of_the_examples();
    objects.extend([
        dual,
        single,
        policy(
            "a",
            &json!({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}),
        ),
    ]);
    check(&objects, "b/web > a/dual TCP 80", Verdict::Allow);
    check(&objects, "ip:2001:db8::1 > a/dual TCP 80", Verdict::Deny);
    check(&objects, "a/dual > a/single TCP 80", Verdict::Deny);
    check(
        &objects,
        "ip:::ffff:203.0.113.9 > a/dual TCP 80",
        Verdict::Allow,
    );
    let mut other_family = probe("b/web > a/dual TCP 80");
    other_family.family = Some(Family::V6);
    assert_eq!(
        Oracle::new(&objects).judge(&other_family).unwrap_err(),
        ProbeError::NoAddress(End::pod("b", "web"))
    );
}

#[test]
fn a_host_network_pod_is_its_node() {
    let host = with(
        pod(
            "a",
            "agent",
            "192.168.0.12",
            &json!({"app": "web"}),
            &json!([]),
        ),
        "/spec/hostNetwork",
        json!(true),
    );
    let host = with(host, "/spec/nodeName", json!("n2"));
    let mut objects = pods_of_the_examples();
    objects.extend([host, pods_only()]);
    let answer = Oracle::new(&objects)
        .judge(&probe("b/web > a/agent TCP 80"))
        .unwrap();
    assert_eq!(answer.ingress.verdict, SideVerdict::None);
    check(&objects, "a/agent > a/web TCP 80", Verdict::Deny);
    check(&objects, "ip:192.168.0.12 > a/web TCP 80", Verdict::Deny);
    objects.push(policy(
        "a",
        &json!({"ingress": [{"from": [{"ipBlock": {"cidr": "192.168.0.12/32"}}]}]}),
    ));
    check(&objects, "a/agent > a/web TCP 80", Verdict::Allow);
}

#[test]
fn the_own_node_always_reaches_its_pods_and_no_other_node_does() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", &json!({"ingress": []})));
    let answer = Oracle::new(&objects)
        .judge(&probe("node:n1 > a/web TCP 80"))
        .unwrap();
    assert_eq!(
        (answer.ingress.verdict, answer.ingress.reason),
        (SideVerdict::Allow, Reason::HostExempt)
    );
    check(&objects, "node:n2 > a/web TCP 80", Verdict::Deny);
    // never concluded from a source address
    check(&objects, "ip:192.168.0.11 > a/web TCP 80", Verdict::Deny);
    let host = with(
        pod("b", "agent", "192.168.0.11", &json!({}), &json!([])),
        "/spec/hostNetwork",
        json!(true),
    );
    objects.push(host);
    check(&objects, "b/agent > a/web TCP 80", Verdict::Allow);
}

#[test]
fn egress_to_the_own_node_is_policed() {
    let mut objects = pods_of_the_examples();
    objects.push(policy(
        "a",
        &json!({"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {}}]}]}),
    ));
    check(&objects, "a/web > node:n1 TCP 10250", Verdict::Deny);
    objects.push(policy("a", &json!({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "192.168.0.0/24"}}]}]})));
    check(&objects, "a/web > node:n1 TCP 10250", Verdict::Allow);
}

#[test]
fn a_pod_reaches_itself_whatever_policy_says() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", &json!({"policyTypes": ["Ingress", "Egress"]})));
    check(&objects, "a/web > a/web TCP 80", Verdict::Allow);
    check(&objects, "a/web > ip:10.2.0.1 UDP 80", Verdict::Allow);
    check(&objects, "a/web > a/db TCP 80", Verdict::Deny);
}

#[test]
fn the_metadata_addresses_are_out_of_reach_of_every_pod_without_policy_too() {
    let objects = vec![
        namespace("a", &json!({})),
        node("n1", &["192.168.0.11", "fd20::11"]),
        with(
            pod("a", "web", "", &json!({}), &json!([])),
            "/status/podIPs",
            json!([{"ip": "10.2.0.1"}, {"ip": "fd10::1"}]),
        ),
    ];
    for address in METADATA_ADDRESSES {
        for rest in ["TCP 80", "UDP 53", "SCTP 1", "ICMP 8"] {
            let probe = probe(&format!("a/web > ip:{address} {rest}"));
            let answer = Oracle::new(&objects).judge(&probe).unwrap();
            assert_eq!(
                (answer.egress.verdict, answer.egress.reason),
                (SideVerdict::Deny, Reason::MetadataGuard)
            );
            let other = Oracle::new(&objects)
                .with_metadata_allow(&["b/default"])
                .judge(&probe)
                .unwrap();
            assert_eq!(other.verdict(), Verdict::Deny);
        }
        check(
            &objects,
            &format!("node:n1 > ip:{address} TCP 80"),
            Verdict::Allow,
        );
    }
    check(
        &objects,
        "a/web > ip:::ffff:169.254.169.254 TCP 80",
        Verdict::Deny,
    );
    check(
        &objects,
        "a/web > ip:169.254.169.253 TCP 80",
        Verdict::Allow,
    );
}

#[test]
fn an_account_on_the_allow_list_is_left_to_ordinary_policy() {
    let mut objects = pods_of_the_examples();
    let probe = probe("a/web > ip:169.254.169.254 TCP 80");
    let verdict = |objects: &[Value]| {
        Oracle::new(objects)
            .with_metadata_allow(&["a/default"])
            .judge(&probe)
            .unwrap()
            .verdict()
    };
    assert_eq!(verdict(&objects), Verdict::Allow);
    objects.push(policy("a", &json!({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]})));
    assert_eq!(verdict(&objects), Verdict::Deny);
}

#[test]
fn a_node_answers_for_its_own_endpoints_only() {
    let mut objects = pods_of_the_examples();
    objects.push(with(
        pod("b", "far", "10.2.1.1", &json!({}), &json!([])),
        "/spec/nodeName",
        json!("n2"),
    ));
    objects.push(policy(
        "a",
        &json!({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "db"}}}),
    ));
    let oracle = Oracle::new(&objects);
    let expected =
        |node: &str, connection: &str| oracle.expected_at(node, &probe(connection)).unwrap();
    assert_eq!(expected("n1", "b/web > a/web TCP 80"), Expected::Allow);
    assert_eq!(expected("n1", "a/db > a/web TCP 80"), Expected::Deny);
    assert_eq!(expected("n1", "a/web > b/far TCP 80"), Expected::Skipped);
    assert_eq!(
        expected("n1", "a/db > b/far TCP 80"),
        Expected::DenyOrSkipped
    );
    assert_eq!(expected("n2", "a/db > b/far TCP 80"), Expected::Skipped);
    assert_eq!(
        expected("n2", "ip:203.0.113.9 > b/far TCP 80"),
        Expected::Allow
    );
    assert_eq!(
        expected("n1", "ip:203.0.113.9 > b/far TCP 80"),
        Expected::Skipped
    );
    assert_eq!(
        expected("n1", "node:n1 > ip:203.0.113.9 TCP 80"),
        Expected::Allow
    );
    assert_eq!(oracle.busiest_node().as_deref(), Some("n1"));
    assert!(Expected::DenyOrSkipped.accepts("deny") && Expected::DenyOrSkipped.accepts("skipped"));
    assert!(!Expected::DenyOrSkipped.accepts("allow") && !Expected::Allow.accepts("skipped"));
}
