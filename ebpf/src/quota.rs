//! How many connections an endpoint may have, so that none can take another's.
//!
//! 1. Each endpoint has a limit for each kind: opened by it, opened to it, and half-open ones of both.
//! 2. In each direction the first `guaranteed` are its own, whatever others do: the table has room for them all.
//! 3. Beyond that it draws from a pool that all share. With the pool empty only its own share is left to each.
//!
//! Counters may be over by one for each processor, because check and addition are two steps; they never drift, because each entry is counted once
//! when it is made and once when it is removed.

use portcullis_common::abi::{Config, Slot};
use portcullis_common::conntrack::{flags, kind};
use portcullis_common::reason;

use crate::maps::{self, At as _};
use crate::scratch::Scratch;
use crate::{atomic, tables};

/// Asks for room for a connection in state `state`: the flag to remember with it, or why not.
#[inline(always)]
pub fn admit(scratch: &Scratch, config: &Config, slot: u16, state: u32) -> Result<u32, u8> {
    let Some(counts) = maps::SLOT_STATES.by(&scratch.key, u64::from(slot)) else {
        return Err(reason::QUOTA);
    };
    // SAFETY: values of an array live as long as the map.
    let counts = unsafe { &*counts };
    let outbound = state & flags::OUTBOUND != 0;
    let [out_whole, in_whole, out_half, in_half] = &counts.flows;
    let whole = *tables::either(outbound, out_whole, in_whole);
    let half = *tables::either(outbound, out_half, in_half);
    let [out_whole, in_whole, out_half, in_half] = &config.quota;
    let limit_whole = *tables::either(outbound, out_whole, in_whole);
    let limit_half = *tables::either(outbound, out_half, in_half);
    // The node's own probes must get through while a pod is flooded.
    if state & flags::EXEMPT == 0 {
        if half >= u64::from(limit_half) {
            return Err(reason::HALF_OPEN_QUOTA);
        }
        if whole + half >= u64::from(limit_whole) {
            return Err(reason::QUOTA);
        }
    }
    if whole + half < u64::from(config.guaranteed) {
        return Ok(0);
    }
    match maps::POOL.first() {
        // SAFETY: as above.
        Some(used) if unsafe { *used } < u64::from(config.pool) => Ok(flags::BORROWED),
        _ => Err(reason::QUOTA),
    }
}

/// Counts an entry that now exists.
#[inline(always)]
pub fn add(slot: u16, state: u32) {
    move_by(slot, state, 1);
    if state & flags::BORROWED != 0 {
        pool_by(1);
    }
}

/// Counts an entry that no longer exists.
#[inline(always)]
pub fn remove(slot: u16, state: u32) {
    move_by(slot, state, u64::MAX);
    release(state);
}

/// Gives back what an entry of an endpoint that is gone took from the pool.
#[inline(always)]
pub fn release(state: u32) {
    if state & flags::BORROWED != 0 {
        pool_by(u64::MAX);
    }
}

/// Counts a change of kind; what the entry took from the pool stays taken.
#[inline(always)]
pub fn change(slot: u16, from: u32, to: u32) {
    if kind(from) != kind(to) {
        move_by(slot, from, u64::MAX);
        move_by(slot, to, 1);
    }
}

/// Adds `by` (with wrap-around: `u64::MAX` takes one away) to the counter of a state's kind.
#[inline(always)]
fn move_by(slot: u16, state: u32, by: u64) {
    let Some(counts): Option<*mut Slot> = maps::SLOT_STATES.at(u64::from(slot)) else {
        return;
    };
    // SAFETY: array values live as long as the map; the counters are 8-byte aligned.
    unsafe {
        let counter = match kind(state) {
            0 => tables::constant_offset(&raw mut (*counts).flows[0]),
            1 => tables::constant_offset(&raw mut (*counts).flows[1]),
            2 => tables::constant_offset(&raw mut (*counts).flows[2]),
            _ => tables::constant_offset(&raw mut (*counts).flows[3]),
        };
        atomic::add(counter, by);
    }
}

#[inline(always)]
fn pool_by(by: u64) {
    if let Some(used) = maps::POOL.first() {
        // SAFETY: as `move_by`.
        unsafe { atomic::add(used, by) };
    }
}
