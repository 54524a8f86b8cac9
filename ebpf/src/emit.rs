//! What a drop leaves behind: a counter, always, and an event, within the endpoint's rate.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::abi::{Endpoint, Event, drop_index};
use portcullis_common::conntrack;
use portcullis_common::packet::Parsed;

use crate::atomic;
use crate::ctx::Skb;
use crate::flow::Outcome;
use crate::maps::{self, At as _};
use crate::scratch::Report;
use crate::tables::{self, now_ns};

/// Counts a drop and reports it; whether the endpoint is within its rate.
#[inline(always)]
pub fn denied(
    skb: &Skb,
    place: (u8, u8, u32),
    endpoint: Option<&'static Endpoint>,
    parsed: &Parsed,
    outcome: Outcome,
) -> bool {
    let (hook, direction, ifindex) = place;
    let report = skb.scratch().report.put(Report {
        outcome: outcome.0,
        ifindex,
        policy: endpoint.map_or(0, |endpoint| {
            let (egress, ingress) = tables::policies(endpoint, parsed);
            if direction == 0 { ingress } else { egress }
        }),
        slot: endpoint.map_or(0, |endpoint| endpoint.slot),
        hook,
        direction,
        generation: endpoint.map_or(0, |endpoint| endpoint.generation),
        reserved: [0; 3],
    });
    emit_denied(skb.raw(), report, parsed, skb.l3()) != 0
}

/// A global function (see `flow`): nothing here is on the way of a packet that passes. Returns 1 within the endpoint's rate, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emit_denied(
    skb: *mut __sk_buff,
    report: *const Report,
    parsed: *const Parsed,
    l3: u32,
) -> u64 {
    // SAFETY: the verifier checks both pointers against their types; a null one never comes.
    let (Some(report), Some(parsed), Some(scratch)) = (
        unsafe { report.as_ref() },
        unsafe { parsed.as_ref() },
        tables::scratch(),
    ) else {
        return 0;
    };
    let outcome = Outcome(report.outcome);
    let index = drop_index(report.slot, report.direction, outcome.reason());
    add_one(maps::DROPS.by(&scratch.key, u64::from(index)));
    let (Some(state), Some(config)) = (
        maps::SLOT_STATES.by(&scratch.key, u64::from(report.slot)),
        tables::config(),
    ) else {
        return 0;
    };
    let time_ns = now_ns();
    let tick = conntrack::tick(time_ns);
    // SAFETY: array values live as long as the map. The rate is a bound for logs, not a verdict: a race between two processors costs or gives an event.
    let over = unsafe {
        if (*state).event_tick != tick {
            (*state).event_tick = tick;
            (*state).events = 0;
        }
        (*state).events += 1;
        (*state).events > config.events_per_tick
    };
    if !over && let Some(mut entry) = maps::EVENTS.reserve_untyped::<Event>(0) {
        entry.write(Event {
            time_ns,
            src: parsed.src,
            dst: parsed.dst,
            sport: parsed.sport,
            dport: parsed.dport,
            ifindex: report.ifindex,
            rule: outcome.detail(),
            policy: report.policy,
            slot: report.slot,
            generation: report.generation,
            protocol: parsed.protocol,
            reason: outcome.reason(),
            direction: report.direction,
            tcp_flags: parsed.tcp_flags,
            hook: report.hook,
            // SAFETY: a valid context.
            len: unsafe { (*skb).len }.saturating_sub(l3),
            reserved: 0,
        });
        entry.submit(0);
        return 1;
    }
    // SAFETY: as above; `lost` is 8-byte aligned in its record.
    unsafe { atomic::add(&raw mut (*state).lost, 1) };
    0
}

/// Counts a drop of which there is no packet to report, at a socket.
#[inline(always)]
pub fn count(slot: u16, direction: u8, reason: u8) {
    add_one(maps::DROPS.at(u64::from(drop_index(slot, direction, reason))));
}

#[inline(always)]
fn add_one(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: array values live as long as the map and are 8-byte aligned.
        unsafe { atomic::add(counter, 1) };
    }
}
