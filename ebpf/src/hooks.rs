//! The four decision points. Each names, in order, what it lets through, what it drops and whom it asks.

use portcullis_common::abi::{Config, Endpoint, config_flags, direction, hook};
use portcullis_common::conntrack::{UDP, flags};
use portcullis_common::icmp::{self, Class};
use portcullis_common::packet::{self, ETH_ARP, ETH_IPV4, Packet as _, Parsed, fragment};
use portcullis_common::policy;
use portcullis_common::{addr, reason};

use crate::ctx::{Skb, stage};
use crate::emit::{self, Denial, Place};
use crate::flow::{self, Scope, View};
use crate::{fragments, guard, neighbour, tables};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: other tools' programs still run. 0 would end the chain and silence them.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// Verdicts of `cgroup_skb` programs.
const LET: i32 = 1;
const REFUSE: i32 = 0;

/// What a pod sends.
#[inline(always)]
pub fn from_pod(skb: &Skb) -> i32 {
    let place = Place { hook: hook::FROM_POD, direction: direction::EGRESS, ifindex: skb.ifindex() };
    let endpoint = tables::endpoint(place.ifindex);
    let mut parsed = Parsed::default();
    let (Some(config), Some(known)) = (tables::config(), endpoint) else {
        emit::denied(skb, &place, None, &parsed, &Denial::of(reason::NOT_READY));
        return DROP;
    };
    match judge_sent(skb, config, known, &mut parsed) {
        Ok(stage) => {
            skb.set_stage(stage);
            NEXT
        }
        Err(denial) => {
            emit::denied(skb, &place, endpoint, &parsed, &denial);
            DROP
        }
    }
}

/// 1. one offloaded priority tag at most; 2. ARP for own addresses; 3. parse; 4. neighbour discovery for own addresses; 5. own source address;
/// 6. metadata guard, loopback, rogue servers, tunnels; 7. to itself; 8. later fragments; 9. conntrack and policy.
#[inline(always)]
fn judge_sent(skb: &Skb, config: &'static Config, endpoint: &'static Endpoint, parsed: &mut Parsed) -> Result<u32, Denial> {
    // A tag with id 0 only carries a priority; Linux strips it after this hook and forwards what is inside.
    if skb.vlan().is_some_and(|tag| tag & 0xfff != 0) {
        return Err(Denial::of(reason::VLAN));
    }
    let ethertype = skb.protocol();
    if ethertype == ETH_ARP {
        return neighbour::arp_from(skb, endpoint).map(|()| stage::SETTLED).map_err(Denial::of);
    }
    packet::parse(skb, ethertype, parsed).map_err(Denial::of)?;
    if is_discovery(parsed) {
        return neighbour::discovery_from(skb, endpoint, parsed).map(|()| stage::SETTLED).map_err(Denial::of);
    }
    let own = if parsed.family == addr::V4 as u8 { endpoint.v4 } else { endpoint.v6 };
    if parsed.src != own {
        return Err(Denial::of(reason::SPOOFED_SOURCE));
    }
    if guard::is_guarded(parsed) && !guard::is_allowed(endpoint) {
        return Err(Denial::of(reason::METADATA_GUARD));
    }
    if is_loopback(parsed) {
        return Err(Denial::of(reason::LOOPBACK));
    }
    if parsed.fragment >= fragment::LATER {
        fragments::follow(endpoint, parsed, fragments::place::SENT)?;
        return Ok(stage::UNDECIDED);
    }
    if flow::is_rogue_server(parsed) {
        return Err(Denial::of(reason::ROGUE_SERVER));
    }
    if is_tunnel(parsed) {
        return Err(Denial::of(reason::TUNNEL));
    }
    if parsed.dst == own {
        return Ok(stage::SETTLED);
    }
    let view = View { sent: true, translated: false, exempt: false, confirmed: false };
    let pass = flow::run(&Scope { skb, config, endpoint, parsed, view })?;
    if parsed.fragment == fragment::FIRST {
        fragments::remember(endpoint, parsed, fragments::place::SENT);
    }
    Ok(match pass.state & (flags::PENDING | flags::CONFIRMED) {
        flags::PENDING => stage::UNDECIDED,
        state if state & flags::PENDING != 0 => stage::PENDING_CONFIRMED,
        _ => stage::SETTLED,
    })
}

