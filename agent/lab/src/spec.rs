//! What a lab is made of: one node's pods with their addresses, and which ports answer. Plain data that goes into the state file.
//!
//! It is read from the same model that the compiler reads, but holds no policy: what may talk to what is the agent's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use portcullis_policy::model::{Peers, PortMatch, Ports, Protocol, Rule, Workload, World};
use serde::{Deserialize, Serialize};

/// More listeners than this for each pod would only cost memory.
const PORTS_PER_POD: usize = 64;

/// A node to build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// The node's name, as in the objects.
    pub node: String,
    /// Its own addresses.
    pub node_addresses: Vec<IpAddr>,
    /// Its pods.
    pub pods: Vec<LabPod>,
    /// What the outside namespace listens on, on every address.
    pub outside: Vec<Listen>,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabPod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, or what the manifest reader derived.
    pub uid: String,
    /// Addresses of its own; none for a pod in the host network.
    pub addresses: Vec<IpAddr>,
    /// Ports that answer with the pod's name.
    pub ports: Vec<Listen>,
    /// Whether it lives in the node's namespace (then it only has a cgroup of its own).
    pub host_network: bool,
}

/// A port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
}

impl LabPod {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl LabSpec {
    /// The spec of `node`, or of the node with most pods.
    ///
    /// A pod belongs to it if it is bound to the node, not finished, and has addresses of its own or lives in the host network. Of two pods that claim
    /// one address the first by namespace, name and uid has it here, as in the resolver of probes.
    pub fn from_world(world: &World, node: Option<&str>) -> Result<Self> {
        let Some(node) = node.map_or_else(|| busiest(world), |name| Some(name.to_owned())) else {
            bail!("no object names a node: give the pods a spec.nodeName, or say --node");
        };
        let mentioned = mentioned_ports(world);
        let mut taken = BTreeSet::new();
        let mut pods = Vec::new();
        let mut workloads: Vec<_> = world
            .workloads
            .values()
            .filter(|pod| pod.node.as_deref() == Some(node.as_str()) && !pod.finished)
            .collect();
        workloads.sort_by_key(|pod| (&pod.namespace, &pod.name, &pod.uid));
        for workload in workloads {
            let addresses: Vec<IpAddr> = if workload.host_network {
                Vec::new()
            } else {
                workload
                    .addresses
                    .iter()
                    .copied()
                    .filter(|address| taken.insert(*address))
                    .collect()
            };
            if addresses.is_empty() && !workload.host_network {
                continue;
            }
            let ports = if workload.host_network {
                Vec::new()
            } else {
                listened_ports(workload, &mentioned)
            };
            pods.push(LabPod {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                uid: workload.uid.clone(),
                addresses,
                ports,
                host_network: workload.host_network,
            });
        }
        let node_addresses = match world.nodes.get(&node) {
            Some(object) if !object.addresses.is_empty() => object.addresses.clone(),
            _ => default_addresses(world),
        };
        Ok(Self {
            node,
            node_addresses,
            pods,
            outside: outside_ports(world, &mentioned),
        })
    }
}

/// The node with most pods that would be in the lab; the first by name among equals.
fn busiest(world: &World) -> Option<String> {
    let mut pods: BTreeMap<&str, usize> =
        world.nodes.keys().map(|name| (name.as_str(), 0)).collect();
    for workload in world.workloads.values() {
        if let Some(node) = &workload.node
            && !workload.finished
            && !workload.addresses.is_empty()
        {
            *pods.entry(node).or_default() += 1;
        }
    }
    let most = pods.values().copied().max()?;
    pods.into_iter()
        .find(|(_, count)| *count == most)
        .map(|(name, _)| name.to_owned())
}

/// Ports that any policy names by number: a probe or a demo will knock there.
fn mentioned_ports(world: &World) -> BTreeSet<Listen> {
    let rules = world.policies.values().flat_map(|policy| {
        policy
            .ingress
            .iter()
            .flatten()
            .chain(policy.egress.iter().flatten())
    });
    rules
        .flat_map(|rule: &Rule| match (&rule.peers, &rule.ports) {
            (Peers::Any | Peers::OneOf(_), Ports::OneOf(ports)) => ports.as_slice(),
            _ => &[],
        })
        .filter_map(|port| match port.port {
            PortMatch::Range(first, _) => listen(port.protocol, first),
            PortMatch::All | PortMatch::Named(_) => None,
        })
        .collect()
}

fn listened_ports(workload: &Workload, mentioned: &BTreeSet<Listen>) -> Vec<Listen> {
    let named = workload
        .ports
        .iter()
        .filter_map(|port| listen(port.protocol, port.number));
    let usual = [Listen::Tcp(80), Listen::Tcp(8080)];
    let mut ports: Vec<Listen> = Vec::new();
    for port in named.chain(usual).chain(mentioned.iter().copied()) {
        if ports.len() < PORTS_PER_POD && !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn outside_ports(world: &World, mentioned: &BTreeSet<Listen>) -> Vec<Listen> {
    let usual = [
        Listen::Tcp(80),
        Listen::Tcp(443),
        Listen::Tcp(8080),
        Listen::Udp(53),
        Listen::Udp(123),
    ];
    let elsewhere = world
        .workloads
        .values()
        .flat_map(|workload| workload.ports.iter())
        .filter_map(|port| listen(port.protocol, port.number));
    let all: BTreeSet<Listen> = mentioned
        .iter()
        .copied()
        .chain(usual)
        .chain(elsewhere)
        .collect();
    all.into_iter().take(4 * PORTS_PER_POD).collect()
}

fn listen(protocol: Protocol, number: u16) -> Option<Listen> {
    match protocol {
        _ if number == 0 => None,
        Protocol::TCP => Some(Listen::Tcp(number)),
        Protocol::UDP => Some(Listen::Udp(number)),
        _ => None,
    }
}

/// 10.0.0.10 and `fd00:10::10`, or the next free ones, for a node whose object says nothing.
fn default_addresses(world: &World) -> Vec<IpAddr> {
    let pods = world
        .workloads
        .values()
        .flat_map(|workload| workload.addresses.iter());
    let taken: BTreeSet<&IpAddr> = pods
        .chain(world.nodes.values().flat_map(|node| node.addresses.iter()))
        .collect();
    let v4 = (10..=250)
        .map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
        .find(|address| !taken.contains(address));
    let v6 = (0x10..0xffff)
        .map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, last)))
        .find(|address| !taken.contains(address));
    v4.into_iter().chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_policy::model::{NamedPort, Node};

