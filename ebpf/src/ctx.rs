//! The socket buffer as the hooks need it: bytes from the IP header on, and the few fields that decide.

use core::arch::asm;
use core::ops::Deref;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_pull_data};
use portcullis_common::packet::{self, ETH_IPV4, ETH_IPV6, Header, Packet, Parsed};
use portcullis_common::reason;

use crate::scratch::{BYTES, Scratch};
use crate::tables;

/// Length of an Ethernet header: TC programs on Ethernet devices see it.
pub const ETHERNET: usize = 14;
/// No link-layer header: cgroup hooks, and TC on devices without one.
pub const BARE: usize = 0;

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// What `from_pod` tells the next decision point about a packet, in `tc_index`: a 16-bit field of the socket buffer that forwarding, address
/// translation, fragmenting and reassembly carry along and that nobody else has used since dsmark went (Linux 6.3). A pod cannot preset it, because
/// every packet of a pod gets a value here; if something on the way clears it, the packet is judged again, never waved through.
pub mod stage {
    /// Nothing is decided.
    pub const UNDECIDED: u32 = 0;
    /// The egress verdict is final.
    pub const SETTLED: u32 = 0x5043;
    /// To a Service, on a connection whose handshake came to its end.
    pub const PENDING_CONFIRMED: u32 = 0x5044;
    /// To the responder, and nowhere else.
    pub const REDIRECTED: u32 = 0x5045;
}

/// A socket buffer: its fields, and its bytes where they begin with a plain Ethernet header and may be read in place (TC hooks).
#[derive(Clone, Copy)]
pub struct Frame(*mut __sk_buff);

impl Frame {
    #[inline(always)]
    pub const fn new(raw: *mut __sk_buff) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub const fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// EtherType as the stack sees it, after offloaded tags.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: the kernel hands every program a valid context; the verifier checks each field access.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    /// The offloaded VLAN tag, if there is one.
    #[inline(always)]
    pub fn vlan(self) -> Option<u16> {
        // SAFETY: as `protocol`.
        let (present, tci) = unsafe { ((*self.0).vlan_present, (*self.0).vlan_tci) };
        (present != 0).then_some(tci as u16)
    }

    /// Interface of this hook.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as `protocol`.
        unsafe { (*self.0).ifindex }
    }

    /// Interface on which the node received the packet; 0 = its own stack made it.
    #[inline(always)]
    pub fn ingress_ifindex(self) -> u32 {
        // SAFETY: as `protocol`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Whether a socket of the node sent it.
    #[inline(always)]
    pub fn has_socket(self) -> bool {
        // SAFETY: as `protocol`; only the pointer is looked at.
        unsafe { !(*self.0).__bindgen_anon_2.sk.is_null() }
    }

    /// Port of the socket that gets it; host order. `cgroup_skb` hooks only.
    #[inline(always)]
    pub fn local_port(self) -> u32 {
        // SAFETY: as `protocol`.
        unsafe { (*self.0).local_port }
    }

    /// [`stage`].
    #[inline(always)]
    pub fn stage(self) -> u32 {
        // SAFETY: as `protocol`.
        unsafe { (*self.0).tc_index }
    }

    /// Notes what is decided so far. TC hooks only.
    #[inline(always)]
    pub fn set_stage(self, stage: u32) {
        // SAFETY: `tc_index` is writable for classifier programs (Linux 4.3).
        unsafe { (*self.0).tc_index = stage }
    }

    /// Length from the first byte that the hook sees.
    #[inline(always)]
    fn whole_len(self) -> u32 {
        // SAFETY: as `protocol`.
        unsafe { (*self.0).len }
    }

    /// Where the bytes that can be read in place begin and end.
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: as `protocol`.
        unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) }
    }
}

impl Header for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.whole_len().saturating_sub(ETHERNET as u32)
    }

    #[inline(always)]
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        let (data, end) = self.bounds();
        let start = data + ETHERNET + OFFSET;
        if start + 4 * N > end {
            return None;
        }
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: the comparison above bounds the read, and the verifier proves it; BPF loads need no alignment where we run.
            *word = unsafe { *((start + 4 * index) as *const u32) };
        }
        Some(words)
    }
}

/// A packet: a socket buffer with its IP header at a known offset, and the memory to work on it.
pub struct Skb {
    frame: Frame,
    l3: usize,
    /// Whether the hook may pull paged bytes into the linear part, and so read them in place.
    direct: bool,
    scratch: &'static Scratch,
}

impl Deref for Skb {
    type Target = Frame;

    #[inline(always)]
    fn deref(&self) -> &Frame {
        &self.frame
    }
}

impl Skb {
    /// At a TC hook.
    #[inline(always)]
    pub const fn new(frame: Frame, l3: usize, scratch: &'static Scratch) -> Self {
        Self {
            frame,
            l3,
            direct: true,
            scratch,
        }
    }

    /// At a cgroup hook, where nothing can be pulled; or at any hook, where little is read.
    #[inline(always)]
    pub const fn indirect(frame: Frame, l3: usize, scratch: &'static Scratch) -> Self {
        Self {
            frame,
            l3,
            direct: false,
            scratch,
        }
    }

