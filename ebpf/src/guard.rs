//! The metadata guard: who may not reach the guarded addresses. It needs no policy and no API data.

use aya_ebpf::helpers::bpf_skb_ancestor_cgroup_id;
use portcullis_common::abi::{Config, Endpoint, endpoint_flags};
use portcullis_common::addr;
use portcullis_common::guard;
use portcullis_common::packet::Parsed;

use crate::ctx::Skb;
use crate::maps::{self, At as _};

/// Whether a packet's destination is guarded, in whatever form.
#[inline(always)]
pub fn is_guarded(parsed: &Parsed) -> bool {
    guard::is_metadata(&parsed.dst)
        || (parsed.family == addr::V6 as u8 && guard::embeds_metadata(&parsed.dst))
}

/// Whether the endpoint's service account is on the allow list.
#[inline(always)]
pub fn is_allowed(endpoint: &Endpoint) -> bool {
    endpoint.flags & endpoint_flags::METADATA_ALLOWED != 0
}

/// Whether a socket of a pod in the host network sent the packet. False where there is no socket: it was forwarded or made by the kernel.
#[inline(always)]
pub fn is_from_pods_cgroup(skb: &Skb, config: &Config) -> bool {
    config.pods_cgroup != 0 && ancestor(skb, config.pods_cgroup_level) == config.pods_cgroup
}

/// Whether that pod is on the allow list. Pods' cgroups are one or two levels below the parent (kubepods/pod..., kubepods/burstable/pod...).
#[inline(always)]
pub fn is_cgroup_allowed(skb: &Skb, config: &Config) -> bool {
    maps::CGROUPS
        .at(ancestor(skb, config.pods_cgroup_level + 1))
        .is_some()
        || maps::CGROUPS
            .at(ancestor(skb, config.pods_cgroup_level + 2))
            .is_some()
}

/// Id of the sending socket's cgroup at a depth; 0 = none. The socket keeps the cgroup in which it was made (Linux 4.19).
#[inline(always)]
fn ancestor(skb: &Skb, level: u32) -> u64 {
    // SAFETY: reads the socket buffer only.
    unsafe { bpf_skb_ancestor_cgroup_id(skb.raw(), level as i32) }
}
