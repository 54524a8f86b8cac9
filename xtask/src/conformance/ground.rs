//! Where the pods of a suite run: on the nodes of one kernel, the machine's or a virtual machine's.
//!
//! The other nodes are cordoned meanwhile. What runs there already goes on: the agents, the name service.

use anyhow::Result;

use crate::cluster::Session;
use crate::command::{quiet, say, succeeds};
use crate::failure::{Failure, three_lines};

/// Dropped, it opens the other nodes again.
pub(crate) struct Ground<'a> {
    session: &'a Session,
    /// Name and kernel of the virtual machine.
    guest: Option<(String, String)>,
    cordoned: Vec<String>,
}

impl<'a> Ground<'a> {
    /// The nodes with a kernel of this version; without one, those with the machine's.
    pub(crate) fn new(session: &'a Session, version: Option<&str>) -> Result<Self> {
        let wanted = |kernel: &Option<String>| match (version, kernel) {
            (None, kernel) => kernel.is_none(),
            (Some(version), Some(kernel)) => kernel.starts_with(&format!("{version}.")),
            (Some(_), None) => false,
        };
        let (chosen, others): (Vec<_>, Vec<_>) = session
            .nodes()
            .into_iter()
            .partition(|(_, kernel)| wanted(kernel));
        let Some((name, kernel)) = chosen.into_iter().next() else {
            let version = version.unwrap_or("of the machine");
            return Err(Failure::new(
                format!("cannot run a suite on kernel {version}"),
                "no node of the cluster has it",
                format!("bring one up: cargo xtask cluster up --kernel {version}"),
            )
            .into());
        };
        let ground = Self {
            session,
            guest: kernel.map(|kernel| (name, kernel)),
            cordoned: others.into_iter().map(|(name, _)| name).collect(),
        };
        ground.each_other("cordon")?;
        Ok(ground)
    }

    /// As the page says it.
    pub(crate) fn kernel(&self) -> Result<String> {
        if let Some((_, kernel)) = &self.guest {
            return Ok(format!("{kernel}, emulated by QEMU"));
        }
        super::kernel()
    }

    /// Whether the kernel has SCTP sockets.
    pub(crate) fn has_sctp(&self) -> Result<bool> {
        if let Some((name, _)) = &self.guest {
            let mut grep = self.session.on(name)?;
            return succeeds(grep.args(["grep", "-q", "^SCTP", "/proc/net/protocols"]));
        }
        Ok(super::has_sctp())
    }

    fn each_other(&self, verb: &str) -> Result<()> {
        if self.cordoned.is_empty() {
            return Ok(());
        }
        let mut kubectl = self.session.kubectl()?;
        quiet(
            kubectl.arg(verb).args(&self.cordoned),
            &format!("{verb} {}", self.cordoned.join(", ")),
        )
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.each_other("uncordon") {
            say(&three_lines(&error));
        }
    }
}
