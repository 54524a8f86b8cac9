//! Every record that crosses between kernel and agent: map keys, map values, events.
//!
//! All are `repr(C)` without hidden padding (zerocopy's derive refuses it) and of a size fixed at compile time. Integers are in host byte order
//! unless a field says otherwise; addresses are [`Addr`]s. No field is an enum: the kernel's verifier and an older reader see numbers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;

macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident: $size:literal { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        // SAFETY: `IntoBytes` proves that the record has no padding, `FromBytes` that every bit pattern is one of its values.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

/// Slots for endpoints on one node, slot 0 ("no endpoint") included.
pub const SLOTS: u32 = 1024;
/// Entries of the conntrack table.
pub const CONNTRACK_ENTRIES: u32 = 262_144;
/// Compiled policies on one node.
pub const POLICIES: u32 = 8192;
/// Sets of port ranges on one node: each rule with ports of its own needs one, and a policy may have ten thousand. An array, so that a look-up costs
/// nothing: 4 MiB.
pub const L4_SETS: u32 = 32_768;
/// Port prefixes of sets that do not fit into their record. Memory follows use.
pub const PORT_PREFIX_ENTRIES: u32 = 4_194_304;
/// Addresses of pods that policies tell apart. An entry is allocated with its use, the table of its buckets at once: 16 bytes each.
pub const PEER_ENTRIES: u32 = 262_144;
/// Prefixes that policies tell apart. Memory follows use.
pub const CIDR_ENTRIES: u32 = 1_048_576;
/// Verdicts of a policy for an identity. As [`PEER_ENTRIES`].
pub const ROW_ENTRIES: u32 = 524_288;
/// Fragment records of one slot and hook.
pub const FRAGMENTS_PER_SLOT: u32 = 8;
/// Redirected connections of one slot that wait to be accepted.
pub const ORIGINS_PER_SLOT: u32 = 256;
/// Slot of the origins of pods in the host network: one behind the last.
pub const HOST_SLOT: u16 = SLOTS as u16;
/// Their connections that wait to be accepted.
pub const HOST_ORIGINS: u32 = 4096;
/// Port ranges that a set holds inline.
pub const INLINE_RANGES: usize = 7;

record! {
    /// Whose pins these are. `pc_owner[0]`, written once before anything is attached. The same in every version: by it an agent finds its predecessor.
    pub struct Owner: 32 {
        /// [`crate::ABI_VERSION`].
        pub abi: u32,
        /// Always 0.
        pub reserved: u32,
        /// `SO_NETNS_COOKIE` of the agent's network namespace (Linux 5.14).
        pub netns_cookie: u64,
        /// `/proc/sys/kernel/random/boot_id`, its 16 bytes.
        pub boot_id: [u8; 16],
    }
}

record! {
    /// What holds for the whole node. `pc_config[0]`.
    pub struct Config: 88 {
        /// [`config_flags`].
        pub flags: u32,
        /// Depth of the pods' cgroup below the root of the hierarchy, 0 = the root.
        pub pods_cgroup_level: u32,
        /// Id of the pods' cgroup; 0 = there is none, hooks that need it let everything pass.
        pub pods_cgroup: u64,
        /// The node's network namespace, for hooks that run for sockets of every namespace.
        pub netns_cookie: u64,
        /// Connections of one endpoint by [`crate::conntrack`] kind: opened by it, opened to it, half-open ones of both.
        pub quota: [u32; 4],
        /// Connections in each direction that an endpoint has for itself before it draws from the shared pool.
        pub guaranteed: u32,
        /// Size of the shared pool.
        pub pool: u32,
        /// Deny events that an endpoint may send in one tick; the rest is only counted.
        pub events_per_tick: u32,
        /// The responder's port for the first of [`crate::guard::ADDRESSES`]; those of the others follow.
        pub responder_port: u16,
        /// Always 0.
        pub reserved: u16,
        /// The responder's IPv4 address, mapped.
        pub responder_v4: Addr,
        /// The responder's IPv6 address.
        pub responder_v6: Addr,
    }
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// `pc_services` has entries: destinations have to be looked up there.
    pub const SERVICES: u32 = 1;
    /// `pc_cidrs` has entries: addresses that `pc_peers` lacks have to be looked up there.
    pub const CIDRS: u32 = 2;
    /// Metadata access of pods in the host network is denied.
    pub const HOST_NETWORK_GUARD: u32 = 4;
    /// The agent is moving addresses to identities that policies in force tell apart, and has not yet raised all revisions that this asks for.
    /// Programs do not read it; an agent that starts and finds it raises every revision.
    pub const MOVING: u32 = 8;
    /// Connections to the guarded addresses, port 80, go to the responder; without it they are blocked like everything else that goes there.
    pub const RESPONDER: u32 = 16;
}

record! {
    /// An endpoint by the ifindex of its host interface. `pc_endpoints`.
    pub struct Endpoint: 96 {
        /// Its IPv4 address, mapped; [`crate::addr::NONE`] without one.
        pub v4: Addr,
        /// Its IPv6 address; [`crate::addr::NONE`] without one.
        pub v6: Addr,
        /// Ingress policy ids for IPv4 and IPv6; 0 = not isolated.
        pub ingress: [u32; 2],
        /// Egress policy ids likewise.
        pub egress: [u32; 2],
        /// What ingress would be with audited policies enforced; 0 = the same.
        pub pending_ingress: [u32; 2],
        /// What egress would be.
        pub pending_egress: [u32; 2],
        /// Raised whenever an older verdict may be wrong; open flows with another revision are judged again.
        pub revision: u32,
        /// [`endpoint_flags`].
        pub flags: u32,
        /// Index below [`SLOTS`], never 0.
        pub slot: u16,
        /// Told apart from earlier endpoints of the slot.
        pub generation: u8,
        /// Always 0.
        pub reserved: [u8; 5],
        /// Digest of the pod's uid: how an agent without memory knows whose endpoint this is. Programs do not read it.
        pub uid: [u8; 16],
    }
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// `--metadata-allow` names the pod's service account: the metadata guard lets it through.
    pub const METADATA_ALLOWED: u32 = 1;
    /// No pod is known behind the interface: closed, but for its node.
    pub const UNKNOWN: u32 = 2;
}

record! {
    /// Key of a connection as its endpoint sees it. `pc_conntrack`.
    pub struct FlowKey: 24 {
        /// The other side.
        pub remote: Addr,
        /// The endpoint's port. ICMP: see [`crate::conntrack::icmp_ports`].
        pub local_port: u16,
        /// The other side's port.
        pub remote_port: u16,
        /// The endpoint's slot.
        pub slot: u16,
        /// The slot's generation: an entry of an earlier endpoint is never found.
        pub generation: u8,
        /// IANA protocol number.
        pub protocol: u8,
    }
}

record! {
    /// What is remembered of a connection. `pc_conntrack`.
    ///
    /// `expires` and `flags` are also taken as one aligned 64-bit word, low half first on little-endian machines: an entry is revived and removed by
    /// compare-and-swap of that word.
    pub struct Flow: 24 {
        /// Tick ([`crate::conntrack::tick`]) after which it counts as gone.
        pub expires: u32,
        /// [`crate::conntrack::flags`].
        pub flags: u32,
        /// Tick of its last packet.
        pub seen: u32,
        /// The endpoint's revision when it was last judged.
        pub revision: u32,
        /// The rule that allowed it; 0 = none.
        pub rule: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

record! {
    /// A connection that is older than the programs: what the agent gives to `pc_adopt`, behind an Ethernet header.
    pub struct Existing: 40 {
        /// The connection.
        pub key: FlowKey,
        /// [`crate::conntrack::flags`].
        pub flags: u32,
        /// Other than its endpoint's: it is judged at its first packet.
        pub revision: u32,
        /// Ticks for which it may be silent before that.
        pub patience: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

record! {
    /// Key of a verdict. `pc_policy`.
    pub struct PolicyKey: 8 {
        /// Policy id.
        pub policy: u32,
        /// Identity of the peer.
        pub identity: u32,
    }
}

record! {
    /// A verdict for a peer. `pc_policy`, and for peers without a row `pc_policies`, whose zeroed entries are no policy and deny.
    pub struct Cell: 12 {
        /// [`crate::policy::action`].
        pub action: u32,
        /// The deciding rule, 0 = none; with [`crate::policy::action::BY_PORT`] the port set's id.
        pub rule_or_set: u32,
        /// 1 for a cell that was written: a zeroed one is never a verdict.
        pub valid: u32,
    }
}

record! {
    /// One range of ports within a set.
    pub struct L4Range: 16 {
        /// IANA protocol number; 0 ends the list.
        pub protocol: u8,
        /// [`crate::policy::action`], `ALLOW` or `DENY`.
        pub action: u8,
        /// Always 0; later the log bit.
        pub flags: u16,
        /// First destination port; ICMP: type << 8 | code.
        pub first: u16,
        /// Last destination port.
        pub last: u16,
        /// First source port; 0 with `source_last` 65535 = any.
        pub source_first: u16,
        /// Last source port.
        pub source_last: u16,
        /// The deciding rule.
        pub rule: u32,
    }
}

record! {
    /// A set of port ranges. `pc_l4sets`; more than fit inline are in `pc_l4lpm`.
    pub struct L4Set: 128 {
        /// What no range holds: [`crate::policy::action`].
        pub otherwise: u32,
        /// The rule behind `otherwise`, 0 = none.
        pub otherwise_rule: u32,
        /// 1 = the ranges are in `pc_l4lpm`.
        pub spilled: u32,
        /// 1 for a set that was written.
        pub valid: u32,
        /// Disjoint; the unused ones are zero.
        pub ranges: [L4Range; 7],
    }
}

record! {
    /// Key of a spilled range: the data of an LPM key, of whose 64 bits the first 48 always count. `pc_l4lpm`.
    ///
    /// The key of `pc_cidrs` is likewise an LPM key, of a bare [`Addr`]; IPv4 prefixes are 96 longer than written.
    pub struct L4Key: 8 {
        /// Id of the set.
        pub set: u32,
        /// IANA protocol number.
        pub protocol: u8,
        /// Always 0.
        pub reserved: u8,
        /// Destination port, network order.
        pub port: [u8; 2],
    }
}

record! {
    /// Value of a spilled range.
    pub struct L4Value: 8 {
        /// [`crate::policy::action`].
        pub action: u32,
        /// The deciding rule.
        pub rule: u32,
    }
}

record! {
    /// A translated destination: cluster IP, node port, load balancer, external IP, host port. `pc_services`.
    pub struct ServiceKey: 20 {
        /// Its address.
        pub addr: Addr,
        /// Its port.
        pub port: u16,
        /// IANA protocol number.
        pub protocol: u8,
        /// Always 0.
        pub reserved: u8,
    }
}

record! {
    /// Which fragment record. `pc_fragments`.
    pub struct FragmentKey: 4 {
        /// Slot of the endpoint.
        pub slot: u16,
        /// Where (0 `from_pod`, 1 `to_pod`, 2 behind the translation) times [`FRAGMENTS_PER_SLOT`], plus the way.
        pub way: u16,
    }
}

record! {
    /// A datagram whose first fragment was allowed. `pc_fragments`.
    pub struct Fragment: 48 {
        /// Source address.
        pub src: Addr,
        /// Destination address.
        pub dst: Addr,
        /// Identification, host order.
        pub id: u32,
        /// Tick of the first fragment.
        pub seen: u32,
        /// Where the next fragment has to begin, in bytes.
        pub next: u32,
        /// IANA protocol number.
        pub protocol: u8,
        /// Generation of the slot.
        pub generation: u8,
        /// 1 = what the first fragment opened is to be judged behind the translation.
        pub pending: u8,
        /// Always 0.
        pub reserved: u8,
    }
}

record! {
    /// Which origin record. `pc_origins`.
    pub struct OriginKey: 4 {
        /// Slot of the endpoint, or [`HOST_SLOT`].
        pub slot: u16,
        /// The connection's source port modulo [`ORIGINS_PER_SLOT`] or [`HOST_ORIGINS`]. Linux gives ports to connections one after the other, so those
        /// that wait at the same time have records of their own.
        pub way: u16,
    }
}

record! {
    /// Whose a redirected connection is, from its SYN until the responder has accepted it. `pc_origins`.
    pub struct Origin: 48 {
        /// Source address, which the guard has found to be the endpoint's own.
        pub src: Addr,
        /// Cgroups of the socket that sent the SYN, one and two levels below the pods' parent: one of them is its pod's. 0 where an interface tells.
        pub cgroups: [u64; 2],
        /// The endpoint's interface; 0 = a pod in the host network.
        pub ifindex: u32,
        /// Tick of the SYN.
        pub seen: u32,
        /// Source port.
        pub sport: u16,
        /// The responder's port.
        pub port: u16,
        /// Generation of the slot.
        pub generation: u8,
        /// Always 0.
        pub reserved: [u8; 3],
    }
}

record! {
    /// State of a slot. `pc_slots[slot]`; the agent zeroes it when it gives the slot to an endpoint.
    pub struct Slot: 56 {
        /// Connections by kind, as [`Config::quota`].
        pub flows: [u64; 4],
        /// The generation that owns the slot; entries of others are swept.
        pub generation: u32,
        /// Connections opened so far that are not TCP, with wrap-around: what is remembered of a denied datagram is void when it moves.
        pub opened: u32,
        /// Tick of `events`.
        pub event_tick: u32,
        /// Deny events sent in that tick.
        pub events: u32,
        /// Deny events that were not sent: over the rate, or the ring was full.
        pub lost: u64,
    }
}

record! {
    /// A dropped packet. `pc_events`, a ring buffer of these.
    pub struct Event: 72 {
        /// `CLOCK_MONOTONIC`, nanoseconds (coarse).
        pub time_ns: u64,
        /// Source of the packet.
        pub src: Addr,
        /// Destination of the packet.
        pub dst: Addr,
        /// Source port; ICMP: identifier.
        pub sport: u16,
        /// Destination port; ICMP: type << 8 | code.
        pub dport: u16,
        /// The endpoint's interface.
        pub ifindex: u32,
        /// The rule that denied, 0 = none.
        pub rule: u32,
        /// Policy id that was asked, 0 = none.
        pub policy: u32,
        /// The endpoint's slot, 0 = no endpoint.
        pub slot: u16,
        /// Its generation.
        pub generation: u8,
        /// IANA protocol number.
        pub protocol: u8,
        /// [`crate::reason`].
        pub reason: u8,
        /// 0 ingress, 1 egress, as the endpoint sees it.
        pub direction: u8,
        /// TCP flags.
        pub tcp_flags: u8,
        /// [`hook`].
        pub hook: u8,
        /// Length of the packet from its IP header.
        pub len: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

/// Values of [`Event::hook`].
pub mod hook {
    /// `pc_from_pod`.
    pub const FROM_POD: u8 = 0;
    /// `pc_to_pod`.
    pub const TO_POD: u8 = 1;
    /// `pc_uplink`.
    pub const UPLINK: u8 = 2;
    /// `pc_to_host`.
    pub const TO_HOST: u8 = 3;
    /// `pc_connect4` and its siblings.
    pub const SOCKET: u8 = 4;
}

/// Directions in counters and events, as the endpoint sees them.
pub mod direction {
    /// Opened to the endpoint.
    pub const INGRESS: u8 = 0;
    /// Opened by the endpoint.
    pub const EGRESS: u8 = 1;
}

/// Index of a drop counter in `pc_drops` (u64 each).
#[must_use]
#[inline(always)]
pub const fn drop_index(slot: u16, direction: u8, reason: u8) -> u32 {
    (slot as u32) * 128 + ((direction as u32) & 1) * 64 + ((reason as u32) & 63)
}
