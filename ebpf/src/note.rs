//! A value of `pc_recent`.

use portcullis_common::glance::Tuple;

/// Notes of one processor: a power of two.
pub const NOTES: u32 = 1024;
/// What is remembered of a packet (`recent`); 64 bytes, a cache line.
#[repr(C)]
pub struct Note {
    /// Addresses and ports.
    pub tuple: Tuple,
    /// `Glance::kind`, and what `recent` adds.
    pub kind: u32,
    /// Interface of the hook.
    pub ifindex: u32,
    /// Interface that received the packet, where that counts.
    pub ingress: u32,
    /// What passes: what `from_pod` tells the next decision point. What is denied: `abi::drop_index`.
    pub verdict: u32,
    /// When it was written, in jiffies.
    pub written: u32,
    /// `pc_epoch` when the long way began.
    pub epoch: u32,
    /// What is denied: `abi::Slot::opened` when the long way began.
    pub opened: u32,
}

const _: () = assert!(size_of::<Note>() == 64);
