//! The redirect: TCP connections to the guarded addresses, port 80, reach the node's responder, and the pod does not notice.
//!
//! ```text
//! pod -> 169.254.169.254:80     pc_from_pod: notes whose the connection is at its SYN, writes the responder's address and port
//!     -> responder              pc_to_host: lets nothing else reach it
//! pod <- 169.254.169.254:80     pc_to_pod: writes the guarded address and port back
//!
//! in the host network           pc_connect4, pc_connect6: the connection is made to the responder
//!     -> responder              pc_to_host: notes at its SYN which pod's socket sent it, and lets no other in
//! ```
//! No state but the note: the responder has a port for each guarded address, so the way back follows from the packet alone.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_sk_ancestor_cgroup_id,
    bpf_sk_lookup_tcp, bpf_sk_release, bpf_skb_store_bytes,
};
use portcullis_common::abi::{
    Config, Endpoint, HOST_ORIGINS, HOST_SLOT, ORIGINS_PER_SLOT, Origin, OriginKey, config_flags,
};
use portcullis_common::addr::{self, Addr};
use portcullis_common::conntrack::{TCP, tcp};
use portcullis_common::guard;
use portcullis_common::packet::{Parsed, fragment};

use crate::ctx::{self, BARE, ETHERNET, Frame, Skb, stage};
use crate::scratch::SocketTuple;
use crate::{maps, tables};

/// Guarded addresses, and so ports of the responder.
const SERVICES: u16 = guard::ADDRESSES.len() as u16;

/// `LOOPBACK_IFINDEX`: the same in every network namespace.
const LOOPBACK: u32 = 1;
/// State of a socket whose SYN has no answer yet.
const SYN_SENT: u32 = 2;
/// `BPF_F_CURRENT_NETNS`.
const THIS_NAMESPACE: u64 = u64::MAX;

/// Whether a packet is addressed to the responder itself: nobody but the redirect may.
#[inline(always)]
pub fn is_responder(parsed: &Parsed) -> bool {
    tables::config().is_some_and(|config| {
        is_on(config)
            && parsed.dst == *tables::of_family(&config.responder_v4, &config.responder_v6, parsed)
    })
}

/// Sends a blocked packet to the responder, if it belongs to a connection for it. False: it stays blocked.
#[inline(always)]
pub fn to_responder(skb: &Skb, endpoint: &Endpoint, parsed: &Parsed) -> bool {
    if parsed.protocol != TCP || parsed.dport != guard::PORT || parsed.fragment != fragment::WHOLE {
        return false;
    }
    let of = u32::from(endpoint.slot) << 8 | u32::from(endpoint.generation);
    if redirect_send(skb.raw(), parsed, of) == 0 {
        return false;
    }
    skb.set_stage(stage::REDIRECTED);
    true
}

/// Whether a packet of the node is an answer of the responder, which then stands in it as the guarded address's.
#[inline(always)]
pub fn is_answer(skb: &Skb, parsed: &Parsed) -> bool {
    let Some(config) = tables::config() else {
        return false;
    };
    let service = parsed.sport.wrapping_sub(config.responder_port);
    if parsed.protocol != TCP
        || !is_on(config)
        || service >= SERVICES
        || parsed.src != *tables::of_family(&config.responder_v4, &config.responder_v6, parsed)
    {
        return false;
    }
    redirect_answer(skb.raw(), parsed, u32::from(service)) != 0
}

/// Whether a packet that a socket is about to get is for the responder, did not come by the redirect, and not from the socket of a pod in the host network.
#[inline(always)]
pub fn is_intruder(frame: Frame) -> bool {
    let Some(config) = tables::config() else {
        return false;
    };
    let service = frame
        .local_port()
        .wrapping_sub(u32::from(config.responder_port));
    if service >= u32::from(SERVICES) || !is_on(config) || frame.stage() == stage::REDIRECTED {
        return false;
    }
    redirect_admit(frame.raw()) == 0
}

