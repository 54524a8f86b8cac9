//! Policies that are larger than any that people write: nothing is cut off, and the oracle's answers stand.

use portcullis_tests::binary;
use portcullis_tests::probe::{End, Probe, Protocol};
use portcullis_tests::scene::need_root;
use portcullis_tests::world::World;
use serde_json::{Value, json};

use super::{compare_explain, compare_lab};

/// What tells one pod from another in a giant selector.
const NUMBER: &str = "number";

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red"}}})
}

/// A pod with a label `number`.
fn pod(name: &str, node: &str, address: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name, NUMBER: number.to_string()}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn policy(ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "giant", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

fn probe(id: usize, source: End, port: u16, protocol: Protocol) -> Probe {
    Probe {
        id: format!("p{id}"),
        src: source,
        dst: of_pod("db"),
        protocol,
        dst_port: Some(port),
        family: None,
        src_port: None,
        icmp_type: None,
        icmp_code: None,
    }
}

fn of_pod(name: &str) -> End {
    End::Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

/// A database, a client beside it, one on another node, and whoever is asked about besides: each on a node of its own, so that the first is the busiest.
fn world(ingress: &Value, others: Vec<Value>, probes: Vec<Probe>) -> World {
    let mut objects = vec![
        namespace(),
        pod("db", "node-a", "10.0.1.1", 0),
        pod("web", "node-a", "10.0.1.2", 1),
        pod("far", "node-b", "10.0.2.1", 2),
        policy(ingress),
    ];
    objects.extend(others);
    World {
        seed: 0,
        objects,
        probes,
    }
}

fn agrees(world: &World) {
    let binary = binary::portcullis();
    assert_eq!(compare_explain(&binary, world), Ok(Vec::new()));
}

fn agrees_in_the_kernel(world: &World) {
    need_root();
    let (disagreements, answered) =
        compare_lab(&binary::portcullis(), "test-run", world).expect("the programs answer");
    assert_eq!(disagreements, Vec::<String>::new());
    assert!(answered > 0, "every probe was skipped");
}

#[test]
fn a_rule_has_a_thousand_ports_and_a_thousand_ranges() {
    // 7, 27, 47, ... and 10000-10012, 10030-10042, ...
    let single = (0..1000_u16).map(|number| json!({"port": 7 + 20 * (number % 450), "protocol": if number < 450 { "TCP" } else { "UDP" }}));
    let ranges = (0..1000_u16)
        .map(|number| json!({"port": 10_000 + 30 * number, "endPort": 10_012 + 30 * number}));
    let ports: Vec<Value> = single.chain(ranges).collect();
    let ingress =
        json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": ports}]);
    let mut probes = Vec::new();
    let mut ask = |port: u16, protocol| {
        for source in ["web", "far"] {
            probes.push(probe(probes.len(), of_pod(source), port, protocol));
        }
    };
    for port in [0, 6, 7, 8, 27, 4001, 8987, 8988, 9007, 65_535] {
        ask(port, Protocol::Tcp);
        ask(port, Protocol::Udp);
    }
    for range in [0, 1, 499, 500, 998, 999] {
        let first = 10_000 + 30 * range;
        for port in [first - 1, first, first + 6, first + 12, first + 13] {
            ask(port, Protocol::Tcp);
        }
    }
    let world = world(&ingress, Vec::new(), probes);
    agrees(&world);
    agrees_in_the_kernel(&world);
}

#[test]
fn a_policy_has_ten_thousand_rules() {
    const RULES: usize = 10_000;
    // Each with a port, and a peer of its own: a block, a pod, or nobody who is there.
    let block = |number: usize| format!("198.{}.{}.0/28", 18 + number / 256 % 2, number % 256);
    let rules: Vec<Value> = (0..RULES)
        .map(|number| {
            let peer = match number % 3 {
                0 => json!({"ipBlock": {"cidr": block(number)}}),
                1 => json!({"podSelector": {"matchLabels": {NUMBER: (number % 90).to_string()}}}),
                _ => json!({"namespaceSelector": {"matchLabels": {"team": number.to_string()}}}),
            };
            json!({"from": [peer], "ports": [{"port": 1000 + number}]})
        })
        .collect();
    let others = (3..60).map(|number| {
        pod(
            &format!("pod-{number}"),
            &format!("node-{number}"),
            &format!("10.0.3.{number}"),
            number,
        )
    });
    let mut probes = Vec::new();
    for number in (0..RULES)
        .step_by(61)
        .chain([RULES - 3, RULES - 2, RULES - 1])
    {
        let port = 1000 + number as u16;
        let sources = [
            End::Address(
                block(number)
                    .replace(".0/28", ".15")
                    .parse()
                    .expect("an address"),
            ),
            End::Address(
                block(number)
                    .replace(".0/28", ".16")
                    .parse()
                    .expect("an address"),
            ),
            of_pod(&format!("pod-{}", 3 + number % 57)),
            of_pod("web"),
        ];
        for source in sources {
            probes.push(probe(probes.len(), source, port, Protocol::Tcp));
        }
        let of_rule = number % 90;
        if (3..60).contains(&of_rule) {
            let source = of_pod(&format!("pod-{of_rule}"));
            probes.push(probe(probes.len(), source, port, Protocol::Tcp));
        }
    }
    let world = world(&json!(rules), others.collect(), probes);
    agrees(&world);
    agrees_in_the_kernel(&world);
}

#[test]
fn selectors_have_thousands_of_values_and_hundreds_of_requirements() {
    let values = |numbers: std::ops::Range<usize>| -> Vec<String> {
        numbers.map(|number| (3 * number).to_string()).collect()
    };
    let in_many = json!([{"key": NUMBER, "operator": "In", "values": values(0..5000)}]);
    let in_none_of_many = json!([{"key": NUMBER, "operator": "NotIn", "values": values(0..5000)}]);
    let all_hold: Vec<Value> = (0..500)
        .map(|number| json!({"key": format!("absent-{number}"), "operator": "DoesNotExist"}))
        .chain([json!({"key": NUMBER, "operator": "Exists"})])
        .collect();
    let ingress = json!([
        {"from": [{"podSelector": {"matchExpressions": in_many}}], "ports": [{"port": 1}]},
        {"from": [{"podSelector": {"matchExpressions": in_none_of_many}}], "ports": [{"port": 2}]},
        {"from": [{"podSelector": {"matchExpressions": all_hold}}], "ports": [{"port": 3}]},
    ]);
    let others = (3..40).map(|number| {
        let address = format!("10.0.3.{number}");
        let mut pod = pod(
            &format!("pod-{number}"),
            &format!("node-{number}"),
            &address,
            number,
        );
        if number % 5 == 0 {
            pod["metadata"]["labels"][format!("absent-{}", 10 * number)] = json!("there");
        }
        pod
    });
    let mut probes = Vec::new();
    for number in 3..40 {
        for port in 1..4 {
            let source = of_pod(&format!("pod-{number}"));
            probes.push(probe(probes.len(), source, port, Protocol::Tcp));
        }
    }
    agrees(&world(&ingress, others.collect(), probes));
}
