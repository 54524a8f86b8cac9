//! A packet's way through connection tracking to its verdict.
//!
//! ```text
//! key -> entry, alive and not a SYN -> judged with an older revision? judge again -> note the packet -> pass
//!     \-> no entry, or a SYN       -> may it open a connection? -> policy -> quota -> make or revive the entry -> pass
//! ```
//! One path for both families, both directions and all places. What is not on the way of every packet are *global* functions (`extern "C"`): the
//! verifier checks each once by itself (Linux 5.6; pointers to memory 5.12), not once for each way that leads to it. They take plain data and answer
//! with one number, an [`Outcome`].

use portcullis_common::abi::{Config, Endpoint, Flow, FlowKey};
use portcullis_common::conntrack::{self, TCP, UDP, flags, tcp};
use portcullis_common::icmp::{self, Class, ICMP, ICMPV6};
use portcullis_common::packet::{self, Parsed, Quoted};
use portcullis_common::policy::{self, decide};
use portcullis_common::reason;

use aya_ebpf::bindings::__sk_buff;

use crate::ctx::Skb;
use crate::tables::{self, Tables};
use crate::{atomic, maps, quota, recent};

/// Linux error numbers of `bpf_map_update_elem`.
const EEXIST: i32 = -17;
const EBUSY: i32 = -16;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// How a packet stands to its endpoint.
pub mod view {
    /// The endpoint sent it; else it is for the endpoint.
    pub const SENT: u16 = 1;
    /// Behind the translation: the destination is the real one.
    pub const TRANSLATED: u16 = 2;
    /// From the endpoint's own node, or from the endpoint itself: never judged.
    pub const EXEMPT: u16 = 4;
    /// Behind the translation: the connection's handshake was complete in front of it, so a segment without SYN may make the entry.
    pub const CONFIRMED: u16 = 8;
}

/// What a step decided, in one register: reason in bits 0-7, 1 << 8 = passes, 1 << 9 = steady; the upper half holds the entry's state of what passes, the rule of what
/// does not.
#[derive(Clone, Copy)]
#[must_use]
pub struct Outcome(pub u64);

impl Outcome {
    /// Passes; `state` of its entry, 0 without one.
    #[inline(always)]
    pub const fn pass(state: u32) -> Self {
        Self(1 << 8 | (state as u64) << 32)
    }

    /// Drops.
    #[inline(always)]
    pub const fn deny(reason: u8, rule: u32) -> Self {
        Self(reason as u64 | (rule as u64) << 32)
    }

    /// The same, with a word on the next packet of this kind: it passes too, and changes nothing.
    #[inline(always)]
    pub const fn steady(self, steady: bool) -> Self {
        Self(self.0 | (steady as u64) << 9)
    }

    /// Whether the next packet of this kind passes too, and changes nothing.
    #[inline(always)]
    pub const fn is_steady(self) -> bool {
        self.0 >> 9 & 1 == 1
    }

    /// Whether it passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// State of the entry, or the rule.
    #[inline(always)]
    pub const fn detail(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// `common::reason` of a drop.
    #[inline(always)]
    pub const fn reason(self) -> u8 {
        self.0 as u8
    }
}

impl From<Result<(), u8>> for Outcome {
    #[inline(always)]
    fn from(result: Result<(), u8>) -> Self {
        match result {
            Ok(()) => Self::pass(0),
            Err(reason) => Self::deny(reason, 0),
        }
    }
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
    /// [`view`].
    pub view: u16,
    /// The packet's destination port; ICMP: type << 8 | code.
    pub dport: u16,
}

impl Request {
    #[inline(always)]
    fn new(endpoint: &Endpoint, parsed: &Parsed, view: u16) -> Self {
        let (egress, ingress) = tables::policies(endpoint, parsed);
        let (remote, local_port, remote_port) = if view & view::SENT != 0 {
            (parsed.dst, parsed.sport, parsed.dport)
        } else {
            (parsed.src, parsed.dport, parsed.sport)
        };
        Self {
            key: conntrack::key(endpoint, remote, local_port, remote_port, parsed.protocol),
            revision: endpoint.revision,
            egress,
            ingress,
            view,
            dport: parsed.dport,
        }
    }

