//! `NetworkPolicy` as the API text says it: who is selected, which directions are governed, which rule matches a connection.
//!
//! A rule is read on its own. One that is not understood as a whole (bad CIDR, unknown field, impossible port) still stands in the list but
//! matches nothing; a subject that is not understood is every pod of the namespace, and then no rule matches anything: the rules were not written for
//! those pods (part 6.1). So no mistake in a policy opens a pod.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::cidr::Cidr;
use super::cluster::{Cluster, ContainerPort, Pod};
use super::selector::Selector;
use crate::probe::Protocol;

/// As the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// What a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// The address of the other end.
    pub(crate) peer: IpAddr,
    pub(crate) protocol: Protocol,
    /// Absent for ICMP.
    pub(crate) port: Option<u16>,
    /// The pods on which a port name is resolved: none where the packet goes to no endpoint.
    pub(crate) destinations: &'a [&'a Pod],
}

/// One object of kind `NetworkPolicy`.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    subject: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl Policy {
    pub(crate) fn read(object: &Value) -> Self {
        let metadata = |field: &str| {
            let text = object["metadata"][field].as_str();
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let spec = &object["spec"];
        let mut ingress = rules(&spec["ingress"], Direction::Ingress);
        let mut egress = rules(&spec["egress"], Direction::Egress);
        let (governs_ingress, governs_egress) = governed(&spec["policyTypes"], &egress);
        let subject = subject(&spec["podSelector"]);
        if subject.is_none() {
            ingress.clear();
            egress.clear();
        }
        Self {
            namespace: metadata("namespace").unwrap_or_else(|| "default".to_owned()),
            name: metadata("name").unwrap_or_default(),
            subject: subject.unwrap_or_else(Selector::everything),
            ingress: governs_ingress.then_some(ingress),
            egress: governs_egress.then_some(egress),
        }
    }

    /// N1: pods of the policy's own namespace only.
    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace && self.subject.holds(&pod.labels)
    }

    /// Only what a rule of this list matches is allowed by this policy; `None`: the direction is not governed.
    pub(crate) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One entry of `ingress` or `egress`.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    /// Empty lists: no condition (N5).
    Understood { peers: Vec<Peer>, ports: Vec<Port> },
    /// Matches nothing.
    NotUnderstood,
}

impl Rule {
    /// N5: any peer and any port, an empty list asking nothing.
    pub(crate) fn matches(
        &self,
        namespace: &str,
        question: &Question<'_>,
        cluster: &Cluster,
    ) -> bool {
        match self {
            Self::NotUnderstood => false,
            Self::Understood { peers, ports } => {
                (peers.is_empty()
                    || peers
                        .iter()
                        .any(|peer| peer.holds(namespace, question.peer, cluster)))
                    && (ports.is_empty() || ports.iter().any(|port| port.holds(question)))
            }
        }
    }

    fn read(value: &Value, direction: Direction) -> Self {
        Self::read_whole(value, direction).unwrap_or(Self::NotUnderstood)
    }

    fn read_whole(value: &Value, direction: Direction) -> Option<Self> {
        let written: WrittenRule = serde_json::from_value(value.clone()).ok()?;
        let (peers, stray) = match direction {
            Direction::Ingress => (written.from, written.to),
            Direction::Egress => (written.to, written.from),
        };
        if stray.is_some() {
            return None;
        }
        let peers: Option<Vec<Peer>> = peers
            .unwrap_or_default()
            .into_iter()
            .map(Peer::read)
            .collect();
        let ports: Option<Vec<Port>> = written
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(Port::read)
            .collect();
        Some(Self::Understood {
            peers: peers?,
            ports: ports?,
        })
    }
}

/// One entry of `from` or `to` (the table of part 2.3).
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// `None` for the namespaces: the policy's own.
    Pods {
        namespaces: Option<Selector>,
        pods: Selector,
    },
    Block {
        cidr: Cidr,
        except: Vec<Cidr>,
    },
}

impl Peer {
    /// A1, A7: any endpoint that has the address now; N11: a block does not ask whose address it is.
    fn holds(&self, own_namespace: &str, address: IpAddr, cluster: &Cluster) -> bool {
        match self {
            Self::Block { cidr, except } => {
                cidr.holds(address) && !except.iter().any(|except| except.holds(address))
            }
            Self::Pods { namespaces, pods } => {
                cluster.endpoints_at(address).into_iter().any(|pod| {
                    let in_scope = match namespaces {
                        None => pod.namespace == own_namespace,
                        Some(selector) => selector.holds(&cluster.namespace_labels(&pod.namespace)),
                    };
                    in_scope && pods.holds(&pod.labels)
                })
            }
        }
    }

