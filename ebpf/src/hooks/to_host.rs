//! What is delivered to sockets of the node.

use portcullis_common::abi::{direction, hook};
use portcullis_common::packet::Parsed;
use portcullis_common::reason;

use super::deferred::hooks_deferred;
use crate::ctx::{self, Frame, Skb, stage};
use crate::flow::Outcome;
use crate::{emit, redirect, tables};

/// Verdicts of `cgroup_skb` programs.
const LET: i32 = 1;
const REFUSE: i32 = 0;

/// 1. The responder gets what the redirect sent, and nothing else. 2. Deferred egress for backends on the node itself.
///
/// Fails open by design. It also runs for sockets inside pods and, on a shared machine, of other nodes, so it acts only on packets to an address of
/// this node that came in by one of our interfaces; what it does not recognise is not a pod's traffic to this host.
#[inline(always)]
pub fn to_host(frame: Frame) -> i32 {
    if redirect::is_intruder(frame) {
        emit::count(0, direction::INGRESS, reason::METADATA_GUARD);
        return REFUSE;
    }
    let ingress = frame.ingress_ifindex();
    if ingress == 0 || frame.stage() == stage::SETTLED {
        return LET;
    }
    let Some(scratch) = tables::scratch() else {
        return LET;
    };
    let Some(endpoint) = tables::endpoint(scratch, ingress) else {
        return LET;
    };
    let skb = &Skb::indirect(frame, ctx::BARE, scratch);
    let parsed = scratch.parsed.put(Parsed::default());
    if ctx::parse(skb, skb.protocol(), parsed).is_err()
        || !tables::is_own_node(scratch, &parsed.dst)
    {
        return LET;
    }
    let outcome = Outcome(hooks_deferred(skb.raw(), parsed, skb.l3()));
    if outcome.passes() {
        return LET;
    }
    emit::denied(
        skb,
        (hook::TO_HOST, direction::EGRESS, ingress),
        Some(endpoint),
        parsed,
        outcome,
    );
    REFUSE
}