    /// A copy of the key on the function's own stack: before Linux 6.2 a map takes no key from memory that a global function was handed.
    #[inline(always)]
    fn own_key(&self) -> FlowKey {
        self.key
    }

    /// The policy that governs connections opened outbound or inbound.
    #[inline(always)]
    fn policy(&self, outbound: bool) -> u32 {
        *tables::either(outbound, &self.egress, &self.ingress)
    }
}

/// Decides about a packet whose source has been checked.
#[inline(always)]
pub fn run(skb: &Skb, endpoint: &Endpoint, parsed: &Parsed, view: u16) -> Outcome {
    let mut request = Request::new(endpoint, parsed, view);
    if parsed.is_icmp() {
        return Outcome(flow_icmp(skb.raw(), parsed, &raw mut request, skb.l3()));
    }
    // A SYN is a new connection, whatever is remembered: it never rides on an entry.
    let syn = parsed.protocol == TCP && tcp::opens(parsed.tcp_flags);
    let flow = maps::CONNTRACK.get_ptr_mut(&request.key);
    if let Some(flow) = flow
        && !syn
    {
        let now = tables::now();
        if is_alive(flow, now) {
            return established(&request, parsed.tcp_flags, flow, now);
        }
    }
    if parsed.protocol == TCP && !syn && view & view::CONFIRMED == 0 {
        // No entry: a TCP segment that opens nothing makes none. It passes where nobody isolates.
        let open =
            view & view::EXEMPT != 0 || request.policy(view & view::SENT != 0) == policy::id::NONE;
        return if open {
            // Exempt is who sent it, which a note does not say.
            Outcome::pass(0).steady(view & view::EXEMPT == 0)
        } else {
            Outcome::deny(reason::NO_FLOW, 0)
        };
    }
    open(&request, flow)
}

/// The same for ICMP, whose messages are requests, replies, errors or plumbing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_icmp(
    skb: *mut __sk_buff,
    parsed: *const Parsed,
    request: *mut Request,
    l3: u32,
) -> u64 {
    // SAFETY: the verifier checks both pointers against their types; a null one never comes.
    let (Some(parsed), Some(request)) = (unsafe { parsed.as_ref() }, unsafe { request.as_mut() })
    else {
        return 0;
    };
    let sent = request.view & view::SENT != 0;
    let exempt = request.view & view::EXEMPT != 0;
    let class = icmp::classify(parsed.protocol, parsed.icmp_type());
    let (local, remote) = match class {
        Class::Error if exempt => return Outcome::pass(0).0,
        Class::Error => return flow_related(skb, parsed, request, l3),
        Class::Obsolete | Class::Neighbour if exempt => return Outcome::pass(0).0,
        Class::Obsolete | Class::Neighbour => return Outcome::deny(reason::ICMP_TYPE, 0).0,
        Class::Request => conntrack::icmp_ports(parsed.sport, sent),
        Class::Reply => conntrack::icmp_ports(parsed.sport, !sent),
        Class::Other if sent => (parsed.dport, 1),
        Class::Other => (1, parsed.dport),
    };
    request.key.local_port = local;
    request.key.remote_port = remote;
    let flow = maps::CONNTRACK.get_ptr_mut(&request.own_key());
    if let Some(flow) = flow {
        let now = tables::now();
        if is_alive(flow, now) {
            return established(request, 0, flow, now).0;
        }
    }
    if matches!(class, Class::Reply) {
        return if exempt {
            Outcome::pass(0)
        } else {
            Outcome::deny(reason::NO_FLOW, 0)
        }
        .0;
    }
    open(request, flow).0
}