/// What reaches a pod.
#[inline(always)]
pub fn to_pod(skb: &Skb) -> i32 {
    let place = Place { hook: hook::TO_POD, direction: direction::INGRESS, ifindex: skb.ifindex() };
    let endpoint = tables::endpoint(place.ifindex);
    let ingress = skb.ingress_ifindex();
    // The node's own stack: no interface received the packet and a socket sent it. Never concluded from a source address.
    let from_node = ingress == 0 && skb.has_socket();
    let mut parsed = Parsed::default();
    let (Some(config), Some(known)) = (tables::config(), endpoint) else {
        if from_node {
            return NEXT;
        }
        emit::denied(skb, &place, None, &parsed, &Denial::of(reason::NOT_READY));
        return DROP;
    };
    let ethertype = skb.protocol();
    if ethertype == ETH_ARP {
        return NEXT;
    }
    if let Err(reason) = packet::parse(skb, ethertype, &mut parsed) {
        emit::denied(skb, &place, endpoint, &parsed, &Denial::of(reason));
        return DROP;
    }
    if is_discovery(&parsed) && (ingress == 0 || matches!(parsed.icmp_type(), 135 | 136)) {
        return NEXT;
    }
    // Deferred: the source is another endpoint of this node whose verdict waits for the real destination.
    let itself = ingress == place.ifindex;
    if ingress != 0
        && !itself
        && let Err(denial) = judge_deferred(skb, config, ingress, &parsed)
    {
        let source = Place { hook: hook::TO_POD, direction: direction::EGRESS, ifindex: ingress };
        emit::denied(skb, &source, tables::endpoint(ingress), &parsed, &denial);
        return DROP;
    }
    match judge_received(skb, config, known, &parsed, from_node || itself) {
        Ok(()) => NEXT,
        Err(denial) => {
            emit::denied(skb, &place, endpoint, &parsed, &denial);
            DROP
        }
    }
}

#[inline(always)]
fn judge_received(skb: &Skb, config: &'static Config, endpoint: &'static Endpoint, parsed: &Parsed, exempt: bool) -> Result<(), Denial> {
    if parsed.fragment >= fragment::LATER {
        return if exempt { Ok(()) } else { fragments::follow(endpoint, parsed, fragments::place::RECEIVED) };
    }
    let view = View { sent: false, translated: true, exempt, confirmed: false };
    let _pass = flow::run(&Scope { skb, config, endpoint, parsed, view })?;
    if parsed.fragment == fragment::FIRST {
        fragments::remember(endpoint, parsed, fragments::place::RECEIVED);
    }
    Ok(())
}

/// What leaves the node: the guard for whatever was forwarded and for pods in the host network, then deferred egress.
///
/// Frames that are not IP pass: a node speaks ARP and LLDP. An IP frame that cannot be read drops if an endpoint or a pod's socket sent it.
#[inline(always)]
pub fn uplink(skb: &Skb) -> i32 {
    let Some(config) = tables::config() else { return NEXT };
    let Some((skb, ethertype)) = skb.behind_tags() else { return NEXT };
    let skb = &skb;
    let ingress = skb.ingress_ifindex();
    let endpoint = if ingress == 0 { None } else { tables::endpoint(ingress) };
    let place = Place { hook: hook::UPLINK, direction: direction::EGRESS, ifindex: ingress };
    let mut parsed = Parsed::default();
    if destination(skb, ethertype, &mut parsed).is_none() {
        if endpoint.is_none() && !guard::is_from_pods_cgroup(skb, config) {
            return NEXT;
        }
        emit::denied(skb, &place, endpoint, &parsed, &Denial::of(reason::MALFORMED));
        return DROP;
    }
    if guard::is_guarded(&parsed) && !may_reach_metadata(skb, config, endpoint, ingress) {
        emit::denied(skb, &place, endpoint, &parsed, &Denial::of(reason::METADATA_GUARD));
        return DROP;
    }
    if endpoint.is_none() || skb.stage() == stage::SETTLED {
        return NEXT;
    }
    let judged = match packet::parse(skb, ethertype, &mut parsed) {
        Ok(()) => judge_deferred(skb, config, ingress, &parsed),
        Err(reason) => Err(Denial::of(reason)),
    };
    match judged {
        Ok(()) => NEXT,
        Err(denial) => {
            emit::denied(skb, &place, endpoint, &parsed, &denial);
            DROP
        }
    }
}

