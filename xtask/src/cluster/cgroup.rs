//! The cluster's cgroup, in every hierarchy of the machine.
//!
//! A machine has cgroup2 alone at /sys/fs/cgroup, or hierarchies of version 1 there and cgroup2 beside
//! them. Membership in cgroup2 is how we know our processes: it is inherited, cannot be left by accident,
//! and the kernel ends all members at once (`cgroup.kill`, Linux 5.14).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::names::{CLUSTER, CONTROL, Node};
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(15);

/// Where the hierarchies are mounted.
pub(crate) struct Hierarchies {
    unified: PathBuf,
    /// Those of version 1.
    others: Vec<PathBuf>,
}

impl Hierarchies {
    pub(crate) fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let (unified, others) = parse(&mounts);
        let unified = unified.ok_or_else(|| {
            Failure::new(
                "cannot find cgroup2",
                "nothing of that type is mounted, and the cluster's processes are known by it",
                "mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
            )
        })?;
        Ok(Self { unified, others })
    }

    /// Where a process of the control plane belongs.
    pub(crate) fn control(&self) -> PathBuf {
        self.unified.join(CLUSTER).join(CONTROL)
    }

    /// Where a process of the node itself belongs. Pods are beside it, in `kubepods`.
    pub(crate) fn host(&self, node: Node) -> PathBuf {
        self.unified.join(node.cgroup()).join("host")
    }

    /// Where the process is that keeps the node's mount namespace, alone.
    pub(crate) fn holder(&self, node: Node) -> PathBuf {
        self.unified.join(node.cgroup()).join("holder")
    }

    /// The number of that process.
    pub(crate) fn held_by(&self, node: Node) -> Result<u32> {
        let members = fs::read_to_string(self.holder(node).join("cgroup.procs"));
        members
            .ok()
            .and_then(|members| members.lines().next()?.parse().ok())
            .ok_or_else(|| {
                Failure::new(
                    format!("cannot enter {}", node.name()),
                    "the process that keeps its mounts has ended",
                    "bring the cluster up anew: cargo xtask cluster down, then up",
                )
                .into()
            })
    }

    /// Makes the cgroups of the control plane and of these nodes.
    pub(crate) fn make(&self, nodes: &[Node]) -> Result<()> {
        let cluster = self.unified.join(CLUSTER);
        create(&self.control())?;
        // The kubelet refuses a root that lacks a controller. Where version 1 has them, cgroup2 has none.
        enable(&self.unified)?;
        enable(&cluster)?;
        for node in nodes {
            create(&self.host(*node))?;
            create(&self.holder(*node))?;
            for other in &self.others {
                create(&other.join(node.cgroup()))?;
                // A cpuset of version 1 starts empty, and an empty one takes no process.
                for cpuset in [CLUSTER.to_owned(), node.cgroup()] {
                    inherit(other, &cpuset, "cpuset.cpus")?;
                    inherit(other, &cpuset, "cpuset.mems")?;
                }
            }
        }
        Ok(())
    }

    /// Puts this process there too: if it is killed, `down` finds what it was just running.
    pub(crate) fn join(&self) -> Result<()> {
        let cgroup = self.unified.join(CLUSTER).join("up");
        create(&cgroup)?;
        fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot join the cgroup {}", cgroup.display()))
    }

    /// Whether the control plane's cgroup has processes.
    pub(crate) fn control_lives(&self) -> bool {
        populated(&self.control())
    }

    pub(crate) fn exist(&self) -> bool {
        self.all().any(|path| path.exists())
    }

    /// Ends all processes of the cluster and waits until they are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        let cluster = self.unified.join(CLUSTER);
        if !cluster.exists() {
            return Ok(());
        }
        let file = cluster.join("cgroup.kill");
        fs::write(&file, "1").with_context(|| format!("cannot write {}", file.display()))?;
        let deadline = Instant::now() + PATIENCE;
        while populated(&cluster) {
            if Instant::now() > deadline {
                bail!("processes in {} do not end", cluster.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes the cgroups. They must be empty.
    pub(crate) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for path in self.all() {
            // The kernel lets a cgroup go a moment after its last process.
            while let Err(error) = remove_tree(&path) {
                if Instant::now() > deadline {
                    return Err(error)
                        .with_context(|| format!("cannot remove the cgroup {}", path.display()));
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = PathBuf> {
        self.others
            .iter()
            .chain([&self.unified])
            .map(|hierarchy| hierarchy.join(CLUSTER))
    }
}

/// cgroup2's mount, and the mounts of version 1.
fn parse(mounts: &str) -> (Option<PathBuf>, Vec<PathBuf>) {
    let of = |wanted: &'static str| {
        mounts.lines().filter_map(move |line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next()? == wanted).then(|| PathBuf::from(place))
        })
    };
    (of("cgroup2").next(), of("cgroup").collect())
}

fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))
}

/// Lets children use the controllers that the kubelet asks for, as far as they are here.
fn enable(path: &Path) -> Result<()> {
    let read = |name| {
        let file = path.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let (present, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
        let holds = |list: &str| list.split_whitespace().any(|word| word == controller);
        if holds(&present) && !holds(&enabled) {
            fs::write(
                path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )
            .with_context(|| format!("cannot enable {controller} in {}", path.display()))?;
        }
    }
    Ok(())
}

/// Copies a setting from the root of the hierarchy, if it has that setting.
fn inherit(hierarchy: &Path, cgroup: &str, setting: &str) -> Result<()> {
    let source = hierarchy.join(setting);
    if !source.exists() {
        return Ok(());
    }
    let value =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let file = hierarchy.join(cgroup).join(setting);
    fs::write(&file, value.trim()).with_context(|| format!("cannot write {}", file.display()))
}

fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_arrangements_of_hierarchies_are_understood() {
        let alone = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(parse(alone), (Some("/sys/fs/cgroup".into()), vec![]));
        let beside = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let (unified, others) = parse(beside);
        assert_eq!(unified, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(others, [PathBuf::from("/sys/fs/cgroup/cpu")]);
        assert_eq!(parse("tmpfs / tmpfs rw 0 0\n"), (None, vec![]));
    }
}
