//! Collection of connections that are gone. The agent runs it about once a second; late or never, verdicts stay right, because expiry is tested at
//! look-up: only quotas stay used.
//!
//! In the kernel, not from a snapshot in user space, which would delete entries that were reused meanwhile. An entry is claimed by compare-and-swap
//! of the word that every packet's revival swaps too, so one of the two wins.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_for_each_map_elem;
use portcullis_common::abi::{Flow, FlowKey};
use portcullis_common::conntrack::{self, flags};

use crate::maps::{self, At as _};
use crate::{atomic, flow, quota, tables};

/// Ticks that an entry must be over its time: a packet that found it alive has long finished.
const MARGIN: u32 = 2;

/// Visits every entry (Linux 5.13). Returns 0.
#[inline(always)]
pub fn run() -> i32 {
    let mut now = u64::from(tables::now());
    // SAFETY: the map and the callback match, and `now` outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const maps::CONNTRACK).cast_mut().cast(),
            visit as *mut c_void,
            (&raw mut now).cast(),
            0,
        );
    }
    0
}

/// Callback for one entry; 0 = go on.
unsafe extern "C" fn visit(
    _map: *mut c_void,
    key: *mut FlowKey,
    entry: *mut Flow,
    now: *mut u64,
) -> u64 {
    // SAFETY: the kernel hands valid pointers to the key, the value and the context that `run` gave it.
    let (key, now) = unsafe { (&*key, *now as u32) };
    let (expires, state) = flow::life(entry);
    let owned = maps::SLOT_STATES
        .at(u64::from(key.slot))
        // SAFETY: values of an array live as long as the map.
        .is_some_and(|slot| unsafe { (*slot).generation } as u8 == key.generation);
    if owned && !conntrack::expired(expires, now.wrapping_sub(MARGIN)) {
        return 0;
    }
    // SAFETY: as `flow::revive`.
    if !unsafe {
        atomic::swap(
            entry.cast(),
            flow::word(expires, state),
            flow::word(expires, state | flags::DEAD),
        )
    } {
        return 0;
    }
    let slot = key.slot;
    if maps::CONNTRACK.remove(key).is_ok() {
        if owned {
            quota::remove(slot, state)
        } else {
            quota::release(state)
        }
    }
    0
}
