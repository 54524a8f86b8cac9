//! Namespaces, nodes and pods of a world, as people write them.
//!
//! ```text
//! node i: 192.168.0.1i, fd20::1i    pods on it: 10.1.i.0/24, fd10:0:0:i::/64    host part: from a short list, close to powers of two
//! ```
//! Every kind of pod that part 1.2 of the policy reference tells apart turns up: single and dual stack, hostNetwork, finished with an
//! address that has an heir, pending, terminating, without any address, and (for the compiler only) two live pods on one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::Audience;
use super::rng::Rng;
use crate::probe::End;

const NAMESPACES: [&str; 4] = ["shop", "ops", "lab-x", "data"];
const APPS: [&str; 3] = ["web", "db", "api"];

/// Host parts whose neighbours lie in other small prefixes.
const HOSTS: [u8; 16] = [1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 127, 128, 254];

/// The objects, and what probes can be sent from or to.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) objects: Vec<Value>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) endpoints: Vec<Place>,
    pub(crate) host_pods: Vec<Place>,
    pub(crate) nodes: Vec<Place>,
    /// Of finished pods, mostly nobody's now.
    pub(crate) left_behind: Vec<IpAddr>,
}

/// A pod or node with its addresses as listed.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) end: End,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Another live pod has one of the addresses too.
    pub(crate) shared: bool,
}

/// Rolls the places of a world.
pub(crate) fn random(rng: &mut Rng, audience: Audience) -> Places {
    let mut places = Places::default();
    add_namespaces(rng, &mut places);
    add_nodes(rng, &mut places);
    let mut hosts = HOSTS.to_vec();
    for index in 0..rng.between(3, 12) {
        add_pod(rng, &mut places, &mut hosts, index);
    }
    if audience == Audience::Compiler && rng.percent(8) {
        add_twin(rng, &mut places);
    }
    places
}

fn add_namespaces(rng: &mut Rng, places: &mut Places) {
    for name in &NAMESPACES[..rng.between(2, 4)] {
        let mut metadata = json!({"name": name});
        let labels = labels(
            rng,
            &[("team", &["red", "blue", ""]), ("env", &["prod", "dev"])],
        );
        if !labels.is_empty() || rng.percent(30) {
            metadata["labels"] = Value::Object(labels);
        }
        places.namespaces.push((*name).to_owned());
        places
            .objects
            .push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }
}

fn add_nodes(rng: &mut Rng, places: &mut Places) {
    for index in 1..=rng.between(1, 3) as u8 {
        let name = format!("node-{index}");
        let v4 = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 10 + index));
        let v6 = IpAddr::V6(Ipv6Addr::new(
            0xfd20,
            0,
            0,
            0,
            0,
            0,
            0,
            0x10 + u16::from(index),
        ));
        let pod_cidrs = [
            format!("10.1.{index}.0/24"),
            format!("fd10:0:0:{index}::/64"),
        ];
        places.objects.push(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs},
            "status": {"addresses": [
                {"type": "InternalIP", "address": v4},
                {"type": "InternalIP", "address": v6},
                {"type": "Hostname", "address": name}]}}),
        );
        places.nodes.push(Place {
            end: End::Node(name.clone()),
            node: name,
            addresses: vec![v4, v6],
            shared: false,
        });
    }
}

fn add_pod(rng: &mut Rng, places: &mut Places, hosts: &mut Vec<u8>, index: usize) {
    let namespace = rng.pick(&places.namespaces).clone();
    let name = format!("{}-{index}", rng.pick(&APPS));
    // most pods on the first node: that is the one the kernel judges
    let node = if rng.percent(60) {
        0
    } else {
        rng.below(places.nodes.len())
    };
    let host = hosts.swap_remove(rng.below(hosts.len()));
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 1, node as u8 + 1, host));
    let v6 = IpAddr::V6(Ipv6Addr::new(
        0xfd10,
        0,
        0,
        node as u16 + 1,
        0,
        0,
        0,
        u16::from(host),
    ));
    let own = match rng.weighted(&[50, 10, 20, 20]) {
        0 => vec![v4, v6],
        1 => vec![v6, v4],
        2 => vec![v4],
        _ => vec![v6],
    };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
        "spec": spec(rng)});
    let labels = labels(
        rng,
        &[
            ("app", &APPS),
            ("tier", &["front", "back"]),
            ("track", &["true", "1", ""]),
        ],
    );
    if !labels.is_empty() {
        pod["metadata"]["labels"] = Value::Object(labels);
    }
    let place = |addresses: Vec<IpAddr>| Place {
        end: End::pod(&namespace, &name),
        node: places.nodes[node].node.clone(),
        addresses,
        shared: false,
    };
    pod["spec"]["nodeName"] = json!(place(Vec::new()).node);
    match rng.weighted(&[58, 9, 9, 6, 6, 6, 6]) {
        1 => {
            let of_the_node = places.nodes[node].addresses.clone();
            pod["spec"]["hostNetwork"] = json!(true);
            pod["status"] = status(rng, "Running", &of_the_node);
            places.host_pods.push(place(of_the_node));
        }
        2 => {
            let address_of = heirs(rng, places, node).unwrap_or(own);
            let phase = if rng.percent(50) {
                "Succeeded"
            } else {
                "Failed"
            };
            pod["status"] = status(rng, phase, &address_of);
            places.left_behind.extend(address_of);
        }
        3 => {
            let address_of = heirs(rng, places, node).unwrap_or(own);
            let annotation = if rng.percent(50) {
                "cni.projectcalico.org/podIP"
            } else {
                "vpc.amazonaws.com/pod-ips"
            };
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
            pod["metadata"]["annotations"] = json!({annotation: ""});
            pod["status"] = status(rng, "Running", &address_of);
            places.left_behind.extend(address_of);
        }
        4 => {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
            pod["status"] = status(rng, "Running", &own);
            places.endpoints.push(place(own));
        }
        5 => {
            pod["status"] = status(rng, "Pending", &own);
            places.endpoints.push(place(own));
        }
        6 => pod["status"] = json!({"phase": "Pending"}),
        _ => {
            pod["status"] = status(rng, "Running", &own);
            places.endpoints.push(place(own));
        }
    }
    places.objects.push(pod);
}

