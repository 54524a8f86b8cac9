//! A packet's way through connection tracking to its verdict.
//!
//! ```text
//! key -> entry, alive and not a SYN -> judged with an older revision? judge again -> note the packet -> pass
//!     \-> no entry, or a SYN       -> may it open a connection? -> policy -> quota -> make or revive the entry -> pass
//! ```
//! One path for both families, both directions and all three places ([`Place`](crate::emit::Place) tells them apart in events only).

use portcullis_common::abi::{Config, Endpoint, Flow, FlowKey};
use portcullis_common::conntrack::{self, TCP, UDP, flags, tcp};
use portcullis_common::icmp::{self, Class, ICMP};
use portcullis_common::packet::{self, Parsed};
use portcullis_common::policy::{self, decide};
use portcullis_common::reason;

use crate::ctx::Skb;
use crate::emit::Denial;
use crate::tables::{self, Tables};
use crate::{atomic, maps, quota};

/// Linux error numbers of `bpf_map_update_elem`.
const EEXIST: i32 = -17;
const EBUSY: i32 = -16;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// How a packet stands to its endpoint.
#[derive(Clone, Copy)]
pub struct View {
    /// The endpoint sent it; else it is for the endpoint.
    pub sent: bool,
    /// Behind the translation: the destination is the real one.
    pub translated: bool,
    /// From the endpoint's own node, or from the endpoint itself: never judged.
    pub exempt: bool,
    /// Behind the translation: the connection's handshake was complete in front of it, so a segment without SYN may make the entry.
    pub confirmed: bool,
}

/// A packet that passes.
#[derive(Clone, Copy)]
#[must_use]
pub struct Pass {
    /// State of its entry, 0 without one.
    pub state: u32,
}

const STATELESS: Pass = Pass { state: 0 };

/// What the steps below share. One pointer instead of six arguments: BPF calls pass five.
pub struct Scope<'a> {
    /// The packet's buffer.
    pub skb: &'a Skb,
    /// Node-wide settings.
    pub config: &'static Config,
    /// Whose connection it is.
    pub endpoint: &'static Endpoint,
    /// The packet.
    pub parsed: &'a Parsed,
    /// How it stands to the endpoint.
    pub view: View,
}

impl Scope<'_> {
    /// The policy that governs connections opened outbound or inbound, for the packet's family.
    #[inline(always)]
    fn policy(&self, outbound: bool) -> u32 {
        let family = usize::from(self.parsed.family) & 1;
        if outbound { self.endpoint.egress[family] } else { self.endpoint.ingress[family] }
    }
}

/// Decides about a packet whose source has been checked.
#[inline(always)]
pub fn run(scope: &Scope<'_>) -> Result<Pass, Denial> {
    let (parsed, view) = (scope.parsed, scope.view);
    let class = if parsed.is_icmp() { icmp::classify(parsed.protocol, parsed.icmp_type()) } else { Class::Other };
    let (local, remote_port) = match class {
        Class::Error => return related(scope),
        Class::Obsolete | Class::Neighbour if view.exempt => return Ok(STATELESS),
        Class::Obsolete | Class::Neighbour => return Err(Denial::of(reason::ICMP_TYPE)),
        Class::Request => conntrack::icmp_ports(parsed.sport, view.sent),
        Class::Reply => conntrack::icmp_ports(parsed.sport, !view.sent),
        Class::Other if parsed.is_icmp() && view.sent => (parsed.dport, 1),
        Class::Other if parsed.is_icmp() => (1, parsed.dport),
        Class::Other if view.sent => (parsed.sport, parsed.dport),
        Class::Other => (parsed.dport, parsed.sport),
    };
    let remote = if view.sent { parsed.dst } else { parsed.src };
    let key = conntrack::key(scope.endpoint, remote, local, remote_port, parsed.protocol);
    // A SYN is a new connection, whatever is remembered: it never rides on an entry.
    let syn = parsed.protocol == TCP && tcp::opens(parsed.tcp_flags);
    let flow = maps::CONNTRACK.get_ptr_mut(&key);
    if let Some(flow) = flow
        && !syn
    {
        let (seen, state) = life(flow);
        let now = tables::now();
        if state & flags::DEAD == 0 && !conntrack::expired(seen, state, parsed.protocol, now) {
            return established(scope, &key, flow, now);
        }
    }
    if parsed.protocol == TCP && !syn && !view.confirmed {
        // No entry: a TCP segment that opens nothing makes none. It passes where nobody isolates.
        let open = view.exempt || scope.policy(view.sent) == policy::id::NONE;
        return if open { Ok(STATELESS) } else { Err(Denial::of(reason::NO_FLOW)) };
    }
    if matches!(class, Class::Reply) {
        return if view.exempt { Ok(STATELESS) } else { Err(Denial::of(reason::NO_FLOW)) };
    }
    open(scope, &key, flow)
}

