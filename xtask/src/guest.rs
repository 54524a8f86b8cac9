//! What goes into a guest: a kernel with the modules we need, a static busybox, and the first program.
//!
//! Nothing here is installed: a kernel that the machine has is used, else its Debian package is unpacked
//! into the cache. Module dependencies are read from the modules themselves, because an unpacked package
//! has no `modules.dep`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::elf::Elf;
use crate::failure::Failure;
use crate::initramfs::Archive;
use crate::layout;
use crate::setup;

/// Kernels we can boot: version, Debian meta-package, how the real package's name starts.
const KERNELS: &[(&str, &str, &str)] = &[("6.1", "linux-image-cloud-amd64", "linux-image-6.1.")];

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

/// A kernel image and its modules.
pub(crate) struct Kernel {
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

/// What the guest runs.
pub(crate) struct Load<'a> {
    pub(crate) agent: &'a Path,
    /// Name and file of each test binary.
    pub(crate) tests: &'a [(String, PathBuf)],
    pub(crate) filter: &'a str,
    pub(crate) long: bool,
}

/// The newest kernel of a version: installed, in the cache, or downloaded now.
pub(crate) fn kernel(version: &str) -> Result<Kernel> {
    let (_, meta, prefix) = KERNELS
        .iter()
        .find(|(known, ..)| *known == version)
        .with_context(|| format!("there is no recipe for kernel {version}"))?;
    if let Some(kernel) = newest(Path::new("/"), version) {
        return Ok(kernel);
    }
    let unpacked = fs::read_dir(layout::cache().join("packages"))
        .into_iter()
        .flatten()
        .filter_map(|entry| newest(&entry.ok()?.path(), version))
        .max_by_key(|kernel| numbers(&kernel.release));
    if let Some(kernel) = unpacked {
        return Ok(kernel);
    }
    let purpose = format!("tests on kernel {version}");
    let Some(package) = setup::behind(meta, prefix) else {
        return Err(Failure::new(
            format!("cannot find a kernel {version}"),
            format!("none is installed, and apt's {meta} is not of that version"),
            "run this on Debian 12, or install that kernel under /boot and /lib/modules",
        )
        .into());
    };
    let root = setup::unpack(&package, &purpose)?;
    newest(&root, version).with_context(|| format!("{package} holds no kernel {version}"))
}

/// The root file system of the guest, as the kernel wants it.
pub(crate) fn archive(kernel: &Kernel, load: &Load<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "tests"] {
        archive.directory(folder);
    }
    // The kernel opens its console before the first program mounts anything.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &read(&busybox("tests on another kernel")?)?);
    archive.program("bin/portcullis", &read(load.agent)?);
    let modules = modules(kernel)?;
    let mut order = Vec::new();
    for (module, content) in &modules {
        let (name, parameters) = module.split_once(' ').unwrap_or((module, ""));
        archive.program(&format!("modules/{name}.ko"), content);
        order.extend(format!("{name}.ko {parameters}\n").bytes());
    }
    archive.program("modules/order", &order);
    for (name, file) in load.tests {
        archive.program(&format!("tests/{name}"), &read(file)?);
    }
    archive.program("filter", load.filter.as_bytes());
    if load.long {
        archive.program("long", b"");
    }
    Ok(archive.finish())
}

fn newest(root: &Path, version: &str) -> Option<Kernel> {
    let start = format!("vmlinuz-{version}.");
    fs::read_dir(root.join("boot"))
        .ok()?
        .filter_map(|entry| {
            let image = entry.ok()?.path();
            let name = image.file_name()?.to_string_lossy().into_owned();
            let release = name
                .starts_with(&start)
                .then(|| &name["vmlinuz-".len()..])?;
            let modules = ["lib/modules", "usr/lib/modules"]
                .map(|folder| root.join(folder).join(release))
                .into_iter()
                .find(|folder| folder.join("kernel").is_dir())?;
            Some(Kernel {
                release: release.to_owned(),
                image,
                modules,
            })
        })
        .max_by_key(|kernel| numbers(&kernel.release))
}

/// `6.1.0-56-cloud-amd64` as numbers that can be compared.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The machine's busybox if it is static, else Debian's, unpacked into the cache.
/// A static busybox, found or unpacked.
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

/// [`MODULES`], parameters and all, with their dependencies, each before what needs it.
fn modules(kernel: &Kernel) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    index(&kernel.modules.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
    let builtin = builtin.replace('-', "_");
    let mut loaded = Vec::new();
    for name in MODULES {
        add(name, &files, &builtin, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(
    module: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &str,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let name = module.split(' ').next().unwrap_or_default();
    let is_name = |known: &str| known.split(' ').next() == Some(name);
    if loaded.iter().any(|(known, _)| is_name(known)) {
        return Ok(());
    }
    let Some(file) = files.get(name) else {
        ensure!(
            builtin.contains(&format!("/{name}.ko")),
            "the kernel has no module {name}"
        );
        return Ok(());
    };
    let content = unpacked(file)?;
    for needed in depends(&content) {
        add(&needed, files, builtin, loaded)?;
    }
    loaded.push((module.to_owned(), content));
    Ok(())
}

/// Module files by name, written with underscores as the kernel does.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let describe = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(describe)? {
        let path = entry.with_context(describe)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = name.split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The names in a module's `depends=` entry, which stands between zero bytes.
fn depends(module: &[u8]) -> Vec<String> {
    let names = module
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    String::from_utf8_lossy(names)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return read(file),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} cannot unpack {}",
        file.display()
    );
    Ok(output.stdout)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF..\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0retpoline=Y\0";
        assert_eq!(depends(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert!(depends(b"\0depends=\0name=veth\0").is_empty());
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }
}