/// A packet of a connection that is remembered.
#[inline(always)]
fn established(request: &Request, tcp_flags: u8, flow: *mut Flow, now: u32) -> Outcome {
    // SAFETY: a removed entry's memory stays readable until this program ends; a word at a time.
    let (state, seen, revision) = unsafe { ((*flow).flags, (*flow).seen, (*flow).revision) };
    if revision != request.revision {
        let again = Outcome(flow_judge_again(request, flow));
        if !again.passes() {
            return again;
        }
    }
    let sent = request.view & view::SENT != 0;
    let add = conntrack::advance(state, request.key.protocol, sent, tcp_flags) & !state;
    if add != 0 || seen != now {
        flow_note(&raw const request.key, flow, add, now);
    }
    let next = state | add;
    Outcome::pass(next).steady(conntrack::is_steady(next, request.key.protocol, sent))
}

/// Notes what a packet changes: at most once a tick for a connection in steady state. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_note(key: *const FlowKey, flow: *mut Flow, add: u32, now: u32) -> u64 {
    // SAFETY: as `flow_icmp`.
    let Some(key) = (unsafe { key.as_ref() }) else {
        return 0;
    };
    if flow.is_null() {
        return 0;
    }
    // SAFETY: as `established`; `expires` and `flags` are one aligned word (`abi::Flow`).
    let before = flags_of(unsafe { atomic::fetch_or(flow.cast(), word(0, add)) });
    // The one that set the bit moves the count.
    if add & flags::CONFIRMED != 0 && before & flags::CONFIRMED == 0 {
        quota::change(key.slot, before, before | flags::CONFIRMED);
    }
    // SAFETY: as above. Stores that race with the sweep write into an entry that is gone: the next packet opens anew or is dropped.
    unsafe {
        (*flow).seen = now;
        (*flow).expires = now + conntrack::lifetime(before | add, key.protocol);
    }
    0
}

/// Judges an open connection in its opening direction, because the endpoint's tables have changed since.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_judge_again(request: *const Request, flow: *mut Flow) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(config)) = (unsafe { request.as_ref() }, tables::config()) else {
        return 0;
    };
    if flow.is_null() {
        return 0;
    }
    let (_, state) = life(flow);
    let mut rule = 0;
    // What is pending is judged behind the translation, where its real destination is known.
    if state & (flags::EXEMPT | flags::PENDING) == 0 {
        let outbound = state & flags::OUTBOUND != 0;
        let decision = decide(
            &Tables(config),
            request.policy(outbound),
            &request.key.remote,
            request.key.protocol,
            opening_port(&request.key, outbound),
        );
        if !decision.allow {
            if maps::CONNTRACK.remove(&request.own_key()).is_ok() {
                quota::remove(request.key.slot, state);
            }
            return Outcome::deny(reason::POLICY_CHANGED, decision.rule).0;
        }
        rule = decision.rule;
    }
    // SAFETY: as `established`. Rule before revision: whoever sees the new revision sees its rule.
    unsafe {
        (*flow).rule = rule;
        (*flow).revision = request.revision;
    }
    Outcome::pass(state).0
}

/// Destination port of the packet that opened a connection; for ICMP the type and code of an echo request, or of the message itself.
#[inline(always)]
fn opening_port(key: &FlowKey, outbound: bool) -> u16 {
    if key.protocol == ICMP || key.protocol == ICMPV6 {
        return match (key.local_port, key.remote_port) {
            (message, 1) | (1, message) => message,
            _ if key.protocol == ICMP => 8 << 8,
            _ => 128 << 8,
        };
    }
    if outbound {
        key.remote_port
    } else {
        key.local_port
    }
}

/// A packet that may open a connection.
#[inline(always)]
fn open(request: &Request, flow: Option<*mut Flow>) -> Outcome {
    Outcome(match flow {
        Some(flow) => flow_reopen(request, flow),
        None => flow_open(request),
    })
}

