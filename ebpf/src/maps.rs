//! All maps. Each says who writes and reads it, what a full one means, and why it has its size.
//!
//! All but `pc_recent` and `pc_scratch` are pinned under the directory of their ABI version, by these names. A look-up in an array compiles to a bounds
//! check and an addition, one in a hash to a call of 10 ns or more: what is read for every packet is in arrays or looked up once.

use core::ffi::c_void;

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_map_lookup_elem;
use aya_ebpf::macros::btf_map;
use portcullis_common::abi::{
    CIDR_ENTRIES, CONNTRACK_ENTRIES, Cell, Config, Endpoint, Event, FRAGMENTS_PER_SLOT, Flow,
    FlowKey, Fragment, FragmentKey, HOST_ORIGINS, L4_SETS, L4Key, L4Set, L4Value, ORIGINS_PER_SLOT,
    Origin, OriginKey, Owner, PEER_ENTRIES, POLICIES, PORT_PREFIX_ENTRIES, PolicyKey, ROW_ENTRIES,
    SLOTS, ServiceKey, Slot,
};
use portcullis_common::addr::Addr;

use crate::note::{NOTES, Note};
use crate::scratch::{Place, Scratch};

/// `BPF_F_NO_PREALLOC`: memory follows use. For tables that only the agent writes.
const ON_DEMAND: usize = 1;

/// Whose pins these are. Agent writes once; programs do not read it.
#[btf_map(name = "pc_owner")]
pub static OWNER: Array<Owner, 1> = Array::new();

/// Node-wide settings. Agent writes.
#[btf_map(name = "pc_config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// ifindex -> endpoint. Agent writes, one whole value at a time: a packet sees the old endpoint or the new one. Full: the interface stays unknown,
/// closed. As many as there are slots.
#[btf_map(name = "pc_endpoints")]
pub static ENDPOINTS: HashMap<u32, Endpoint, { SLOTS as usize }> = HashMap::new();

/// Another number whenever notes are to be forgotten (`recent.rs`): the agent writes the time behind each change of `pc_endpoints`, programs add 1.
#[btf_map(name = "pc_epoch")]
pub static EPOCH: Array<u32, 1> = Array::new();

/// Packets that passed a moment ago (`recent.rs`), for each processor; one pushes out another. Programs write and read. Not pinned: a cache, which each
/// set of programs has for itself, so that its layout is theirs alone.
#[btf_map(name = "pc_recent")]
pub static RECENT: PerCpuArray<Note, { NOTES as usize }> = PerCpuArray::new();

/// Working memory of each processor (`scratch.rs`), for packets and for the agent's own runs. Programs write and read. Not pinned: nothing in it outlives
/// a packet.
#[btf_map(name = "pc_scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 2> = PerCpuArray::new();

/// Exact address -> identity. Agent writes. Full: the update is refused and the old version stays.
#[btf_map(name = "pc_peers")]
pub static PEERS: HashMap<Addr, u32, { PEER_ENTRIES as usize }, ON_DEMAND> = HashMap::new();

/// Prefix -> identity, for addresses that `pc_peers` lacks. Agent writes. Full: as `pc_peers`.
#[btf_map(name = "pc_cidrs")]
pub static CIDRS: LpmTrie<Addr, u32, { CIDR_ENTRIES as usize }, ON_DEMAND> = LpmTrie::new();

/// Policy -> verdict for everyone who has no row of their own. Agent writes. Index 0 and 1 are reserved.
#[btf_map(name = "pc_policies")]
pub static POLICY_DEFAULTS: Array<Cell, { POLICIES as usize }> = Array::new();

/// Policy and identity -> verdict. Agent writes. Full: as `pc_peers`.
#[btf_map(name = "pc_policy")]
pub static POLICY_ROWS: HashMap<PolicyKey, Cell, { ROW_ENTRIES as usize }, ON_DEMAND> =
    HashMap::new();

/// Port sets by id. Agent writes. Full: as `pc_peers`.
#[btf_map(name = "pc_l4sets")]
pub static PORT_SETS: Array<L4Set, { L4_SETS as usize }> = Array::new();

/// Ranges of port sets that have more than fit inline. Agent writes. Full: as `pc_peers`.
#[btf_map(name = "pc_l4lpm")]
pub static PORT_PREFIXES: LpmTrie<L4Key, L4Value, { PORT_PREFIX_ENTRIES as usize }, ON_DEMAND> =
    LpmTrie::new();

/// Service address, port, protocol -> 1. Agent writes. Full: missing ones are judged by the untranslated address, which a selector never matches.
#[btf_map(name = "pc_services")]
pub static SERVICES: HashMap<ServiceKey, u32, 131_072, ON_DEMAND> = HashMap::new();

