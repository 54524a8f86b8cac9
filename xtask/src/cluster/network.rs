//! Namespaces and links.
//!
//! ```text
//! machine pcl0 10.78.9.1 --- 10.78.9.2 [control: br0 10.78.0.1] --- eth0 10.78.0.11 [n1] --- pods 10.61.1.0/24
//!                                                               --- eth0 10.78.0.12 [n2] --- pods 10.61.2.0/24
//! ```
//! The same with `fd78::` and `fd61::`. Nodes route to each other's pods directly and send the rest to the
//! control plane's namespace, which has no way on: nothing of the cluster leaves the machine. A guest's eth0 is
//! a card that QEMU makes of a tap, which is a port of br0 like the others.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::daemon::create;
use super::names::{
    CONTROL_4, CONTROL_6, LINK, LINK_4, LINK_6, NODES, Node, WIRE_6, control_network, pins,
};
use super::place::joined;
use crate::command::describe;

const FORWARD: &str =
    "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";

/// The namespace of the control plane, the bridge in it, and the machine's link to it.
pub(crate) fn make_control(nodes: &[Node]) -> Result<()> {
    let pins = pins();
    create(&pins)?;
    // Pins on a shared mount would be copied to other mount namespaces, and outlive us there.
    execute(Command::new("mount").arg("--bind").arg(&pins).arg(&pins))?;
    execute(Command::new("mount").arg("--make-private").arg(&pins))?;
    let network = control_network();
    pin(&network)?;
    let mut lines = format!(
        "link set lo up\n\
         link add br0 type bridge\n\
         addr add {CONTROL_4}/24 dev br0\n\
         addr add {CONTROL_6}/64 dev br0 nodad\n\
         link set br0 up\n"
    );
    for node in nodes {
        lines += &routes_to_pods(*node)?;
    }
    ip(Some(&network), &lines)?;
    ip(
        None,
        &format!(
            "link add {LINK} type veth peer name host0 netns {}\n",
            network.display()
        ),
    )?;
    let [here, there] = LINK_4;
    let [here_6, there_6] = LINK_6;
    ip(
        Some(&network),
        &format!(
            "link set host0 up\n\
             addr add {there}/30 dev host0\n\
             addr add {there_6}/64 dev host0 nodad\n"
        ),
    )?;
    let [nodes_4, nodes_6] = NODES;
    ip(
        None,
        &format!(
            "link set {LINK} up\n\
             addr add {here}/30 dev {LINK}\n\
             route add {nodes_4} via {there}\n"
        ),
    )?;
    // A machine may have IPv6 turned off for itself; the cluster has it all the same.
    let _ = ip(
        None,
        &format!("addr add {here_6}/64 dev {LINK} nodad\nroute add {nodes_6} via {there_6}\n"),
    );
    Ok(())
}

/// The namespace of a node and its link to the others.
pub(crate) fn make_node(node: Node, nodes: &[Node]) -> Result<()> {
    let network = node.network();
    pin(&network)?;
    let port = node.name();
    ip(
        Some(&control_network()),
        &format!(
            "link add {port} type veth peer name eth0 netns {}\n\
             link set {port} master br0 up\n",
            network.display()
        ),
    )?;
    ip(Some(&network), &node_lines(node, nodes)?)
}

/// The cards of a guest: its eth0 on the bridge, and the wire.
pub(crate) fn make_cards(node: Node) -> Result<()> {
    let (port, wire, [here, _]) = (node.name(), node.wire(), WIRE_6);
    ip(
        Some(&control_network()),
        &format!(
            "tuntap add dev {port} mode tap\n\
             link set {port} master br0 up\n\
             tuntap add dev {wire} mode tap\n\
             addr add {here}/64 dev {wire} nodad\n\
             link set {wire} up\n"
        ),
    )
}

/// What `ip -batch` does where the node is.
pub(crate) fn node_lines(node: Node, nodes: &[Node]) -> Result<String> {
    let mut lines = format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {CONTROL_4}\n\
         route add default via {CONTROL_6}\n",
        node.address_4(),
        node.address_6(),
    );
    for other in nodes.iter().filter(|other| **other != node) {
        lines += &routes_to_pods(*other)?;
    }
    Ok(lines)
}

fn routes_to_pods(node: Node) -> Result<String> {
    let [pods_4, pods_6] = node.pods();
    let mut lines = String::new();
    writeln!(lines, "route add {pods_4} via {}", node.address_4())?;
    writeln!(lines, "route add {pods_6} via {}", node.address_6())?;
    Ok(lines)
}

/// Makes a network namespace that forwards, and pins it.
fn pin(file: &Path) -> Result<()> {
    File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    execute(
        Command::new("unshare")
            .arg(joined("--net=", file))
            .args(["sh", "-c", FORWARD]),
    )
}

/// Runs lines of `ip`, here or in a namespace.
fn ip(network: Option<&Path>, lines: &str) -> Result<()> {
    let mut command = match network {
        Some(file) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", file.display())).arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    let mut input = child.stdin.take().context("stdin is piped")?;
    input
        .write_all(lines.as_bytes())
        .context("cannot write to ip")?;
    drop(input);
    let output = child.wait_with_output().context("cannot wait for ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot set the network up: {}",
        said.trim()
    );
    Ok(())
}

/// Whether the machine has its link.
pub(crate) fn link_exists() -> bool {
    Path::new("/sys/class/net").join(LINK).exists()
}

/// Removes the machine's link, if it is there.
pub(crate) fn remove_link() -> Result<()> {
    if !link_exists() {
        return Ok(());
    }
    let removed = ip(None, &format!("link del {LINK}\n"));
    // It goes by itself when the namespace of its other end does, which may be just now.
    if link_exists() { removed } else { Ok(()) }
}

/// Runs a small program; what it prints is the cause if it fails.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{}`: {}",
        describe(command),
        said.trim()
    );
    Ok(())
}
