//! Programs of the benchmark's own, assembled by hand: the empty one, and one that makes each run another flow.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_attach_type;

use super::sys;

/// `TCX_NEXT`: the packet goes on.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
const SCHED_CLS: u32 = 3;
/// `data` and `data_end` in `struct __sk_buff`.
const DATA: i16 = 76;
const DATA_END: i16 = 80;
/// `bpf_tail_call`.
const TAIL_CALL: i32 = 12;

/// One instruction of the kernel's machine (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Insn {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Insn {
    let registers = destination | source << 4;
    Insn {
        code,
        registers,
        offset,
        immediate,
    }
}

/// `destination = immediate`.
const fn set(destination: u8, immediate: i32) -> Insn {
    insn(0xb7, destination, 0, 0, immediate)
}

/// `destination = source`.
const fn copy(destination: u8, source: u8) -> Insn {
    insn(0xbf, destination, source, 0, 0)
}

/// `destination += immediate`.
const fn add(destination: u8, immediate: i32) -> Insn {
    insn(0x07, destination, 0, 0, immediate)
}

/// `destination = be16(destination)`.
const fn swap(destination: u8) -> Insn {
    insn(0xdc, destination, 0, 0, 16)
}

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

/// A classifier that lets everything pass and looks at nothing: what every ratio is a ratio to.
pub fn empty() -> Result<OwnedFd> {
    sys::load(SCHED_CLS, 0, &[set(0, NEXT), EXIT]).context("loading the empty classifier")
}

/// Puts a classifier on an interface's TCX hook, in front of whatever is there or behind it, for as long as the link is held (Linux 6.6).
pub fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: bpf_attach_type,
    before: bool,
) -> io::Result<OwnedFd> {
    /// `BPF_F_BEFORE`, relative to nobody: in front of all.
    const BEFORE: u32 = 1 << 3;
    sys::link(program, ifindex, hook, if before { BEFORE } else { 0 })
}

/// A classifier that adds one to the port at `offset` of the packet and goes on with `target`: each run meets another flow.
pub fn next_flow(offset: u16, target: BorrowedFd<'_>) -> Result<OwnedFd> {
    let array = sys::program_array(target).context("making a program array")?;
    let at = offset as i16;
    let insns = [
        copy(6, 1),
        insn(0x61, 2, 1, DATA, 0),
        insn(0x61, 3, 1, DATA_END, 0),
        copy(4, 2),
        add(4, i32::from(offset) + 2),
        // if r4 > r3, skip the five that write
        insn(0x2d, 4, 3, 5, 0),
        insn(0x69, 5, 2, at, 0),
        swap(5),
        add(5, 1),
        swap(5),
        insn(0x6b, 2, 5, at, 0),
        copy(1, 6),
        // a 64-bit immediate that names a map by its descriptor
        insn(0x18, 2, 1, 0, array.as_fd().as_raw_fd()),
        insn(0, 0, 0, 0, 0),
        set(3, 0),
        insn(0x85, 0, 0, 0, TAIL_CALL),
        // only where the tail call failed: no verdict that a case expects
        set(0, 3),
        EXIT,
    ];
    // The array's entry would go with its last descriptor, so the descriptor stays open until the process ends.
    std::mem::forget(array);
    sys::load(SCHED_CLS, 0, &insns).context("loading the program that changes flows")
}
