//! `cargo xtask cluster down`: ends and removes everything, whatever state it is in.
//!
//! Nothing is remembered but the mount points. Processes are the members of our cgroup, files and the
//! pins of network namespaces are in our folder. The order:
//!
//! 1. all processes, at once: mount namespaces go with them, and all that is mounted there; so do virtual
//!    machines;
//! 2. the pins: network namespaces go with them, and all links there, virtual machines' cards too;
//! 3. the machine's link, the cgroups, the mount points, the folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cgroup::Hierarchies;
use super::mounts::remove_points;
use super::names::{self, LINK};
use super::network::{execute, link_exists, remove_link};
use crate::command::say;

const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn down() -> Result<()> {
    let started = Instant::now();
    if !remains()? {
        say("Nothing of a cluster is here");
        return Ok(());
    }
    clear()?;
    say(&format!(
        "The cluster is gone ({:.1} s)",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Whether anything of a cluster is here.
pub(crate) fn remains() -> Result<bool> {
    Ok(names::root().exists() || link_exists() || Hierarchies::find()?.exist())
}

/// Where the mount points that `up` made are noted.
pub(crate) fn mount_points_note() -> PathBuf {
    names::root().join("mount-points")
}

pub(crate) fn clear() -> Result<()> {
    let hierarchies = Hierarchies::find()?;
    // First of all: nobody may take a half removed cluster for a whole one.
    let _ = fs::remove_file(names::finished());
    hierarchies.kill()?;
    for pin in pins()?.iter().rev() {
        execute(Command::new("umount").arg("--lazy").arg(pin))?;
    }
    remove_link()?;
    hierarchies.remove()?;
    // Namespaces go a moment after the last process and pin. A link of ours that is still there would
    // be in the way of the next `up`.
    let deadline = Instant::now() + PATIENCE;
    while link_exists() {
        ensure!(Instant::now() < deadline, "the link {LINK} does not go");
        thread::sleep(Duration::from_millis(20));
    }
    remove_points(&mount_points_note());
    // What is mounted would be emptied, not removed.
    ensure!(pins()?.is_empty(), "{} still has mounts", names::ROOT);
    match fs::remove_dir_all(names::root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", names::ROOT))
        }
        _ => Ok(()),
    }
}

/// What is mounted in our folder, in the order in which they were mounted.
fn pins() -> Result<Vec<PathBuf>> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mounts
        .lines()
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
        .filter(|place| place.starts_with(names::root()))
        .collect())
}
