//! A packet's working memory: records, keys of maps and bytes of the packet, in a map of each processor and not on the stack.
//!
//! The stack has 512 bytes for all frames together. For a process without `CAP_PERFMON` the kernel puts a barrier against speculation behind each write
//! to it, which would be most of what a new connection costs. And Linux 6.1 (6.8 to 6.12.4 likewise) refuses such a process every
//! program that writes a number of known range there and then a part of it anew (ab125ed3ec1c, mended by b0e66977dc07). So the stack holds whole
//! 64-bit words and nothing else: what the compiler spills, and a few small keys.
//!
//! Programs that read packets run with softirqs held off, so none interrupts another one on its processor, and one set of places is enough for them.
//! What the agent runs itself may be interrupted by them, and has a second one.

use core::cell::UnsafeCell;

use aya_ebpf::btf_maps::lpm_trie::Key;
use portcullis_common::abi::{
    Flow, FlowKey, Fragment, FragmentKey, L4Key, Origin, OriginKey, PolicyKey, ServiceKey,
};
use portcullis_common::addr::Addr;
use portcullis_common::packet::{Parsed, Quoted};

/// Bytes that are read from a packet at once: as many as the longest header that an answer is made of.
pub const BYTES: usize = 80;
/// Length of the longest answer, in whole words.
pub const FRAME: usize = 112;

/// All places. What stands in one is valid until something else is put there, also by the functions that are called meanwhile.
#[repr(C)]
pub struct Scratch {
    /// The packet. Put by the hooks.
    pub parsed: Place<Parsed>,
    /// What notes of it are to be dated by. Put by `recent::begin` and `begin_for`.
    pub epoch: Place<u32>,
    pub opened: Place<u32>,
    /// What its endpoint wants to know. Put by `flow::run`.
    pub request: Place<Request>,
    /// A drop. Put by `emit::denied`.
    pub report: Place<Report>,
    /// The packet that an ICMP error quotes.
    pub quoted: Place<Quoted>,
    /// A small key (`maps::At`).
    pub key: Place<u64>,
    /// Key of `pc_conntrack`.
    pub flow_key: Place<FlowKey>,
    /// Value of `pc_conntrack`.
    pub flow: Place<Flow>,
    /// Key of `pc_peers` and `pc_nodes`; an address that goes into a packet.
    pub address: Place<Addr>,
    /// Key of `pc_cidrs`.
    pub prefix: Place<Key<Addr>>,
    /// Key of `pc_policy`.
    pub row: Place<PolicyKey>,
    /// Key of `pc_l4lpm`.
    pub port: Place<Key<L4Key>>,
    /// Key of `pc_services`.
    pub service: Place<ServiceKey>,
    /// Key of `pc_fragments`.
    pub fragment_key: Place<FragmentKey>,
    /// Value of `pc_fragments`.
    pub fragment: Place<Fragment>,
    /// Key of `pc_origins`.
    pub origin_key: Place<OriginKey>,
    /// Value of `pc_origins`.
    pub origin: Place<Origin>,
    /// A connection whose socket is looked for.
    pub tuple: Place<SocketTuple>,
    /// What was read last from the packet.
    pub bytes: Place<[u8; BYTES]>,
    /// The guard's answer.
    pub frame: Place<[u8; FRAME]>,
}

/// A place for one value.
#[repr(C, align(8))]
pub struct Place<T>(UnsafeCell<T>);

impl<T> Place<T> {
    /// Where it is.
    #[inline(always)]
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }

    /// Puts a value there.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "each place has one user at a time, which is named beside it"
    )]
    pub fn put(&self, value: T) -> &mut T {
        let place = self.get();
        // SAFETY: the place belongs to this processor, and whoever put the last value is done with it.
        unsafe {
            place.write(value);
            &mut *place
        }
    }
}

/// `struct bpf_sock_tuple` of IPv6, network order. That of IPv4 is a part of it.
#[repr(C)]
#[derive(Default)]
pub struct SocketTuple {
    pub remote: Addr,
    pub local: Addr,
    pub ports: [u16; 2],
}

/// What a step needs to know of endpoint and packet, as plain data.
#[repr(C)]
pub struct Request {
    /// The connection.
    pub key: FlowKey,
    /// The endpoint's revision.
    pub revision: u32,
    /// Its egress and ingress policy for the packet's family.
    pub egress: u32,
    /// As `egress`.
    pub ingress: u32,
    /// `flow::view`.
    pub view: u16,
    /// The packet's destination port; ICMP: type << 8 | code.
    pub dport: u16,
}

/// Where a drop happened, and to whom.
#[repr(C)]
pub struct Report {
    /// What was decided.
    pub outcome: u64,
    /// The endpoint's interface.
    pub ifindex: u32,
    /// The policy that was asked.
    pub policy: u32,
    /// The endpoint's slot, 0 = no endpoint.
    pub slot: u16,
    /// `abi::hook`.
    pub hook: u8,
    /// `abi::direction`, as the endpoint sees it.
    pub direction: u8,
    /// The slot's generation.
    pub generation: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}