/// A global function (see `flow`). Returns 1 if the packet may reach the socket.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn redirect_admit(raw: *mut __sk_buff) -> u64 {
    let (Some(config), Some(scratch)) = (tables::config(), tables::scratch()) else {
        return 0;
    };
    let frame = Frame::new(raw);
    let skb = &Skb::indirect(frame, BARE, scratch);
    let parsed = scratch.parsed.put(Parsed::default());
    if ctx::parse(skb, skb.protocol(), parsed).is_err() {
        return 0;
    }
    // Other sockets may have the same port, also in other network namespaces: the address tells.
    if parsed.dst != *tables::of_family(&config.responder_v4, &config.responder_v6, parsed) {
        return 1;
    }
    if frame.ifindex() != LOOPBACK || parsed.fragment != fragment::WHOLE {
        return 0;
    }
    // What follows a SYN that came in belongs to its connection, or to none.
    if !tcp::opens(parsed.tcp_flags) {
        return 1;
    }
    let cgroups = sender(skb, parsed, config);
    if cgroups == [0, 0] {
        return 0;
    }
    let key = scratch.origin_key.put(OriginKey {
        slot: HOST_SLOT,
        way: parsed.sport & (HOST_ORIGINS as u16 - 1),
    });
    let origin = scratch.origin.put(Origin {
        src: parsed.src,
        cgroups,
        ifindex: 0,
        seen: tables::now(),
        sport: parsed.sport,
        port: parsed.dport,
        generation: 0,
        reserved: [0; 3],
    });
    u64::from(
        maps::ORIGINS
            .insert(&*key, &*origin, u64::from(BPF_ANY))
            .is_ok(),
    )
}

/// Cgroups of the socket that sent a SYN, one and two levels below the pods' parent; zeroes if no pod's connecting socket did.
///
/// The socket is looked up by the packet's addresses and has to be in `SYN_SENT`: a frame that somebody made by hand belongs to none. (Linux 4.20; 5.8 for
/// the cgroup.)
#[inline(always)]
fn sender(skb: &Skb, parsed: &Parsed, config: &Config) -> [u64; 2] {
    let tuple = skb.scratch().tuple.get();
    let [sport, dport] = [parsed.dport.to_be(), parsed.sport.to_be()];
    // SAFETY: the place is this processor's and as long as the longer tuple; the helper reads as much as it is told.
    let socket = unsafe {
        let length = if parsed.family == addr::V4 as u8 {
            tuple.write(SocketTuple::default());
            let v4 = tuple.cast::<u32>();
            v4.write(last(&parsed.dst));
            v4.add(1).write(last(&parsed.src));
            v4.add(2).cast::<u16>().write(sport);
            v4.add(2).cast::<u16>().add(1).write(dport);
            12
        } else {
            tuple.write(SocketTuple {
                remote: parsed.dst,
                local: parsed.src,
                ports: [sport, dport],
            });
            36
        };
        bpf_sk_lookup_tcp(skb.raw().cast(), tuple.cast(), length, THIS_NAMESPACE, 0)
    };
    if socket.is_null() {
        return [0, 0];
    }
    // SAFETY: the helper gave a socket and a reference on it, which is given back; the verifier checks both.
    unsafe {
        let mut cgroups = [0, 0];
        let level = config.pods_cgroup_level as i32;
        if (*socket).state == SYN_SENT
            && bpf_sk_ancestor_cgroup_id(socket.cast(), level) == config.pods_cgroup
        {
            cgroups = [
                bpf_sk_ancestor_cgroup_id(socket.cast(), level + 1),
                bpf_sk_ancestor_cgroup_id(socket.cast(), level + 2),
            ];
        }
        bpf_sk_release(socket.cast());
        cgroups
    }
}

#[inline(always)]
const fn is_on(config: &Config) -> bool {
    config.flags & config_flags::RESPONDER != 0
}

