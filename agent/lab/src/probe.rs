//! Probes by real packets: each is sent from its source's namespace and looked for at its destination.
//!
//! 1. A probe whose deciding sides are both elsewhere is skipped; a pod or the node that talks to itself never leaves.
//! 2. A batch is sent, then a fence passes behind it (`wire::Fence`), then every receiver is emptied: no time-out decides a verdict.
//! 3. Arrived: allow, or skipped if a side on another node would have its say too. Not arrived: deny, whoever else would have decided.
//!
//! It knows nothing of policy. Every probe is the first packet of a new connection: no pair of ends is used twice, in either direction.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_policy::probe::{End, Owner, ProbeId, ResolvedProbe};
use serde::Serialize;

use crate::netlink::Netlink;
use crate::node::{self, Lab, PodSite};
use crate::outside;
use crate::packet::{self, Opening};
use crate::wire::{Fence, HostSockets, PacketSocket};

/// Packets between two fences. With their answers they must fit a CPU's backlog (1000 by default).
const BATCH: usize = 128;
/// Fresh source ports.
const PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Where an end of a probe is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// A pod of the lab, as `namespace/name`.
    Pod(String),
    /// The lab's node itself.
    Node,
    /// Somewhere that has no policy: another node, the internet.
    Outside,
    /// A pod of another node, whose name is given: that node's agent decides too.
    Elsewhere(String),
}

/// One probe, its ends already resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// What the caller calls it.
    pub id: ProbeId,
    /// Where it starts.
    pub from: Site,
    /// Where it should arrive.
    pub to: Site,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port; `None` for a fresh one.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: u16,
    /// ICMP type and code; default echo request.
    pub icmp: Option<(u8, u8)>,
}

impl Flight {
    /// The flight that a resolved probe means in `lab`.
    ///
    /// Only the node itself can send from its own addresses, so `ip:` with one of them is the node. A pod of this node that has no place in the lab
    /// (another one claims its address) is told by [`Prober::send`].
    #[must_use]
    pub fn of(probe: &ResolvedProbe, lab: &Lab) -> Self {
        Self {
            id: probe.id.clone(),
            from: site(&probe.src, lab),
            to: site(&probe.dst, lab),
            src: probe.src.address,
            dst: probe.dst.address,
            protocol: probe.protocol,
            src_port: probe.src_port,
            dst_port: probe.dst_port,
            icmp: probe.icmp,
        }
    }
}

fn site(end: &End, lab: &Lab) -> Site {
    let spec = &lab.state().spec;
    match &end.owner {
        Owner::Pod(pod) if pod.node.as_deref() == Some(spec.node.as_str()) => {
            Site::Pod(format!("{}/{}", pod.namespace, pod.name))
        }
        Owner::Pod(pod) => Site::Elsewhere(pod.node.as_deref().unwrap_or_default().to_owned()),
        Owner::Node(name) if *name == spec.node => Site::Node,
        Owner::Address if spec.node_addresses.contains(&end.address) => Site::Node,
        Owner::Node(_) | Owner::Address => Site::Outside,
    }
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It arrived.
    Allow,
    /// It did not.
    Deny,
    /// Nothing on this node denies it, and another node has its say.
    Skipped,
}

/// The answer to one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeResult {
    /// The probe's own id.
    pub id: ProbeId,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// Where packets are sent and seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Pod(String),
    Node,
    Outside,
}

/// Open sockets at every place of a lab.
#[derive(Debug)]
pub struct Prober {
    pods: BTreeMap<String, (PacketSocket, [u8; 6], [u8; 6])>,
    outside: PacketSocket,
    host: HostSockets,
    fence: Fence,
    used: HashSet<(IpAddr, IpAddr, u8, u16, u16)>,
    next_port: u16,
    next_marker: u32,
}