    fn read(written: WrittenPeer) -> Option<Self> {
        match (
            written.pod_selector,
            written.namespace_selector,
            written.ip_block,
        ) {
            (None, None, Some(block)) => {
                let cidr: Cidr = block.cidr.parse().ok()?;
                let except: Option<Vec<Cidr>> = block
                    .except
                    .unwrap_or_default()
                    .iter()
                    .map(|text| text.parse().ok())
                    .collect();
                let except = except?;
                except
                    .iter()
                    .all(|except| except.lies_strictly_inside(cidr))
                    .then_some(Self::Block { cidr, except })
            }
            (Some(pods), None, None) => Some(Self::Pods {
                namespaces: None,
                pods: Selector::read(&pods)?,
            }),
            (None, Some(namespaces), None) => Some(Self::Pods {
                namespaces: Some(Selector::read(&namespaces)?),
                pods: Selector::everything(),
            }),
            (Some(pods), Some(namespaces), None) => Some(Self::Pods {
                namespaces: Some(Selector::read(&namespaces)?),
                pods: Selector::read(&pods)?,
            }),
            (None, None, None) | (_, _, Some(_)) => None,
        }
    }
}

/// One entry of `ports`.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    protocol: Protocol,
    number: PortNumber,
}

#[derive(Clone, Debug)]
enum PortNumber {
    Any,
    Range(u16, u16),
    Named(String),
}

impl Port {
    fn holds(&self, question: &Question<'_>) -> bool {
        let Some(port) = question.port else {
            return false;
        };
        self.protocol == question.protocol
            && match &self.number {
                PortNumber::Any => true,
                PortNumber::Range(first, last) => (*first..=*last).contains(&port),
                PortNumber::Named(name) => {
                    let wanted = ContainerPort {
                        name: name.clone(),
                        protocol: self.protocol,
                        number: port,
                    };
                    question
                        .destinations
                        .iter()
                        .any(|pod| pod.ports.contains(&wanted))
                }
            }
    }

    fn read(written: WrittenPort) -> Option<Self> {
        let protocol = match written.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        let number = match (written.port, written.end_port) {
            (None, None) => PortNumber::Any,
            (Some(Value::String(name)), None)
                if name.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
            {
                PortNumber::Named(name)
            }
            (Some(port), None) => PortNumber::Range(port_number(&port)?, port_number(&port)?),
            (Some(port), Some(end)) => {
                let (first, last) = (port_number(&port)?, port_number(&end)?);
                if last < first {
                    return None;
                }
                PortNumber::Range(first, last)
            }
            (None, Some(_)) => return None,
        };
        Some(Self { protocol, number })
    }
}

/// N16: 1 to 65535, and text is no number.
fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
}

/// Missing and `{}` select all pods of the namespace; `None`: cannot be read.
fn subject(value: &Value) -> Option<Selector> {
    if value.is_null() {
        return Some(Selector::everything());
    }
    Selector::read(value)
}

/// N4: missing, null and `[]` alike. What is no list is one rule that is not understood.
fn rules(value: &Value, direction: Direction) -> Vec<Rule> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(rules) => rules
            .iter()
            .map(|rule| Rule::read(rule, direction))
            .collect(),
        _ => vec![Rule::NotUnderstood],
    }
}

/// The table of N2, as (ingress, egress). Types that cannot be read govern both directions.
fn governed(policy_types: &Value, egress: &[Rule]) -> (bool, bool) {
    let from_the_rules = (true, !egress.is_empty());
    match policy_types {
        Value::Null => from_the_rules,
        Value::Array(types) if types.is_empty() => from_the_rules,
        Value::Array(types) if types.iter().all(|one| one == "Ingress" || one == "Egress") => (
            types.iter().any(|one| one == "Ingress"),
            types.iter().any(|one| one == "Egress"),
        ),
        _ => (true, true),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    from: Option<Vec<WrittenPeer>>,
    to: Option<Vec<WrittenPeer>>,
    ports: Option<Vec<WrittenPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPeer {
    pod_selector: Option<Value>,
    namespace_selector: Option<Value>,
    ip_block: Option<WrittenBlock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPort {
    protocol: Option<String>,
    port: Option<Value>,
    end_port: Option<Value>,
}
