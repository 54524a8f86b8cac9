//! Probes: questions about the first packet of a connection, as users and tests write them.
//!
//! A probe file is a JSON list of [`Probe`]. [`Resolver`] turns each into addresses, numbers and owners by the objects of a world, in one way
//! for everybody who answers: the compiler (`explain`) and the kernel (`lab probe`) judge the same packet.
//!
//! Family, in this order:
//! 1. the probe's own `family`;
//! 2. the family of an `ip:` end;
//! 3. the first family among the source's addresses that the destination has too.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_common::icmp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{Protocol, Workload, World};

/// One entry of a probe file, unchecked: numbers are as wide as JSON's, so that a bad one is reported with the probe's id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Comes back with the answer.
    pub id: ProbeId,
    /// Who opens the connection: `namespace/pod`, `ip:ADDRESS` or `node:NAME`.
    pub src: String,
    /// To whom; the same forms.
    pub dst: String,
    /// TCP, UDP, SCTP, ICMP or ICMPv6, in any case.
    pub protocol: String,
    /// Destination port; TCP, UDP and SCTP need one, the others ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<i64>,
    /// 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<i64>,
    /// Source port; whoever sends the packet takes a fresh one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_port: Option<i64>,
    /// Type of an ICMP message; echo request if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<i64>,
    /// Its code; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<i64>,
}

/// What the answer is filed under: text, or a number that stays one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(untagged)]
pub enum ProbeId {
    /// `"id": "p1"`.
    Text(String),
    /// `"id": 1`.
    Number(i64),
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// The packet that a probe means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedProbe {
    /// As in the probe.
    pub id: ProbeId,
    /// The side that opens the connection.
    pub src: End,
    /// The other side; its address is of the same family.
    pub dst: End,
    /// IANA number; ICMP as the family has it.
    pub protocol: u8,
    /// `None`: a fresh one in 32768-60999. Always `None` for ICMP.
    pub src_port: Option<u16>,
    /// 0 for ICMP.
    pub dst_port: u16,
    /// Type and code, exactly where the protocol is ICMP.
    pub icmp: Option<(u8, u8)>,
}

/// One end of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The address on the wire.
    pub address: IpAddr,
    /// Who is there.
    pub owner: Owner,
}

/// Who stands at an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An endpoint.
    Pod(Arc<Workload>),
    /// The network stack of a node: `node:NAME`, or a pod in the host network.
    Node(String),
    /// No endpoint. An address of a node written as `ip:` is here too: who sends from it cannot be told from the address.
    Address,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Pod(pod) => write!(f, "{}/{}", pod.namespace, pod.name),
            Owner::Node(name) => write!(f, "node:{name}"),
            Owner::Address => self.address.fmt(f),
        }
    }
}

/// Why a probe cannot be asked. The file's author has to mend the field, or the objects have to hold what it names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("probe {id}: {field} {value:?}: {problem}")]
pub struct ProbeError {
    /// The probe.
    pub id: ProbeId,
    /// The field in question, as it is spelled in the file.
    pub field: &'static str,
    /// What stands there; empty if nothing does.
    pub value: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a field of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// Neither of the three forms: correct the spelling.
    #[error("expected namespace/pod, ip:ADDRESS or node:NAME")]
    Form,
    /// The objects hold no such pod.
    #[error("no such pod")]
    NoPod,
    /// The objects hold no such node.
    #[error("no such node")]
    NoNode,
    /// It is there but owns no address: finished, or not started.
    #[error("it has no address")]
    NoAddress,
    /// It has addresses, of the other family only.
    #[error("it has no address of this family")]
    NoFamily,
    /// Not one of the five protocols.
    #[error("expected TCP, UDP, SCTP, ICMP or ICMPv6")]
    Protocol,
    /// Neither 4 nor 6.
    #[error("expected 4 or 6")]
    Family,
    /// A port outside 0-65535.
    #[error("expected a port, 0-65535")]
    Port,
    /// This protocol has ports, and the probe names none.
    #[error("this protocol needs a destination port")]
    PortMissing,
    /// An ICMP type or code outside 0-255.
    #[error("expected a number, 0-255")]
    Octet,
}

impl Probe {
    /// Resolves a single probe. For a list, make one [`Resolver`].
    pub fn resolve(&self, world: &World) -> Result<ResolvedProbe, ProbeError> {
        Resolver::new(world).resolve(self)
    }
}

/// The owners of names and addresses of a world.
pub struct Resolver<'w> {
    world: &'w World,
    /// By namespace and name: the pod that a name means.
    pods: BTreeMap<(&'w str, &'w str), &'w Arc<Workload>>,
    /// By address: the pod that an address means.
    owners: BTreeMap<IpAddr, &'w Arc<Workload>>,
}

/// What an end can offer: an owner and its addresses, best first.
type Candidates = (Owner, Vec<IpAddr>);

impl<'w> Resolver<'w> {
    /// Reads the world once. Of several pods of one name the one that lives counts; of several live ones on one address, or of one name, the
    /// one of this node does, else the first by namespace, name and uid.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        let mut pods: Vec<&Arc<Workload>> = world.workloads.values().collect();
        pods.sort_by_key(|pod| {
            let live = pod.is_endpoint() && !pod.addresses.is_empty();
            let local = pod.node.as_deref() == Some(world.node.as_str());
            (
                !live,
                pod.finished,
                !local,
                &pod.namespace,
                &pod.name,
                &pod.uid,
            )
        });
        let mut resolver = Self {
            world,
            pods: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        for pod in pods {
            resolver
                .pods
                .entry((&pod.namespace, &pod.name))
                .or_insert(pod);
            if pod.is_endpoint() {
                for address in &pod.addresses {
                    resolver.owners.entry(*address).or_insert(pod);
                }
            }
        }
        resolver
    }

