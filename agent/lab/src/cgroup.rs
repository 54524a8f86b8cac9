//! The lab's own branch of the cgroup v2 hierarchy, so that no program is ever attached to the machine's root cgroup.
//!
//! ```text
//! <cgroup2>/portcullis-lab-NAME            the host cgroup
//!   system                                 the agent and the lab's services
//!   kubepods/besteffort/podUID             processes run in a pod
//! ```
//! Without a cgroup2 mount there is none of it, and the agent's cgroup hooks are off.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The branch of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// Creates the branch of the lab `name`; `None` if no cgroup2 is mounted.
    pub fn create(name: &str) -> Result<Option<Self>> {
        let Some(this) = Self::of(name) else {
            return Ok(None);
        };
        for path in [this.pods(), this.system()] {
            fs::create_dir_all(&path)
                .with_context(|| format!("creating cgroup {}", path.display()))?;
        }
        Ok(Some(this))
    }

    /// Where the branch of `name` lies, whether it exists or not.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        mount_point().map(|mount| Self {
            root: mount.join(format!("portcullis-lab-{name}")),
        })
    }

    /// The host cgroup: parent of the pods' and the system's.
    #[must_use]
    pub fn host(&self) -> &Path {
        &self.root
    }

    /// The parent of all pods' cgroups.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("kubepods")
    }

    /// Where the node's own processes are.
    #[must_use]
    pub fn system(&self) -> PathBuf {
        self.root.join("system")
    }

    /// The cgroup of one pod.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join("besteffort").join(format!("pod{uid}"))
    }

    /// The same relative to the hierarchy's root, as a runtime writes it.
    #[must_use]
    pub fn pod_relative(&self, uid: &str) -> String {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        format!("/{name}/kubepods/besteffort/pod{uid}")
    }

    /// Creates the cgroup of one pod.
    pub fn create_pod(&self, uid: &str) -> Result<()> {
        let path = self.pod(uid);
        fs::create_dir_all(&path).with_context(|| format!("creating cgroup {}", path.display()))
    }

    /// Ends the processes of one pod and removes its cgroup.
    pub fn remove_pod(&self, uid: &str) -> Result<()> {
        for pid in members(&self.pod(uid)) {
            // It may end by itself in between; that it is gone is seen below.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        remove_tree(&self.pod(uid))
    }

    /// Ids of the processes in the branch.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        members(&self.root)
    }

    /// Removes the branch; waits up to ten seconds for ended processes to leave it.
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.root)
    }
}

/// Makes `command` start in the cgroup `path`.
pub fn enter(command: &mut Command, path: &Path) -> Result<()> {
    let procs = path.join("cgroup.procs");
    let file = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("opening {}", procs.display()))?;
    // SAFETY: between fork and exec the closure makes one system call on an open file and allocates nothing.
    unsafe {
        command.pre_exec(move || (&file).write_all(b"0"));
    }
    Ok(())
}

/// The calling process in another cgroup; it goes back when this is dropped.
///
/// Sockets belong to the cgroup in which their process was when it made them: who wants the node's `to_host` check to judge what its sockets
/// receive makes them under this guard.
#[derive(Debug)]
pub struct Membership {
    home: PathBuf,
}

impl Membership {
    /// Moves the calling process into `path`.
    pub fn enter(path: &Path) -> Result<Self> {
        let mount = mount_point().context("no cgroup2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("reading the own cgroup")?;
        let Some(relative) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
            bail!("this process is in no cgroup2")
        };
        let home = mount.join(relative);
        fs::write(path.join("cgroup.procs"), b"0")
            .with_context(|| format!("moving into {}", path.display()))?;
        Ok(Self { home })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // The home may be gone or frozen; the lab's teardown then reports its own cgroup as busy.
        let _ = fs::write(self.home.join("cgroup.procs"), b"0");
    }
}

/// Where cgroup2 is mounted.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Ids of the processes in the cgroup `root` and below.
fn members(root: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for directory in tree(root) {
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids
}

fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

fn remove_tree(root: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for directory in tree(root).iter().rev() {
        loop {
            match fs::remove_dir(directory) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("removing cgroup {}", directory.display()));
                }
            }
        }
    }
    Ok(())
}
