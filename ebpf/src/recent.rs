//! Packets like one that was judged here a moment ago: no endpoint, no connection, no policy is looked up for them.
//!
//! ```text
//! glance (an ordinary packet?) -> note of this processor: same way, interfaces and tuple, same epoch, young? -> pass or drop
//!                                  \-> no: the long way, which leaves a note if the next packet of its kind would meet the same verdict
//! ```
//! A note says that the long way let such a packet pass and that another one would not change the connection's state; or that it denied it for what the
//! agent wrote, over the endpoint's rate of events. It is believed
//! 1. until the tables change: the agent raises the epoch behind each write to `pc_endpoints`, and behind each set of changes;
//! 2. until a SYN takes over the entry of a connection that was: [`forget`];
//! 3. a denial, until the endpoint has another connection to which the next datagram might belong ([`opens`]);
//! 4. for [`WINDOW`], so that connections are seen often enough to stay alive, and so that an agent that dies between a write and the epoch leaves an old
//!    verdict standing for no longer than that.
//!
//! SYN, FIN and RST never pass by a note. Notes are each processor's own and programs are not interrupted by programs of the same kind, so a note is
//! read as it was written; where they can be (PREEMPT_RT), the order of writing keeps half a note from being believed.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_jiffies64;
use portcullis_common::abi::{direction, drop_index};
use portcullis_common::glance::Glance;
use portcullis_common::packet::Parsed;

use crate::atomic;
use crate::ctx::{Frame, stage};
use crate::maps::{self, At as _};
use crate::note::{NOTES, Note};
use crate::scratch::Scratch;
use crate::tables;

/// Jiffies for which a note is believed: 64 ms to 640 ms, as the kernel was configured.
const WINDOW: u32 = 64;
/// [`Note::kind`] of what an endpoint sends.
const SENT: u32 = 1 << 16;
/// [`Note::kind`] of what was denied.
const DENIED: u32 = 1 << 17;

/// What notes say of a packet.
pub mod verdict {
    /// Nothing.
    pub const UNKNOWN: u64 = 0;
    /// It passes.
    pub const PASS: u64 = 1;
    /// It drops, and is counted.
    pub const DENY: u64 = 2;
}

/// Number of the tables' last change.
#[inline(always)]
fn epoch() -> u32 {
    // SAFETY: values of an array live as long as the map.
    maps::EPOCH.first().map_or(0, |epoch| unsafe { *epoch })
}

/// Begins the long way: before anything is read that a note is to stand for.
#[inline(always)]
pub fn begin(scratch: &Scratch) {
    scratch.epoch.put(epoch());
}

/// The same for an endpoint's slot, as to its denials.
#[inline(always)]
pub fn begin_for(scratch: &Scratch, slot: u16) {
    let state = maps::SLOT_STATES.by(&scratch.key, u64::from(slot));
    // SAFETY: as `epoch`.
    scratch
        .opened
        .put(state.map_or(0, |state| unsafe { (*state).opened }));
}

/// Makes every processor forget its notes.
#[inline(always)]
pub fn forget() {
    if let Some(epoch) = maps::EPOCH.first() {
        // SAFETY: values of an array live as long as the map and are aligned.
        unsafe { atomic::add_short(epoch, 1) };
    }
}

/// Counts a connection that is not TCP: what the endpoint's denials were noted for may no longer hold.
#[inline(always)]
pub fn opens(scratch: &Scratch, slot: u16) {
    if let Some(slot) = maps::SLOT_STATES.by(&scratch.key, u64::from(slot)) {
        // SAFETY: as `forget`.
        unsafe { atomic::add_short(&raw mut (*slot).opened, 1) };
    }
}

/// The [`verdict`] on what an endpoint sends; sets the stage of what passes.
#[inline(always)]
pub fn from_pod(frame: Frame) -> u64 {
    let Some((scratch, note)) = find(frame, SENT) else {
        return verdict::UNKNOWN;
    };
    if note.kind & DENIED != 0 {
        return deny(scratch, note);
    }
    frame.set_stage(note.verdict);
    verdict::PASS
}

/// The [`verdict`] on what reaches an endpoint.
#[inline(always)]
pub fn to_pod(frame: Frame) -> u64 {
    let Some((scratch, note)) = find(frame, 0) else {
        return verdict::UNKNOWN;
    };
    if note.kind & DENIED != 0 && note.ingress == frame.ingress_ifindex() {
        return deny(scratch, note);
    }
    if note.kind & DENIED == 0 && note.ingress == ingress(frame) {
        return verdict::PASS;
    }
    verdict::UNKNOWN
}

