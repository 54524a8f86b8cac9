//! Whose is an address: pods, namespaces and nodes as the oracle sees them (part 1.2).
//!
//! Everything is looked up by walking lists. Lists of objects (`kind: List`) are unfolded; kinds that do not matter here are passed over.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::policy::Policy;
use super::selector::Labels;
use crate::probe::Protocol;

/// The label that every namespace carries (A10).
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The annotations by which a CNI says that a terminating pod's address was taken back (A5).
const TAKEN_BACK_ANNOTATIONS: [&str; 2] =
    ["cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips"];

/// All objects that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<Policy>,
    namespaces: BTreeMap<String, Labels>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
}

impl Cluster {
    pub(crate) fn read(objects: &[Value]) -> Self {
        let mut cluster = Self::default();
        for object in objects {
            cluster.add(object);
        }
        cluster
            .pods
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        cluster
    }

    fn add(&mut self, object: &Value) {
        match (object["apiVersion"].as_str(), object["kind"].as_str()) {
            (Some("v1"), Some("List")) => {
                for item in object["items"].as_array().into_iter().flatten() {
                    self.add(item);
                }
            }
            (Some("v1"), Some("Pod")) => self.pods.push(Pod::read(object)),
            (Some("v1"), Some("Namespace")) => {
                let name = text(&object["metadata"]["name"]);
                let labels = labels(&object["metadata"]["labels"]);
                self.namespaces.insert(name, labels);
            }
            (Some("v1"), Some("Node")) => {
                let addresses = list(&object["status"]["addresses"])
                    .filter(|entry| entry["type"] == "InternalIP")
                    .filter_map(|entry| text(&entry["address"]).parse().ok())
                    .collect();
                self.nodes
                    .insert(text(&object["metadata"]["name"]), addresses);
            }
            (Some("networking.k8s.io/v1"), Some("NetworkPolicy")) => {
                self.policies.push(Policy::read(object));
            }
            _ => {}
        }
    }

    /// A pod by name, endpoint or not.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The endpoints that have this address now: mostly none or one (A7), by namespace and name.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> Vec<&Pod> {
        let address = address.to_canonical();
        self.pods
            .iter()
            .filter(|pod| pod.is_endpoint() && pod.addresses.contains(&address))
            .collect()
    }

    /// A namespace without an object has its name at least.
    pub(crate) fn namespace_labels(&self, name: &str) -> Labels {
        let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        labels
    }

    /// `InternalIP` addresses of a node as listed; empty for a node that is not there.
    pub(crate) fn node_addresses(&self, name: &str) -> &[IpAddr] {
        self.nodes.get(name).map_or(&[], Vec::as_slice)
    }

    /// The name again, as long as such a node is there.
    pub(crate) fn node_name(&self, name: &str) -> Option<&str> {
        self.nodes
            .get_key_value(name)
            .map(|(name, _)| name.as_str())
    }
}

/// One pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) node: String,
    pub(crate) service_account: String,
    /// In the network of its node: then the addresses are the node's, not its own (A3).
    pub(crate) host_network: bool,
    /// What it has now: none once finished (A4) or taken back (A5).
    pub(crate) addresses: Vec<IpAddr>,
    /// What port names can mean on it (N18).
    pub(crate) ports: Vec<ContainerPort>,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

impl Pod {
    fn read(object: &Value) -> Self {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let or_default = |value: &Value| {
            value
                .as_str()
                .filter(|text| !text.is_empty())
                .unwrap_or("default")
                .to_owned()
        };
        Self {
            namespace: or_default(&metadata["namespace"]),
            name: text(&metadata["name"]),
            labels: labels(&metadata["labels"]),
            node: text(&spec["nodeName"]),
            service_account: or_default(&spec["serviceAccountName"]),
            host_network: spec["hostNetwork"] == true,
            addresses: addresses(object),
            ports: named_ports(spec),
        }
    }

    /// Part 1's endpoint: not hostNetwork, not finished, at least one address.
    pub(crate) fn is_endpoint(&self) -> bool {
        !self.host_network && !self.addresses.is_empty()
    }
}

/// A2 to A5, in this order.
fn addresses(pod: &Value) -> Vec<IpAddr> {
    let status = &pod["status"];
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
        || taken_back(&pod["metadata"])
    {
        return Vec::new();
    }
    let listed: Vec<IpAddr> = list(&status["podIPs"])
        .filter_map(|entry| text(&entry["ip"]).parse().ok())
        .collect();
    if listed.is_empty() {
        text(&status["podIP"]).parse().ok().into_iter().collect()
    } else {
        listed
    }
}

fn taken_back(metadata: &Value) -> bool {
    !metadata["deletionTimestamp"].is_null()
        && TAKEN_BACK_ANNOTATIONS
            .iter()
            .any(|annotation| metadata["annotations"][*annotation] == "")
}

/// Of all containers, and of init containers that are sidecars.
fn named_ports(spec: &Value) -> Vec<ContainerPort> {
    let sidecars =
        list(&spec["initContainers"]).filter(|container| container["restartPolicy"] == "Always");
    list(&spec["containers"])
        .chain(sidecars)
        .flat_map(|container| list(&container["ports"]))
        .filter_map(|port| {
            let protocol = match port["protocol"].as_str() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(_) => return None,
            };
            let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
            Some(ContainerPort {
                name: port["name"].as_str()?.to_owned(),
                protocol,
                number,
            })
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn labels(value: &Value) -> Labels {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}