/// A packet of a connection that is remembered.
#[inline(always)]
fn established(scope: &Scope<'_>, key: &FlowKey, flow: *mut Flow, now: u32) -> Result<Pass, Denial> {
    let (endpoint, parsed, view) = (scope.endpoint, scope.parsed, scope.view);
    let (seen, state) = life(flow);
    // SAFETY: a removed entry's memory stays readable until this program ends; a word at a time.
    if unsafe { (*flow).revision } != endpoint.revision {
        judge_again(scope, key, flow, state)?;
    }
    let add = conntrack::advance(state, parsed.protocol, view.sent, parsed.tcp_flags) & !state;
    if add != 0 {
        // SAFETY: as above; `seen` and `flags` are one aligned word (`abi::Flow`).
        let before = flags_of(unsafe { atomic::fetch_or(flow.cast(), word(0, add)) });
        // The one that set the bit moves the count.
        if add & flags::CONFIRMED != 0 && before & flags::CONFIRMED == 0 {
            quota::change(endpoint.slot, before, before | flags::CONFIRMED);
        }
    }
    if seen != now {
        // SAFETY: as above. A store that races with the sweep writes into an entry that is gone: the next packet opens anew or is dropped.
        unsafe { (*flow).seen = now };
    }
    Ok(Pass { state: state | add })
}

/// Judges an open connection in its opening direction, because the endpoint's tables have changed since.
#[inline(never)]
fn judge_again(scope: &Scope<'_>, key: &FlowKey, flow: *mut Flow, state: u32) -> Result<(), Denial> {
    let mut rule = 0;
    // What is pending is judged behind the translation, where its real destination is known.
    if state & (flags::EXEMPT | flags::PENDING) == 0 {
        let outbound = state & flags::OUTBOUND != 0;
        let policy = scope.policy(outbound);
        let port = match key.protocol {
            ICMP if key.local_port != 1 && key.remote_port != 1 => 8 << 8,
            icmp::ICMPV6 if key.local_port != 1 && key.remote_port != 1 => 128 << 8,
            ICMP | icmp::ICMPV6 if key.remote_port == 1 => key.local_port,
            _ if outbound => key.remote_port,
            ICMP | icmp::ICMPV6 => key.remote_port,
            _ => key.local_port,
        };
        let decision = decide(&Tables(scope.config), policy, &key.remote, key.protocol, port);
        if !decision.allow {
            if maps::CONNTRACK.remove(key).is_ok() {
                quota::remove(key.slot, state);
            }
            return Err(Denial { reason: reason::POLICY_CHANGED, rule: decision.rule, policy });
        }
        rule = decision.rule;
    }
    // SAFETY: as `established`. Rule before revision: whoever sees the new revision sees its rule.
    unsafe {
        (*flow).rule = rule;
        (*flow).revision = scope.endpoint.revision;
    }
    Ok(())
}

/// A packet that may open a connection.
#[inline(never)]
fn open(scope: &Scope<'_>, key: &FlowKey, flow: Option<*mut Flow>) -> Result<Pass, Denial> {
    let (parsed, view) = (scope.parsed, scope.view);
    let mut state = if view.sent { flags::OUTBOUND } else { 0 };
    let mut rule = 0;
    if view.exempt {
        state |= flags::EXEMPT;
    } else if view.sent && !view.translated && tables::is_service(scope.config, parsed.dst, parsed.dport, parsed.protocol) {
        state |= flags::PENDING;
    } else {
        let policy = scope.policy(view.sent);
        let decision = decide(&Tables(scope.config), policy, &key.remote, parsed.protocol, parsed.dport);
        if !decision.allow {
            return Err(Denial { reason: decision.reason, rule: decision.rule, policy });
        }
        rule = decision.rule;
    }
    if view.confirmed && parsed.protocol == TCP {
        state |= flags::REPLIED | flags::CONFIRMED;
    }
    match flow {
        Some(flow) => revive(scope.endpoint, key.protocol, flow, state, rule),
        None => create(scope, key, state, rule),
    }
}

/// Takes over the entry of a connection that is over, or notes a SYN on one that is not.
#[inline(always)]
fn revive(endpoint: &Endpoint, protocol: u8, flow: *mut Flow, state: u32, rule: u32) -> Result<Pass, Denial> {
    let (seen, old) = life(flow);
    let now = tables::now();
    if old & flags::DEAD != 0 {
        return Err(Denial::of(reason::TABLE_BUSY));
    }
    let same_opener = (old ^ state) & flags::OUTBOUND == 0;
    let alive = !conntrack::expired(seen, old, protocol, now) && !conntrack::closed(old);
    // A retransmitted SYN: allowed as the first one was, and nothing new.
    let next = if same_opener && alive { old } else { state | (old & flags::BORROWED) };
    // SAFETY: as `established`.
    if !unsafe { atomic::swap(flow.cast(), word(seen, old), word(now, next)) } {
        return Err(Denial::of(reason::TABLE_BUSY));
    }
    quota::change(endpoint.slot, old, next);
    // SAFETY: as `judge_again`.
    unsafe {
        (*flow).rule = rule;
        (*flow).revision = endpoint.revision;
    }
    Ok(Pass { state: next })
}