/// A global function (see `flow`). `of` = slot << 8 | generation. Returns 1 if the packet is on its way to the responder.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn redirect_send(raw: *mut __sk_buff, parsed: *const Parsed, of: u32) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let (Some(parsed), Some(config), Some(scratch)) = (
        unsafe { parsed.as_ref() },
        tables::config(),
        tables::scratch(),
    ) else {
        return 0;
    };
    let Some(service) = guard::service(&parsed.dst) else {
        return 0;
    };
    if !is_on(config) {
        return 0;
    }
    let port = config.responder_port + service;
    if tcp::opens(parsed.tcp_flags) {
        let frame = Frame::new(raw);
        let key = scratch.origin_key.put(OriginKey {
            slot: (of >> 8) as u16,
            way: parsed.sport & (ORIGINS_PER_SLOT as u16 - 1),
        });
        let origin = scratch.origin.put(Origin {
            src: parsed.src,
            cgroups: [0; 2],
            ifindex: frame.ifindex(),
            seen: tables::now(),
            sport: parsed.sport,
            port,
            generation: of as u8,
            reserved: [0; 3],
        });
        if maps::ORIGINS
            .insert(&*key, &*origin, u64::from(BPF_ANY))
            .is_err()
        {
            return 0;
        }
    }
    let new = tables::of_family(&config.responder_v4, &config.responder_v6, parsed);
    let skb = &Skb::indirect(Frame::new(raw), ETHERNET, scratch);
    u64::from(
        rewrite(
            skb,
            parsed,
            (&parsed.dst, new),
            (parsed.dport, port),
            DESTINATION,
        )
        .is_some(),
    )
}

/// A global function likewise. Returns 1 if the packet comes from the guarded address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn redirect_answer(raw: *mut __sk_buff, parsed: *const Parsed, service: u32) -> u64 {
    // SAFETY: as above.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_ref() }, tables::scratch()) else {
        return 0;
    };
    let new = scratch.address.put(guard::address(service as u16));
    let skb = &Skb::indirect(Frame::new(raw), ETHERNET, scratch);
    u64::from(
        rewrite(
            skb,
            parsed,
            (&parsed.src, new),
            (parsed.sport, guard::PORT),
            SOURCE,
        )
        .is_some(),
    )
}

/// Where the address stands in IPv4's and IPv6's header, and the port in TCP's.
type Place = (u32, u32, u32);
const SOURCE: Place = (12, 8, 0);
const DESTINATION: Place = (16, 24, 2);
/// Where TCP's checksum stands.
const CHECKSUM: u32 = 16;

/// Writes an address and a port, and mends the checksums.
#[inline(always)]
fn rewrite(
    skb: &Skb,
    parsed: &Parsed,
    (old, new): (&Addr, &Addr),
    (old_port, new_port): (u16, u16),
    (v4, v6, port): Place,
) -> Option<()> {
    let ip = ETHERNET as u32;
    let transport = ip + (parsed.transport & 0xfff);
    let raw = skb.raw();
    let new_port = skb.scratch().key.put(u64::from(new_port.to_be()));
    // SAFETY: the helpers check offsets against the packet; the addresses are 16 bytes and the port's place is 8.
    unsafe {
        if parsed.family == addr::V4 as u8 {
            let (old, new_at) = (last(old), (&raw const *new).cast::<u8>().add(12));
            let new = last(new);
            done(bpf_l3_csum_replace(
                raw,
                ip + 10,
                u64::from(old),
                u64::from(new),
                4,
            ))?;
            done(bpf_l4_csum_replace(
                raw,
                transport + CHECKSUM,
                u64::from(old),
                u64::from(new),
                u64::from(BPF_F_PSEUDO_HDR) | 4,
            ))?;
            done(bpf_skb_store_bytes(raw, ip + v4, new_at.cast(), 4, 0))?;
        } else {
            let difference = bpf_csum_diff(
                (&raw const *old).cast_mut().cast(),
                16,
                (&raw const *new).cast_mut().cast(),
                16,
                0,
            );
            done(bpf_l4_csum_replace(
                raw,
                transport + CHECKSUM,
                0,
                difference as u64,
                u64::from(BPF_F_PSEUDO_HDR),
            ))?;
            done(bpf_skb_store_bytes(
                raw,
                ip + v6,
                (&raw const *new).cast(),
                16,
                0,
            ))?;
        }
        done(bpf_l4_csum_replace(
            raw,
            transport + CHECKSUM,
            u64::from(old_port.to_be()),
            *new_port,
            2,
        ))?;
        done(bpf_skb_store_bytes(
            raw,
            transport + port,
            (&raw const *new_port).cast(),
            2,
            0,
        ))
    }
}

/// The IPv4 address in a mapped one, as it lies in memory.
#[inline(always)]
const fn last(addr: &Addr) -> u32 {
    u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]])
}

#[inline(always)]
const fn done(result: i64) -> Option<()> {
    if result == 0 { Some(()) } else { None }
}