    use super::*;

    fn pod(name: &str, node: &str, addresses: &[&str]) -> (String, Arc<Workload>) {
        let workload = Workload {
            uid: format!("uid-{name}"),
            namespace: "shop".into(),
            name: name.into(),
            labels: Arc::default(),
            service_account: "default".into(),
            node: Some(node.into()),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            host_network: false,
            finished: false,
            ports: [NamedPort {
                name: "sql".into(),
                protocol: Protocol::TCP,
                number: 5432,
            }]
            .into(),
        };
        (workload.uid.clone(), Arc::new(workload))
    }

    #[test]
    fn the_node_with_most_pods_is_built_and_its_object_gives_the_addresses() {
        let mut world = World::default();
        world.workloads.extend([
            pod("a", "one", &["10.0.1.1"]),
            pod("b", "two", &["10.0.2.1"]),
            pod("c", "two", &["10.0.2.2", "fd00::2"]),
        ]);
        world
            .workloads
            .extend([pod("d", "two", &[]), pod("e", "two", &["10.0.2.1"])]);
        world.nodes.insert(
            "two".into(),
            Node {
                addresses: vec!["10.9.9.9".parse().unwrap()],
                ..Node::default()
            },
        );
        let spec = LabSpec::from_world(&world, None).unwrap();
        assert_eq!(spec.node, "two");
        assert_eq!(
            spec.node_addresses,
            vec!["10.9.9.9".parse::<IpAddr>().unwrap()]
        );
        let names: Vec<&str> = spec.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(
            names,
            ["b", "c"],
            "a pod without an address and a second claim of one are left out"
        );
        assert!(
            spec.pods[0].ports.contains(&Listen::Tcp(5432))
                && spec.outside.contains(&Listen::Tcp(5432))
        );
        assert_eq!(
            LabSpec::from_world(&world, Some("one"))
                .unwrap()
                .node_addresses
                .len(),
            2
        );
    }
}
