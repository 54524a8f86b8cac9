//! Pods in the host network, at their sockets: no connection or datagram to the guarded addresses, no way round the uplink guard.
//!
//! Attached to the pods' cgroup, so whoever gets here is a pod. Sockets of other network namespaces are left to the interface programs, which know
//! the pod behind them. Each returns 1 to go on and 0 to refuse with EPERM.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use aya_ebpf::programs::{SockAddrContext, SockoptContext};
use portcullis_common::abi::{Config, config_flags, direction};
use portcullis_common::addr::{self, Addr};
use portcullis_common::{guard, reason};

use crate::maps::{self, At as _};
use crate::{emit, tables};

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;

const SOL_PACKET: i32 = 263;
const SOL_XDP: i32 = 283;
const PACKET_QDISC_BYPASS: i32 = 20;

/// connect4 and sendmsg4.
#[inline(always)]
pub fn destination_v4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel hands a valid context; the verifier checks the access.
    let dst = unsafe { (*ctx.sock_addr).user_ip4 };
    judge(ctx, &addr::mapped(dst.to_ne_bytes()))
}

/// connect6 and sendmsg6; IPv4 through a socket of IPv6 comes here with a mapped address.
#[inline(always)]
pub fn destination_v6(ctx: &SockAddrContext) -> i32 {
    // SAFETY: as above; four aligned words.
    let [a, b, c, d] = unsafe { (*ctx.sock_addr).user_ip6 };
    judge(ctx, &addr::join(a, b, c, d))
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, dst: &Addr) -> i32 {
    if !guard::is_metadata(dst) && !guard::embeds_metadata(dst) {
        return GO_ON;
    }
    let Some(config) = tables::config() else {
        return REFUSE;
    };
    // SAFETY: reads the context only (Linux 5.14 for connect, before that for sendmsg).
    let foreign = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != config.netns_cookie;
    if foreign || config.flags & config_flags::HOST_NETWORK_GUARD == 0 || is_allowed(config) {
        return GO_ON;
    }
    emit::count(0, direction::EGRESS, reason::METADATA_GUARD);
    REFUSE
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
