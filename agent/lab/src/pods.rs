//! Commands run in a pod: its network namespace, its cgroup, and for the rest the machine as it is.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

use crate::cgroup;
use crate::node::Lab;

/// A command that will start in the pod `key` (`namespace/name`); a pod in the host network starts in the node's namespace.
///
/// The file system, users and processes are the machine's own: the lab has no containers.
pub fn command(lab: &Lab, key: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    let site = lab.pod(key)?;
    let mut command = Command::new(program);
    command.env("PORTCULLIS_LAB_POD", key);
    if let Some(cgroups) = lab.cgroups() {
        cgroup::enter(&mut command, &cgroups.pod(&site.pod.uid))?;
    }
    lab.namespace_of(key)?.enter(&mut command)?;
    Ok(command)
}

/// Runs `argv` in the pod `key` with this process's standard streams and waits for it.
pub fn exec<S: AsRef<OsStr>>(lab: &Lab, key: &str, argv: &[S]) -> Result<ExitStatus> {
    let Some((program, arguments)) = argv.split_first() else {
        bail!("no command was given to run in {key}")
    };
    let mut command = command(lab, key, program)?;
    command.args(arguments);
    command
        .status()
        .with_context(|| format!("running {} in {key}", program.as_ref().to_string_lossy()))
}
