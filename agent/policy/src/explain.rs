//! Why a connection is allowed or denied: both sides of a probe, by the compiler's own tables.
//!
//! Nothing here evaluates policy a second time: verdict and rule are read from the tables of the node on which each endpoint runs. What
//! comes before policy is the order of the kernel programs. Egress, for an endpoint that opens a connection:
//! 1. a guarded metadata address, or an IPv6 address that carries one: `metadata-guard`, unless the pod's account is exempt;
//! 2. neighbour discovery, which is about the endpoint's own addresses here: `neighbour`, allowed; a router's advertisements and redirects:
//!    `rogue-server`;
//! 3. a loopback address: `loopback`; a datagram from a DHCP server's port: `rogue-server`;
//! 4. an encapsulation, or a tunnel's port on a node: `tunnel`;
//! 5. the endpoint's own address: `self`, allowed;
//! 6. an ICMP reply or error, which cannot be a first packet: `no-flow`; another type that is never let through: `icmp-type`;
//! 7. policy.
//!
//! Ingress, for an endpoint to which one is opened: its own node's stack is `host-exempt`; itself is `self`; neighbour discovery by hosts is
//! `neighbour`; then 6 and 7.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portcullis_common::addr::{self, Addr};
use portcullis_common::{guard, icmp, packet};

use crate::compile::Compilation;
use crate::model::{PolicyRef, Protocol, Workload, World};
use crate::probe::{End, Owner, ResolvedProbe};
use crate::tables::{Decision, Direction};

mod answer;
mod near;
mod steps;
mod text;

pub use answer::{Explanation, Reason, Side, Verdict};
pub use steps::{Missed, Step};

/// What the agent was started with, as far as verdicts depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Namespace and service account of those whom the metadata guard does not stop.
    pub metadata_allow: BTreeSet<(String, String)>,
}

/// How many nodes' tables are kept; a batch over more nodes should come sorted by node.
const NODES_KEPT: usize = 64;

/// Answers probes about one world, with the tables of each node compiled when first asked for.
pub struct Explainer<'w> {
    world: &'w World,
    options: Options,
    node_addresses: BTreeSet<IpAddr>,
    compiled: BTreeMap<Option<&'w str>, Compilation>,
}

impl<'w> Explainer<'w> {
    /// An explainer for `world`; the node of the world makes no difference to it.
    #[must_use]
    pub fn new(world: &'w World, options: Options) -> Self {
        let node_addresses = world
            .nodes
            .values()
            .flat_map(|node| &node.addresses)
            .copied()
            .collect();
        Self {
            world,
            options,
            node_addresses,
            compiled: BTreeMap::new(),
        }
    }

    /// The verdict of both sides, without steps.
    pub fn explain(&mut self, probe: &ResolvedProbe) -> Explanation {
        self.answer(probe, false)
    }

    /// The same, with the rules that were asked and what kept them from matching.
    pub fn explain_in_steps(&mut self, probe: &ResolvedProbe) -> Explanation {
        self.answer(probe, true)
    }

    /// One side alone, in steps: for whoever answers for some nodes only.
    pub fn side_in_steps(&mut self, probe: &ResolvedProbe, direction: Direction) -> Side {
        self.side(probe, direction, true)
    }

    fn answer(&mut self, probe: &ResolvedProbe, steps: bool) -> Explanation {
        let egress = self.side(probe, Direction::Egress, steps);
        let ingress = self.side(probe, Direction::Ingress, steps);
        Explanation::of(probe.id.clone(), egress, ingress)
    }

    fn side(&mut self, probe: &ResolvedProbe, direction: Direction, steps: bool) -> Side {
        let end = match direction {
            Direction::Egress => &probe.src,
            Direction::Ingress => &probe.dst,
        };
        match (&end.owner, direction) {
            (Owner::Pod(pod), Direction::Egress) => self.egress(probe, pod, steps),
            (Owner::Pod(pod), Direction::Ingress) => self.ingress(probe, pod, steps),
            (Owner::Node(_) | Owner::Address, _) => Side::none(end),
        }
    }

    fn egress(&mut self, probe: &ResolvedProbe, pod: &Workload, steps: bool) -> Side {
        let account = (pod.namespace.clone(), pod.service_account.to_string());
        let (end, dst) = (&probe.src, probe.dst.address);
        if is_guarded(dst) && !self.options.metadata_allow.contains(&account) {
            return Side::deny(end, Reason::MetadataGuard);
        }
        match discovery(probe) {
            Some(Discovery::Host) => return Side::allow(end, Reason::Neighbour),
            Some(Discovery::Router) => return Side::deny(end, Reason::RogueServer),
            None => {}
        }
        if dst.is_loopback() {
            return Side::deny(end, Reason::Loopback);
        }
        if is_rogue_server(probe) {
            return Side::deny(end, Reason::RogueServer);
        }
        if self.is_tunnel(probe) {
            return Side::deny(end, Reason::Tunnel);
        }
        if dst == end.address {
            return Side::allow(end, Reason::Itself);
        }
        if let Some(reason) = never_first(probe) {
            return Side::deny(end, reason);
        }
        self.policy(probe, Direction::Egress, pod, steps)
    }

