//! The oracle: slow, obvious answers to "does this connection go through", from the API text and the objects as written.
//!
//! ```text
//! objects (JSON) -> Cluster -> Connection (who are the two ends) -> egress side, ingress side -> Answer
//! ```
//! It is what the compiler and the kernel programs are held against, so it shares nothing with either: no common types, no tables, no
//! indices, no library for prefixes. It knows nothing of time: each probe is the first packet of a connection (G4).
//!
//! One side of a connection, in this order (part 1.1 of the policy reference):
//!
//! 1. An end that is no endpoint has no side (G1).
//! 2. What an endpoint sends to its own address is not judged (G6).
//! 3. Egress to a metadata address is denied, unless the service account is on the allow list.
//! 4. Ingress sent by the stack of the endpoint's own node is allowed (G7).
//! 5. Echo replies and ICMP errors open nothing: denied (N20).
//! 6. No policy selects the endpoint for the direction: allowed (G5).
//! 7. Some rule of some such policy matches: allowed; else denied (N3).

mod answer;
mod cidr;
mod cluster;
mod policy;
mod selector;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

pub use answer::{Answer, Expected, ProbeError, Reason, RuleName, Side, SideVerdict, Verdict};

use crate::probe::{End, Family, Probe, Protocol};
use cluster::{Cluster, Pod};
use policy::{Direction, Question};

/// The addresses of instance metadata and pod credentials, out of reach on any port and protocol.
pub const METADATA_ADDRESSES: [&str; 5] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::23",
];

/// Answers probes about one set of objects.
#[derive(Clone, Debug)]
pub struct Oracle {
    cluster: Cluster,
    metadata_allow: BTreeSet<String>,
}

impl Oracle {
    /// Reads the objects that matter: Pods, Namespaces, Nodes, `NetworkPolicies`, also inside of `kind: List`.
    #[must_use]
    pub fn new(objects: &[Value]) -> Self {
        Self {
            cluster: Cluster::read(objects),
            metadata_allow: BTreeSet::new(),
        }
    }

    /// Lifts the metadata guard for these `namespace/service-account`; ordinary policy decides for them.
    #[must_use]
    pub fn with_metadata_allow(mut self, accounts: &[&str]) -> Self {
        self.metadata_allow
            .extend(accounts.iter().map(|account| (*account).to_owned()));
        self
    }

    /// Both sides and the verdict of one probe.
    pub fn judge(&self, probe: &Probe) -> Result<Answer, ProbeError> {
        let connection = self.connection(probe)?;
        let egress = connection
            .source
            .endpoint
            .map_or_else(Side::none, |pod| self.egress(pod, &connection));
        let ingress = connection
            .destination
            .endpoint
            .map_or_else(Side::none, |pod| self.ingress(pod, &connection));
        Ok(Answer {
            id: probe.id.clone(),
            egress_node: connection.source.endpoint.map(|pod| pod.node.clone()),
            ingress_node: connection.destination.endpoint.map(|pod| pod.node.clone()),
            egress,
            ingress,
        })
    }

    /// What the programs of one node may answer, knowing only the sides of their own endpoints.
    pub fn expected_at(&self, node: &str, probe: &Probe) -> Result<Expected, ProbeError> {
        let answer = self.judge(probe)?;
        let sides = [
            (&answer.egress_node, &answer.egress),
            (&answer.ingress_node, &answer.ingress),
        ];
        let existing = sides
            .iter()
            .filter_map(|(at, side)| at.as_deref().map(|at| (at, side.verdict)));
        let (here, elsewhere): (Vec<_>, Vec<_>) = existing.partition(|(at, _)| *at == node);
        let denied_here = here
            .iter()
            .any(|(_, verdict)| *verdict == SideVerdict::Deny);
        Ok(match (denied_here, elsewhere.is_empty()) {
            (true, true) => Expected::Deny,
            (false, true) => Expected::Allow,
            (true, false) => Expected::DenyOrSkipped,
            (false, false) => Expected::Skipped,
        })
    }

