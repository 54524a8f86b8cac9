//! What a node sees where the machine has other things.
//!
//! | place | is |
//! |---|---|
//! | /run | empty: containerd's socket, CNI namespaces and /run/portcullis are the node's own |
//! | /var/log, /var/lib/kubelet, /var/lib/cni | folders of the node |
//! | /sys/fs/bpf | a BPF file system of the node, or none |
//!
//! The namespace is kept by a process that sleeps. It is not pinned as networks are: Linux 6.18 refuses
//! that now and then to whoever is in a mount namespace of his own, as in a container.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::daemon::{Daemon, create, write};
use super::names::{Node, pins};
use super::place::Place;

const LIMIT: Duration = Duration::from_secs(20);

/// Mount points that a machine without Kubernetes may lack. They are made there, and noted, because a
/// node's mount needs something to lie on.
const MOUNT_POINTS: [&str; 2] = ["/var/lib/kubelet", "/var/lib/cni"];

/// Runs in the new mount namespace; its arguments are the node's folder, the pins, and whether there is
/// to be a BPF file system.
const MOUNTS: &str = r#"
umount --lazy --recursive "$1"
mount -t tmpfs -o mode=755 run /run
mount --bind "$0/log" /var/log
mount --bind "$0/kubelet" /var/lib/kubelet
mount --bind "$0/cni" /var/lib/cni
while mountpoint -q /sys/fs/bpf; do umount --lazy /sys/fs/bpf; done
if [ "$2" = bpffs ]; then mount -t bpf bpf /sys/fs/bpf; fi
mount --make-rshared /
touch "$0/mounted"
exec sleep infinity
"#;

/// Makes the node's mount namespace. The network namespace must be there.
pub(crate) fn make(node: Node, place: &Place, bpffs: bool, path: &OsStr) -> Result<()> {
    let folder = node.folder();
    for name in ["log", "kubelet", "cni"] {
        create(&folder.join(name))?;
    }
    let pins = pins();
    let args = ["--mount", "--propagation", "private", "sh", "-ec", MOUNTS].map(OsStr::new);
    let words = [
        folder.as_os_str(),
        pins.as_os_str(),
        OsStr::new(if bpffs { "bpffs" } else { "none" }),
    ];
    let name = format!("{}-mounts", node.name());
    Daemon::start(
        &name,
        place,
        Path::new("unshare"),
        args.into_iter().chain(words),
        path,
    )?
    .wait_until(
        &format!("the mounts of {} cannot be made", node.name()),
        LIMIT,
        || folder.join("mounted").exists(),
    )
}

/// Makes the mount points that are missing. They are noted first, so that a crash leaves none unknown.
pub(crate) fn make_points(note: &Path) -> Result<()> {
    let missing: Vec<&str> = MOUNT_POINTS
        .into_iter()
        .filter(|place| !Path::new(place).exists())
        .collect();
    write(note, missing.join("\n"))?;
    missing
        .iter()
        .try_for_each(|place| create(Path::new(place)))
}

/// Removes the mount points that `up` made, as far as nobody else uses them by now.
pub(crate) fn remove_points(note: &Path) {
    for place in fs::read_to_string(note).unwrap_or_default().lines() {
        // Removing a folder would unmount what another namespace has mounted on it.
        if MOUNT_POINTS.contains(&place) && !mounted_anywhere(place) {
            let _ = fs::remove_dir(place);
        }
    }
}

fn mounted_anywhere(place: &str) -> bool {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            fs::read_to_string(entry.path().join("mounts")).is_ok_and(|mounts| {
                mounts
                    .lines()
                    .any(|line| line.split(' ').nth(1) == Some(place))
            })
        })
}
