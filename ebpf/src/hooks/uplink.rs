//! What leaves the node.

use portcullis_common::abi::{Config, Endpoint, config_flags, direction, hook};
use portcullis_common::packet::{ETH_IPV4, Header as _, Packet as _, Parsed};
use portcullis_common::{addr, reason};

use super::deferred::hooks_deferred;
use super::{DROP, NEXT};
use crate::ctx::{self, Frame, Skb, stage};
use crate::flow::Outcome;
use crate::{emit, guard, tables};

/// The guard for whatever was forwarded and for pods in the host network, then deferred egress.
#[inline(always)]
pub fn uplink(frame: Frame, l3: usize) -> i32 {
    let (Some(config), Some(scratch)) = (tables::config(), tables::scratch()) else {
        return NEXT;
    };
    // A node speaks LLDP and ARP, too.
    let Some((skb, ethertype)) = Skb::new(frame, l3, scratch).behind_tags() else {
        return NEXT;
    };
    let skb = &skb;
    let ingress = skb.ingress_ifindex();
    let place = (hook::UPLINK, direction::EGRESS, ingress);
    let parsed = scratch.parsed.put(Parsed::default());
    let readable = destination(skb, ethertype, parsed).is_some();
    // Whose it is is asked once: behind a second question the verifier of Linux 6.1 sees a pointer that is none, where a processor may mispredict.
    if ingress != 0
        && let Some(endpoint) = tables::endpoint(scratch, ingress)
    {
        let outcome = judge_forwarded(skb, ethertype, endpoint, parsed, readable);
        if outcome.passes() {
            return NEXT;
        }
        emit::denied(skb, place, Some(endpoint), parsed, outcome);
        return DROP;
    }
    let outcome = judge_others(skb, config, parsed, readable);
    if outcome.passes() {
        return NEXT;
    }
    emit::denied(skb, place, None, parsed, outcome);
    DROP
}

/// An endpoint's packet, behind the translation: 1. it can be read; 2. metadata guard; 3. what is deferred.
#[inline(always)]
fn judge_forwarded(
    skb: &Skb,
    ethertype: u16,
    endpoint: &'static Endpoint,
    parsed: &mut Parsed,
    readable: bool,
) -> Outcome {
    if !readable {
        return Outcome::deny(reason::MALFORMED, 0);
    }
    let redirected = skb.stage() == stage::REDIRECTED;
    if redirected || (guard::is_guarded(parsed) && !guard::is_allowed(endpoint)) {
        return Outcome::deny(reason::METADATA_GUARD, 0);
    }
    if skb.stage() == stage::SETTLED {
        return Outcome::pass(0);
    }
    match ctx::parse(skb, ethertype, parsed) {
        Ok(()) => Outcome(hooks_deferred(skb.raw(), parsed, skb.l3())),
        Err(reason) => Outcome::deny(reason, 0),
    }
}

/// Anybody else's: what was forwarded for nobody we know does not reach metadata, nor what a pod's socket in the host network sent, unless it is on the
/// allow list or the guard for such pods is off. The node's own processes and kernel do.
#[inline(always)]
fn judge_others(skb: &Skb, config: &Config, parsed: &Parsed, readable: bool) -> Outcome {
    if !readable && guard::is_from_pods_cgroup(skb, config) {
        return Outcome::deny(reason::MALFORMED, 0);
    }
    let free = !readable
        || !guard::is_guarded(parsed)
        || (skb.ingress_ifindex() == 0
            && (config.flags & config_flags::HOST_NETWORK_GUARD == 0
                || !guard::is_from_pods_cgroup(skb, config)
                || guard::is_cgroup_allowed(skb, config)));
    if free {
        Outcome::pass(0)
    } else {
        Outcome::deny(reason::METADATA_GUARD, 0)
    }
}

/// Address and family of a packet's destination: all that the guard needs.
#[inline(always)]
fn destination(skb: &Skb, ethertype: u16, parsed: &mut Parsed) -> Option<()> {
    skb.prepare::<40>();
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
