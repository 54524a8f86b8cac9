//! Taking a lab down, whoever built it and however its builder ended, and listing what would be left.
//!
//! 1. The lab's processes end: SIGTERM to the services, SIGKILL to the rest, each by recorded id and start time or by membership of the lab's cgroup.
//! 2. `portcullis uninstall` takes its own pins away; then the lab's bpffs is unmounted, which frees whatever is still pinned.
//! 3. Namespaces, cgroups and files go.
//!
//! Each step runs even if one before it failed; the first error is returned at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::netns::NetNs;
use crate::state::LabState;

/// Removes everything that belongs to the lab `name`. A lab that is not there is no error.
pub fn down(name: &str) -> Result<()> {
    let directory = LabState::directory_of(name);
    // A state file that cannot be read must not keep the rest alive.
    let state = LabState::load(name).ok().flatten();
    let mut first_error = None;
    let mut step = |result: Result<()>| {
        if let Err(error) = result
            && first_error.is_none()
        {
            first_error = Some(error);
        }
    };
    step(end_processes(name, state.as_ref()));
    if let Some(state) = &state {
        step(uninstall(state));
    }
    step(unmount_below(&directory));
    if let Some(cgroups) = Cgroups::of(name)
        && cgroups.host().exists()
    {
        step(cgroups.remove());
    }
    if directory.exists() {
        step(
            fs::remove_dir_all(&directory)
                .with_context(|| format!("removing {}", directory.display())),
        );
    }
    // Only the last lab's removal succeeds here.
    let _ = fs::remove_dir(crate::state::ROOT);
    first_error.map_or(Ok(()), Err)
}

/// What of the lab `name` is still there, one line each; empty after a good `down`.
#[must_use]
pub fn residue(name: &str) -> Vec<String> {
    let directory = LabState::directory_of(name);
    let mut left: Vec<String> = mounts_below(&directory)
        .iter()
        .map(|path| format!("mount {}", path.display()))
        .collect();
    if directory.exists() {
        left.push(format!("directory {}", directory.display()));
    }
    if let Some(cgroups) = Cgroups::of(name)
        && cgroups.host().exists()
    {
        left.push(format!("cgroup {}", cgroups.host().display()));
        left.extend(
            cgroups
                .processes()
                .iter()
                .map(|pid| format!("process {pid} in the lab's cgroup")),
        );
    }
    if let Some(state) = LabState::load(name).ok().flatten() {
        let running = state
            .processes
            .iter()
            .filter(|process| process.is_running());
        left.extend(running.map(|process| format!("process {} ({})", process.pid, process.role)));
    }
    left
}

/// Processes other than this one whose network namespace is one of `inodes`; for tests that hold a lab's inode numbers over its end.
#[must_use]
pub fn processes_in(inodes: &[u64]) -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let link = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
            inodes
                .iter()
                .any(|inode| link.to_string_lossy() == format!("net:[{inode}]"))
        })
        .collect()
}

fn end_processes(name: &str, state: Option<&LabState>) -> Result<()> {
    let recorded = state
        .map(|state| state.processes.as_slice())
        .unwrap_or_default();
    let own = std::process::id() as i32;
    for process in recorded
        .iter()
        .filter(|process| process.is_running() && process.pid != own)
    {
        let signal = if process.role == "services" {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        // It may end between the check and the signal.
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
    let grace = Instant::now() + Duration::from_secs(1);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let members = Cgroups::of(name)
            .map(|cgroups| cgroups.processes())
            .unwrap_or_default();
        let members = members.into_iter().filter(|pid| *pid != own);
        let alive: Vec<i32> = recorded
            .iter()
            .filter(|process| process.is_running() && process.pid != own)
            .map(|process| process.pid)
            .collect();
        let waiting: Vec<i32> = members.chain(alive).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes of lab {name} do not end: {waiting:?}");
        }
        for pid in &waiting {
            if !recorded
                .iter()
                .any(|process| process.pid == *pid && process.role == "services")
                || Instant::now() > grace
            {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            reap(*pid);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Collects an ended child, so that it is no zombie in the lab's cgroup; no child of ours is fine.
fn reap(pid: i32) {
    let _ = nix::sys::wait::waitpid(
        Pid::from_raw(pid),
        Some(nix::sys::wait::WaitPidFlag::WNOHANG),
    );
}

fn uninstall(state: &LabState) -> Result<()> {
    let Some(agent) = &state.agent else {
        return Ok(());
    };
    if !agent.bpffs.exists() {
        return Ok(());
    }
    let mut command = Command::new(&agent.binary);
    command
        .args(["uninstall", "--yes", "--bpffs"])
        .arg(&agent.bpffs)
        .stdin(Stdio::null());
    NetNs::open(&state.netns("node"))?.enter(&mut command)?;
    let output = command
        .output()
        .with_context(|| format!("running {} uninstall", agent.binary.display()))?;
    if !output.status.success() {
        bail!(
            "portcullis uninstall failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn unmount_below(directory: &Path) -> Result<()> {
    for path in mounts_below(directory).iter().rev() {
        umount2(path, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", path.display()))?;
    }
    Ok(())
}

fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let paths = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    paths
        .filter(|path| path.starts_with(directory) && path != directory)
        .collect()
}