/// Opens a connection that nothing is remembered of.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open(request: *const Request) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(config)) = (unsafe { request.as_ref() }, tables::config()) else {
        return 0;
    };
    match admit(config, request) {
        Ok((state, rule)) => create(config, request, state, rule).0,
        Err(denied) => denied.0,
    }
}

/// Opens one over an entry that is there: of a connection that is over, or that a SYN now opens again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_reopen(request: *const Request, flow: *mut Flow) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(config)) = (unsafe { request.as_ref() }, tables::config()) else {
        return 0;
    };
    if flow.is_null() {
        return 0;
    }
    match admit(config, request) {
        Ok((state, rule)) => revive(request, flow, state, rule).0,
        Err(denied) => denied.0,
    }
}

/// Policy: the state of the entry to be, and the rule that allows it.
#[inline(always)]
fn admit(config: &Config, request: &Request) -> Result<(u32, u32), Outcome> {
    let sent = request.view & view::SENT != 0;
    let mut state = if sent { flags::OUTBOUND } else { 0 };
    if request.view & view::CONFIRMED != 0 && request.key.protocol == TCP {
        state |= flags::REPLIED | flags::CONFIRMED;
    }
    if request.view & view::EXEMPT != 0 {
        return Ok((state | flags::EXEMPT, 0));
    }
    let untranslated = request.view & (view::SENT | view::TRANSLATED) == view::SENT;
    if untranslated
        && tables::is_service(
            config,
            request.key.remote,
            request.key.remote_port,
            request.key.protocol,
        )
    {
        return Ok((state | flags::PENDING, 0));
    }
    let decision = decide(
        &Tables(config),
        request.policy(sent),
        &request.key.remote,
        request.key.protocol,
        request.dport,
    );
    if decision.allow {
        Ok((state, decision.rule))
    } else {
        Err(Outcome::deny(decision.reason, decision.rule))
    }
}

/// Takes over the entry of a connection that is over, or notes a SYN on one that is not.
#[inline(always)]
fn revive(request: &Request, flow: *mut Flow, state: u32, rule: u32) -> Outcome {
    let (expires, old) = life(flow);
    let now = tables::now();
    if old & flags::DEAD != 0 {
        return Outcome::deny(reason::TABLE_BUSY, 0);
    }
    let same_opener = (old ^ state) & flags::OUTBOUND == 0;
    let alive = !conntrack::expired(expires, now) && !conntrack::closed(old);
    // A retransmitted SYN: allowed as the first one was, and nothing new.
    let next = if same_opener && alive {
        old
    } else {
        state | (old & flags::BORROWED)
    };
    let until = now + conntrack::lifetime(next, request.key.protocol);
    // SAFETY: as `established`.
    if !unsafe { atomic::swap(flow.cast(), word(expires, old), word(until, next)) } {
        return Outcome::deny(reason::TABLE_BUSY, 0);
    }
    quota::change(request.key.slot, old, next);
    // Notes of the connection that was would keep the new one half-open.
    if request.key.protocol == TCP && old & !next & flags::CONFIRMED != 0 {
        recent::forget();
    }
    // SAFETY: as `flow_judge_again`.
    unsafe {
        (*flow).seen = now;
        (*flow).rule = rule;
        (*flow).revision = request.revision;
    }
    Outcome::pass(next)
}

/// Makes an entry within the endpoint's quota.
#[inline(always)]
fn create(config: &Config, request: &Request, state: u32, rule: u32) -> Outcome {
    let exempt = state & flags::EXEMPT != 0;
    let state = match quota::admit(config, request.key.slot, state) {
        Ok(borrowed) => state | borrowed,
        // The node's probe passes even when nothing can be remembered.
        Err(_) if exempt => return Outcome::pass(0),
        Err(reason) => return Outcome::deny(reason, 0),
    };
    let now = tables::now();
    let expires = now + conntrack::lifetime(state, request.key.protocol);
    let flow = Flow {
        expires,
        flags: state,
        seen: now,
        revision: request.revision,
        rule,
        reserved: 0,
    };
    let key = request.own_key();
    let mut result = maps::CONNTRACK.insert(&key, &flow, NOEXIST);
    // Kernels before 6.15 refuse when this processor interrupted itself in the bucket.
    if result == Err(EBUSY) {
        result = maps::CONNTRACK.insert(&key, &flow, NOEXIST);
    }
    match result {
        Ok(()) => {
            quota::add(request.key.slot, state);
            Outcome::pass(state)
        }
        // Another processor was first with a packet of the same connection.
        Err(EEXIST) => Outcome::pass(state),
        Err(_) if exempt => Outcome::pass(0),
        Err(EBUSY) => Outcome::deny(reason::TABLE_BUSY, 0),
        Err(_) => Outcome::deny(reason::TABLE_FULL, 0),
    }
}