/// Address of a node -> 1 for this node, 2 for others. Agent writes.
#[btf_map(name = "pc_nodes")]
pub static NODES: HashMap<Addr, u32, 65_536, ON_DEMAND> = HashMap::new();

/// Cgroup id -> 1: its pod may reach the metadata addresses from the host network. Agent writes.
#[btf_map(name = "pc_cgroups")]
pub static CGROUPS: HashMap<u64, u32, 4096, ON_DEMAND> = HashMap::new();

/// Connections. Programs write, `pc_sweep` removes. Preallocated, because an allocation that fails under one pod's flood would hit another pod;
/// quotas keep it from filling (`quota.rs`).
#[btf_map(name = "pc_conntrack")]
pub static CONNTRACK: HashMap<FlowKey, Flow, { CONNTRACK_ENTRIES as usize }> = HashMap::new();

/// Datagrams whose first fragment was allowed: a fixed number for each slot and place, so that no pod can push out another's.
#[btf_map(name = "pc_fragments")]
pub static FRAGMENTS: HashMap<
    FragmentKey,
    Fragment,
    { (SLOTS * FRAGMENTS_PER_SLOT * 3) as usize },
    ON_DEMAND,
> = HashMap::new();

/// Redirected connections that wait to be accepted: whose they are. A fixed number for each slot, as for fragments, and for the host network. Programs write, the agent takes a
/// record out when it is asked whose a connection is.
#[btf_map(name = "pc_origins")]
pub static ORIGINS: HashMap<
    OriginKey,
    Origin,
    { (SLOTS * ORIGINS_PER_SLOT + HOST_ORIGINS) as usize },
    ON_DEMAND,
> = HashMap::new();

/// Slot -> how many connections it has, how many events it sent. Programs count, the agent resets a slot that it gives away.
#[btf_map(name = "pc_slots")]
pub static SLOT_STATES: Array<Slot, { SLOTS as usize }> = Array::new();

/// Connections counted against the shared pool. Programs count.
#[btf_map(name = "pc_pool")]
pub static POOL: Array<u64, 1> = Array::new();

/// Drops by slot, direction and reason (`abi::drop_index`). Programs count with atomic additions, so no drop is missing; readers sum over slots.
#[btf_map(name = "pc_drops")]
pub static DROPS: Array<u64, { (SLOTS * 128) as usize }> = Array::new();

/// Deny events for the log. Full or over an endpoint's rate: not sent but counted in the slot. The verdict never waits for it.
///
/// The value type is `()` because libbpf refuses a ring buffer that names one; the records are [`Event`]s.
#[btf_map(name = "pc_events")]
pub static EVENTS: RingBuf<(), 524_288> = RingBuf::new();

const _: () = assert!(size_of::<Event>() % 8 == 0);

/// The key of an array's first value.
static FIRST: u64 = 0;

/// Look-ups by keys of four or eight bytes. Where a process has no `CAP_PERFMON`, each write to the stack costs a barrier (see `scratch`), so keys stand
/// elsewhere if they can. They are whole words, of which a map reads the first four bytes or all: the target is little-endian.
pub trait At: Sized {
    /// What the map holds.
    type Value;

    /// The value of a key, which stands on the stack: for programs that may be interrupted.
    #[inline(always)]
    fn at(&self, key: u64) -> Option<*mut Self::Value> {
        lookup(self, &key)
    }

    /// The value of a key, which stands in a place of this processor's.
    #[inline(always)]
    fn by(&self, place: &Place<u64>, key: u64) -> Option<*mut Self::Value> {
        lookup(self, place.put(key))
    }

    /// The first value of an array.
    #[inline(always)]
    fn first(&self) -> Option<*mut Self::Value> {
        lookup(self, &FIRST)
    }
}

#[inline(always)]
fn lookup<M: At>(map: &M, key: &u64) -> Option<*mut M::Value> {
    // SAFETY: the address of the static stands for the map, and the key is as long as the map's keys or longer.
    let value = unsafe {
        bpf_map_lookup_elem(
            (&raw const *map).cast_mut().cast::<c_void>(),
            (&raw const *key).cast(),
        )
    };
    (!value.is_null()).then_some(value.cast())
}

impl<V, const N: usize, const FLAGS: usize> At for Array<V, N, FLAGS> {
    type Value = V;
}

impl<V, const N: usize, const FLAGS: usize> At for PerCpuArray<V, N, FLAGS> {
    type Value = V;
}

impl<V, const N: usize, const FLAGS: usize> At for HashMap<u32, V, N, FLAGS> {
    type Value = V;
}

impl<V, const N: usize, const FLAGS: usize> At for HashMap<u64, V, N, FLAGS> {
    type Value = V;
}
