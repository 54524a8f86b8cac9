//! The guest's root file system: a tree of files, then an ext4 image of it. Nothing is mounted.
//!
//! Programs of the machine come with the libraries that `ldd` names, each at the path that it has here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::wire;
use crate::cluster::daemon::{create, write};
use crate::cluster::names::{Node, WIRE_6};
use crate::cluster::network;
use crate::cluster::node;
use crate::cluster::pki::{certificate, config, key};
use crate::cluster::programs::Programs;
use crate::command::{output, quiet};
use crate::elf::Elf;
use crate::setup;

/// Room for images and pods. The file takes only what is written.
const SIZE: &str = "8G";

/// The cluster's own programs that run on a node.
const PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "kubelet",
    "kube-proxy",
    "runc",
];

const PLUGINS: &[&str] = &["host-local", "loopback", "portmap", "ptp"];

/// Programs of the machine: kube-proxy, the plugins and the kubelet call them, and people do.
const TOOLS: &[&str] = &[
    "ip",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "mount",
    "nft",
    "nsenter",
    "umount",
];

const INITTAB: &str = "::sysinit:/etc/boot\n\
                       ::respawn:/etc/listen\n\
                       ::ctrlaltdel:/bin/poweroff -f\n";

/// Runs once, after the disk is mounted. IP is iproute2's, which busybox' shell finds by its path only. `wire-net` is the wire's namespace, named by a file that no program
/// takes for a pod's.
const BOOT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
set -e
hostname -F /etc/hostname
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/host
if [ -e /etc/bpffs ]; then mount -t bpf bpf /sys/fs/bpf; fi
mount --make-rshared /
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
touch /run/wire-net
unshare --net=/run/wire-net true
IP link set eth1 netns /run/wire-net
nsenter --net=/run/wire-net IP -batch /etc/wire.batch
IP -batch /etc/network.batch
echo "up after $(cut -d' ' -f1 /proc/uptime) s"
"#;

/// Runs always.
const LISTEN: &str = "#!/bin/busybox sh\n\
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
    ulimit -l unlimited\n\
    ulimit -n 1048576\n\
    exec nsenter --net=/run/wire-net nc -ll -p PORT -e /etc/wire\n";

/// What is not the same for all guests.
pub(super) struct Content<'a> {
    pub(super) node: Node,
    /// The others too, which it has routes to.
    pub(super) nodes: &'a [Node],
    /// Whether it has a BPF file system.
    pub(super) bpffs: bool,
    /// A folder of containerd's. It moves into the image.
    pub(super) store: &'a Path,
    pub(super) busybox: &'a Path,
}

/// Makes the image of a node whose settings and certificates have been written.
pub(super) fn make(content: &Content<'_>, programs: &Programs) -> Result<PathBuf> {
    let Content { node, nodes, .. } = *content;
    let root = node.folder().join("tree");
    let mut tree = Tree {
        root: root.clone(),
        libraries: BTreeSet::new(),
    };
    for folder in [
        "dev",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "var/lib/cni",
        "var/lib/kubelet",
        "var/log",
    ] {
        create(&root.join(folder))?;
    }
    tree.link(content.busybox, Path::new("/bin/busybox"))?;
    for program in PROGRAMS {
        tree.program(&programs.find(program)?)?;
    }
    let plugins = programs.plugins()?;
    for plugin in PLUGINS {
        tree.program(&plugins.join(plugin))?;
    }
    for name in TOOLS {
        tree.program(Path::new(&tool(name)?))?;
    }
    tree.extensions()?;
    for (name, content) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n".to_owned()),
        ("group", "root:x:0:\n".to_owned()),
        ("hostname", format!("{}\n", node.name())),
        (
            "hosts",
            format!(
                "127.0.0.1 localhost\n::1 localhost\n{} {}\n",
                node.address_4(),
                node.name()
            ),
        ),
        ("machine-id", format!("{:032x}\n", node.0)),
        ("network.batch", network::node_lines(node, nodes)?),
        (
            "wire.batch",
            format!(
                "addr add {}/64 dev eth1 nodad\nlink set eth1 up\n",
                WIRE_6[1]
            ),
        ),
        ("inittab", INITTAB.to_owned()),
    ] {
        tree.file(&format!("etc/{name}"), 0o644, &content)?;
    }
    if content.bpffs {
        tree.file("etc/bpffs", 0o644, "")?;
    }
    tree.file("etc/boot", 0o755, &BOOT.replace("IP", &tool("ip")?))?;
    tree.file(
        "etc/listen",
        0o755,
        &LISTEN.replace("PORT", &wire::PORT.to_string()),
    )?;
    let server = wire::SERVER.replace("NSENTER", &tool("nsenter")?);
    tree.file("etc/wire", 0o755, &server)?;
    for file in credentials(node) {
        tree.copy(&file)?;
    }
    tree.settings(node)?;
    let store = tree.inside(&node::store(node));
    fs::rename(content.store, &store)
        .with_context(|| format!("cannot move {}", content.store.display()))?;
    tree.image(&node.folder().join("disk"))
}