    fn ingress(&mut self, probe: &ResolvedProbe, pod: &Workload, steps: bool) -> Side {
        let end = &probe.dst;
        if matches!(&probe.src.owner, Owner::Node(name) if Some(name.as_str()) == pod.node.as_deref())
        {
            return Side::allow(end, Reason::HostExempt);
        }
        if probe.src.address == end.address {
            return Side::allow(end, Reason::Itself);
        }
        if discovery(probe) == Some(Discovery::Host) && !is_router_solicitation(probe) {
            return Side::allow(end, Reason::Neighbour);
        }
        if let Some(reason) = never_first(probe) {
            return Side::deny(end, reason);
        }
        self.policy(probe, Direction::Ingress, pod, steps)
    }

    fn is_tunnel(&self, probe: &ResolvedProbe) -> bool {
        if Protocol(probe.protocol) == Protocol::UDP {
            return packet::is_overlay_port(probe.dst_port)
                && self.node_addresses.contains(&probe.dst.address);
        }
        packet::is_tunnel_protocol(probe.protocol)
    }

    fn policy(
        &mut self,
        probe: &ResolvedProbe,
        direction: Direction,
        pod: &Workload,
        steps: bool,
    ) -> Side {
        let world = self.world;
        let (end, peer) = match direction {
            Direction::Ingress => (&probe.dst, &probe.src),
            Direction::Egress => (&probe.src, &probe.dst),
        };
        let Some(pod) = world.workloads.get(&pod.uid) else {
            return Side::deny(end, Reason::NotReady);
        };
        let compilation = self.compilation(pod.node.as_deref());
        let tables = &compilation.tables;
        let Some(policies) = tables.endpoints.get(&pod.uid) else {
            return Side::deny(end, Reason::NotReady);
        };
        let number = policies.policy(direction, end.address);
        let Some(policy) = number.and_then(|number| tables.policy(number)) else {
            return Side::allow(end, Reason::NotIsolated);
        };
        let port = probe.icmp.map_or(probe.dst_port, |(kind, code)| {
            u16::from_be_bytes([kind, code])
        });
        let class = tables.class_of(peer.address);
        let decision = policy.decide(class, probe.protocol, port);
        let mut side = side(world, end, decision, &policy.isolated_by);
        if steps {
            let question = steps::Question {
                world,
                probe,
                peer,
                direction,
                class,
                port,
            };
            side.steps = steps::steps(compilation, &pod.uid, &question, decision);
        }
        side
    }

    fn compilation(&mut self, node: Option<&'w str>) -> &Compilation {
        if self.compiled.len() >= NODES_KEPT && !self.compiled.contains_key(&node) {
            self.compiled.clear();
        }
        let world = self.world;
        self.compiled
            .entry(node)
            .or_insert_with(|| Compilation::new(world, node))
    }
}

fn side(world: &World, end: &End, decision: &Decision, isolated_by: &[PolicyRef]) -> Side {
    let tier_of = |name: &PolicyRef| world.policies.get(name).map(|policy| policy.tier.clone());
    match (&decision.rule, decision.allow) {
        (Some(rule), allow) => {
            let mut side = if allow {
                Side::allow(end, Reason::AllowRule)
            } else {
                Side::deny(end, Reason::DenyRule)
            };
            side.tier = tier_of(&rule.policy);
            side.policy = Some(rule.policy.to_string());
            side.rule = Some(rule.index);
            side
        }
        // Governed, but by tiers that leave what they do not decide to the next one.
        (None, true) => Side::allow(end, Reason::NotIsolated),
        (None, false) => {
            let mut side = Side::deny(end, Reason::DefaultDeny);
            // Only where several tiers deny at their end does the table not say which of them did.
            let tiers: BTreeSet<String> = isolated_by.iter().filter_map(tier_of).collect();
            side.tier = Some(tiers)
                .filter(|tiers| tiers.len() == 1)
                .and_then(|mut tiers| tiers.pop_first());
            side.isolated_by = isolated_by.iter().map(ToString::to_string).collect();
            side
        }
    }
}

/// Who sends a neighbour discovery message (RFC 4861).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Discovery {
    Host,
    Router,
}

fn discovery(probe: &ResolvedProbe) -> Option<Discovery> {
    match probe.icmp {
        Some((133 | 135 | 136, _)) if probe.protocol == icmp::ICMPV6 => Some(Discovery::Host),
        Some((134 | 137, _)) if probe.protocol == icmp::ICMPV6 => Some(Discovery::Router),
        _ => None,
    }
}

/// Endpoints are no routers: what looks for one is nothing to them.
fn is_router_solicitation(probe: &ResolvedProbe) -> bool {
    probe.icmp.is_some_and(|(kind, _)| kind == 133)
}

/// DHCP servers of either family send from these ports.
fn is_rogue_server(probe: &ResolvedProbe) -> bool {
    let server = if probe.src.address.is_ipv4() { 67 } else { 547 };
    Protocol(probe.protocol) == Protocol::UDP && probe.src_port == Some(server)
}

/// Why an ICMP message cannot open a connection.
fn never_first(probe: &ResolvedProbe) -> Option<Reason> {
    let (kind, _) = probe.icmp?;
    match icmp::classify(probe.protocol, kind) {
        icmp::Class::Reply | icmp::Class::Error => Some(Reason::NoFlow),
        icmp::Class::Obsolete | icmp::Class::Neighbour => Some(Reason::IcmpType),
        icmp::Class::Request | icmp::Class::Other => None,
    }
}

fn is_guarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => guard::is_metadata(&addr::mapped(address.octets())),
        IpAddr::V6(address) => {
            let address: Addr = address.octets();
            guard::is_metadata(&address) || guard::embeds_metadata(&address)
        }
    }
}

#[cfg(test)]
mod tests;
