//! Deny events in words: who, to whom, why, by which policy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use imbl::OrdMap;
use portcullis_common::abi::{Event, direction, hook};
use portcullis_common::addr::{self, Addr};
use portcullis_common::{icmp, reason};
use portcullis_policy::model::{self, Workload};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

use crate::dataplane::kernel;
use crate::dataplane::names::Names;
use crate::kube::event::Notice;

/// What numbers and addresses stand for now.
#[derive(Clone, Default)]
pub struct Lookup {
    /// Pods and nodes.
    pub model: Arc<model::World>,
    /// Rules and policies.
    pub names: Names,
    /// Pod uids by slot and generation.
    pub endpoints: BTreeMap<(u16, u8), String>,
    /// Slots and generations by address.
    pub holders: BTreeMap<Addr, Vec<(u16, u8)>>,
    /// Pods by address.
    pub pods: OrdMap<IpAddr, Arc<Workload>>,
}

impl Lookup {
    /// The pod, node or bare address behind an address.
    fn name(&self, address: IpAddr) -> String {
        if let Some(workload) = self.pods.get(&address) {
            return format!("{}/{}", workload.namespace, workload.name);
        }
        let node = self
            .model
            .nodes
            .iter()
            .find(|(_, node)| node.addresses.contains(&address));
        node.map_or_else(|| address.to_string(), |(name, _)| format!("node/{name}"))
    }

    /// The endpoint of an event.
    fn endpoint(&self, event: &Event) -> Option<&Workload> {
        let uid = self.endpoints.get(&(event.slot, event.generation))?;
        self.model.workloads.get(uid).map(AsRef::as_ref)
    }

    /// The rule that denied, else the policies that isolate.
    fn policy(&self, event: &Event) -> String {
        if let Some(rule) = self.names.rule(event.rule) {
            return format!("{} rule {}", rule.policy, rule.index);
        }
        if event.reason != reason::DEFAULT_DENY {
            return String::new();
        }
        let by = self.names.isolated_by(event.policy).unwrap_or_default();
        by.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A denial, for whoever tells the pod's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The endpoint's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Whether it was about to send.
    pub egress: bool,
    /// The pod, node or address at the other end.
    pub peer: String,
    /// Destination port, or type and code of ICMP.
    pub port: String,
    /// Its protocol.
    pub protocol: String,
    /// Spelling of the reason.
    pub reason: &'static str,
    /// Who denied; empty if no policy did.
    pub policy: String,
}

/// Reads the ring and logs until it breaks. Denials also go to `notices`, as far as there is room.
pub async fn run(
    ring: RingBuf<MapData>,
    lookup: watch::Receiver<Lookup>,
    notices: Option<mpsc::Sender<Notice>>,
) -> Result<()> {
    // SAFETY: the ring owns its descriptor and keeps it open and the same for as long as it lives.
    let mut ring = unsafe { AsyncFd::register(ring) }.context("watching the event ring")?;
    loop {
        let mut ready = ring.readable_mut().await.context("waiting for events")?;
        {
            let lookup = lookup.borrow();
            while let Some(item) = ready.get_inner_mut().next() {
                match kernel::event(&item) {
                    Some(event) if is_listener_report(&event) => {
                        debug!(
                            ifindex = event.ifindex,
                            "Dropped a multicast listener report"
                        );
                    }
                    Some(event) => {
                        let denial = log(&event, &lookup);
                        if let (Some(notices), Some(denial)) = (&notices, denial) {
                            // Without room it stands in the log alone.
                            let _ = notices.try_send(denial.into());
                        }
                    }
                    None => {}
                }
            }
        }
        ready.clear_ready();
    }
}

/// What every stack sends when an interface comes up (RFC 3810), from a link-local address. Nobody beyond the pod's link needs it, and no reader of a log
/// should take it for an attack: it is counted, but not told.
fn is_listener_report(event: &Event) -> bool {
    const REPORTS: [u16; 3] = [131, 132, 143];
    event.protocol == icmp::ICMPV6 && REPORTS.contains(&(event.dport >> 8))
}

fn log(event: &Event, lookup: &Lookup) -> Option<Denial> {
    let (source_ip, destination_ip) = (ip(&event.src), ip(&event.dst));
    let endpoint = lookup.endpoint(event);
    let egress = event.direction == direction::EGRESS;
    let named = |own: bool, address| match endpoint.filter(|_| own) {
        Some(workload) => format!("{}/{}", workload.namespace, workload.name),
        None => lookup.name(address),
    };
    let (source, destination) = (named(egress, source_ip), named(!egress, destination_ip));
    let (protocol, port, policy) = (protocol(event.protocol), port(event), lookup.policy(event));
    let reason = reason::name(event.reason);
    info!(
        %source,
        %source_ip,
        %destination,
        %destination_ip,
        %protocol,
        source_port = event.sport,
        %port,
        direction = if egress { "egress" } else { "ingress" },
        reason,
        %policy,
        hook = hook_name(event.hook),
        "Denied"
    );
    endpoint.map(|workload| Denial {
        namespace: workload.namespace.clone(),
        pod: workload.name.clone(),
        uid: workload.uid.clone(),
        egress,
        peer: if egress { destination } else { source },
        port,
        protocol,
        reason,
        policy,
    })
}

fn port(event: &Event) -> String {
    if event.protocol == icmp::ICMP || event.protocol == icmp::ICMPV6 {
        return format!("type {} code {}", event.dport >> 8, event.dport & 0xff);
    }
    event.dport.to_string()
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

fn hook_name(number: u8) -> &'static str {
    match number {
        hook::FROM_POD => "from_pod",
        hook::TO_POD => "to_pod",
        hook::UPLINK => "uplink",
        hook::TO_HOST => "to_host",
        hook::SOCKET => "socket",
        _ => "unknown",
    }
}

/// An address as people write it.
#[must_use]
pub fn ip(address: &Addr) -> IpAddr {
    if addr::is_v4(address) {
        IpAddr::V4(Ipv4Addr::from(addr::low4(address)))
    } else {
        IpAddr::V6(Ipv6Addr::from(*address))
    }
}
