//! Later fragments carry no ports: they share the fate of their first one.
//!
//! A first fragment that passed leaves a record; later ones pass while it is young and only in order, each beginning where the last one ended.
//! Overlaps, holes, duplicates and fragments without a first one drop. An endpoint has a fixed number of records for each place, so it can only push
//! out its own.

use portcullis_common::abi::{Endpoint, FRAGMENTS_PER_SLOT, Fragment, FragmentKey};
use portcullis_common::packet::{Parsed, fragment};
use portcullis_common::reason;

use crate::emit::Denial;
use crate::{maps, tables};

/// Ticks for which a record stands: the 30 s of RFC 791's reassembly.
const LIFETIME: u32 = 28;

/// Where fragments are followed; each place has records of its own.
pub mod place {
    /// `from_pod`.
    pub const SENT: u16 = 0;
    /// `to_pod`.
    pub const RECEIVED: u16 = 1;
    /// Behind the translation.
    pub const TRANSLATED: u16 = 2;
}

/// Notes a first fragment that passed.
#[inline(never)]
pub fn remember(endpoint: &Endpoint, parsed: &Parsed, place: u16) {
    let record = Fragment {
        src: parsed.src,
        dst: parsed.dst,
        id: parsed.fragment_id,
        seen: tables::now(),
        next: parsed.fragment_span.1,
        protocol: parsed.protocol,
        generation: endpoint.generation,
        reserved: 0,
    };
    // A failed insert drops the later fragments, nothing else.
    let _ = maps::FRAGMENTS.insert(&key(endpoint, parsed, place), &record, 0);
}

/// Whether a later fragment follows one that passed.
#[inline(never)]
pub fn follow(endpoint: &Endpoint, parsed: &Parsed, place: u16) -> Result<(), Denial> {
    let Some(record) = maps::FRAGMENTS.get_ptr_mut(&key(endpoint, parsed, place)) else { return Err(Denial::of(reason::FRAGMENT)) };
    // SAFETY: the memory of a replaced value stays readable until this program ends.
    let record = unsafe { &mut *record };
    if record.id != parsed.fragment_id
        || record.protocol != parsed.protocol
        || record.generation != endpoint.generation
        || record.src != parsed.src
        || record.dst != parsed.dst
        || record.next != parsed.fragment_span.0
        || tables::now().wrapping_sub(record.seen) > LIFETIME
    {
        return Err(Denial::of(reason::FRAGMENT));
    }
    // Nothing follows the last one.
    record.next = if parsed.fragment == fragment::LAST { u32::MAX } else { parsed.fragment_span.1 };
    Ok(())
}

#[inline(always)]
fn key(endpoint: &Endpoint, parsed: &Parsed, place: u16) -> FragmentKey {
    let ways = FRAGMENTS_PER_SLOT as u16;
    FragmentKey { slot: endpoint.slot, way: place * ways + (parsed.fragment_id as u16 & (ways - 1)) }
}
