//! Later fragments carry no ports: they share the fate of their first one.
//!
//! A first fragment that passed leaves a record; later ones pass while it is young and only in order, each beginning where the last one ended.
//! Overlaps, holes, duplicates and fragments without a first one drop. An endpoint has a fixed number of records for each place, so it can only push
//! out its own.

use portcullis_common::abi::{Endpoint, FRAGMENTS_PER_SLOT, Fragment, FragmentKey};
use portcullis_common::conntrack::flags;
use portcullis_common::packet::{Parsed, fragment};
use portcullis_common::reason;

use crate::flow::Outcome;
use crate::scratch::Scratch;
use crate::{maps, tables};

/// Ticks for which a record stands: the 30 s of RFC 791's reassembly.
const LIFETIME: u32 = 28;

/// Where fragments are followed; each place has records of its own.
pub mod place {
    /// `from_pod`.
    pub const SENT: u32 = 0;
    /// `to_pod`.
    pub const RECEIVED: u32 = 1;
    /// Behind the translation.
    pub const TRANSLATED: u32 = 2;
}

/// Notes a first fragment that passed.
#[inline(always)]
pub fn remember(endpoint: &Endpoint, parsed: &Parsed, place: u32, outcome: Outcome) {
    let pending = u32::from(outcome.detail() & flags::PENDING != 0);
    fragments_remember(
        parsed,
        u32::from(endpoint.slot),
        u32::from(endpoint.generation),
        place,
        pending,
    );
}

/// Whether a later fragment follows one that passed; what is pending of the first one is pending of it.
#[inline(always)]
pub fn follow(endpoint: &Endpoint, parsed: &Parsed, place: u32) -> Outcome {
    match fragments_follow(
        parsed,
        u32::from(endpoint.slot),
        u32::from(endpoint.generation),
        place,
    ) {
        SETTLED => Outcome::pass(0),
        PENDING => Outcome::pass(flags::PENDING),
        _ => Outcome::deny(reason::FRAGMENT, 0),
    }
}

/// Answers of `fragments_follow`.
const SETTLED: u64 = 1;
const PENDING: u64 = 2;

/// A global function (see `flow`). Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_remember(
    parsed: *const Parsed,
    slot: u32,
    generation: u32,
    place: u32,
    pending: u32,
) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_ref() }, tables::scratch()) else {
        return 0;
    };
    let record = scratch.fragment.put(Fragment {
        src: parsed.src,
        dst: parsed.dst,
        id: parsed.fragment_id,
        seen: tables::now(),
        next: parsed.fragment_end,
        protocol: parsed.protocol,
        generation: generation as u8,
        pending: pending as u8,
        reserved: 0,
    });
    // A failed insert drops the later fragments, nothing else.
    let _ = maps::FRAGMENTS.insert(key(scratch, parsed, slot, place), &*record, 0);
    0
}

/// A global function. Returns [`SETTLED`] or [`PENDING`] if it follows, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragments_follow(
    parsed: *const Parsed,
    slot: u32,
    generation: u32,
    place: u32,
) -> u64 {
    // SAFETY: as above.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_ref() }, tables::scratch()) else {
        return 0;
    };
    let Some(record) = maps::FRAGMENTS.get_ptr_mut(key(scratch, parsed, slot, place)) else {
        return 0;
    };
    // SAFETY: the memory of a replaced value stays readable until this program ends.
    let record = unsafe { &mut *record };
    if record.id != parsed.fragment_id
        || record.protocol != parsed.protocol
        || record.generation != generation as u8
        || record.src != parsed.src
        || record.dst != parsed.dst
        || record.next != parsed.fragment_start
        || tables::now().wrapping_sub(record.seen) > LIFETIME
    {
        return 0;
    }
    // Nothing follows the last one.
    record.next = if parsed.fragment == fragment::LAST {
        u32::MAX
    } else {
        parsed.fragment_end
    };
    if record.pending == 0 {
        SETTLED
    } else {
        PENDING
    }
}

#[inline(always)]
fn key<'a>(scratch: &'a Scratch, parsed: &Parsed, slot: u32, place: u32) -> &'a FragmentKey {
    scratch.fragment_key.put(FragmentKey {
        slot: slot as u16,
        way: (place * FRAGMENTS_PER_SLOT + (parsed.fragment_id & (FRAGMENTS_PER_SLOT - 1))) as u16,
    })
}
