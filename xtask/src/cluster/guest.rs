//! A node that is a virtual machine: another kernel under a kubelet, emulated by QEMU without hardware help.
//!
//! ```text
//! tree of files -> ext4 image -> QEMU: eth0 on the bridge of the nodes, eth1 the wire
//! ```
//! In the guest every file has the path that it has here, so the daemons of a guest take the arguments of the
//! other nodes'. They are started over the [`wire`]; their output comes back on it and is in the same logs.
//! QEMU is a process of the node's cgroup, its network cards end with the control plane's namespace, its disk
//! is a file in the node's folder: [`super::down`] needs to know nothing of guests.

mod root;
mod store;
pub(crate) mod wire;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::cgroup::Hierarchies;
use super::daemon::{Daemon, write};
use super::names::Node;
use super::network;
use super::node::Fittings;
use super::place::Place;
use crate::failure::Failure;
use crate::guest::busybox;
use crate::initramfs::Archive;
use crate::kernel::Kernel;
use crate::layout::Layout;
use crate::setup::{self, Tool};

const PURPOSE: &str = "a node in a virtual machine";

const TOOLS: &[Tool] = &[
    Tool {
        command: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Tool {
        command: "mke2fs",
        package: "e2fsprogs",
    },
];

/// From power on to a first command. Half a minute on a busy machine.
const LIMIT: Duration = Duration::from_mins(4);

/// What the node needs of its kernel: devices, pods' interfaces and file systems, kube-proxy's rules in both
/// modes, our programs' hooks, and SCTP.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "overlay",
    "veth",
    "sctp",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_conntrack_netlink",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_redir",
    "nft_reject_inet",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_nat",
    "ipt_REJECT",
    "ip6t_REJECT",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_limit",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_recent",
    "xt_REDIRECT",
    "xt_sctp",
    "xt_statistic",
    "xt_tcpudp",
];

/// What QEMU is to emulate.
const MACHINE: &str = "-accel tcg,thread=multi -cpu max -smp 2 -m 3G -no-reboot -display none -monitor none -serial stdio";

/// A panic ends the guest at once instead of leaving it hanging.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 apparmor=0";

/// The first program: it makes the disk usable and goes there.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module parameters; do
    insmod "/modules/$module" $parameters || echo "cannot load $module"
done </modules/order
until mount -t ext4 /dev/vda /root; do sleep 0.1; done
for each in proc sys dev; do mount --move "/$each" "/root/$each"; done
exec switch_root /root /bin/busybox init
"#;

/// A virtual machine that is to be a node.
pub(crate) struct Machine {
    pub(crate) node: Node,
    kernel: Kernel,
    busybox: PathBuf,
}

impl Machine {
    /// Finds what it takes, before anything of the cluster is made.
    pub(crate) fn find(layout: &Layout, version: &str, node: Node) -> Result<Self> {
        let refuse = |why: &str, remedy: &str| {
            Err(Failure::new(format!("cannot make {PURPOSE}"), why, remedy).into())
        };
        if !layout.host.starts_with("x86_64") {
            return refuse(
                "its kernel package is for x86-64, and so must the cluster's programs be",
                "run this on an x86-64 machine, or leave --kernel out",
            );
        }
        setup::ensure(TOOLS, PURPOSE)?;
        if !Path::new("/dev/net/tun").exists() {
            return refuse(
                "/dev/net/tun is not there, and its network cards are made of it",
                "load the module: modprobe tun",
            );
        }
        Ok(Self {
            node,
            kernel: Kernel::find(version, PURPOSE)?,
            busybox: busybox(PURPOSE)?,
        })
    }

    /// Notes that the node is a guest, which others ask by [`Node::kernel`].
    pub(crate) fn note(&self) -> Result<()> {
        write(&self.node.kernel_note(), &self.kernel.release)
    }

    /// Boots it. Its settings and certificates must have been written; it takes commands when this returns.
    pub(crate) fn start(
        &self,
        nodes: &[Node],
        bpffs: bool,
        fittings: &Fittings<'_>,
        hierarchies: &Hierarchies,
    ) -> Result<()> {
        let node = self.node;
        network::make_cards(node)?;
        let store = store::make(node, fittings, hierarchies)?;
        let disk = root::make(
            &root::Content {
                node,
                nodes,
                bpffs,
                store: &store,
                busybox: &self.busybox,
            },
            fittings.programs,
        )?;
        let initramfs = node.folder().join("initramfs");
        write(&initramfs, self.initramfs()?)?;
        let place = Place::machine(hierarchies, node);
        let args = self.arguments(&disk, &initramfs);
        let name = format!("{}-console", node.name());
        // Emulation takes all the time there is. Everything else on the machine goes first.
        let nice = Path::new("nice");
        let words = ["-n", "5", "qemu-system-x86_64"].map(ToOwned::to_owned);
        let inside = Place::host(hierarchies, node)?;
        Daemon::start(
            &name,
            &place,
            nice,
            words.into_iter().chain(args),
            fittings.path,
        )?
        .wait_until(&format!("{} takes no commands", node.name()), LIMIT, || {
            answers(&inside, fittings.path)
        })
    }

    fn arguments(&self, disk: &Path, initramfs: &Path) -> Vec<String> {
        let node = self.node;
        let mut args: Vec<String> = MACHINE.split(' ').map(ToOwned::to_owned).collect();
        let kernel = self.kernel.image.display().to_string();
        args.extend(["-kernel".to_owned(), kernel]);
        args.extend(["-append".to_owned(), COMMAND_LINE.to_owned()]);
        args.extend(["-initrd".to_owned(), initramfs.display().to_string()]);
        let disk = disk.display();
        // The disk lives as long as the machine: nothing has to survive a loss of power.
        let drive = format!("file={disk},format=raw,if=virtio,cache=unsafe");
        args.extend(["-drive".to_owned(), drive]);
        // In the order of their slots they become eth0 and eth1.
        for (slot, card) in [node.name(), node.wire()].into_iter().enumerate() {
            let (id, number) = (slot + 1, node.0);
            args.extend([
                "-netdev".to_owned(),
                format!("tap,id=card{id},ifname={card},script=no,downscript=no"),
                "-device".to_owned(),
                format!(
                    "virtio-net-pci,netdev=card{id},addr=0x1{id},mac=52:54:00:78:0{id}:{number:02x}"
                ),
            ]);
        }
        args
    }

    fn initramfs(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev"] {
            archive.directory(folder);
        }
        // The kernel opens its console before the first program mounts anything.
        archive.character_device("dev/console", 5, 1);
        archive.program("init", INIT.as_bytes());
        archive.program("bin/busybox", &fs::read(&self.busybox)?);
        self.kernel.add_modules(MODULES, &mut archive)?;
        Ok(archive.finish())
    }
}

fn answers(place: &Place, path: &OsStr) -> bool {
    place
        .command("true")
        .env("PATH", path)
        .output()
        .is_ok_and(|output| output.status.success())
}
