//! What a lab leaves on disk so that a later command finds it: one directory and one JSON file for each lab.
//!
//! ```text
//! /run/portcullis-lab/NAME/state.json   this
//!                          netns/       namespaces, one mount each
//!                          bpffs/       a bpffs of the lab's own
//!                          cni-results/ what a CNI would have left in /var/lib/cni/results
//!                          agent.sock, agent.log, services.log, metadata.ndjson
//! ```
//! The file is never needed to take a lab down: `teardown` also finds what it does not name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::spec::LabSpec;

/// Parent of all labs' directories.
pub const ROOT: &str = "/run/portcullis-lab";

/// A lab as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// What it was built from, with pods added and removed since.
    pub spec: LabSpec,
    /// Whether pods are bare devices without namespaces of their own.
    pub devices: bool,
    /// Where CNI results are written.
    pub cni_results: PathBuf,
    /// Its host cgroup, if cgroup2 is mounted.
    pub cgroup: Option<PathBuf>,
    /// The process that takes it down again; `None` once it was handed over.
    pub builder: Option<ProcessRecord>,
    /// The agent started for it.
    pub agent: Option<AgentRecord>,
    /// Its background processes.
    pub processes: Vec<ProcessRecord>,
}

/// How the agent was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The program.
    pub binary: PathBuf,
    /// The directory it follows.
    pub manifests: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Its bpffs directory.
    pub bpffs: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
}

/// A process that can be told from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// `agent`, `services`, ...
    pub role: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl LabState {
    /// The directory of the lab `name`.
    #[must_use]
    pub fn directory_of(name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Self::directory_of(&self.name)
    }

    /// The bpffs mount of the lab.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.directory().join("bpffs")
    }

    /// The file of the namespace `name`.
    #[must_use]
    pub fn netns(&self, name: &str) -> PathBuf {
        self.directory().join("netns").join(name)
    }

    /// Reads the state of the lab `name`; `None` if there is no such lab.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = Self::directory_of(name).join("state.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes)
                    .with_context(|| format!("reading {}", path.display()))?,
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes it by rename.
    pub fn save(&self) -> Result<()> {
        let path = self.directory().join("state.json");
        let draft = self.directory().join(".state.json");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether its builder died before it could take it down or hand it over.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.builder
            .as_ref()
            .is_some_and(|builder| !builder.is_running())
    }

    /// Records a process, in place of an earlier one of the same role.
    pub fn record(&mut self, process: ProcessRecord) -> Result<()> {
        self.processes.retain(|other| other.role != process.role);
        self.processes.push(process);
        self.save()
    }

    /// The recorded process of `role`, if it still runs.
    #[must_use]
    pub fn running(&self, role: &str) -> Option<&ProcessRecord> {
        self.processes
            .iter()
            .find(|process| process.role == role && process.is_running())
    }

    /// Names of all labs of this machine.
    #[must_use]
    pub fn names() -> Vec<String> {
        let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

impl ProcessRecord {
    /// Records the process `pid`; `None` if it has ended.
    #[must_use]
    pub fn of(role: &str, pid: i32) -> Option<Self> {
        start_time(pid).map(|start_time| Self {
            role: role.to_owned(),
            pid,
            start_time,
        })
    }

    /// Whether exactly this process still runs (a zombie does not).
    #[must_use]
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// Start time of a live process; `None` for none and for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold spaces; the third, the state, follows the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = ProcessRecord::of("test", std::process::id() as i32).unwrap();
        assert!(own.is_running());
        assert!(
            !ProcessRecord {
                start_time: own.start_time + 1,
                ..own
            }
            .is_running()
        );
        assert_eq!(ProcessRecord::of("test", i32::MAX), None);
    }
}
