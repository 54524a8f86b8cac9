//! Connections that are older than the programs, one for each run: the agent reads them from the kernel's own tracking, once, when it comes to a node.
//!
//! In the kernel, because programs count entries and the pool at the same time. An entry that is there already stays as it is.

use portcullis_common::abi::{Existing, Flow};

use crate::ctx::{ETHERNET, Frame, Skb};
use crate::flow::insert;
use crate::{quota, tables};

/// Not remembered: no room, or there is one already.
const REFUSED: i32 = 0;
const ADOPTED: i32 = 1;

/// Remembers the connection that the frame holds. Run by the agent alone, on memory of its own: packets interrupt it.
#[inline(always)]
pub fn run(frame: Frame) -> i32 {
    let (Some(scratch), Some(config)) = (tables::scratch_of_agent(), tables::config()) else {
        return REFUSED;
    };
    let skb = Skb::indirect(frame, ETHERNET, scratch);
    let Some(bytes) = skb.read::<{ size_of::<Existing>() }>(ETHERNET as u32) else {
        return REFUSED;
    };
    // SAFETY: the place is aligned for every record, and every bit pattern is an `Existing`.
    let existing = unsafe { &*bytes.as_ptr().cast::<Existing>() };
    let Ok(borrowed) = quota::admit(scratch, config, existing.key.slot, existing.flags) else {
        return REFUSED;
    };
    let now = tables::now();
    let state = existing.flags | borrowed;
    let flow = scratch.flow.put(Flow {
        expires: now + existing.patience,
        flags: state,
        seen: now,
        revision: existing.revision,
        rule: 0,
        reserved: 0,
    });
    if insert(&existing.key, flow).is_err() {
        return REFUSED;
    }
    quota::add(existing.key.slot, state);
    ADOPTED
}
