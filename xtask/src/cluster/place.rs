//! Where a process of the cluster runs: a cgroup, a network and a mount namespace, or a guest.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::cgroup::Hierarchies;
use super::names::{self, Node};
use crate::failure::Failure;

/// Joins the cgroup first: its path is not the same in the node's mount namespace.
const ENTER: &str = r#"echo 0 >"$0/cgroup.procs" && exec "$@""#;

pub(crate) struct Place {
    cgroup: PathBuf,
    network: PathBuf,
    mounts: Option<PathBuf>,
    /// What leads on into a guest: a command of ours that passes the words over its wire.
    wire: Vec<OsString>,
}

impl Place {
    pub(crate) fn control(hierarchies: &Hierarchies) -> Self {
        Self {
            cgroup: hierarchies.control(),
            network: names::control_network(),
            mounts: None,
            wire: Vec::new(),
        }
    }

    /// Where a guest's QEMU is: in the node's cgroup, beside the control plane.
    pub(crate) fn machine(hierarchies: &Hierarchies, node: Node) -> Self {
        Self {
            cgroup: hierarchies.host(node),
            ..Self::control(hierarchies)
        }
    }

    /// A node that has no mounts of its own yet; whoever starts there first is to make them.
    pub(crate) fn bare(hierarchies: &Hierarchies, node: Node) -> Self {
        Self {
            cgroup: hierarchies.holder(node),
            network: node.network(),
            mounts: None,
            wire: Vec::new(),
        }
    }

    /// A node as its own daemons see it.
    pub(crate) fn host(hierarchies: &Hierarchies, node: Node) -> Result<Self> {
        if node.kernel().is_some() {
            let words = ["cluster", "wire", &node.name(), "--"].map(OsString::from);
            return Ok(Self {
                wire: [vec![ourselves()?.into()], words.to_vec()].concat(),
                ..Self::machine(hierarchies, node)
            });
        }
        let holder = hierarchies.held_by(node)?;
        Ok(Self {
            cgroup: hierarchies.host(node),
            network: node.network(),
            mounts: Some(format!("/proc/{holder}/ns/mnt").into()),
            wire: Vec::new(),
        })
    }

    /// The same for a command outside of `up`.
    pub(crate) fn on(node: Node) -> Result<Self> {
        Self::host(&Hierarchies::find()?, node)
    }

    /// The program there. It replaces the shell and nsenter, so the child is the program itself.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.prefixed(&[], program.as_ref())
    }

    /// The same, in a session of its own: no signal from the terminal reaches it.
    pub(crate) fn session(&self, program: impl AsRef<OsStr>) -> Command {
        self.prefixed(&["setsid"], program.as_ref())
    }

    /// The same, in a folder of that place. A guest does not have our folders: there it is the root.
    pub(crate) fn command_in(&self, folder: &OsStr, program: &OsStr) -> Command {
        let mut command = self.enter(&[]);
        if self.wire.is_empty() {
            command.arg(joined("--wdns=", folder));
        }
        command.arg("--").args(&self.wire).arg(program);
        command
    }

    fn prefixed(&self, prefix: &[&str], program: &OsStr) -> Command {
        let mut command = self.enter(prefix);
        command.arg("--").args(&self.wire).arg(program);
        command
    }

    fn enter(&self, prefix: &[&str]) -> Command {
        let mut words = prefix.iter().copied().chain(["sh", "-c", ENTER]);
        let mut command = Command::new(words.next().expect("sh is there"));
        command.args(words).arg(&self.cgroup).arg("nsenter");
        command.arg(joined("--net=", &self.network));
        if let Some(mounts) = &self.mounts {
            command.arg(joined("--mount=", mounts));
        }
        command
    }
}

/// The file of this program.
pub(crate) fn ourselves() -> Result<PathBuf> {
    env::current_exe().map_err(|source| {
        Failure::new(
            "cannot run a command of our own",
            source.to_string(),
            "start it by cargo xtask",
        )
        .into()
    })
}

/// An option and its value as one word.
pub(crate) fn joined(option: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(option);
    word.push(value);
    word
}
