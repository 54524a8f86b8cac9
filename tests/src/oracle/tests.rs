//! Tables of policies and connections: the worked examples of the policy reference, its traps, and who an address belongs to.

mod addresses;
mod examples;
mod reading;

use serde_json::{Value, json};

use super::*;

/// A pod in namespace `a` or `b` on node `n1` with one address.
fn pod(namespace: &str, name: &str, ip: &str, labels: &Value, ports: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]}})
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
}

fn policy(namespace: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": "p"}, "spec": spec})
}

/// The pods of part 9: `a/web` (http = TCP 8080), `a/db` (http = TCP 5432), `b/web` (no ports); namespace `b` has team=red.
fn pods_of_the_examples() -> Vec<Value> {
    let port = |number: u16| json!([{"name": "http", "containerPort": number}]);
    vec![
        namespace("a", &json!({})),
        namespace("b", &json!({"team": "red"})),
        node("n1", &["192.168.0.11", "fd20::11"]),
        node("n2", &["192.168.0.12", "fd20::12"]),
        pod("a", "web", "10.2.0.1", &json!({"app": "web"}), &port(8080)),
        pod("a", "db", "10.2.0.2", &json!({"app": "db"}), &port(5432)),
        pod("b", "web", "10.2.0.3", &json!({"app": "web"}), &json!([])),
    ]
}

/// `"b/web > a/db TCP 80"`, `"ip:203.0.113.9 > a/web ICMP 8"`.
fn probe(text: &str) -> Probe {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [src, ">", dst, protocol, number] = words[..] else {
        panic!("not a probe: {text}")
    };
    let protocol: Protocol = serde_json::from_value(json!(protocol)).unwrap();
    let number: u16 = number.parse().unwrap();
    Probe {
        id: text.to_owned(),
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        protocol,
        dst_port: (!protocol.is_icmp()).then_some(number),
        family: None,
        src_port: None,
        icmp_type: protocol.is_icmp().then_some(number as u8),
        icmp_code: None,
    }
}

/// Judges one connection and compares the verdict.
fn check(objects: &[Value], connection: &str, expected: Verdict) {
    let answer = Oracle::new(objects).judge(&probe(connection)).unwrap();
    assert_eq!(
        answer.verdict(),
        expected,
        "{connection}: {answer:?}\n{}",
        serde_json::to_string(objects).unwrap()
    );
}

/// The examples' pods under one policy of namespace `a`.
fn check_policy(spec: &Value, allowed: &[&str], denied: &[&str]) {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", spec));
    for connection in allowed {
        check(&objects, connection, Verdict::Allow);
    }
    for connection in denied {
        check(&objects, connection, Verdict::Deny);
    }
}