/// 1. forwarded: an endpoint on the allow list, nobody else, known or not; 2. a pod's socket in the host network: on the allow list, or the guard for
/// them is off; 3. the node's own processes and kernel.
#[inline(always)]
fn may_reach_metadata(skb: &Skb, config: &Config, endpoint: Option<&'static Endpoint>, ingress: u32) -> bool {
    if ingress != 0 {
        return endpoint.is_some_and(guard::is_allowed);
    }
    config.flags & config_flags::HOST_NETWORK_GUARD == 0 || !guard::is_from_pods_cgroup(skb, config) || guard::is_cgroup_allowed(skb, config)
}

/// Address and family of a packet's destination: all that the guard needs.
#[inline(always)]
fn destination(skb: &Skb, ethertype: u16, parsed: &mut Parsed) -> Option<()> {
    if ethertype == ETH_IPV4 {
        let [dst] = skb.fixed::<16, 1>()?;
        parsed.dst = addr::mapped(dst.to_ne_bytes());
    } else {
        let [a, b, c, d] = skb.fixed::<24, 4>()?;
        parsed.dst = addr::join(a, b, c, d);
        parsed.family = addr::V6 as u8;
    }
    Some(())
}

/// The egress verdict that `from_pod` left open, against the real destination. Costs a look-up for each packet of such connections, and none for
/// others: their stage says that they are settled.
#[inline(never)]
fn judge_deferred(skb: &Skb, config: &'static Config, ingress: u32, parsed: &Parsed) -> Result<(), Denial> {
    let stage = skb.stage();
    if stage == stage::SETTLED {
        return Ok(());
    }
    let Some(endpoint) = tables::endpoint(ingress) else { return Ok(()) };
    if endpoint.egress[usize::from(parsed.family) & 1] == policy::id::NONE {
        return Ok(());
    }
    if parsed.fragment >= fragment::LATER {
        return fragments::follow(endpoint, parsed, fragments::place::TRANSLATED);
    }
    let view = View { sent: true, translated: true, exempt: false, confirmed: stage == stage::PENDING_CONFIRMED };
    let _pass = flow::run(&Scope { skb, config, endpoint, parsed, view })?;
    if parsed.fragment == fragment::FIRST {
        fragments::remember(endpoint, parsed, fragments::place::TRANSLATED);
    }
    Ok(())
}

/// What is delivered to sockets of the node: deferred egress for backends on the node itself.
///
/// Fails open by design. It also runs for sockets inside pods and, on a shared machine, of other nodes, so it acts only on packets to an address of
/// this node that came in by one of our interfaces; what it does not recognise is not a pod's traffic to this host.
#[inline(always)]
pub fn to_host(skb: &Skb) -> i32 {
    let ingress = skb.ingress_ifindex();
    if ingress == 0 || skb.stage() == stage::SETTLED {
        return LET;
    }
    let (Some(config), Some(endpoint)) = (tables::config(), tables::endpoint(ingress)) else { return LET };
    let mut parsed = Parsed::default();
    if packet::parse(skb, skb.protocol(), &mut parsed).is_err() || !tables::is_own_node(&parsed.dst) {
        return LET;
    }
    match judge_deferred(skb, config, ingress, &parsed) {
        Ok(()) => LET,
        Err(denial) => {
            let place = Place { hook: hook::TO_HOST, direction: direction::EGRESS, ifindex: ingress };
            emit::denied(skb, &place, Some(endpoint), &parsed, &denial);
            REFUSE
        }
    }
}

/// Neighbour and router discovery, redirects included.
#[inline(always)]
fn is_discovery(parsed: &Parsed) -> bool {
    parsed.protocol == icmp::ICMPV6
        && parsed.fragment == fragment::WHOLE
        && (matches!(icmp::classify(icmp::ICMPV6, parsed.icmp_type()), Class::Neighbour) || parsed.icmp_type() == 137)
}

/// 127.0.0.0/8 and `::1`: services of the node's own loopback (CVE-2020-8558).
#[inline(always)]
fn is_loopback(parsed: &Parsed) -> bool {
    if parsed.family == addr::V4 as u8 { parsed.dst[12] == 127 } else { parsed.dst == addr::LOOPBACK_V6 }
}

/// Packets in packets, which nothing behind us would look into.
#[inline(always)]
fn is_tunnel(parsed: &Parsed) -> bool {
    match parsed.protocol {
        UDP => packet::is_overlay_port(parsed.dport) && tables::is_node(&parsed.dst),
        protocol => packet::is_tunnel_protocol(protocol),
    }
}