/// Counts a drop as the long way does over the rate of events, if nothing was opened since.
#[inline(always)]
fn deny(scratch: &Scratch, note: &Note) -> u64 {
    let (Some(slot), Some(drops)) = (
        maps::SLOT_STATES.by(&scratch.key, u64::from(note.verdict >> 7)),
        maps::DROPS.by(&scratch.key, u64::from(note.verdict)),
    ) else {
        return verdict::UNKNOWN;
    };
    // SAFETY: values of an array live as long as the map, and the counters are 8-byte aligned.
    unsafe {
        if (*slot).opened != note.opened {
            return verdict::UNKNOWN;
        }
        atomic::add(drops, 1);
        atomic::add(&raw mut (*slot).lost, 1);
    }
    verdict::DENY
}

/// Leaves a note of a packet that passed on the long way.
#[inline(always)]
pub fn note_from_pod(frame: Frame, parsed: &Parsed, stage: u32) {
    recent_note(frame.raw(), parsed, SENT, stage);
}

/// The same of a packet to an endpoint.
#[inline(always)]
pub fn note_to_pod(frame: Frame, parsed: &Parsed) {
    recent_note(frame.raw(), parsed, 0, 0);
}

/// Leaves a note of a packet that was denied on the long way; `of` is its endpoint's slot, the direction and the reason.
#[inline(always)]
pub fn note_denied(frame: Frame, parsed: &Parsed, of: (u16, u8, u8)) {
    let (slot, direction, reason) = of;
    let way = if direction == direction::EGRESS {
        SENT
    } else {
        0
    };
    let index = drop_index(slot, direction, reason);
    recent_note(frame.raw(), parsed, way | DENIED, index);
}

/// The interface that received a packet, if that counts: what another endpoint sent and is not settled waits for that endpoint's verdict.
#[inline(always)]
fn ingress(frame: Frame) -> u32 {
    if frame.stage() == stage::SETTLED {
        0
    } else {
        frame.ingress_ifindex()
    }
}

#[inline(always)]
fn find(frame: Frame, way: u32) -> Option<(&'static Scratch, &'static Note)> {
    if frame.vlan().is_some() {
        return None;
    }
    let glance = Glance::at(&frame, frame.protocol())?;
    let scratch = tables::scratch()?;
    // SAFETY: values of an array live as long as the map; this processor's is nobody else's.
    let note = unsafe { &*maps::RECENT.by(&scratch.key, place(&glance, way))? };
    let matches = note.kind & !DENIED == glance.kind | way
        && note.ifindex == frame.ifindex()
        && now().wrapping_sub(note.written) < WINDOW
        && glance.agrees(&frame, &note.tuple);
    if !matches {
        return None;
    }
    (note.epoch == epoch()).then_some((scratch, note))
}

/// A global function (see `flow`). `kind` goes with [`Glance::kind`], `verdict` is [`Note::verdict`]. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recent_note(
    raw: *mut __sk_buff,
    parsed: *const Parsed,
    kind: u32,
    verdict: u32,
) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_ref() }, tables::scratch()) else {
        return 0;
    };
    let Some((glance, tuple)) = Glance::of(parsed) else {
        return 0;
    };
    if glance.opens() && kind & DENIED == 0 {
        return 0;
    }
    let Some(note) = maps::RECENT.by(&scratch.key, place(&glance, kind)) else {
        return 0;
    };
    let frame = Frame::new(raw);
    let ingress = match kind {
        SENT => 0,
        0 => ingress(frame),
        _ => frame.ingress_ifindex(),
    };
    // SAFETY: values of an array live as long as the map; this processor's is nobody else's. The kind is written first as nothing and last as what it
    // is, so that half a note is of no kind.
    unsafe {
        (&raw mut (*note).kind).write_volatile(0);
        (*note).tuple = tuple;
        (*note).ifindex = frame.ifindex();
        (*note).ingress = ingress;
        (*note).verdict = verdict;
        (*note).written = now();
        (*note).epoch = *scratch.epoch.get();
        (*note).opened = *scratch.opened.get();
        (&raw mut (*note).kind).write_volatile(glance.kind | kind);
    }
    0
}

/// Key of the note of such a packet. A packet from one endpoint to another passes twice on one processor: each way has a place of its own.
#[inline(always)]
fn place(glance: &Glance, kind: u32) -> u64 {
    (glance.hash >> (64 - NOTES.ilog2())) ^ u64::from(kind & SENT != 0)
}

/// Jiffies: one load (Linux 5.6 makes the call one).
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments, no memory.
    unsafe { bpf_jiffies64() as u32 }
}
