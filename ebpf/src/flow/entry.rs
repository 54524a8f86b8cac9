//! An entry of `pc_conntrack` as programs see it while others change it.

use portcullis_common::abi::Flow;
use portcullis_common::conntrack::{self, flags};

/// Whether an entry stands for a connection that still exists.
#[inline(always)]
pub fn is_alive(flow: *mut Flow, now: u32) -> bool {
    let (expires, state) = life(flow);
    state & flags::DEAD == 0 && !conntrack::expired(expires, now)
}

/// `expires` and `flags` of an entry.
#[inline(always)]
pub fn life(flow: *mut Flow) -> (u32, u32) {
    // SAFETY: as `established`.
    unsafe { ((*flow).expires, (*flow).flags) }
}

/// The word that holds both.
#[inline(always)]
pub fn word(expires: u32, state: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(expires) | u64::from(state) << 32
    } else {
        u64::from(state) | u64::from(expires) << 32
    }
}

/// The flags of such a word.
#[inline(always)]
pub fn flags_of(word: u64) -> u32 {
    if cfg!(target_endian = "little") {
        (word >> 32) as u32
    } else {
        word as u32
    }
}
