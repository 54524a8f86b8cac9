//! What goes into a guest that runs tests: a kernel with the modules we need, a static busybox, and the
//! first program. Nothing here is installed on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::elf::Elf;
use crate::initramfs::Archive;
use crate::kernel::Kernel;
use crate::setup;

/// Modules that the tests need loaded, in Debian's kernels not built in, with their parameters.
/// Dependencies follow by themselves.
const MODULES: &[&str] = &[
    "veth",
    "dummy numdummies=0",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "sctp",
    "nf_tables",
    "tun",
];

/// Starts the lines with which the first program speaks to us over the console.
pub(crate) const MARK: &str = "@@portcullis ";

/// The guest's first program. Every test is told its file; the exit codes go to the console.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /run /tmp
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
while read module parameters; do
    insmod "/modules/$module" $parameters || echo "@@portcullis broken module $module"
done < /modules/order
echo "@@portcullis booted $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
export PORTCULLIS_BIN=/bin/portcullis RUST_BACKTRACE=1
[ -e /long ] && export PORTCULLIS_LONG=1
cd /tests
for test in *; do
    echo "@@portcullis begin $test"
    "./$test" --show-output --test-threads 2 $(cat /filter) 2>&1
    echo "@@portcullis end $test $?"
done
dmesg | grep -E 'BUG: |WARNING: CPU|Oops: ' | sed 's/^/@@portcullis kernel /'
echo "@@portcullis done"
poweroff -f
"#;

/// What the guest runs.
pub(crate) struct Load<'a> {
    pub(crate) agent: &'a Path,
    /// Name and file of each test binary.
    pub(crate) tests: &'a [(String, PathBuf)],
    pub(crate) filter: &'a str,
    pub(crate) long: bool,
}

/// The root file system of the guest, as the kernel wants it.
pub(crate) fn archive(kernel: &Kernel, load: &Load<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "tests"] {
        archive.directory(folder);
    }
    // The kernel opens its console before the first program mounts anything.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &read(&busybox("tests on another kernel")?)?);
    archive.program("bin/portcullis", &read(load.agent)?);
    kernel.add_modules(MODULES, &mut archive)?;
    for (name, file) in load.tests {
        archive.program(&format!("tests/{name}"), &read(file)?);
    }
    archive.program("filter", load.filter.as_bytes());
    if load.long {
        archive.program("long", b"");
    }
    Ok(archive.finish())
}

/// A static busybox: the machine's, else Debian's, unpacked into the cache.
pub(crate) fn busybox(purpose: &str) -> Result<PathBuf> {
    if let Some(found) = setup::find("busybox")
        && Elf::read(&found)?.is_static()?
    {
        return Ok(found);
    }
    let root = setup::unpack("busybox-static", purpose)?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|name| root.join(name))
        .into_iter()
        .find(|file| file.exists())
        .context("busybox-static holds no busybox")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