impl Prober {
    /// Opens sockets in every namespace of `lab`. Pods that come later are not seen.
    pub fn open(lab: &Lab) -> Result<Self> {
        let mut pods = BTreeMap::new();
        for (key, site) in lab.pods() {
            if let Some(socket) = pod_socket(site)? {
                pods.insert(key.clone(), (socket, site.pod_mac(), site.host_mac()));
            }
        }
        let outside = lab.outside().run(|| {
            PacketSocket::open(
                Netlink::open()?.existing(outside::OUTSIDE_INTERFACE)?,
                outside::OUTSIDE_MAC,
            )
        })?;
        let (host, fence) = lab
            .node()
            .run(|| Ok((HostSockets::open()?, Fence::open()?)))?;
        // Ports of an earlier prober on the same lab are remembered by conntrack: start elsewhere.
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.subsec_nanos() ^ time.as_secs() as u32);
        let next_port = PORTS.start() + (seed % (PORTS.len() as u32)) as u16;
        Ok(Self {
            pods,
            outside,
            host,
            fence,
            used: HashSet::new(),
            next_port,
            next_marker: seed.rotate_left(16),
        })
    }

    /// Sends every flight and answers all of them, in their order.
    pub fn send(&mut self, flights: &[Flight]) -> Result<Vec<ProbeResult>> {
        self.send_with(flights, |_| None)
    }

    /// The same; `explain` may give the reason of a packet that did not arrive, from what the agent saw.
    pub fn send_with(
        &mut self,
        flights: &[Flight],
        explain: impl Fn(&Flight) -> Option<String> + Sync,
    ) -> Result<Vec<ProbeResult>> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                stay_on_this_cpu()?;
                let mut results = Vec::with_capacity(flights.len());
                for batch in flights.chunks(BATCH) {
                    results.extend(self.send_batch(batch, &explain)?);
                }
                Ok(results)
            });
            worker
                .join()
                .map_err(|_panic| anyhow!("the sending thread panicked"))?
        })
    }

    fn send_batch(
        &mut self,
        batch: &[Flight],
        explain: &dyn Fn(&Flight) -> Option<String>,
    ) -> Result<Vec<ProbeResult>> {
        let mut expected: BTreeMap<u32, (usize, Place)> = BTreeMap::new();
        let mut decided: Vec<Option<(Verdict, String)>> = Vec::with_capacity(batch.len());
        for (index, flight) in batch.iter().enumerate() {
            let known = self.without_packet(flight);
            if known.is_none() {
                let marker = self.next_marker;
                self.next_marker = self.next_marker.wrapping_add(1);
                expected.insert(marker, (index, place(&flight.to)));
                let opening = self.opening(flight, marker);
                self.launch(flight, &opening)
                    .with_context(|| format!("probe {}", flight.id))?;
            }
            decided.push(known);
        }
        self.fence.wait()?;
        let mut arrived = vec![false; batch.len()];
        let mut note = |marker: u32, at: &Place| {
            if let Some((index, place)) = expected.get(&marker)
                && place == at
            {
                arrived[*index] = true;
            }
        };
        for (key, (socket, ..)) in &self.pods {
            let at = Place::Pod(key.clone());
            socket.drain(|frame| {
                if let Some(marker) = packet::marker_of_frame(frame) {
                    note(marker, &at);
                }
            })?;
        }
        self.outside.drain(|frame| {
            if let Some(marker) = packet::marker_of_frame(frame) {
                note(marker, &Place::Outside);
            }
        })?;
        self.host.drain(|marker| note(marker, &Place::Node))?;
        let results = batch
            .iter()
            .zip(decided)
            .zip(arrived)
            .map(|((flight, decided), arrived)| {
                let (verdict, reason) = decided.unwrap_or_else(|| judged(flight, arrived, explain));
                ProbeResult {
                    id: flight.id.clone(),
                    verdict,
                    reason,
                }
            });
        Ok(results.collect())
    }

    /// The answer of a probe for which no packet can be sent.
    fn without_packet(&self, flight: &Flight) -> Option<(Verdict, String)> {
        match (&flight.from, &flight.to) {
            (Site::Pod(from), Site::Pod(to)) if from == to => {
                Some((Verdict::Allow, "the pod talks to itself".into()))
            }
            (Site::Node, Site::Node) => Some((Verdict::Allow, "the node talks to itself".into())),
            (Site::Elsewhere(node), Site::Outside | Site::Elsewhere(_))
            | (Site::Outside, Site::Elsewhere(node)) => {
                Some((Verdict::Skipped, format!("node {node} decides")))
            }
            (Site::Outside, Site::Outside) => {
                Some((Verdict::Allow, "it does not pass this node".into()))
            }
            (Site::Pod(key), _) | (_, Site::Pod(key)) if !self.pods.contains_key(key) => Some((
                Verdict::Skipped,
                format!("pod {key} has no namespace of its own in this lab"),
            )),
            _ => None,
        }
    }

    fn opening(&mut self, flight: &Flight, marker: u32) -> Opening {
        let icmp = flight.icmp.unwrap_or(if flight.src.is_ipv4() {
            (8, 0)
        } else {
            (128, 0)
        });
        let src_port = flight.src_port.unwrap_or_else(|| self.fresh_port(flight));
        self.used.insert((
            flight.src,
            flight.dst,
            flight.protocol,
            src_port,
            flight.dst_port,
        ));
        Opening {
            src: flight.src,
            dst: flight.dst,
            protocol: flight.protocol,
            src_port,
            dst_port: flight.dst_port,
            icmp,
            marker,
        }
    }

    fn fresh_port(&mut self, flight: &Flight) -> u16 {
        for _ in 0..PORTS.len() {
            let port = self.next_port;
            self.next_port = if port == *PORTS.end() {
                *PORTS.start()
            } else {
                port + 1
            };
            let there = (
                flight.src,
                flight.dst,
                flight.protocol,
                port,
                flight.dst_port,
            );
            let back = (
                flight.dst,
                flight.src,
                flight.protocol,
                flight.dst_port,
                port,
            );
            if !self.used.contains(&there) && !self.used.contains(&back) {
                return port;
            }
        }
        // 28,232 probes between the same two ends: the oldest has been forgotten by then.
        self.next_port
    }

    fn launch(&self, flight: &Flight, opening: &Opening) -> Result<()> {
        match place(&flight.from) {
            Place::Pod(key) => {
                let (socket, own, gateway) = self
                    .pods
                    .get(&key)
                    .with_context(|| format!("the lab has no pod {key}"))?;
                socket.send(&opening.to_frame(*own, *gateway)?)
            }
            Place::Node => self.host.send(&opening.to_packet()?, flight.dst),
            Place::Outside => self
                .outside
                .send(&opening.to_frame(outside::OUTSIDE_MAC, outside::NODE_MAC)?),
        }
    }
}

