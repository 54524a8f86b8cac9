//! ICMP: requests and replies are connections, errors belong to the connection that they quote.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::abi::FlowKey;
use portcullis_common::conntrack;
use portcullis_common::icmp::{self, Class, ICMP, ICMPV6};
use portcullis_common::packet::{self, Parsed, Quoted};
use portcullis_common::reason;

use super::entry::{is_alive, life};
use super::open::open;
use super::{Outcome, established, view};
use crate::ctx::{Frame, Skb};
use crate::scratch::Request;
use crate::{maps, tables};

/// The same for ICMP, whose messages are requests, replies, errors or plumbing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_icmp(
    skb: *mut __sk_buff,
    parsed: *const Parsed,
    request: *mut Request,
    l3: u32,
) -> u64 {
    // SAFETY: the verifier checks both pointers against their types; a null one never comes.
    let (Some(parsed), Some(request), Some(scratch)) = (
        unsafe { parsed.as_ref() },
        unsafe { request.as_mut() },
        tables::scratch(),
    ) else {
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
    let flow = maps::CONNTRACK.get_ptr_mut(request.own_key(scratch));
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
    let (Some(parsed), Some(request), Some(scratch)) = (
        unsafe { parsed.as_ref() },
        unsafe { request.as_ref() },
        tables::scratch(),
    ) else {
        return 0;
    };
    let sent = request.view & view::SENT != 0;
    let quoted = scratch.quoted.put(Quoted::default());
    let skb = &Skb::indirect(Frame::new(skb), l3 as usize & 31, scratch);
    if let Err(reason) = packet::quoted(skb, parsed, quoted) {
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
    let key = scratch.flow_key.put(FlowKey {
        remote: *remote,
        local_port: own_port,
        remote_port,
        protocol: quoted.protocol,
        ..request.key
    });
    match maps::CONNTRACK.get_ptr_mut(&*key) {
        Some(flow) if is_alive(flow, tables::now()) => Outcome::pass(life(flow).1).0,
        _ => Outcome::deny(reason::ICMP_ERROR, 0).0,
    }
}