/// The addresses of a live pod of the node, for a pod that had them before.
fn heirs(rng: &mut Rng, places: &Places, node: usize) -> Option<Vec<IpAddr>> {
    let node = &places.nodes[node].node;
    let live: Vec<&Place> = places
        .endpoints
        .iter()
        .filter(|place| place.node == *node)
        .collect();
    (!live.is_empty() && rng.percent(65)).then(|| rng.pick(&live).addresses.clone())
}

/// A second live pod on the addresses of another (A7), with the same ports, since whose ports would count is nobody's to say.
fn add_twin(rng: &mut Rng, places: &mut Places) {
    if places.endpoints.is_empty() {
        return;
    }
    let chosen = rng.below(places.endpoints.len());
    places.endpoints[chosen].shared = true;
    let mut twin = places.endpoints[chosen].clone();
    let End::Pod { namespace, name } = &twin.end else {
        return;
    };
    let is_it = |object: &&Value| {
        object["kind"] == "Pod"
            && object["metadata"]["namespace"] == **namespace
            && object["metadata"]["name"] == **name
    };
    let Some(mut pod) = places.objects.iter().find(is_it).cloned() else {
        return;
    };
    let namespace = rng.pick(&places.namespaces).clone();
    pod["metadata"] =
        json!({"namespace": namespace, "name": "twin", "labels": {"app": rng.pick(&APPS)}});
    twin.end = End::pod(&namespace, "twin");
    places.endpoints.push(twin);
    places.objects.push(pod);
}

fn labels(rng: &mut Rng, vocabulary: &[(&str, &[&str])]) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in vocabulary {
        if rng.percent(80) {
            labels.insert((*key).to_owned(), json!(rng.pick(values)));
        }
    }
    labels
}

fn status(rng: &mut Rng, phase: &str, addresses: &[IpAddr]) -> Value {
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    match rng.weighted(&[60, 25, 15]) {
        0 => json!({"phase": phase, "podIP": addresses[0], "podIPs": listed}),
        2 if addresses.len() == 1 => json!({"phase": phase, "podIP": addresses[0]}),
        _ => json!({"phase": phase, "podIPs": listed}),
    }
}

/// Containers, their ports, sometimes an account.
fn spec(rng: &mut Rng) -> Value {
    let mut spec = json!({"containers": [container(rng, "main")]});
    if rng.percent(25) {
        spec["containers"] = json!([container(rng, "main"), container(rng, "second")]);
    }
    if rng.percent(25) {
        let mut first = container(rng, "first");
        if rng.percent(50) {
            first["restartPolicy"] = json!("Always");
        }
        spec["initContainers"] = json!([first]);
    }
    if rng.percent(20) {
        spec["serviceAccountName"] = json!("runner");
    }
    spec
}

fn container(rng: &mut Rng, name: &str) -> Value {
    let mut ports = Vec::new();
    for (name, protocol, numbers) in [
        ("http", "TCP", [80, 8080, 8081]),
        ("metrics", "TCP", [9090, 9091, 8080]),
        ("dns", "UDP", [53, 5353, 5354]),
        ("dns-tcp", "TCP", [53, 5353, 53]),
        ("sip", "SCTP", [5060, 5061, 80]),
    ] {
        if rng.percent(25) {
            let mut port = json!({"name": name, "containerPort": rng.pick(&numbers)});
            if protocol != "TCP" || rng.percent(30) {
                port["protocol"] = json!(protocol);
            }
            ports.push(port);
        }
    }
    if rng.percent(10) {
        ports.push(json!({"containerPort": 7000}));
    }
    let mut container = json!({"name": name, "image": "registry.example/app:1"});
    if !ports.is_empty() || rng.percent(20) {
        container["ports"] = json!(ports);
    }
    container
}
