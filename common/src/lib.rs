//! The contract between the kernel programs and the agent.
//!
//! Everything that both sides must agree on is here once: records of maps and events ([`abi`]), addresses ([`addr`]), the packet parser
//! ([`packet`], and [`glance`] for most packets), the steps of connection tracking ([`conntrack`]), the verdict of a compiled policy ([`policy`]), the guarded addresses
//! ([`guard`]) and the numbered reasons ([`reason`]). It knows no map, no socket and no Kubernetes.
//!
//! To change a record: edit it in [`abi`], raise [`ABI_VERSION`], run `cargo xtask abi --bless`. Pins live under a directory that carries the
//! number, so programs and maps of two versions never meet.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![warn(missing_docs)]

pub mod abi;
pub mod addr;
pub mod conntrack;
pub mod glance;
pub mod guard;
pub mod icmp;
pub mod packet;
pub mod policy;
pub mod reason;

/// Version of every record in [`abi`]; part of the pin path.
pub const ABI_VERSION: u32 = 4;