/// An ICMP error: passes if the packet that it quotes belongs to a live connection of the endpoint. It neither makes nor refreshes anything.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_related(
    skb: *mut __sk_buff,
    parsed: *const Parsed,
    request: *const Request,
    l3: u32,
) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(parsed), Some(request)) = (unsafe { parsed.as_ref() }, unsafe { request.as_ref() })
    else {
        return 0;
    };
    let sent = request.view & view::SENT != 0;
    let mut quoted = Quoted::default();
    if let Err(reason) = packet::quoted(&Skb::new(skb, l3 as usize & 31), parsed, &mut quoted) {
        return Outcome::deny(reason, 0).0;
    }
    let (mut own_port, mut remote_port) = if sent {
        (quoted.dport, quoted.sport)
    } else {
        (quoted.sport, quoted.dport)
    };
    if quoted.protocol == ICMP || quoted.protocol == ICMPV6 {
        let asked = matches!(
            icmp::classify(quoted.protocol, (quoted.dport >> 8) as u8),
            Class::Request
        );
        (own_port, remote_port) = conntrack::icmp_ports(quoted.sport, asked != sent);
    }
    // What the endpoint received if it complains, what it sent if somebody complains to it.
    let (own, remote) = if sent {
        (&quoted.dst, &quoted.src)
    } else {
        (&quoted.src, &quoted.dst)
    };
    let endpoint_address = tables::either(sent, &parsed.src, &parsed.dst);
    if own != endpoint_address {
        return Outcome::deny(reason::ICMP_ERROR, 0).0;
    }
    let key = FlowKey {
        remote: *remote,
        local_port: own_port,
        remote_port,
        protocol: quoted.protocol,
        ..request.key
    };
    match maps::CONNTRACK.get_ptr_mut(&key) {
        Some(flow) if is_alive(flow, tables::now()) => Outcome::pass(life(flow).1).0,
        _ => Outcome::deny(reason::ICMP_ERROR, 0).0,
    }
}

/// Whether an entry stands for a connection that still exists.
#[inline(always)]
fn is_alive(flow: *mut Flow, now: u32) -> bool {
    let (expires, state) = life(flow);
    state & flags::DEAD == 0 && !conntrack::expired(expires, now)
}

/// `expires` and `flags` of an entry.
#[inline(always)]
pub fn life(flow: *mut Flow) -> (u32, u32) {
    // SAFETY: as `established`.
    unsafe { ((*flow).expires, (*flow).flags) }
}

/// The word that holds both.
#[inline(always)]
pub fn word(expires: u32, state: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(expires) | u64::from(state) << 32
    } else {
        u64::from(state) | u64::from(expires) << 32
    }
}

/// The flags of such a word.
#[inline(always)]
fn flags_of(word: u64) -> u32 {
    if cfg!(target_endian = "little") {
        (word >> 32) as u32
    } else {
        word as u32
    }
}

/// Whether a datagram comes from a server's port that only the network may use: DHCP and DHCPv6 servers.
#[inline(always)]
pub fn is_rogue_server(parsed: &Parsed) -> bool {
    parsed.protocol == UDP && parsed.sport == if parsed.family == 0 { 67 } else { 547 }
}
