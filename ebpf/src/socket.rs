//! Pods in the host network, at their sockets: connections to the guarded addresses are made to the responder, anything else to them is refused, and
//! there is no way round the uplink guard.
//!
//! Steering decides nothing: whose a connection is says its SYN at the responder (`redirect.rs`), and what is sent without a kernel's socket meets the
//! uplink. Attached to the pods' cgroup, so whoever gets here is a pod. Sockets of other network namespaces are left to the interface programs, which know
//! the pod behind them. Each returns 1 to go on and 0 to refuse with EPERM.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use aya_ebpf::programs::{SockAddrContext, SockoptContext};
use portcullis_common::abi::{Config, config_flags, direction};
use portcullis_common::addr::{self, Addr};
use portcullis_common::conntrack::TCP;
use portcullis_common::{guard, reason};

use crate::maps::{self, At as _};
use crate::{emit, tables};

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;

const SOL_PACKET: i32 = 263;
const SOL_XDP: i32 = 283;
const PACKET_QDISC_BYPASS: i32 = 20;

/// connect4.
#[inline(always)]
pub fn connect_v4(ctx: &SockAddrContext) -> i32 {
    match judge(ctx, &destination_v4(ctx)) {
        Verdict::Steer(config, port) => {
            // SAFETY: the kernel hands a valid context, and these fields are writable in it; the verifier checks each access.
            unsafe {
                (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(addr::low4(&config.responder_v4));
                (*ctx.sock_addr).user_port = u32::from(port.to_be());
            }
            GO_ON
        }
        Verdict::Is(verdict) => verdict,
    }
}

/// connect6; IPv4 through a socket of IPv6 comes here with a mapped address, and goes on with one.
#[inline(always)]
pub fn connect_v6(ctx: &SockAddrContext) -> i32 {
    let dst = destination_v6(ctx);
    match judge(ctx, &dst) {
        Verdict::Steer(config, port) => {
            let [a, b, c, d] = addr::words(responder(config, &dst));
            // SAFETY: as `connect_v4`; word by word, as the verifier wants it.
            unsafe {
                let ip = &raw mut (*ctx.sock_addr).user_ip6;
                let ip = ip.cast::<u32>();
                ip.write_volatile(a);
                ip.add(1).write_volatile(b);
                ip.add(2).write_volatile(c);
                ip.add(3).write_volatile(d);
                (*ctx.sock_addr).user_port = u32::from(port.to_be());
            }
            GO_ON
        }
        Verdict::Is(verdict) => verdict,
    }
}

/// sendmsg4.
#[inline(always)]
pub fn send_v4(ctx: &SockAddrContext) -> i32 {
    datagram(ctx, &destination_v4(ctx))
}

/// sendmsg6; mapped addresses as for `connect_v6`.
#[inline(always)]
pub fn send_v6(ctx: &SockAddrContext) -> i32 {
    datagram(ctx, &destination_v6(ctx))
}

#[inline(always)]
fn destination_v4(ctx: &SockAddrContext) -> Addr {
    // SAFETY: the kernel hands a valid context; the verifier checks the access.
    let dst = unsafe { (*ctx.sock_addr).user_ip4 };
    addr::mapped(dst.to_ne_bytes())
}

#[inline(always)]
fn destination_v6(ctx: &SockAddrContext) -> Addr {
    // SAFETY: as above; four aligned words.
    let [a, b, c, d] = unsafe { (*ctx.sock_addr).user_ip6 };
    addr::join(a, b, c, d)
}

/// What becomes of a connection.
enum Verdict {
    /// [`GO_ON`] or [`REFUSE`].
    Is(i32),
    /// To the responder, at this port.
    Steer(&'static Config, u16),
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, dst: &Addr) -> Verdict {
    let Some(config) = tables::config() else {
        return Verdict::Is(refuse_metadata(dst));
    };
    let to = responder(config, dst);
    let is_on = config.flags & config_flags::RESPONDER != 0 && *to != addr::NONE;
    let is_metadata = guard::is_metadata(dst) || guard::embeds_metadata(dst);
    // Nobody calls the responder by its own address.
    let is_direct = is_on && dst == to;
    if (!is_metadata && !is_direct) || is_free(ctx, config) {
        return Verdict::Is(GO_ON);
    }
    // SAFETY: reads the context only.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let is_http = u16::from_be(port as u16) == guard::PORT && protocol == u32::from(TCP);
    match guard::service(dst) {
        Some(service) if is_http && is_on => {
            Verdict::Steer(config, config.responder_port + service)
        }
        _ => Verdict::Is(refuse()),
    }
}

/// The responder's address of the same family.
#[inline(always)]
fn responder<'a>(config: &'a Config, dst: &Addr) -> &'a Addr {
    if addr::is_v4(dst) {
        &config.responder_v4
    } else {
        &config.responder_v6
    }
}

#[inline(always)]
fn datagram(ctx: &SockAddrContext, dst: &Addr) -> i32 {
    if !guard::is_metadata(dst) && !guard::embeds_metadata(dst) {
        return GO_ON;
    }
    let Some(config) = tables::config() else {
        return REFUSE;
    };
    if is_free(ctx, config) {
        return GO_ON;
    }
    refuse()
}

/// Without settings nobody is free.
#[inline(always)]
fn refuse_metadata(dst: &Addr) -> i32 {
    if guard::is_metadata(dst) || guard::embeds_metadata(dst) {
        REFUSE
    } else {
        GO_ON
    }
}

#[inline(always)]
fn refuse() -> i32 {
    emit::count(0, direction::EGRESS, reason::METADATA_GUARD);
    REFUSE
}

/// Whether the guard for pods in the host network does not concern a socket: it is of another network namespace, the guard is off, or its pod is on the
/// allow list.
#[inline(always)]
fn is_free(ctx: &SockAddrContext, config: &Config) -> bool {
    // SAFETY: reads the context only (Linux 5.14 for connect, before that for sendmsg).
    let foreign = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != config.netns_cookie;
    foreign || config.flags & config_flags::HOST_NETWORK_GUARD == 0 || is_allowed(config)
}

/// Whether the calling process belongs to a pod on the allow list (see `guard::is_cgroup_allowed`).
#[inline(always)]
fn is_allowed(config: &Config) -> bool {
    // SAFETY: no memory is touched.
    let ids = unsafe {
        [
            bpf_get_current_ancestor_cgroup_id(config.pods_cgroup_level as i32 + 1),
            bpf_get_current_ancestor_cgroup_id(config.pods_cgroup_level as i32 + 2),
        ]
    };
    maps::CGROUPS.at(ids[0]).is_some() || maps::CGROUPS.at(ids[1]).is_some()
}

/// setsockopt: refuses what lets frames leave without passing TC egress (`PACKET_QDISC_BYPASS`, AF_XDP).
#[inline(always)]
pub fn option(ctx: &SockoptContext) -> i32 {
    // SAFETY: as `destination_v4`.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    if level == SOL_XDP || (level == SOL_PACKET && name == PACKET_QDISC_BYPASS) {
        let allowed = tables::config().is_some_and(|config| {
            config.flags & config_flags::HOST_NETWORK_GUARD == 0 || is_allowed(config)
        });
        if !allowed {
            emit::count(0, direction::EGRESS, reason::BYPASS_OPTION);
            return REFUSE;
        }
    }
    // SAFETY: as above. 0 = the caller's value as it is, also where it is longer than the kernel copied for us (a page).
    unsafe { (*ctx.sockopt).optlen = 0 };
    GO_ON
}
