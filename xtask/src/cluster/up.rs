//! `cargo xtask cluster up`: everything in its order, a line for each step.

use std::fs;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::cgroup::Hierarchies;
use super::daemon::{create, write};
use super::guest::Machine;
use super::names::{self, MOST_NODES, Node};
use super::network;
use super::place::Place;
use super::programs::Programs;
use super::{control, down, images, load, mounts, node, pki, programs, run};
use crate::command::{output, quiet, say};
use crate::failure::Failure;
use crate::kernel;
use crate::layout::Layout;

/// For all nodes to become Ready. A virtual machine is slow.
const LIMIT: Duration = Duration::from_mins(5);

#[derive(Args)]
pub(crate) struct Options {
    /// How many nodes: n1, n2, ...
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_NODES)))]
    nodes: u8,
    /// How kube-proxy translates Services
    #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
    proxy: Proxy,
    /// Which family's addresses come first: those of nodes, pods and Services that have no other wish
    #[arg(long, value_enum, default_value_t = Family::Ipv4)]
    family: Family,
    /// Add a node in a virtual machine with a kernel of this version
    #[arg(long, value_name = "VERSION", value_parser = kernel::known)]
    kernel: Option<&'static str>,
    /// Leave this node without a BPF file system at /sys/fs/bpf
    #[arg(long, value_name = "NODE")]
    without_bpffs: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Proxy {
    Iptables,
    Nftables,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// The cluster has both families. The first one is that of `status.podIP`, of a Service that asks for one
/// address, and of the API server's own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// The family of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Ipv4, Self::Ipv6]
            .into_iter()
            .find(|family| family.name() == name)
    }

    /// An IPv4 and an IPv6 word, in the order of preference.
    pub(crate) fn ordered<T>(self, [four, six]: [T; 2]) -> [T; 2] {
        match self {
            Self::Ipv4 => [four, six],
            Self::Ipv6 => [six, four],
        }
    }
}

pub(crate) fn up(layout: &Layout, options: &Options) -> Result<()> {
    let mut nodes = Node::first(options.nodes);
    let machine = match options.kernel {
        Some(version) => {
            nodes.push(Node(options.nodes + 1));
            Some(Machine::find(layout, version, nodes[nodes.len() - 1])?)
        }
        None => None,
    };
    check(options, &nodes)?;
    let hierarchies = Hierarchies::find()?;
    if names::finished().exists() && hierarchies.control_lives() {
        return Err(Failure::new(
            "cannot bring a cluster up",
            "one is up already",
            "use it: cargo xtask cluster run -- kubectl get nodes; or end it: cargo xtask cluster down",
        )
        .into());
    }
    let programs = programs::ready(layout)?;
    let images = images::ready(layout, &programs)?;
    if down::remains()? {
        say("Removing what an earlier cluster left");
        down::clear()?;
    }
    let steps = Steps(Instant::now());
    let path = programs.path()?;
    create(names::root())?;
    create(&names::logs())?;
    if let Some(machine) = &machine {
        machine.note()?;
    }
    write(&names::proxy(), options.proxy.name())?;
    write(&names::family(), options.family.name())?;
    mounts::make_points(&down::mount_points_note())?;
    hierarchies.make(&nodes)?;
    hierarchies.join()?;
    network::make_control(&nodes)?;
    pki::make_control()?;
    steps.done("certificates and the control plane's namespace are made");

    let place = Place::control(&hierarchies);
    control::start_etcd(&place, &programs, &path)?;
    steps.done("etcd answers");
    let fittings = node::Fittings {
        programs: &programs,
        path: &path,
        images: &images,
        proxy: options.proxy,
        family: options.family,
    };
    thread::scope(|scope| {
        let api = scope.spawn(|| control::start_api(&place, &programs, &path, options.family));
        // Nodes need it only for what comes after this.
        load::each(&nodes, |node| {
            let bpffs = !options.without_bpffs.contains(&node.name());
            pki::make_node(node)?;
            node::settle(node, &programs)?;
            if let Some(machine) = machine.as_ref().filter(|machine| machine.node == node) {
                machine.start(&nodes, bpffs, &fittings, &hierarchies)?;
                steps.done(&format!("{} has booted", node.name()));
                return node::start_runtime(node, &Place::host(&hierarchies, node)?, &fittings);
            }
            network::make_node(node, &nodes)?;
            mounts::make(node, &Place::bare(&hierarchies, node), bpffs, &path)?;
            let place = Place::host(&hierarchies, node)?;
            node::start_runtime(node, &place, &fittings)?;
            node::load_images(&place, &fittings)
        })?;
        api.join().expect("it does not panic")
    })?;
    steps.done("the API server is ready, containerd has the images");
    control::start_controllers(&place, &programs, &path, options.family)?;
    for node in &nodes {
        node::start_clients(*node, &Place::host(&hierarchies, *node)?, &fittings)?;
    }
    apply_name_service(&programs)?;
    wait_for_nodes(&programs, nodes.len())?;
    steps.done("all nodes are Ready");
    quiet(
        kubectl(&programs)?
            .args(["--namespace", "kube-system", "rollout", "status"])
            .args(["deployment/coredns", "--timeout=180s"]),
        "wait for CoreDNS",
    )?;
    finish(&programs)?;
    steps.done("names are answered; the cluster is up");
    say("\n  cargo xtask cluster run -- kubectl get pods -A\n  cargo xtask cluster down\n");
    Ok(())
}

