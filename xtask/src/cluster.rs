//! `cargo xtask cluster`: a real Kubernetes cluster on this machine, without Docker or images from outside.
//!
//! ```text
//! programs (Go modules, Debian) -> images -> control plane in a namespace -> nodes -> CoreDNS
//! ```
//! A node is a network and a mount namespace with its own containerd, kubelet, kube-proxy and bpffs; one may be
//! a virtual machine with another kernel. All processes are in one cgroup, all files in one folder, namespaces
//! are kept by pins in that folder or by those processes: whatever happens, [`down`] finds everything by these two names. How it looks from outside: docs/cluster.md.

mod cgroup;
mod control;
mod daemon;
mod down;
mod guest;
mod images;
mod load;
mod mounts;
mod names;
mod network;
mod node;
mod pki;
mod place;
mod programs;
mod run;
mod session;
mod up;

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::failure::Failure;
use crate::layout::Layout;
use crate::setup;

pub(crate) use session::Session;
pub(crate) use up::{Family, Proxy};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build what the cluster runs, unless the cache has it; `up` does so too
    Build,
    /// Bring the cluster up; what a crash left is removed first
    Up(up::Options),
    /// Import images, docker or OCI archives, on every node
    Load {
        #[arg(required = true, value_name = "FILE.tar")]
        files: Vec<PathBuf>,
    },
    /// Run a command with the cluster's `KUBECONFIG` and programs: `run -- kubectl get pods -A`
    Run {
        /// Run it in this node's namespaces and cgroup
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// End the cluster and remove everything of it
    Down,
    /// Run a command in a guest; whoever runs this is in the control plane's namespace
    #[command(hide = true)]
    Wire {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

pub(crate) fn run(verb: &Verb) -> Result<()> {
    let need_root = |verb| {
        let again = format!("cargo xtask cluster {verb}");
        setup::need_root("work on the cluster", &again)
    };
    match verb {
        Verb::Build => {
            let layout = Layout::find()?;
            images::ready(&layout, &programs::ready(&layout)?).map(|_| ())
        }
        Verb::Up(options) => {
            need_root("up")?;
            let _alone = alone()?;
            up::up(&Layout::find()?, options)
        }
        Verb::Load { files } => {
            need_root("load")?;
            load::load(files)
        }
        Verb::Run { node, command } => {
            need_root("run")?;
            run::run(node.as_deref(), command)
        }
        Verb::Down => {
            need_root("down")?;
            let _alone = alone()?;
            down::down()
        }
        Verb::Wire { node, command } => guest::wire::run(run::find(node)?, command),
    }
}

/// Only one of us changes the cluster. The lock is a name in the kernel that ends with the process, so
/// it leaves no file and survives no crash.
fn alone() -> Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(names::CLUSTER).context("the name is short")?;
    UnixListener::bind_addr(&name).map_err(|source| {
        Failure::new(
            "cannot change the cluster",
            format!("another `cluster up` or `cluster down` is at work ({source})"),
            "wait until it has ended, or end it, and run the command again",
        )
        .into()
    })
}