    /// Whether several endpoints have an address of this end (A7): which of them a packet meets is then a matter of the moment.
    #[must_use]
    pub fn is_shared(&self, end: &End) -> bool {
        let addresses = self.addresses(end).unwrap_or_default();
        addresses
            .iter()
            .any(|address| self.cluster.endpoints_at(*address).len() > 1)
    }

    /// The addresses an end can speak with, first one first.
    pub fn addresses(&self, end: &End) -> Result<Vec<IpAddr>, ProbeError> {
        match end {
            End::Address(address) => Ok(vec![address.to_canonical()]),
            End::Node(name) => match self.cluster.node_addresses(name) {
                [] => Err(ProbeError::NoAddress(end.clone())),
                addresses => Ok(addresses.to_vec()),
            },
            End::Pod { namespace, name } => {
                let pod = self
                    .cluster
                    .pod(namespace, name)
                    .ok_or_else(|| ProbeError::UnknownPod(end.clone()))?;
                let addresses = match self.cluster.node_addresses(&pod.node) {
                    nodes if pod.host_network && !nodes.is_empty() => nodes,
                    _ => pod.addresses.as_slice(),
                };
                if addresses.is_empty() {
                    Err(ProbeError::NoAddress(end.clone()))
                } else {
                    Ok(addresses.to_vec())
                }
            }
        }
    }

    /// The node that has most endpoints, the first by name among equals; `None` without any endpoint.
    #[must_use]
    pub fn busiest_node(&self) -> Option<String> {
        let nodes: BTreeSet<&str> = self.endpoints().map(|pod| pod.node.as_str()).collect();
        let count = |node: &str| self.endpoints().filter(|pod| pod.node == node).count();
        nodes
            .into_iter()
            .rev()
            .max_by_key(|node| count(node))
            .map(str::to_owned)
    }

    fn endpoints(&self) -> impl Iterator<Item = &Pod> {
        self.cluster.pods.iter().filter(|pod| pod.is_endpoint())
    }

    fn egress(&self, pod: &Pod, connection: &Connection<'_>) -> Side {
        let account = format!("{}/{}", pod.namespace, pod.service_account);
        let destination = connection.destination.address;
        if connection.is_to_itself() {
            Side::allow(Reason::OwnAddress)
        } else if is_metadata(destination) && !self.metadata_allow.contains(&account) {
            Side::deny(Reason::MetadataGuard)
        } else if connection.is_never_first() {
            Side::deny(Reason::NoFlow)
        } else {
            let question = Question {
                peer: destination,
                protocol: connection.protocol,
                port: connection.port,
                destinations: &self.cluster.endpoints_at(destination),
            };
            self.by_policy(pod, Direction::Egress, &question)
        }
    }

    fn ingress(&self, pod: &Pod, connection: &Connection<'_>) -> Side {
        if connection.is_to_itself() {
            Side::allow(Reason::OwnAddress)
        } else if connection.source.stack_of == Some(pod.node.as_str()) {
            Side::allow(Reason::HostExempt)
        } else if connection.is_never_first() {
            Side::deny(Reason::NoFlow)
        } else {
            let question = Question {
                peer: connection.source.address,
                protocol: connection.protocol,
                port: connection.port,
                destinations: &[pod],
            };
            self.by_policy(pod, Direction::Ingress, &question)
        }
    }

    fn by_policy(&self, pod: &Pod, direction: Direction, question: &Question<'_>) -> Side {
        let mut isolating = Vec::new();
        let mut rules = Vec::new();
        for policy in self
            .cluster
            .policies
            .iter()
            .filter(|policy| policy.selects(pod))
        {
            let Some(list) = policy.rules(direction) else {
                continue;
            };
            let name = format!("NetworkPolicy {}/{}", policy.namespace, policy.name);
            isolating.push(name.clone());
            for (index, rule) in list.iter().enumerate() {
                if rule.matches(&policy.namespace, question, &self.cluster) {
                    rules.push(RuleName {
                        policy: name.clone(),
                        rule: index,
                    });
                }
            }
        }
        isolating.sort_unstable();
        match (isolating.is_empty(), rules.is_empty()) {
            (true, _) => Side::allow(Reason::NotIsolated),
            (false, true) => Side {
                isolating,
                ..Side::deny(Reason::DefaultDeny)
            },
            (false, false) => Side {
                rules,
                ..Side::allow(Reason::AllowRule)
            },
        }
    }