/// Time since the start.
struct Steps(Instant);

impl Steps {
    fn done(&self, what: &str) {
        say(&format!(
            "  {:5.1} s  {what}",
            self.0.elapsed().as_secs_f64()
        ));
    }
}

fn check(options: &Options, nodes: &[Node]) -> Result<()> {
    if nodes.len() > usize::from(MOST_NODES) {
        return Err(Failure::new(
            format!("cannot make {} nodes", nodes.len()),
            format!("there are addresses for {MOST_NODES}, and the virtual machine is one of them"),
            format!("name fewer: --nodes {}", MOST_NODES - 1),
        )
        .into());
    }
    for name in &options.without_bpffs {
        if !nodes.iter().any(|node| node.name() == *name) {
            return Err(Failure::new(
                format!("cannot leave {name} without a BPF file system"),
                format!("nodes are n1 to n{}", nodes.len()),
                "name one of those",
            )
            .into());
        }
    }
    Ok(())
}

fn kubectl(programs: &Programs) -> Result<Command> {
    let mut command = Command::new(programs.find("kubectl")?);
    run::client(&mut command);
    Ok(command)
}

fn apply_name_service(programs: &Programs) -> Result<()> {
    let file = names::root().join("coredns.yaml");
    write(
        &file,
        include_str!("../../../tests/cluster/coredns/objects.yaml"),
    )?;
    quiet(
        kubectl(programs)?.args(["apply", "-f"]).arg(&file),
        "apply CoreDNS",
    )
}

fn wait_for_nodes(programs: &Programs, count: usize) -> Result<()> {
    const READY: &str =
        r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    let deadline = Instant::now() + LIMIT;
    loop {
        let states =
            output(kubectl(programs)?.args(["get", "nodes", "-o", READY])).unwrap_or_default();
        let ready = states.lines().filter(|state| *state == "True").count();
        if ready == count {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                "cannot bring the cluster up",
                format!(
                    "{ready} of {count} nodes are Ready after {} s",
                    LIMIT.as_secs()
                ),
                format!(
                    "read {}/*-kubelet.log; then `cargo xtask cluster down`",
                    names::logs().display()
                ),
            )
            .into());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Notes that the cluster is whole, and where its programs are.
fn finish(programs: &Programs) -> Result<()> {
    let folders: Vec<_> = programs
        .folders
        .iter()
        .map(|folder| folder.to_string_lossy())
        .collect();
    let part = names::root().join("finished.part");
    write(&part, folders.join("\n"))?;
    fs::rename(&part, names::finished()).context("cannot say that the cluster is up")
}
