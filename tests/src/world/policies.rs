//! Random `NetworkPolicies` that step into every trap of part 2: missing against empty, all shapes of `policyTypes`, exceptions, overlapping
//! blocks, ranges, names, and now and then a rule or subject that nobody can understand.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::places::Places;
use super::rng::Rng;

const CIDRS: [&str; 24] = [
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/16",
    "10.1.1.0/24",
    "10.1.1.0/28",
    "10.1.1.128/25",
    "10.1.2.0/26",
    "192.168.0.0/16",
    "192.168.0.11/32",
    "203.0.113.0/24",
    "203.0.113.64/26",
    "203.0.113.9/25",
    "198.51.100.7/32",
    "169.254.0.0/16",
    "2001:db8::/32",
    "2001:db8:0:1::/64",
    "fd10::/16",
    "fd10:0:0:1::/64",
    "fd10:0:0:1::/124",
    "fd20::/64",
];
const PORTS: [u16; 10] = [80, 8080, 8081, 9090, 53, 5060, 443, 1, 65535, 30000];
const NAMES: [&str; 6] = ["http", "metrics", "dns", "dns-tcp", "sip", "nowhere"];

/// Up to eight policies; in one world of five, one of them is spoilt.
pub(crate) fn random(rng: &mut Rng, places: &Places) -> Vec<Value> {
    let count = if rng.percent(5) {
        0
    } else {
        rng.between(1, 8).max(rng.between(1, 8))
    };
    let mut policies: Vec<Value> = (0..count).map(|index| policy(rng, places, index)).collect();
    if count > 0 && rng.percent(20) {
        let chosen = rng.below(count);
        spoil(rng, &mut policies[chosen]);
    }
    policies
}