/// Makes an entry within the endpoint's quota.
#[inline(always)]
fn create(scope: &Scope<'_>, key: &FlowKey, state: u32, rule: u32) -> Result<Pass, Denial> {
    let (config, endpoint) = (scope.config, scope.endpoint);
    let borrowed = match quota::admit(config, endpoint.slot, state) {
        Ok(borrowed) => borrowed,
        // The node's probe passes even when nothing can be remembered.
        Err(_) if state & flags::EXEMPT != 0 => return Ok(STATELESS),
        Err(reason) => return Err(Denial::of(reason)),
    };
    let state = state | borrowed;
    let flow = Flow { seen: tables::now(), flags: state, revision: endpoint.revision, rule };
    let mut result = maps::CONNTRACK.insert(key, &flow, NOEXIST);
    // Kernels before 6.15 refuse when this processor interrupted itself in the bucket.
    if result == Err(EBUSY) {
        result = maps::CONNTRACK.insert(key, &flow, NOEXIST);
    }
    match result {
        Ok(()) => {
            quota::add(endpoint.slot, state);
            Ok(Pass { state })
        }
        // Another processor was first with a packet of the same connection.
        Err(EEXIST) => Ok(Pass { state }),
        Err(_) if state & flags::EXEMPT != 0 => Ok(STATELESS),
        Err(EBUSY) => Err(Denial::of(reason::TABLE_BUSY)),
        Err(_) => Err(Denial::of(reason::TABLE_FULL)),
    }
}

/// An ICMP error: passes if the packet that it quotes belongs to a live connection of the endpoint. It neither makes nor refreshes anything.
#[inline(never)]
fn related(scope: &Scope<'_>) -> Result<Pass, Denial> {
    let (endpoint, parsed, view) = (scope.endpoint, scope.parsed, scope.view);
    if view.exempt {
        return Ok(STATELESS);
    }
    let mut quoted = Parsed::default();
    packet::quoted(scope.skb, parsed, &mut quoted).map_err(Denial::of)?;
    // What the endpoint received if it complains, what it sent if somebody complains to it.
    let (own, remote, own_port, remote_port) = if view.sent {
        (quoted.dst, quoted.src, quoted.dport, quoted.sport)
    } else {
        (quoted.src, quoted.dst, quoted.sport, quoted.dport)
    };
    let address = if parsed.family == 0 { endpoint.v4 } else { endpoint.v6 };
    if own != address {
        return Err(Denial::of(reason::ICMP_ERROR));
    }
    let (own_port, remote_port) = if quoted.is_icmp() {
        let asked = matches!(icmp::classify(quoted.protocol, quoted.icmp_type()), Class::Request);
        conntrack::icmp_ports(quoted.sport, asked != view.sent)
    } else {
        (own_port, remote_port)
    };
    let key = conntrack::key(endpoint, remote, own_port, remote_port, quoted.protocol);
    if let Some(flow) = maps::CONNTRACK.get_ptr_mut(&key) {
        let (seen, state) = life(flow);
        if state & flags::DEAD == 0 && !conntrack::expired(seen, state, quoted.protocol, tables::now()) {
            return Ok(Pass { state });
        }
    }
    Err(Denial::of(reason::ICMP_ERROR))
}

/// `seen` and `flags` of an entry.
#[inline(always)]
pub fn life(flow: *mut Flow) -> (u32, u32) {
    // SAFETY: as `established`.
    unsafe { ((*flow).seen, (*flow).flags) }
}

/// The word that holds both.
#[inline(always)]
pub fn word(seen: u32, state: u32) -> u64 {
    if cfg!(target_endian = "little") { u64::from(seen) | u64::from(state) << 32 } else { u64::from(state) | u64::from(seen) << 32 }
}

/// The flags of such a word.
#[inline(always)]
fn flags_of(word: u64) -> u32 {
    if cfg!(target_endian = "little") { (word >> 32) as u32 } else { word as u32 }
}

/// Whether a datagram comes from a server's port that only the network may use: DHCP and DHCPv6 servers.
#[inline(always)]
pub fn is_rogue_server(parsed: &Parsed) -> bool {
    parsed.protocol == UDP && parsed.sport == if parsed.family == 0 { 67 } else { 547 }
}