fn judged(
    flight: &Flight,
    arrived: bool,
    explain: &dyn Fn(&Flight) -> Option<String>,
) -> (Verdict, String) {
    if !arrived {
        return (
            Verdict::Deny,
            explain(flight).unwrap_or_else(|| "it did not arrive".into()),
        );
    }
    match (&flight.from, &flight.to) {
        (Site::Elsewhere(node), _) | (_, Site::Elsewhere(node)) => (
            Verdict::Skipped,
            format!("it passes this node; node {node} decides too"),
        ),
        _ => (Verdict::Allow, "it arrived".into()),
    }
}

fn place(site: &Site) -> Place {
    match site {
        Site::Pod(key) => Place::Pod(key.clone()),
        Site::Node => Place::Node,
        Site::Outside | Site::Elsewhere(_) => Place::Outside,
    }
}

fn pod_socket(site: &PodSite) -> Result<Option<PacketSocket>> {
    let Some(namespace) = &site.namespace else {
        return Ok(None);
    };
    let mac = site.pod_mac();
    namespace
        .run(|| PacketSocket::open(Netlink::open()?.existing(node::POD_INTERFACE)?, mac))
        .map(Some)
}

/// Keeps the calling thread on the CPU it is on: the fence counts on one backlog.
fn stay_on_this_cpu() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(sched_getcpu().context("asking for the CPU")?)
        .context("naming the CPU")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("staying on one CPU")
}
