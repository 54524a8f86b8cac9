//! Reading objects: port names and containers, and policies that nobody can understand (part 6.1).

use serde_json::{Value, json};

use super::{check, check_policy, pods_of_the_examples, policy, probe};
use crate::oracle::{Oracle, ProbeError, Verdict};

fn pod_with(spec: &Value) -> Vec<Value> {
    let mut objects = pods_of_the_examples();
    let mut spec = spec.clone();
    spec["nodeName"] = json!("n1");
    objects.push(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "x"},
        "spec": spec, "status": {"podIPs": [{"ip": "10.2.0.7"}]}}),
    );
    objects
}

#[test]
fn a_port_name_declared_twice_is_any_of_them_and_sidecars_count() {
    let port = |name: &str, number: u16| json!({"name": name, "containerPort": number});
    let mut objects = pod_with(&json!({
        "containers": [
            {"ports": [port("http", 8080), {"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            {"ports": [port("http", 8081), port("dns", 54), {"containerPort": 9000}]}],
        "initContainers": [
            {"ports": [port("http", 8082)]},
            {"restartPolicy": "Always", "ports": [port("http", 8083)]}]}));
    objects.push(policy(
        "a",
        &json!({"ingress": [{"ports": [{"port": "http"}, {"port": "dns", "protocol": "UDP"}]}]}),
    ));
    for (port, expected) in [
        ("TCP 8080", Verdict::Allow),
        ("TCP 8081", Verdict::Allow),
        ("TCP 8082", Verdict::Deny),
        ("TCP 8083", Verdict::Allow),
        ("UDP 53", Verdict::Allow),
        ("UDP 54", Verdict::Deny),
        ("TCP 53", Verdict::Deny),
        ("TCP 9000", Verdict::Deny),
    ] {
        check(&objects, &format!("b/web > a/x {port}"), expected);
    }
}

#[test]
fn a_port_name_behind_an_ip_block_works_when_the_address_is_a_pods() {
    check_policy(
        &json!({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}]}),
        &["a/web > a/db TCP 5432", "a/web > ip:10.2.0.2 TCP 5432"],
        &["a/web > a/db TCP 8080", "a/web > ip:10.9.9.9 TCP 5432"],
    );
}

#[test]
fn a_rule_that_is_not_understood_matches_nothing_and_still_isolates() {
    let everyone = json!({"ipBlock": {"cidr": "0.0.0.0/0"}});
    let bad_rules = [
        json!({"from": [everyone, {"ipBlock": {"cidr": "10.0.0.0/40"}}]}),
        json!({"from": [everyone, {"ipBlock": {"cidr": "10.0.0.0"}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["fd10::/64"]}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/1", "except": ["203.0.113.0/24"]}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/0"]}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}, "podSelector": {}}]}),
        json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}, "namespaceSelector": {}}]}),
        json!({"from": [everyone, {}]}),
        json!({"from": [{"namespaceSelector": {}, "serviceAccountSelector": {}}]}),
        json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]}),
        json!({"ports": [{}, {"port": 0}]}),
        json!({"ports": [{}, {"port": 65536}]}),
        json!({"ports": [{}, {"port": "80"}]}),
        json!({"ports": [{}, {"port": ""}]}),
        json!({"ports": [{"port": 90, "endPort": 80}]}),
        json!({"ports": [{"port": "http", "endPort": 9000}]}),
        json!({"ports": [{"endPort": 9000}]}),
        json!({"ports": [{}, {"protocol": "ICMP"}]}),
        json!({"ports": [{}, {"protocol": "tcp"}]}),
        json!({"to": [everyone]}),
        json!({"ports": {}}),
        json!("everyone"),
    ];
    for rule in bad_rules {
        check_policy(
            &json!({"ingress": [rule]}),
            &["a/web > b/web TCP 80"],
            &["b/web > a/web TCP 80"],
        );
        check_policy(
            &json!({"ingress": [rule, {"ports": [{"port": 81}]}]}),
            &["b/web > a/web TCP 81"],
            &["b/web > a/web TCP 80"],
        );
    }
}

#[test]
fn an_egress_rule_that_is_not_understood_still_counts_as_one() {
    check_policy(
        &json!({"egress": [{"to": [{}]}]}),
        &[],
        &["a/web > b/web TCP 80", "b/web > a/web TCP 80"],
    );
    check_policy(
        &json!({"policyTypes": ["Ingress"], "egress": [{"to": [{}]}]}),
        &["a/web > b/web TCP 80"],
        &["b/web > a/web TCP 80"],
    );
}

#[test]
fn a_subject_that_is_not_understood_is_every_pod_of_the_namespace() {
    check_policy(
        &json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Near", "values": ["web"]}]}}),
        &["a/web > b/web TCP 80"],
        &["b/web > a/web TCP 80", "b/web > a/db TCP 80"],
    );
}

#[test]
fn objects_inside_of_a_list_count_and_foreign_kinds_do_not() {
    let mut objects =
        vec![json!({"apiVersion": "v1", "kind": "List", "items": pods_of_the_examples()})];
    let mut foreign = policy("a", &json!({}));
    foreign["apiVersion"] = json!("projectcalico.org/v3");
    objects.push(foreign);
    check(&objects, "b/web > a/web TCP 80", Verdict::Allow);
    objects.push(json!({"apiVersion": "v1", "kind": "List", "items": [policy("a", &json!({}))]}));
    check(&objects, "b/web > a/web TCP 80", Verdict::Deny);
}

#[test]
fn a_probe_without_its_port_is_an_error() {
    let mut probe = probe("b/web > a/web TCP 80");
    probe.dst_port = None;
    assert_eq!(
        Oracle::new(&pods_of_the_examples())
            .judge(&probe)
            .unwrap_err(),
        ProbeError::NoPort
    );
}
