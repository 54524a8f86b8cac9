//! Atomic steps on map values: what the instruction set of kernel 5.12 has (v2 with atomics), on 64-bit words only.
//!
//! Through compiler intrinsics, because `core::sync::atomic` of the BPF target has neither fetch nor compare-and-swap.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd};

const RELAXED: AtomicOrdering = AtomicOrdering::Relaxed;
const SEQ_CST: AtomicOrdering = AtomicOrdering::SeqCst;

/// Adds with wrap-around.
///
/// # Safety
/// `word` points to 8 aligned bytes of a map value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, RELAXED>(word, by) };
}

/// The same for four bytes.
///
/// # Safety
/// `word` points to 4 aligned bytes of a map value.
#[inline(always)]
pub unsafe fn add_short(word: *mut u32, by: u32) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u32, u32, RELAXED>(word, by) };
}

/// Sets bits; returns what was there before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_or::<u64, u64, SEQ_CST>(word, bits) }
}

/// Replaces `from` by `to`; whether it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, from: u64, to: u64) -> bool {
    // SAFETY: the caller's.
    let (_, swapped) = unsafe { atomic_cxchg::<u64, SEQ_CST, SEQ_CST>(word, from, to) };
    swapped
}