    /// The packet that `probe` means.
    pub fn resolve(&self, probe: &Probe) -> Result<ResolvedProbe, ProbeError> {
        let error = |field, value: &dyn fmt::Display, problem| ProbeError {
            id: probe.id.clone(),
            field,
            value: value.to_string(),
            problem,
        };
        let (src_owner, src) = self
            .end(&probe.src)
            .map_err(|problem| error("src", &probe.src, problem))?;
        let (dst_owner, dst) = self
            .end(&probe.dst)
            .map_err(|problem| error("dst", &probe.dst, problem))?;
        let is_v4 = match probe.family {
            Some(4) => true,
            Some(6) => false,
            Some(other) => return Err(error("family", &other, Problem::Family)),
            None => default_family(probe, &src, &dst),
        };
        let of_family = |addresses: &[IpAddr]| {
            addresses
                .iter()
                .copied()
                .find(|addr| addr.is_ipv4() == is_v4)
        };
        let src = of_family(&src).ok_or_else(|| error("src", &probe.src, Problem::NoFamily))?;
        let dst = of_family(&dst).ok_or_else(|| error("dst", &probe.dst, Problem::NoFamily))?;
        let protocol = protocol(&probe.protocol, is_v4)
            .ok_or_else(|| error("protocol", &probe.protocol, Problem::Protocol))?;
        let port = |field, value: Option<i64>| {
            let number =
                |value| u16::try_from(value).map_err(|_range| error(field, &value, Problem::Port));
            value.map(number).transpose()
        };
        let octet = |field, value: Option<i64>, default| {
            let number =
                |value| u8::try_from(value).map_err(|_range| error(field, &value, Problem::Octet));
            value.map_or(Ok(default), number)
        };
        let mut resolved = ResolvedProbe {
            id: probe.id.clone(),
            src: End {
                address: src,
                owner: src_owner,
            },
            dst: End {
                address: dst,
                owner: dst_owner,
            },
            protocol,
            src_port: None,
            dst_port: 0,
            icmp: None,
        };
        if protocol == icmp::ICMP || protocol == icmp::ICMPV6 {
            let echo = if is_v4 { 8 } else { 128 };
            let kind = octet("icmpType", probe.icmp_type, echo)?;
            resolved.icmp = Some((kind, octet("icmpCode", probe.icmp_code, 0)?));
        } else {
            resolved.src_port = port("srcPort", probe.src_port)?;
            resolved.dst_port = port("dstPort", probe.dst_port)?
                .ok_or_else(|| error("dstPort", &"", Problem::PortMissing))?;
        }
        Ok(resolved)
    }

    /// The addresses of an end as a probe writes it, best first.
    pub fn addresses(&self, end: &str) -> Result<Vec<IpAddr>, Problem> {
        self.end(end).map(|(_, addresses)| addresses)
    }

    fn end(&self, text: &str) -> Result<Candidates, Problem> {
        if let Some(address) = text.strip_prefix("ip:") {
            // A mapped address is IPv4 on the wire (policy-spec A8).
            let address = address
                .parse::<IpAddr>()
                .map_err(|_syntax| Problem::Form)?
                .to_canonical();
            let owner = self
                .owners
                .get(&address)
                .map_or(Owner::Address, |pod| Owner::Pod(Arc::clone(pod)));
            return Ok((owner, vec![address]));
        }
        if let Some(name) = text.strip_prefix("node:") {
            return self.node(name);
        }
        let (namespace, name) = text.split_once('/').ok_or(Problem::Form)?;
        let pod = *self.pods.get(&(namespace, name)).ok_or(Problem::NoPod)?;
        if pod.finished {
            return Err(Problem::NoAddress);
        }
        if pod.host_network {
            return self.node(pod.node.as_deref().ok_or(Problem::NoAddress)?);
        }
        if pod.addresses.is_empty() {
            return Err(Problem::NoAddress);
        }
        Ok((Owner::Pod(Arc::clone(pod)), pod.addresses.clone()))
    }

    fn node(&self, name: &str) -> Result<Candidates, Problem> {
        let node = self.world.nodes.get(name).ok_or(Problem::NoNode)?;
        if node.addresses.is_empty() {
            return Err(Problem::NoAddress);
        }
        Ok((Owner::Node(name.to_owned()), node.addresses.clone()))
    }
}

fn default_family(probe: &Probe, src: &[IpAddr], dst: &[IpAddr]) -> bool {
    let first_is_v4 = |addresses: &[IpAddr]| addresses.first().is_none_or(IpAddr::is_ipv4);
    if probe.src.starts_with("ip:") {
        return first_is_v4(src);
    }
    if probe.dst.starts_with("ip:") {
        return first_is_v4(dst);
    }
    let shared = src
        .iter()
        .find(|src| dst.iter().any(|dst| dst.is_ipv4() == src.is_ipv4()));
    shared.map_or_else(|| first_is_v4(src), IpAddr::is_ipv4)
}

fn protocol(text: &str, is_v4: bool) -> Option<u8> {
    let Protocol(number) = match text.to_ascii_uppercase().as_str() {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        "SCTP" => Protocol::SCTP,
        "ICMP" | "ICMPV6" if is_v4 => Protocol::ICMP,
        "ICMP" | "ICMPV6" => Protocol::ICMPV6,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests;
