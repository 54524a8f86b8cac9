//! The four decision points. Each names, in order, what it lets through, what it drops and whom it asks: a pod's interface here, the node's in `uplink` and
//! `to_host`.

mod deferred;
mod to_host;
mod uplink;

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::abi::{Endpoint, direction, hook};
use portcullis_common::conntrack::{UDP, flags};
use portcullis_common::icmp::{self, Class};
use portcullis_common::packet::{self, ETH_ARP, Parsed, fragment};
use portcullis_common::{addr, reason};

use crate::ctx::{self, Frame, Skb, stage};
use crate::flow::{self, Outcome, view};
use crate::recent::verdict;
use crate::{answer, emit, fragments, guard, neighbour, recent, redirect, tables};

pub use to_host::to_host;
pub use uplink::uplink;

use deferred::hooks_deferred;

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: other tools' programs still run. 0 would end the chain and silence them.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// What a pod sends.
#[inline(always)]
pub fn from_pod(frame: Frame) -> i32 {
    match recent::from_pod(frame) {
        verdict::PASS => NEXT,
        verdict::DENY => DROP,
        _ => hooks_from_pod(frame.raw()) as i32,
    }
}

/// The long way. A global function (see `flow`), so that the short one has registers enough.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hooks_from_pod(raw: *mut __sk_buff) -> u64 {
    judge_from_pod(Frame::new(raw)) as u64
}

#[inline(always)]
fn judge_from_pod(frame: Frame) -> i32 {
    let Some(scratch) = tables::scratch() else {
        return DROP;
    };
    let skb = &Skb::new(frame, ctx::ETHERNET, scratch);
    recent::begin(scratch);
    let ifindex = skb.ifindex();
    let place = (hook::FROM_POD, direction::EGRESS, ifindex);
    let parsed = scratch.parsed.put(Parsed::default());
    let Some(endpoint) = tables::endpoint(scratch, ifindex) else {
        emit::denied(
            skb,
            place,
            None,
            parsed,
            Outcome::deny(reason::NOT_READY, 0),
        );
        return DROP;
    };
    recent::begin_for(scratch, endpoint.slot);
    let outcome = judge_sent(skb, endpoint, parsed);
    if !outcome.passes() {
        if outcome.reason() == reason::METADATA_GUARD
            && redirect::to_responder(skb, endpoint, parsed)
        {
            return NEXT;
        }
        let within_rate = emit::denied(skb, place, Some(endpoint), parsed, outcome);
        if within_rate && outcome.reason() == reason::METADATA_GUARD {
            return answer::blocked(skb, parsed);
        }
        if !within_rate && outcome.is_steady() {
            let of = (endpoint.slot, direction::EGRESS, outcome.reason());
            recent::note_denied(frame, parsed, of);
        }
        return DROP;
    }
    let stage = match outcome.detail() & (flags::PENDING | flags::CONFIRMED) {
        flags::PENDING => stage::UNDECIDED,
        state if state & flags::PENDING != 0 => stage::PENDING_CONFIRMED,
        _ => stage::SETTLED,
    };
    skb.set_stage(stage);
    if outcome.is_steady() {
        recent::note_from_pod(frame, parsed, stage);
    }
    NEXT
}

/// 1. one offloaded priority tag at most; 2. ARP for own addresses; 3. parse; 4. neighbour discovery for own addresses; 5. own source address;
/// 6. metadata guard, loopback, rogue servers, tunnels; 7. to itself; 8. later fragments; 9. conntrack and policy.
#[inline(always)]
fn judge_sent(skb: &Skb, endpoint: &'static Endpoint, parsed: &mut Parsed) -> Outcome {
    // A tag with id 0 only carries a priority; Linux strips it after this hook and forwards what is inside.
    if skb.vlan().is_some_and(|tag| tag & 0xfff != 0) {
        return Outcome::deny(reason::VLAN, 0);
    }
    let ethertype = skb.protocol();
    if ethertype == ETH_ARP {
        return neighbour::arp_from(skb, endpoint).into();
    }
    if let Err(reason) = ctx::parse(skb, ethertype, parsed) {
        return Outcome::deny(reason, 0);
    }
    if is_discovery(parsed) {
        return neighbour::discovery_from(skb, endpoint, parsed).into();
    }
    let own = tables::of_family(&endpoint.v4, &endpoint.v6, parsed);
    if parsed.src != *own {
        return Outcome::deny(reason::SPOOFED_SOURCE, 0).steady(true);
    }
    if (guard::is_guarded(parsed) && !guard::is_allowed(endpoint)) || redirect::is_responder(parsed)
    {
        return Outcome::deny(reason::METADATA_GUARD, 0).steady(true);
    }
    if is_loopback(parsed) {
        return Outcome::deny(reason::LOOPBACK, 0);
    }
    if parsed.fragment >= fragment::LATER {
        return fragments::follow(endpoint, parsed, fragments::place::SENT);
    }
    if flow::is_rogue_server(parsed) {
        return Outcome::deny(reason::ROGUE_SERVER, 0);
    }
    if is_tunnel(skb, parsed) {
        return Outcome::deny(reason::TUNNEL, 0);
    }
    if parsed.dst == *own {
        return Outcome::pass(0);
    }
    let outcome = flow::run(skb, endpoint, parsed, view::SENT);
    if parsed.fragment == fragment::FIRST && outcome.passes() {
        fragments::remember(endpoint, parsed, fragments::place::SENT, outcome);
    }
    outcome
}

