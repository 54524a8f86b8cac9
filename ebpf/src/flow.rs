//! A packet's way through connection tracking to its verdict.
//!
//! ```text
//! key -> entry, alive and not a SYN -> judged with an older revision? judge again -> note the packet -> pass
//!     \-> no entry, or a SYN       -> may it open a connection? -> policy -> quota -> make or revive the entry -> pass
//! ```
//! One path for both families, both directions and all places. What is not on the way of every packet are *global* functions (`extern "C"`): the
//! verifier checks each once by itself (Linux 5.6; pointers to memory 5.12), not once for each way that leads to it. They take plain data and answer
//! with one number, an [`Outcome`].

mod entry;
mod icmp;
mod open;
mod outcome;

use portcullis_common::abi::{Endpoint, Flow, FlowKey};
use portcullis_common::conntrack::{self, TCP, UDP, flags, tcp};
use portcullis_common::icmp::{ICMP, ICMPV6};
use portcullis_common::packet::Parsed;
use portcullis_common::policy::{self, decide};
use portcullis_common::reason;

pub use entry::{life, word};
pub use outcome::Outcome;

use crate::ctx::Skb;
use crate::scratch::{Request, Scratch};
use crate::tables::{self, Tables};
use crate::{atomic, maps, quota};
use entry::{flags_of, is_alive};
use icmp::flow_icmp;
pub use open::insert;
use open::open;

/// How a packet stands to its endpoint.
pub mod view {
    /// The endpoint sent it; else it is for the endpoint.
    pub const SENT: u16 = 1;
    /// Behind the translation: the destination is the real one.
    pub const TRANSLATED: u16 = 2;
    /// Where a deferred egress verdict is made up for.
    pub const BEHIND: u16 = SENT | TRANSLATED;
    /// From the endpoint's own node, or from the endpoint itself: never judged.
    pub const EXEMPT: u16 = 4;
    /// Behind the translation: the connection's handshake was complete in front of it, so a segment without SYN may make the entry.
    pub const CONFIRMED: u16 = 8;
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

    /// A copy of the key: before Linux 6.2 a map takes no key from memory that a global function was handed.
    #[inline(always)]
    fn own_key<'a>(&self, scratch: &'a Scratch) -> &'a FlowKey {
        scratch.flow_key.put(self.key)
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
    let request = skb
        .scratch()
        .request
        .put(Request::new(endpoint, parsed, view));
    if parsed.is_icmp() {
        return Outcome(flow_icmp(skb.raw(), parsed, request, skb.l3()));
    }
    // A SYN is a new connection, whatever is remembered: it never rides on an entry.
    let syn = parsed.protocol == TCP && tcp::opens(parsed.tcp_flags);
    let flow = maps::CONNTRACK.get_ptr_mut(&request.key);
    if let Some(flow) = flow
        && !syn
    {
        let now = tables::now();
        if is_alive(flow, now) {
            return established(request, parsed.tcp_flags, flow, now);
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
    open(request, flow)
}

/// A packet of a connection that is remembered.
#[inline(always)]
fn established(request: &Request, tcp_flags: u8, flow: *mut Flow, now: u32) -> Outcome {
    // SAFETY: a removed entry's memory stays readable until this program ends; a word at a time.
    let (state, seen, revision) = unsafe { ((*flow).flags, (*flow).seen, (*flow).revision) };
    // To a Service address that nothing translated: the entry is the one of in front of the translation, and decides nothing behind it.
    if state & flags::PENDING != 0 && request.view & view::BEHIND == view::BEHIND {
        return Outcome(flow_judge_untranslated(request));
    }
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
    let (Some(request), Some(tables)) = (unsafe { request.as_ref() }, Tables::get()) else {
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
            &tables,
            request.policy(outbound),
            &request.key.remote,
            request.key.protocol,
            opening_port(&request.key, outbound),
        );
        if !decision.allow {
            if maps::CONNTRACK
                .remove(request.own_key(tables.scratch))
                .is_ok()
            {
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

/// Judges one packet by policy and remembers nothing: whoever comes next may be translated.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_judge_untranslated(request: *const Request) -> u64 {
    // SAFETY: as `flow_icmp`.
    let (Some(request), Some(tables)) = (unsafe { request.as_ref() }, Tables::get()) else {
        return 0;
    };
    let decision = decide(
        &tables,
        request.policy(true),
        &request.key.remote,
        request.key.protocol,
        request.dport,
    );
    if decision.allow {
        Outcome::pass(0).0
    } else {
        Outcome::deny(decision.reason, decision.rule).0
    }
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

/// Whether a datagram comes from a server's port that only the network may use: DHCP and DHCPv6 servers.
#[inline(always)]
pub fn is_rogue_server(parsed: &Parsed) -> bool {
    parsed.protocol == UDP && parsed.sport == if parsed.family == 0 { 67 } else { 547 }
}
