//! Packets of connections that passed here a moment ago: no endpoint, no connection, no policy is looked up for them.
//!
//! ```text
//! glance (an ordinary packet?) -> note of this processor: same way, interfaces and tuple, same epoch, young? -> pass
//!                                  \-> no: the long way, which leaves a note if the next packet of its kind would pass and change nothing
//! ```
//! A note says that the long way let such a packet pass and that another one would not change the connection's state. It is believed
//! 1. until an endpoint changes: the agent raises the epoch behind each write to `pc_endpoints`, and whatever changes a verdict changes an endpoint;
//! 2. until a SYN takes over the entry of a connection that was: [`forget`];
//! 3. for [`WINDOW`], so that connections are seen often enough to stay alive, and so that an agent that dies between a write and the epoch leaves an old
//!    verdict standing for no longer than that.
//!
//! SYN, FIN and RST never pass by a note. Notes are each processor's own and programs are not interrupted by programs of the same kind, so a note is
//! read as it was written; where they can be (PREEMPT_RT), the order of writing keeps half a note from being believed.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_jiffies64;
use portcullis_common::glance::{Glance, Tuple};
use portcullis_common::packet::Parsed;

use crate::ctx::{Frame, stage};
use crate::atomic;
use crate::maps::{self, At as _};

/// Notes of one processor: a power of two.
pub const NOTES: u32 = 1024;
/// Jiffies for which a note is believed: 64 ms to 640 ms, as the kernel was configured.
const WINDOW: u32 = 64;
/// [`Note::kind`] of what an endpoint sends.
const SENT: u32 = 1 << 16;

/// One note; 64 bytes, a cache line.
#[repr(C)]
pub struct Note {
    tuple: Tuple,
    /// [`Glance::kind`], and [`SENT`].
    kind: u32,
    /// Interface of the hook.
    ifindex: u32,
    /// Interface that received the packet, where that counts.
    ingress: u32,
    /// What `from_pod` tells the next decision point.
    stage: u32,
    /// When it was written, in jiffies.
    written: u32,
    /// [`epoch`] when the long way began.
    epoch: u32,
}

const _: () = assert!(size_of::<Note>() <= 64);

/// Number of the endpoints' last change. Read before anything that a note is to stand for.
#[inline(always)]
pub fn epoch() -> u32 {
    // SAFETY: values of an array live as long as the map.
    maps::EPOCH.at(0).map_or(0, |epoch| unsafe { *epoch })
}

/// Makes every processor forget its notes.
#[inline(always)]
pub fn forget() {
    if let Some(epoch) = maps::EPOCH.at(0) {
        // SAFETY: values of an array live as long as the map and are aligned.
        unsafe { atomic::add_short(epoch, 1) };
    }
}

/// Whether a packet of an endpoint passes by a note; sets its stage.
#[inline(always)]
pub fn passes_from_pod(frame: Frame) -> bool {
    recent_from_pod(frame.raw()) != 0
}

/// Whether a packet to an endpoint does.
#[inline(always)]
pub fn passes_to_pod(frame: Frame) -> bool {
    recent_to_pod(frame.raw()) != 0
}

/// A global function (see `flow`): what it found out on its way to "no" is forgotten.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recent_from_pod(raw: *mut __sk_buff) -> u64 {
    let frame = Frame::new(raw);
    let Some(note) = find(frame, SENT) else {
        return 0;
    };
    frame.set_stage(note.stage);
    1
}

/// The same for packets to an endpoint.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recent_to_pod(raw: *mut __sk_buff) -> u64 {
    let frame = Frame::new(raw);
    u64::from(find(frame, 0).is_some_and(|note| note.ingress == ingress(frame)))
}

/// Leaves a note of a packet that passed on the long way.
#[inline(always)]
pub fn note_from_pod(frame: Frame, epoch: u32, parsed: &Parsed, stage: u32) {
    recent_note(frame.raw(), parsed, epoch, SENT, stage);
}

/// The same of a packet to an endpoint.
#[inline(always)]
pub fn note_to_pod(frame: Frame, epoch: u32, parsed: &Parsed) {
    recent_note(frame.raw(), parsed, epoch, 0, 0);
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
fn find(frame: Frame, way: u32) -> Option<&'static Note> {
    if frame.vlan().is_some() {
        return None;
    }
    let glance = Glance::at(&frame, frame.protocol())?;
    // SAFETY: values of an array live as long as the map; this processor's is nobody else's.
    let note = unsafe { &*maps::RECENT.at(place(&glance, way))? };
    let matches = note.kind == glance.kind | way
        && note.ifindex == frame.ifindex()
        && now().wrapping_sub(note.written) < WINDOW
        && glance.agrees(&frame, &note.tuple);
    if !matches {
        return None;
    }
    (note.epoch == epoch()).then_some(note)
}

/// A global function (see `flow`). Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recent_note(
    raw: *mut __sk_buff,
    parsed: *const Parsed,
    epoch: u32,
    way: u32,
    stage: u32,
) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let Some(parsed) = (unsafe { parsed.as_ref() }) else {
        return 0;
    };
    let Some((glance, tuple)) = Glance::of(parsed) else {
        return 0;
    };
    let Some(note) = maps::RECENT.at(place(&glance, way)) else {
        return 0;
    };
    let frame = Frame::new(raw);
    // SAFETY: values of an array live as long as the map; this processor's is nobody else's. The kind is written first as nothing and last as what it
    // is, so that half a note is of no kind.
    unsafe {
        (&raw mut (*note).kind).write_volatile(0);
        (*note).tuple = tuple;
        (*note).ifindex = frame.ifindex();
        (*note).ingress = if way == SENT { 0 } else { ingress(frame) };
        (*note).stage = stage;
        (*note).written = now();
        (*note).epoch = epoch;
        (&raw mut (*note).kind).write_volatile(glance.kind | way);
    }
    0
}

/// Key of the note of such a packet. A packet from one endpoint to another passes twice on one processor: each way has a place of its own.
#[inline(always)]
fn place(glance: &Glance, way: u32) -> u64 {
    (glance.hash >> (64 - NOTES.ilog2())) ^ u64::from(way == SENT)
}

/// Jiffies: one load (Linux 5.6 makes the call one).
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments, no memory.
    unsafe { bpf_jiffies64() as u32 }
}
