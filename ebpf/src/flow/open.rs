//! A packet that may open a connection: policy, quota, entry.

use portcullis_common::abi::{Flow, FlowKey};
use portcullis_common::conntrack::{self, TCP, flags};
use portcullis_common::policy::decide;
use portcullis_common::reason;

use super::entry::{life, word};
use super::{Outcome, view};
use crate::scratch::{Request, Scratch};
use crate::tables::{self, Tables};
use crate::{atomic, maps, quota, recent};

/// Linux error numbers of `bpf_map_update_elem`.
const EEXIST: i32 = -17;
const EBUSY: i32 = -16;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// A packet that may open a connection.
#[inline(always)]
pub fn open(request: &Request, flow: Option<*mut Flow>) -> Outcome {
    Outcome(match flow {
        Some(flow) => flow_reopen(request, flow),
        None => flow_open(request),
    })
}

/// Opens a connection that nothing is remembered of.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open(request: *const Request) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(tables)) = (unsafe { request.as_ref() }, Tables::get()) else {
        return 0;
    };
    match admit(&tables, request) {
        Ok((state, rule)) => create(&tables, request, state, rule).0,
        Err(denied) => denied.0,
    }
}

/// Opens one over an entry that is there: of a connection that is over, or that a SYN now opens again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_reopen(request: *const Request, flow: *mut Flow) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(tables)) = (unsafe { request.as_ref() }, Tables::get()) else {
        return 0;
    };
    if flow.is_null() {
        return 0;
    }
    match admit(&tables, request) {
        Ok((state, rule)) => revive(tables.scratch, request, flow, state, rule).0,
        Err(denied) => denied.0,
    }
}

/// Policy: the state of the entry to be, and the rule that allows it.
#[inline(always)]
fn admit(tables: &Tables<'_>, request: &Request) -> Result<(u32, u32), Outcome> {
    let sent = request.view & view::SENT != 0;
    let mut state = if sent { flags::OUTBOUND } else { 0 };
    if request.view & view::CONFIRMED != 0 && request.key.protocol == TCP {
        state |= flags::REPLIED | flags::CONFIRMED;
    }
    if request.view & view::EXEMPT != 0 {
        return Ok((state | flags::EXEMPT, 0));
    }
    let untranslated = request.view & view::BEHIND == view::SENT;
    if untranslated
        && tables::is_service(
            tables.scratch,
            tables.config,
            &request.key.remote,
            request.key.remote_port,
            request.key.protocol,
        )
    {
        return Ok((state | flags::PENDING, 0));
    }
    let decision = decide(
        tables,
        request.policy(sent),
        &request.key.remote,
        request.key.protocol,
        request.dport,
    );
    if decision.allow {
        Ok((state, decision.rule))
    } else {
        Err(Outcome::deny(decision.reason, decision.rule).steady(true))
    }
}

/// Takes over the entry of a connection that is over, or notes a SYN on one that is not.
#[inline(always)]
fn revive(scratch: &Scratch, request: &Request, flow: *mut Flow, state: u32, rule: u32) -> Outcome {
    let (expires, old) = life(flow);
    let now = tables::now();
    if old & flags::DEAD != 0 {
        return Outcome::deny(reason::TABLE_BUSY, 0);
    }
    let same_opener = (old ^ state) & flags::OUTBOUND == 0;
    let alive = !conntrack::expired(expires, now) && !conntrack::closed(old);
    // A retransmitted SYN: allowed as the first one was, and nothing new.
    let next = if same_opener && alive {
        old
    } else {
        state | (old & flags::BORROWED)
    };
    let until = now + conntrack::lifetime(next, request.key.protocol);
    // SAFETY: as `established`.
    if !unsafe { atomic::swap(flow.cast(), word(expires, old), word(until, next)) } {
        return Outcome::deny(reason::TABLE_BUSY, 0);
    }
    quota::change(request.key.slot, old, next);
    if request.key.protocol != TCP {
        recent::opens(scratch, request.key.slot);
    }
    // Notes of the connection that was would keep the new one half-open.
    if request.key.protocol == TCP && old & !next & flags::CONFIRMED != 0 {
        recent::forget();
    }
    // SAFETY: as `flow_judge_again`.
    unsafe {
        (*flow).seen = now;
        (*flow).rule = rule;
        (*flow).revision = request.revision;
    }
    Outcome::pass(next)
}

/// Makes an entry within the endpoint's quota.
#[inline(always)]
fn create(tables: &Tables<'_>, request: &Request, state: u32, rule: u32) -> Outcome {
    let Tables { config, scratch } = *tables;
    let exempt = state & flags::EXEMPT != 0;
    let state = match quota::admit(scratch, config, request.key.slot, state) {
        Ok(borrowed) => state | borrowed,
        // The node's probe passes even when nothing can be remembered.
        Err(_) if exempt => return Outcome::pass(0),
        Err(reason) => return Outcome::deny(reason, 0),
    };
    let now = tables::now();
    let expires = now + conntrack::lifetime(state, request.key.protocol);
    let flow = scratch.flow.put(Flow {
        expires,
        flags: state,
        seen: now,
        revision: request.revision,
        rule,
        reserved: 0,
    });
    match insert(request.own_key(scratch), flow) {
        Ok(()) => {
            quota::add(request.key.slot, state);
            if request.key.protocol != TCP {
                recent::opens(scratch, request.key.slot);
            }
            Outcome::pass(state)
        }
        // Another processor was first with a packet of the same connection.
        Err(EEXIST) => Outcome::pass(state),
        Err(_) if exempt => Outcome::pass(0),
        Err(EBUSY) => Outcome::deny(reason::TABLE_BUSY, 0),
        Err(_) => Outcome::deny(reason::TABLE_FULL, 0),
    }
}

/// Makes an entry where there is none.
#[inline(always)]
pub fn insert(key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    match maps::CONNTRACK.insert(key, flow, NOEXIST) {
        // Kernels before 6.15 refuse when this processor interrupted itself in the bucket.
        Err(EBUSY) => maps::CONNTRACK.insert(key, flow, NOEXIST),
        result => result,
    }
}