fn policy(rng: &mut Rng, places: &Places, index: usize) -> Value {
    let mut spec = Map::new();
    match rng.weighted(&[8, 37, 55]) {
        0 => {}
        1 => drop(spec.insert("podSelector".to_owned(), json!({}))),
        _ => drop(spec.insert("podSelector".to_owned(), selector(rng, &POD_LABELS))),
    }
    match rng.weighted(&[30, 6, 20, 16, 14, 14]) {
        0 => {}
        1 => drop(spec.insert("policyTypes".to_owned(), json!([]))),
        2 => drop(spec.insert("policyTypes".to_owned(), json!(["Ingress"]))),
        3 => drop(spec.insert("policyTypes".to_owned(), json!(["Egress"]))),
        4 => drop(spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress"]))),
        _ => drop(spec.insert("policyTypes".to_owned(), json!(["Egress", "Ingress"]))),
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = match rng.weighted(&[15, 4, 8, 6, 67]) {
            0 => continue,
            1 => Value::Null,
            2 => json!([]),
            3 => json!([{}]),
            _ => (0..rng.between(1, 3))
                .map(|_| rule(rng, places, peers))
                .collect(),
        };
        spec.insert(direction.to_owned(), rules);
    }
    let metadata =
        json!({"namespace": rng.pick(&places.namespaces), "name": format!("policy-{index}")});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

fn rule(rng: &mut Rng, places: &Places, peers: &str) -> Value {
    let mut rule = Map::new();
    match rng.weighted(&[12, 5, 83]) {
        0 => {}
        1 => drop(rule.insert(peers.to_owned(), json!([]))),
        _ => {
            let entries: Value = (0..rng.between(1, 3)).map(|_| peer(rng, places)).collect();
            rule.insert(peers.to_owned(), entries);
        }
    }
    match rng.weighted(&[40, 7, 53]) {
        0 => {}
        1 => drop(rule.insert("ports".to_owned(), json!([]))),
        _ => {
            let entries: Value = (0..rng.between(1, 3)).map(|_| port(rng)).collect();
            rule.insert("ports".to_owned(), entries);
        }
    }
    Value::Object(rule)
}

fn peer(rng: &mut Rng, places: &Places) -> Value {
    match rng.weighted(&[22, 16, 14, 48]) {
        0 => json!({"podSelector": maybe_empty(rng, &POD_LABELS)}),
        1 => json!({"namespaceSelector": maybe_empty(rng, &NAMESPACE_LABELS)}),
        2 => {
            json!({"podSelector": maybe_empty(rng, &POD_LABELS), "namespaceSelector": maybe_empty(rng, &NAMESPACE_LABELS)})
        }
        _ => block(rng, places),
    }
}

fn block(rng: &mut Rng, places: &Places) -> Value {
    let cidr = cidr(rng, places);
    let mut block = json!({"cidr": cidr});
    let outer: IpNet = cidr.parse().expect("the vocabulary holds CIDRs only");
    if rng.percent(45) && outer.prefix_len() < outer.max_prefix_len() {
        let except: Vec<String> = (0..rng.between(1, 3))
            .map(|_| inside(rng, places, outer))
            .collect();
        block["except"] = json!(except);
    } else if rng.percent(10) {
        block["except"] = json!([]);
    }
    json!({"ipBlock": block})
}

fn cidr(rng: &mut Rng, places: &Places) -> String {
    if rng.percent(70) {
        return (*rng.pick(&CIDRS)).to_owned();
    }
    let address = known_address(rng, places);
    let length = if address.is_ipv4() {
        *rng.pick(&[32, 32, 31, 28, 24])
    } else {
        *rng.pick(&[128, 128, 127, 124, 64])
    };
    format!("{address}/{length}")
}

/// A prefix strictly inside: one of the vocabulary's, around a known address, or at an edge.
fn inside(rng: &mut Rng, places: &Places, outer: IpNet) -> String {
    let known = known_address(rng, places);
    let nested: Vec<&str> = CIDRS
        .into_iter()
        .filter(|text| {
            text.parse::<IpNet>().is_ok_and(|inner| {
                inner.prefix_len() > outer.prefix_len() && outer.contains(&inner.trunc())
            })
        })
        .collect();
    if !nested.is_empty() && rng.percent(50) {
        return (*rng.pick(&nested)).to_owned();
    }
    let around = match rng.below(3) {
        0 => outer.network(),
        1 => outer.broadcast(),
        _ if outer.contains(&known) => known,
        _ => outer.network(),
    };
    let length = rng.between(
        usize::from(outer.prefix_len()) + 1,
        usize::from(outer.max_prefix_len()),
    ) as u8;
    let inner = IpNet::new(around, length).expect("the length fits the family");
    inner.trunc().to_string()
}

fn known_address(rng: &mut Rng, places: &Places) -> IpAddr {
    let pods = if rng.percent(80) && !places.endpoints.is_empty() {
        &places.endpoints
    } else {
        &places.nodes
    };
    let place = rng.pick(pods);
    *rng.pick(&place.addresses)
}

fn port(rng: &mut Rng) -> Value {
    let mut port = Map::new();
    match rng.weighted(&[10, 40, 20, 30]) {
        0 => {}
        1 => drop(port.insert("port".to_owned(), json!(rng.pick(&PORTS)))),
        2 => {
            let (first, last) = *rng.pick(&[
                (8080_u16, 8090_u16),
                (1, 65535),
                (80, 80),
                (30000, 32767),
                (53, 80),
                (1024, 65535),
            ]);
            port.insert("port".to_owned(), json!(first));
            port.insert("endPort".to_owned(), json!(last));
        }
        _ => drop(port.insert("port".to_owned(), json!(rng.pick(&NAMES)))),
    }
    match rng.weighted(&[45, 15, 25, 15]) {
        0 => {}
        1 => drop(port.insert("protocol".to_owned(), json!("TCP"))),
        2 => drop(port.insert("protocol".to_owned(), json!("UDP"))),
        _ => drop(port.insert("protocol".to_owned(), json!("SCTP"))),
    }
    Value::Object(port)
}

type Vocabulary = [(&'static str, &'static [&'static str]); 3];

const POD_LABELS: Vocabulary = [
    ("app", &["web", "db", "api"]),
    ("tier", &["front", "back"]),
    ("track", &["true", "1", ""]),
];
const NAMESPACE_LABELS: Vocabulary = [
    ("team", &["red", "blue", ""]),
    ("env", &["prod", "dev"]),
    ("kubernetes.io/metadata.name", &["shop", "ops", "data"]),
];

fn maybe_empty(rng: &mut Rng, vocabulary: &Vocabulary) -> Value {
    if rng.percent(25) {
        json!({})
    } else {
        selector(rng, vocabulary)
    }
}

fn selector(rng: &mut Rng, vocabulary: &Vocabulary) -> Value {
    let (key, values) = *rng.pick(vocabulary);
    let labels = json!({key: rng.pick(values)});
    match rng.weighted(&[60, 30, 10]) {
        0 => json!({"matchLabels": labels}),
        1 => json!({"matchExpressions": [expression(rng, vocabulary)]}),
        _ => json!({"matchLabels": labels, "matchExpressions": [expression(rng, vocabulary)]}),
    }
}

fn expression(rng: &mut Rng, vocabulary: &Vocabulary) -> Value {
    let (key, values) = *rng.pick(vocabulary);
    let some = &values[..rng.between(1, values.len())];
    match rng.below(4) {
        0 => json!({"key": key, "operator": "In", "values": some}),
        1 => json!({"key": key, "operator": "NotIn", "values": some}),
        2 => json!({"key": key, "operator": "Exists"}),
        _ => json!({"key": key, "operator": "DoesNotExist"}),
    }
}

/// Makes one rule, or the subject, into something that is not to be understood.
fn spoil(rng: &mut Rng, policy: &mut Value) {
    let directions: Vec<(&str, &str)> = [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .filter(|(direction, _)| {
            policy["spec"][*direction]
                .as_array()
                .is_some_and(|rules| !rules.is_empty())
        })
        .collect();
    if directions.is_empty() || rng.percent(15) {
        policy["spec"]["podSelector"] =
            json!({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]});
        return;
    }
    let (direction, peers) = *rng.pick(&directions);
    let count = policy["spec"][direction].as_array().map_or(0, Vec::len);
    let rule = &mut policy["spec"][direction][rng.below(count)];
    let (list, bad) = bad_entry(rng, peers);
    match rule[list].as_array_mut() {
        Some(entries) => entries.push(bad),
        None => rule[list] = json!([bad]),
    }
}

fn bad_entry<'a>(rng: &mut Rng, peers: &'a str) -> (&'a str, Value) {
    let bad_peers = [
        json!({}),
        json!({"ipBlock": {"cidr": "10.0.0.0/40"}}),
        json!({"ipBlock": {"cidr": "anywhere"}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}}),
        json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["fd10::/64"]}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
        json!({"ipBlock": {"cidr": "0.0.0.0/0"}, "podSelector": {}}),
        json!({"ipBlock": {"cidr": "::/0"}, "namespaceSelector": {}}),
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Lt", "values": ["1"]}]}}),
        json!({"namespaceSelector": {}, "serviceAccountSelector": {"matchLabels": {"app": "web"}}}),
    ];
    let bad_ports = [
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": 8080, "endPort": 80}),
        json!({"port": "http", "endPort": 9000}),
        json!({"endPort": 9000}),
        json!({"port": "80"}),
        json!({"port": 80, "protocol": "ICMP"}),
    ];
    if rng.percent(55) {
        (peers, rng.pick(&bad_peers).clone())
    } else {
        ("ports", rng.pick(&bad_ports).clone())
    }
}