/// What reaches a pod.
#[inline(always)]
pub fn to_pod(frame: Frame) -> i32 {
    match recent::to_pod(frame) {
        verdict::PASS => NEXT,
        verdict::DENY => DROP,
        _ => hooks_to_pod(frame.raw()) as i32,
    }
}

/// The long way. A global function likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hooks_to_pod(raw: *mut __sk_buff) -> u64 {
    judge_to_pod(Frame::new(raw)) as u64
}

#[inline(always)]
fn judge_to_pod(frame: Frame) -> i32 {
    let Some(scratch) = tables::scratch() else {
        return DROP;
    };
    let skb = &Skb::new(frame, ctx::ETHERNET, scratch);
    recent::begin(scratch);
    let ifindex = skb.ifindex();
    let place = (hook::TO_POD, direction::INGRESS, ifindex);
    let ingress = skb.ingress_ifindex();
    // The node's own stack: no interface received the packet and a socket sent it. Never concluded from a source address.
    let from_node = ingress == 0 && skb.has_socket();
    let parsed = scratch.parsed.put(Parsed::default());
    let Some(endpoint) = tables::endpoint(scratch, ifindex) else {
        if from_node {
            return NEXT;
        }
        emit::denied(
            skb,
            place,
            None,
            parsed,
            Outcome::deny(reason::NOT_READY, 0),
        );
        return DROP;
    };
    let ethertype = skb.protocol();
    if ethertype == ETH_ARP {
        return NEXT;
    }
    if let Err(reason) = ctx::parse(skb, ethertype, parsed) {
        emit::denied(skb, place, Some(endpoint), parsed, Outcome::deny(reason, 0));
        return DROP;
    }
    if ingress == 0 && redirect::is_answer(skb, parsed) {
        return NEXT;
    }
    if is_discovery(parsed) && (ingress == 0 || matches!(parsed.icmp_type(), 135 | 136)) {
        return NEXT;
    }
    let mut steady = true;
    // The source may be another endpoint of this node whose verdict waits for the real destination.
    if ingress != 0 && ingress != ifindex && skb.stage() != stage::SETTLED {
        let outcome = Outcome(hooks_deferred(skb.raw(), parsed, ctx::ETHERNET as u32));
        if !outcome.passes() {
            emit::denied(
                skb,
                (hook::TO_POD, direction::EGRESS, ingress),
                tables::endpoint(scratch, ingress),
                parsed,
                outcome,
            );
            return DROP;
        }
        steady = outcome.is_steady();
    }
    let exempt = from_node || ingress == ifindex;
    recent::begin_for(scratch, endpoint.slot);
    let outcome = judge_received(
        skb,
        endpoint,
        parsed,
        if exempt {
            view::TRANSLATED | view::EXEMPT
        } else {
            view::TRANSLATED
        },
    );
    if !outcome.passes() {
        let within_rate = emit::denied(skb, place, Some(endpoint), parsed, outcome);
        // What no interface received may come from the node, which a note does not say.
        if !within_rate && ingress != 0 && outcome.is_steady() {
            let of = (endpoint.slot, direction::INGRESS, outcome.reason());
            recent::note_denied(frame, parsed, of);
        }
        return DROP;
    }
    if steady && outcome.is_steady() {
        recent::note_to_pod(frame, parsed);
    }
    NEXT
}

#[inline(always)]
fn judge_received(skb: &Skb, endpoint: &'static Endpoint, parsed: &Parsed, view: u16) -> Outcome {
    if parsed.fragment >= fragment::LATER {
        return if view & view::EXEMPT != 0 {
            Outcome::pass(0)
        } else {
            fragments::follow(endpoint, parsed, fragments::place::RECEIVED)
        };
    }
    let outcome = flow::run(skb, endpoint, parsed, view);
    if parsed.fragment == fragment::FIRST && outcome.passes() {
        fragments::remember(endpoint, parsed, fragments::place::RECEIVED, outcome);
    }
    outcome
}

/// Neighbour and router discovery, redirects included.
#[inline(always)]
fn is_discovery(parsed: &Parsed) -> bool {
    parsed.protocol == icmp::ICMPV6
        && parsed.fragment == fragment::WHOLE
        && (matches!(
            icmp::classify(icmp::ICMPV6, parsed.icmp_type()),
            Class::Neighbour
        ) || parsed.icmp_type() == 137)
}

/// 127.0.0.0/8 and `::1`: services of the node's own loopback (CVE-2020-8558).
#[inline(always)]
fn is_loopback(parsed: &Parsed) -> bool {
    if parsed.family == addr::V4 as u8 {
        parsed.dst[12] == 127
    } else {
        parsed.dst == addr::LOOPBACK_V6
    }
}

/// Packets in packets, which nothing behind us would look into.
#[inline(always)]
fn is_tunnel(skb: &Skb, parsed: &Parsed) -> bool {
    match parsed.protocol {
        UDP => packet::is_overlay_port(parsed.dport) && tables::is_node(skb.scratch(), &parsed.dst),
        protocol => packet::is_tunnel_protocol(protocol),
    }
}
