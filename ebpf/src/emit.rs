//! What a drop leaves behind: a counter, always, and an event, within the endpoint's rate.

use portcullis_common::abi::{Endpoint, Event, drop_index};
use portcullis_common::conntrack;
use portcullis_common::packet::{Packet as _, Parsed};

use crate::ctx::Skb;
use crate::{atomic, maps};
use crate::tables::{self, now_ns};

/// Why a packet is dropped, and by what.
#[derive(Clone, Copy)]
#[must_use]
pub struct Denial {
    /// `common::reason`.
    pub reason: u8,
    /// The rule, 0 = none.
    pub rule: u32,
    /// The policy that was asked, 0 = none.
    pub policy: u32,
}

impl Denial {
    /// A drop that no policy decided.
    #[inline(always)]
    pub const fn of(reason: u8) -> Self {
        Self { reason, rule: 0, policy: 0 }
    }
}

/// Where a drop happened.
#[derive(Clone, Copy)]
pub struct Place {
    /// `abi::hook`.
    pub hook: u8,
    /// `abi::direction`, as the endpoint sees it.
    pub direction: u8,
    /// The endpoint's interface.
    pub ifindex: u32,
}

/// Counts a drop and reports it. Not inlined: nothing here is on the way of a packet that passes.
#[inline(never)]
pub fn denied(skb: &Skb, place: &Place, endpoint: Option<&'static Endpoint>, parsed: &Parsed, denial: &Denial) {
    let slot = endpoint.map_or(0, |endpoint| endpoint.slot);
    count(slot, place.direction, denial.reason);
    let Some(state) = maps::SLOT_STATES.get_ptr_mut(u32::from(slot)) else { return };
    let Some(config) = tables::config() else { return };
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
            ifindex: place.ifindex,
            rule: denial.rule,
            policy: denial.policy,
            slot,
            generation: endpoint.map_or(0, |endpoint| endpoint.generation),
            protocol: parsed.protocol,
            reason: denial.reason,
            direction: place.direction,
            tcp_flags: parsed.tcp_flags,
            hook: place.hook,
            len: skb.len(),
            reserved: 0,
        });
        entry.submit(0);
        return;
    }
    // SAFETY: as above; `lost` is 8-byte aligned in its record.
    unsafe { atomic::add(&raw mut (*state).lost, 1) };
}

/// Counts a drop of which there is no packet to report.
#[inline(always)]
pub fn count(slot: u16, direction: u8, reason: u8) {
    if let Some(counter) = maps::DROPS.get_ptr_mut(drop_index(slot, direction, reason)) {
        // SAFETY: array values live as long as the map and are 8-byte aligned.
        unsafe { atomic::add(counter, 1) };
    }
}
