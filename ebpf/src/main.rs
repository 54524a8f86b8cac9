//! The kernel programs. Entry points only: each builds a context, calls one function and maps its outcome to the hook's action code.
//!
//! | program | hook | sees |
//! |---|---|---|
//! | `pc_from_pod` | TC ingress of a pod's host interface | what the pod sends, before any translation |
//! | `pc_to_pod` | TC egress of a pod's host interface | what reaches the pod, after translation |
//! | `pc_uplink` | TC egress of an interface towards the network | what leaves the node, after translation |
//! | `pc_to_host` | `cgroup_skb` ingress of the host cgroup | what is delivered to sockets of the node |
//! | `pc_connect4` ... | cgroup socket hooks of the pods' cgroup | what pods in the host network ask of the kernel |
//! | `pc_sweep` | none: run by the agent through `BPF_PROG_TEST_RUN` | the conntrack table |
//! | `pc_adopt` | none: likewise | a connection that is older than the programs |
//!
//! On the host this crate is empty, so that editors and clippy work everywhere; `cargo xtask build` compiles it for the kernel.
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    expect(
        unreachable_pub,
        reason = "a binary: what modules share is `pub`, as everywhere else in the tree"
    ),
    expect(internal_features, reason = "see `atomic`"),
    feature(core_intrinsics, asm_experimental_arch)
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod adopt;
#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod ctx;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod fragments;
#[cfg(target_arch = "bpf")]
mod guard;
#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod neighbour;
#[cfg(target_arch = "bpf")]
mod note;
#[cfg(target_arch = "bpf")]
mod quota;
#[cfg(target_arch = "bpf")]
mod recent;
#[cfg(target_arch = "bpf")]
mod redirect;
#[cfg(target_arch = "bpf")]
mod scratch;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod sweep;
#[cfg(target_arch = "bpf")]
mod tables;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, cgroup_sockopt, classifier};
    use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockoptContext, TcContext};

    use crate::ctx::{self, Frame};
    use crate::{adopt, hooks, socket, sweep};

    #[classifier]
    pub fn pc_from_pod(ctx: TcContext) -> i32 {
        hooks::from_pod(Frame::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn pc_to_pod(ctx: TcContext) -> i32 {
        hooks::to_pod(Frame::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn pc_uplink(ctx: TcContext) -> i32 {
        hooks::uplink(Frame::new(ctx.skb.skb), ctx::ETHERNET)
    }

    /// For uplinks without link-layer header: WireGuard, tun.
    #[classifier]
    pub fn pc_uplink_l3(ctx: TcContext) -> i32 {
        hooks::uplink(Frame::new(ctx.skb.skb), ctx::BARE)
    }

    #[cgroup_skb(ingress)]
    pub fn pc_to_host(ctx: SkBuffContext) -> i32 {
        hooks::to_host(Frame::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn pc_sweep(_ctx: TcContext) -> i32 {
        sweep::run()
    }

    #[classifier]
    pub fn pc_adopt(ctx: TcContext) -> i32 {
        adopt::run(Frame::new(ctx.skb.skb))
    }

    #[cgroup_sock_addr(connect4)]
    pub fn pc_connect4(ctx: SockAddrContext) -> i32 {
        socket::connect_v4(&ctx)
    }

    #[cgroup_sock_addr(connect6)]
    pub fn pc_connect6(ctx: SockAddrContext) -> i32 {
        socket::connect_v6(&ctx)
    }

    #[cgroup_sock_addr(sendmsg4)]
    pub fn pc_sendmsg4(ctx: SockAddrContext) -> i32 {
        socket::send_v4(&ctx)
    }

    #[cgroup_sock_addr(sendmsg6)]
    pub fn pc_sendmsg6(ctx: SockAddrContext) -> i32 {
        socket::send_v6(&ctx)
    }

    #[cgroup_sockopt(setsockopt)]
    pub fn pc_setsockopt(ctx: SockoptContext) -> i32 {
        socket::option(&ctx)
    }

    /// `bpf_ktime_get_coarse_ns` and others are GPL-only helpers; the source is also under the project's licence.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