    fn connection(&self, probe: &Probe) -> Result<Connection<'_>, ProbeError> {
        let family = self.family(probe)?;
        let protocol = match (probe.protocol, family) {
            (Protocol::Icmp | Protocol::Icmpv6, Family::V4) => Protocol::Icmp,
            (Protocol::Icmp | Protocol::Icmpv6, Family::V6) => Protocol::Icmpv6,
            (other, _) => other,
        };
        let echo_request = if protocol == Protocol::Icmpv6 { 128 } else { 8 };
        let port = match probe.dst_port {
            _ if protocol.is_icmp() => None,
            Some(port) => Some(port),
            None => return Err(ProbeError::NoPort),
        };
        Ok(Connection {
            source: self.party(&probe.src, family)?,
            destination: self.party(&probe.dst, family)?,
            protocol,
            port,
            icmp_type: protocol
                .is_icmp()
                .then(|| probe.icmp_type.unwrap_or(echo_request)),
        })
    }

    /// 1. as given; 2. that of an `ip:` end; 3. that of the first address of the source that the destination can answer.
    fn family(&self, probe: &Probe) -> Result<Family, ProbeError> {
        if let Some(family) = probe.family {
            return Ok(family);
        }
        if let (End::Address(address), _) | (_, End::Address(address)) = (&probe.src, &probe.dst) {
            return Ok(Family::of(*address));
        }
        let destination = self.addresses(&probe.dst)?;
        let shared = |family: &Family| {
            destination
                .iter()
                .any(|address| Family::of(*address) == *family)
        };
        let families = self.addresses(&probe.src)?.into_iter().map(Family::of);
        families
            .into_iter()
            .find(shared)
            .ok_or_else(|| ProbeError::NoAddress(probe.dst.clone()))
    }

    fn party(&self, end: &End, family: Family) -> Result<Party<'_>, ProbeError> {
        let addresses = self.addresses(end)?;
        let address = addresses
            .into_iter()
            .find(|address| Family::of(*address) == family);
        let address = address.ok_or_else(|| ProbeError::NoAddress(end.clone()))?;
        let (endpoint, stack_of) = match end {
            End::Address(_) => (self.cluster.endpoints_at(address).into_iter().next(), None),
            End::Node(name) => (None, self.cluster.node_name(name)),
            End::Pod { namespace, name } => match self.cluster.pod(namespace, name) {
                Some(pod) if pod.host_network => (None, Some(pod.node.as_str())),
                pod => (pod, None),
            },
        };
        Ok(Party {
            address,
            endpoint,
            stack_of,
        })
    }
}

/// The first packet of a probe.
struct Connection<'a> {
    source: Party<'a>,
    destination: Party<'a>,
    protocol: Protocol,
    port: Option<u16>,
    icmp_type: Option<u8>,
}

impl Connection<'_> {
    fn is_to_itself(&self) -> bool {
        self.source.endpoint.is_some() && self.source.address == self.destination.address
    }

    /// Echo and other replies, and errors: types that answer something.
    fn is_never_first(&self) -> bool {
        match self.protocol {
            Protocol::Icmp => {
                matches!(self.icmp_type, Some(0 | 3 | 4 | 5 | 11 | 12 | 14 | 16 | 18))
            }
            Protocol::Icmpv6 => matches!(self.icmp_type, Some(0..=127 | 129)),
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => false,
        }
    }
}

/// One end of a connection.
struct Party<'a> {
    address: IpAddr,
    endpoint: Option<&'a Pod>,
    /// The node whose own stack this is. Never concluded from an address (G7).
    stack_of: Option<&'a str>,
}

fn is_metadata(address: IpAddr) -> bool {
    METADATA_ADDRESSES
        .iter()
        .any(|metadata| metadata.parse() == Ok(address))
}
