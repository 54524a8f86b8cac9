//! Reading the tables that the agent writes: `common::policy::Lookup` over the kernel's maps.

use core::arch::asm;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use portcullis_common::abi::{Cell, Config, Endpoint, L4Key, PolicyKey, ServiceKey, config_flags};
use portcullis_common::addr::{self, Addr};
use portcullis_common::conntrack;
use portcullis_common::packet::Parsed;
use portcullis_common::policy::{Decision, Lookup, WORLD, match_ranges};

use crate::maps::{self, At as _};
use crate::scratch::Scratch;

/// Nanoseconds since boot, as of the last timer tick (Linux 5.11): a seventh of the cost of the exact clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments, no memory.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Coarse time for conntrack.
#[inline(always)]
pub fn now() -> u32 {
    conntrack::tick(now_ns())
}

/// This processor's memory for packets. There is always one; the verifier wants to see the case that there is not.
#[inline(always)]
pub fn scratch() -> Option<&'static Scratch> {
    // SAFETY: values of an array live as long as the map; all fields are cells.
    maps::SCRATCH.first().map(|scratch| unsafe { &*scratch })
}

/// This processor's memory for programs that the agent runs, one at a time.
#[inline(always)]
pub fn scratch_of_agent() -> Option<&'static Scratch> {
    // SAFETY: as above.
    maps::SCRATCH.at(1).map(|scratch| unsafe { &*scratch })
}

/// Node-wide settings. Without them nothing can be decided.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    // SAFETY: values of an array live as long as the map.
    maps::CONFIG.first().map(|config| unsafe { &*config })
}

/// The endpoint behind an interface.
#[inline(always)]
pub fn endpoint(scratch: &Scratch, ifindex: u32) -> Option<&'static Endpoint> {
    // SAFETY: the agent replaces values whole, and a replaced one stays readable until this program ends (RCU).
    maps::ENDPOINTS
        .by(&scratch.key, u64::from(ifindex))
        .map(|endpoint| unsafe { &*endpoint })
}

/// The first of two fields, or the second, by [`constant_offset`].
#[inline(always)]
pub fn either<'a, T>(first: bool, a: &'a T, b: &'a T) -> &'a T {
    let field = if first {
        constant_offset((&raw const *a).cast_mut())
    } else {
        constant_offset((&raw const *b).cast_mut())
    };
    // SAFETY: it is one of the two, and nobody writes through it.
    unsafe { &*field }
}

/// The pointer that goes in, for fields among which the code chooses: each branch adds its own constant.
///
/// Without `CAP_PERFMON` the verifier wants constant offsets into maps' values and structures (Linux 5.12), and the compiler would make one addition of
/// all branches; it does not look through assembly.
#[inline(always)]
pub fn constant_offset<T>(field: *mut T) -> *mut T {
    let same: *mut T;
    // SAFETY: copies a register.
    unsafe {
        asm!("{0} = {1}", out(reg) same, in(reg) field, options(pure, nomem, nostack));
    }
    same
}

/// The one of two fields, IPv4's and IPv6's, that counts for a packet.
#[inline(always)]
pub fn of_family<'a, T>(v4: &'a T, v6: &'a T, parsed: &Parsed) -> &'a T {
    either(parsed.family == addr::V4 as u8, v4, v6)
}

/// An endpoint's policies for a packet's family: egress, ingress.
#[inline(always)]
pub fn policies(endpoint: &Endpoint, parsed: &Parsed) -> (u32, u32) {
    let [egress_v4, egress_v6] = &endpoint.egress;
    let [ingress_v4, ingress_v6] = &endpoint.ingress;
    (
        *of_family(egress_v4, egress_v6, parsed),
        *of_family(ingress_v4, ingress_v6, parsed),
    )
}

/// Whether a destination is one that the node translates.
#[inline(always)]
pub fn is_service(
    scratch: &Scratch,
    config: &Config,
    addr: &Addr,
    port: u16,
    protocol: u8,
) -> bool {
    config.flags & config_flags::SERVICES != 0
        && maps::SERVICES
            .get_ptr(&*scratch.service.put(ServiceKey {
                addr: *addr,
                port,
                protocol,
                reserved: 0,
            }))
            .is_some()
}

/// Whether an address is this node's own.
#[inline(always)]
pub fn is_own_node(scratch: &Scratch, addr: &Addr) -> bool {
    // SAFETY: as `endpoint`.
    unsafe { maps::NODES.get(&*scratch.address.put(*addr)) }.is_some_and(|owner| *owner == 1)
}

/// Whether an address is a node's.
#[inline(always)]
pub fn is_node(scratch: &Scratch, addr: &Addr) -> bool {
    maps::NODES.get_ptr(&*scratch.address.put(*addr)).is_some()
}

/// The kernel's tables under the node's settings.
pub struct Tables<'a> {
    pub config: &'a Config,
    pub scratch: &'a Scratch,
}

impl Tables<'static> {
    /// As packets see them.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        let (Some(config), Some(scratch)) = (config(), scratch()) else {
            return None;
        };
        Some(Self { config, scratch })
    }
}

impl Lookup for Tables<'_> {
    #[inline(always)]
    fn identity(&self, addr: &Addr) -> u32 {
        // SAFETY: as `endpoint`.
        if let Some(identity) = unsafe { maps::PEERS.get(&*self.scratch.address.put(*addr)) } {
            return *identity;
        }
        if self.config.flags & config_flags::CIDRS == 0 {
            return WORLD;
        }
        maps::CIDRS
            .get(&*self.scratch.prefix.put(Key::new(128, *addr)))
            .copied()
            .unwrap_or(WORLD)
    }

    #[inline(always)]
    fn row(&self, policy: u32, identity: u32) -> Option<Cell> {
        // SAFETY: as `endpoint`.
        unsafe { maps::POLICY_ROWS.get(&*self.scratch.row.put(PolicyKey { policy, identity })) }
            .copied()
    }

    #[inline(always)]
    fn default(&self, policy: u32) -> Option<Cell> {
        // SAFETY: as `config`.
        maps::POLICY_DEFAULTS
            .by(&self.scratch.key, u64::from(policy))
            .map(|cell| unsafe { *cell })
    }

    #[inline(always)]
    fn ports(&self, set: u32, protocol: u8, port: u16) -> Decision {
        let Some(ranges) = maps::PORT_SETS.by(&self.scratch.key, u64::from(set)) else {
            return Decision::NOT_READY;
        };
        // SAFETY: as `config`.
        let ranges = unsafe { &*ranges };
        if ranges.spilled == 0 || ranges.valid == 0 {
            return match_ranges(ranges, protocol, port);
        }
        let key = self.scratch.port.put(Key::new(
            64,
            L4Key {
                set,
                protocol,
                reserved: 0,
                port: port.to_be_bytes(),
            },
        ));
        match maps::PORT_PREFIXES.get(&*key) {
            Some(value) => Decision::of(value.action, value.rule),
            None => Decision::of(ranges.otherwise, ranges.otherwise_rule),
        }
    }
}
