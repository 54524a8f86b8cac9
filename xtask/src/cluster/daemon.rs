//! Starting the cluster's programs and waiting until they answer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::names;
use super::place::Place;
use crate::command::last_lines;
use crate::failure::Failure;

/// A program that may outlive us. Its output is in a log; `down` finds it by its cgroup.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        place: &Place,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        path: &OsStr,
    ) -> Result<Self> {
        let log = names::logs().join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = place
            .session(program)
            .args(args)
            // Proxies and settings of the person's shell are not for them.
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/root")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let name = name.to_owned();
        Ok(Self { name, child, log })
    }

    /// Ends a program that is not to outlive us.
    pub(crate) fn end(mut self) -> Result<()> {
        self.child.kill().context("cannot end a child")?;
        self.child.wait().context("cannot wait for a child")?;
        Ok(())
    }

    /// Waits until the answer is yes, and no longer than the program lives; `what` says the contrary.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut answer: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if answer() {
                return Ok(());
            }
            let ended = self.child.try_wait().context("cannot wait for a child")?;
            if ended.is_some() || Instant::now() > deadline {
                let last = last_lines(&self.log, 1).pop().unwrap_or_default();
                let fate = if ended.is_some() {
                    "has ended"
                } else {
                    "still runs"
                };
                return Err(Failure::new(
                    format!("cannot bring the cluster up: {what}"),
                    format!("{} {fate}; its last line: {last}", self.name),
                    format!(
                        "read {}; then: cargo xtask cluster down",
                        self.log.display()
                    ),
                )
                .into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Writes a file of the cluster and the folders that lead to it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        create(folder)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}
