//! What the machine must have, and how it comes there.
//!
//! A need is a command and the Debian package that brings it. On Debian and Ubuntu root gets missing
//! packages installed, announced first; elsewhere the error names them. Things that would change the
//! machine for no other use (a kernel, a static busybox) are unpacked into the cache and never installed.
//! `--no-remove` holds in every apt call: we never take away what somebody else put there.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, quiet, say};
use crate::failure::Failure;
use crate::layout;

/// A command we call and the Debian package that has it.
pub(crate) struct Tool {
    pub(crate) command: &'static str,
    pub(crate) package: &'static str,
}

/// For compiling the agent: `ring` has assembly, and a static file needs glibc's archives.
pub(crate) const BUILD_TOOLS: &[Tool] = &[tool("cc", "build-essential")];

/// For `portcullis lab` and `cargo xtask demo`. The binary needs nothing but a kernel.
pub(crate) const RUNTIME_TOOLS: &[Tool] = &[];

/// For the rungs that need root.
pub(crate) const TEST_TOOLS: &[Tool] = &[
    tool("bpftool", "bpftool"),
    tool("curl", "curl"),
    tool("ip", "iproute2"),
    tool("iptables-legacy", "iptables"),
    tool("nft", "nftables"),
    tool("ping", "iputils-ping"),
    tool("setpriv", "util-linux"),
];

/// For `cargo xtask lint`; rustup's components have the same commands.
pub(crate) const LINT_TOOLS: &[Tool] = &[
    tool("cargo-clippy", "rust-web-clippy"),
    tool("cargo-fmt", "rustfmt-web"),
];

/// For real AWS clients.
pub(crate) const PYTHON_TOOLS: &[Tool] = &[tool("python3", "python3-venv")];

/// For the one in JavaScript.
pub(crate) const NODE_TOOLS: &[Tool] = &[tool("node", "nodejs"), tool("npm", "npm")];

/// For libFuzzer, which is C++.
pub(crate) const FUZZ_TOOLS: &[Tool] = &[tool("c++", "g++")];

/// For tests on another kernel.
pub(crate) const VM_TOOLS: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("strip", "binutils"),
];

const fn tool(command: &'static str, package: &'static str) -> Tool {
    Tool { command, package }
}

/// Installs the packages of the tools that are not there.
pub(crate) fn ensure(tools: &[Tool], purpose: &str) -> Result<()> {
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|tool| find(tool.command).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !has_apt() {
        let commands: Vec<&str> = missing.iter().map(|tool| tool.command).collect();
        return Err(Failure::new(
            format!("cannot find {}", commands.join(", ")),
            format!("{purpose} needs them, and this is not Debian or Ubuntu"),
            format!(
                "install what Debian calls {} and run the command again",
                packages.join(", ")
            ),
        )
        .into());
    }
    install(&packages, purpose)
}

/// Installs Debian packages, as root.
pub(crate) fn install(packages: &[&str], purpose: &str) -> Result<()> {
    if !is_root() {
        return Err(Failure::new(
            format!("cannot install {}", packages.join(", ")),
            format!("{purpose} needs them, and only root may install packages"),
            format!(
                "run the command as root, or first: apt-get install --no-install-recommends {}",
                packages.join(" ")
            ),
        )
        .into());
    }
    say(&format!(
        "Installing Debian packages for {purpose}: {} (a minute or three)",
        packages.join(" ")
    ));
    update()?;
    quiet(
        apt()
            .args(["install", "-y", "--no-install-recommends", "--no-remove"])
            .args(packages),
        "install Debian packages",
    )
}

/// Whether apt would find the package, after one `apt-get update` if it has no lists yet.
pub(crate) fn available(package: &str) -> bool {
    let known = || {
        output(Command::new("apt-cache").args(["policy", package]))
            .is_some_and(|text| text.contains("Candidate:") && !text.contains("Candidate: (none)"))
    };
    has_apt() && (known() || (is_root() && update().is_ok() && known()))
}

/// Downloads a Debian package and unpacks it into the cache, without installing it; no root needed.
pub(crate) fn unpack(package: &str, purpose: &str) -> Result<PathBuf> {
    let folder = layout::cache().join("packages").join(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    if !available(package) {
        return Err(Failure::new(
            format!("cannot find the Debian package {package}"),
            format!("{purpose} needs it, and apt does not offer it here"),
            "run this on Debian 12 with its security updates",
        )
        .into());
    }
    say(&format!(
        "Unpacking the Debian package {package} for {purpose} into {}",
        folder.display()
    ));
    let work = folder.with_extension(format!("{}.part", std::process::id()));
    let tree = work.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    if is_root() {
        // apt downloads as user `_apt`, which must be allowed to write here.
        fs::set_permissions(&work, fs::Permissions::from_mode(0o777))
            .with_context(|| format!("cannot open {} to apt", work.display()))?;
    }
    let what = format!("download {package}");
    quiet(apt().arg("download").arg(package).current_dir(&work), &what)?;
    let archive = fs::read_dir(&work)
        .with_context(|| format!("cannot list {}", work.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .with_context(|| format!("apt left no archive in {}", work.display()))?;
    quiet(
        Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree),
        &format!("unpack {package}"),
    )?;
    // The rename comes last: a folder under the package's name is whole.
    fs::rename(&tree, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(folder)
}

/// The newest package that a Debian meta-package stands for, if its name starts as wanted.
pub(crate) fn behind(meta: &str, prefix: &str) -> Option<String> {
    if !available(meta) {
        return None;
    }
    let text = output(Command::new("apt-cache").args(["depends", "--important", meta]))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(ToOwned::to_owned)
}

/// Where a command is: `PATH`, then the folders of root's commands, which a user's `PATH` may lack.
pub(crate) fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(command))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The error for a command that must be root.
pub(crate) fn need_root(what: &str, again: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    Err(Failure::new(
        format!("cannot {what}"),
        "it makes network namespaces and loads BPF programs, which only root may",
        format!("run it as root: sudo -E env PATH=\"$PATH\" {again}"),
    )
    .into())
}

/// Mounts the BPF file system where the kernel expects it; a fresh container has none.
pub(crate) fn mount_bpffs() -> Result<()> {
    const PLACE: &str = "/sys/fs/bpf";
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(PLACE) && words.next() == Some("bpf")
    });
    if mounted {
        return Ok(());
    }
    say(&format!("Mounting a BPF file system at {PLACE}"));
    let mount = output(Command::new("mount").args(["-t", "bpf", "bpf", PLACE]));
    if mount.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        format!("cannot mount a BPF file system at {PLACE}"),
        "the kernel or the container does not allow it",
        "use a kernel with CONFIG_BPF_SYSCALL and a root that may mount",
    )
    .into())
}

fn has_apt() -> bool {
    Path::new("/etc/debian_version").exists() && find("apt-get").is_some()
}

fn update() -> Result<()> {
    quiet(apt().arg("update"), "read the lists of Debian packages")
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "-q",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_on_the_path_and_an_unknown_one_is_not() {
        assert!(find("sh").is_some());
        assert!(find("no-command-has-this-name").is_none());
    }
}