/// Where the machine has it, and so the guest.
fn tool(name: &str) -> Result<String> {
    let file = setup::find(name).with_context(|| format!("there is no {name}"))?;
    Ok(file.display().to_string())
}

/// What the node's daemons have to prove who they are, and to see who others are. The authority's key stays
/// outside.
fn credentials(node: Node) -> Vec<PathBuf> {
    let name = node.name();
    let serving = format!("{name}-serving");
    let mut files = vec![certificate("ca")];
    for file in [&name, &serving, "kube-proxy"] {
        files.extend([certificate(file), key(file)]);
    }
    files.extend([config(&name), config("kube-proxy")]);
    files
}

/// The tree, in a folder that ends with the making of the image.
struct Tree {
    root: PathBuf,
    /// Those that are in it.
    libraries: BTreeSet<PathBuf>,
}

impl Tree {
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn file(&self, path: &str, mode: u32, content: &str) -> Result<()> {
        let path = self.root.join(path);
        write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot change {}", path.display()))
    }

    /// The same file at the same path.
    fn copy(&self, path: &Path) -> Result<()> {
        self.link(path, path)
    }

    /// The file at another path. It is the same one where the file system lets it: an image is made of half a
    /// gigabyte.
    fn link(&self, source: &Path, path: &Path) -> Result<()> {
        let target = self.inside(path);
        if target.exists() {
            return Ok(());
        }
        if let Some(folder) = target.parent() {
            create(folder)?;
        }
        let source = source
            .canonicalize()
            .with_context(|| format!("cannot find {}", source.display()))?;
        fs::hard_link(&source, &target)
            .or_else(|_| fs::copy(&source, &target).map(|_| ()))
            .with_context(|| format!("cannot copy {}", source.display()))
    }

    /// A program at its path, with its libraries.
    fn program(&mut self, path: &Path) -> Result<()> {
        self.copy(path)?;
        if Elf::read(path)?.is_static()? {
            return Ok(());
        }
        let said = output(Command::new("ldd").arg(path))
            .with_context(|| format!("ldd knows nothing of {}", path.display()))?;
        for library in libraries(&said) {
            self.copy(&library)?;
            self.libraries.insert(library);
        }
        Ok(())
    }

    /// What iptables loads by itself, from a folder beside its library.
    fn extensions(&self) -> Result<()> {
        let library = self.libraries.iter().find(|library| {
            library
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libxtables.so"))
        });
        let Some(library) = library else {
            return Ok(()); // It is static, and so has them within.
        };
        let real = library
            .canonicalize()
            .with_context(|| format!("cannot find {}", library.display()))?;
        let folder = real.with_file_name("xtables");
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            self.copy(&entry.context("cannot list a folder")?.path())?;
        }
        Ok(())
    }

    /// The node's folder, as far as there are files in it.
    fn settings(&self, node: Node) -> Result<()> {
        let folder = node.folder();
        for place in [folder.clone(), folder.join("net.d")] {
            let list =
                fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?;
            for entry in list {
                let path = entry.context("cannot list a folder")?.path();
                if path.is_file() {
                    self.copy(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the image and removes the tree.
    fn image(self, disk: &Path) -> Result<PathBuf> {
        // Some programs are called by this name.
        symlink("/bin/busybox", self.root.join("bin/sh")).context("cannot link the shell")?;
        let mut make = Command::new(setup::find("mke2fs").context("it was found before")?);
        make.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-d",
        ])
        .arg(&self.root)
        .arg(disk)
        .arg(SIZE);
        quiet(&mut make, "make a guest's disk")?;
        fs::remove_dir_all(&self.root)
            .with_context(|| format!("cannot remove {}", self.root.display()))?;
        Ok(disk.to_owned())
    }
}

/// The files that `ldd` names.
fn libraries(said: &str) -> Vec<PathBuf> {
    said.lines()
        .filter_map(|line| {
            let found = line.split_once("=> ").map_or(line, |(_, found)| found);
            let path = found.trim().split(' ').next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f50)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f51)\n";
        let found = libraries(said);
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
            .map(PathBuf::from)
        );
    }
}