    /// This processor's memory.
    #[inline(always)]
    pub const fn scratch(&self) -> &'static Scratch {
        self.scratch
    }

    /// The IP packet behind up to two VLAN tags in the frame, and its EtherType; `None` for other frames.
    ///
    /// Read from the frame's bytes: a raw socket may tell the stack another protocol than it writes.
    #[inline(always)]
    pub fn behind_tags(&self) -> Option<(Self, u16)> {
        let at = |l3| Self::new(self.frame, l3, self.scratch);
        if self.l3 == BARE {
            return is_ip(self.protocol()).map(|ethertype| (at(BARE), ethertype));
        }
        let mut l3 = ETHERNET;
        for _ in 0..3 {
            let ethertype = u16::from_be_bytes(*self.read::<2>(l3 as u32 - 2)?);
            if ethertype != VLAN && ethertype != SERVICE_VLAN {
                return is_ip(ethertype).map(|ethertype| (at(l3), ethertype));
            }
            l3 += 4;
        }
        None
    }

    /// Where the IP header begins.
    #[inline(always)]
    pub const fn l3(&self) -> u32 {
        self.l3 as u32
    }

    /// Whether [`Header::fixed`] reads the packet's bytes in place, and does not ask the kernel for them. Only behind a plain Ethernet header: without
    /// `CAP_PERFMON` the verifier wants constant offsets (Linux 5.12).
    #[inline(always)]
    const fn reads_directly(&self) -> bool {
        self.direct && self.l3 == ETHERNET
    }

    /// `N` bytes at an offset from the first byte that the hook sees. They stand until the next ones are read.
    #[inline(always)]
    pub fn read<const N: usize>(&self, offset: u32) -> Option<&[u8; N]> {
        const { assert!(N <= BYTES) };
        let bytes = self.scratch.bytes.get();
        // SAFETY: the helper writes exactly `N` bytes or fails; it checks the offset against the packet.
        let failed =
            unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, bytes.cast(), N as u32) };
        // SAFETY: the place is longer.
        (failed == 0).then(|| unsafe { &*bytes.cast() })
    }
}

#[inline(always)]
fn is_ip(ethertype: u16) -> Option<u16> {
    (ethertype == ETH_IPV4 || ethertype == ETH_IPV6).then_some(ethertype)
}

/// Parses a packet and forgets which way the parser went.
///
/// The verifier follows every combination of what it knows: with the parser's constants (protocol, family, fragment) still known behind it, all later
/// code would be verified once for each way through it (610,000 instructions instead of 30,000). `forget` makes them plain numbers again.
#[inline(always)]
pub fn parse(skb: &Skb, ethertype: u16, parsed: &mut Parsed) -> Result<(), u8> {
    packet::parse(skb, ethertype, parsed)?;
    let noise = u64::from(skb.whole_len());
    parsed.protocol = forget(u64::from(parsed.protocol), noise) as u8;
    parsed.family = forget(u64::from(parsed.family), noise) as u8 & 1;
    parsed.fragment = forget(u64::from(parsed.fragment), noise) as u8;
    parsed.tcp_flags = forget(u64::from(parsed.tcp_flags), noise) as u8;
    parsed.transport = forget(u64::from(parsed.transport), noise) as u32 & 0xfff;
    Ok(())
}

/// `value`, but the verifier no longer knows it: two instructions that undo each other.
#[inline(always)]
pub fn forget(mut value: u64, noise: u64) -> u64 {
    // SAFETY: touches the two registers only.
    unsafe {
        asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) value, in(reg) noise, options(pure, nomem, nostack))
    };
    value
}

/// A global function (see `flow`). Returns 0 or the reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ctx_finish_rare(
    raw: *mut __sk_buff,
    parsed: *mut Parsed,
    l3: u32,
    total: u32,
) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_mut() }, tables::scratch()) else {
        return u64::from(reason::MALFORMED);
    };
    // It serves cgroup hooks too.
    let skb = Skb::indirect(Frame::new(raw), l3 as usize & 31, scratch);
    match packet::finish_rare(&skb, parsed, total) {
        Ok(()) => 0,
        Err(reason) => u64::from(reason),
    }
}

impl Header for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.whole_len().saturating_sub(self.l3 as u32)
    }

    #[inline(always)]
    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        if self.reads_directly() {
            return self.frame.fixed::<OFFSET, N>();
        }
        const { assert!(4 * N <= BYTES) };
        let words = self.scratch.bytes.get().cast::<[u32; N]>();
        // SAFETY: as `read`; the place is aligned.
        unsafe {
            let at = (self.l3 + OFFSET) as u32;
            let failed = bpf_skb_load_bytes(self.raw().cast(), at, words.cast(), 4 * N as u32);
            (failed == 0).then(|| *words)
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn is_gso(&self) -> bool {
        // SAFETY: as `protocol`; TC and cgroup_skb may read it (Linux 5.7).
        unsafe { (*self.raw()).gso_size != 0 }
    }

    /// Pulls where the linear part ends early: it is not the end of the packet. Rare (TX rings), and short packets.
    #[inline(always)]
    fn prepare<const N: usize>(&self) {
        if !self.reads_directly() {
            return;
        }
        let want = ETHERNET + N;
        let (data, end) = self.bounds();
        if data + want > end {
            // SAFETY: the helper checks the length. If it fails, `fixed` finds the bytes missing.
            unsafe { bpf_skb_pull_data(self.raw(), self.whole_len().min(want as u32)) };
        }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.read(self.l3 as u32 + offset).copied()
    }

    #[inline(always)]
    fn forget(&self, value: u32) -> u32 {
        forget(u64::from(value), u64::from(self.whole_len())) as u32
    }

    #[inline(always)]
    fn finish_rare(&self, parsed: &mut Parsed, total: u32) -> Result<(), u8> {
        match ctx_finish_rare(self.raw(), parsed, self.l3 as u32, total) {
            0 => Ok(()),
            reason => Err(reason as u8),
        }
    }
}
