//! `cargo xtask cluster run`: a command that finds the cluster, here or on a node.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};

use super::names::{self, Node};
use super::place::Place;
use crate::failure::Failure;

/// Becomes the command: its exit code is ours.
pub(crate) fn run(node: Option<&str>, words: &[OsString]) -> Result<()> {
    let path = path()?;
    let (program, args) = words.split_first().context("clap asks for a command")?;
    let mut command = match node {
        None => Command::new(program),
        Some(name) => {
            let here = env::current_dir().context("cannot read the current folder")?;
            Place::on(find(name)?)?.command_in(here.as_os_str(), program)
        }
    };
    let error = client(&mut command).args(args).env("PATH", path).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Makes the command one that speaks to the cluster, as its administrator.
pub(crate) fn client(command: &mut Command) -> &mut Command {
    command
        .env("KUBECONFIG", names::admin())
        // What kubectl remembers of a cluster ends with it.
        .env("KUBECACHEDIR", names::root().join("kubectl"))
        .env("NO_PROXY", without_proxy())
}

/// The search path that the running cluster was brought up with.
pub(crate) fn path() -> Result<OsString> {
    let folders = fs::read_to_string(names::finished()).ok().ok_or_else(|| {
        Failure::new(
            "cannot reach the cluster",
            "none is up",
            "bring one up: cargo xtask cluster up",
        )
    })?;
    let inherited = env::var_os("PATH").unwrap_or_default();
    let folders = folders.lines().map(OsStr::new).map(OsStr::to_owned);
    env::join_paths(folders.chain(env::split_paths(&inherited).map(Into::into)))
        .context("a folder's name has a colon")
}

/// A node of the cluster, by its name.
pub(crate) fn find(name: &str) -> Result<Node> {
    let nodes = Node::present();
    nodes
        .iter()
        .find(|node| node.name() == name)
        .copied()
        .ok_or_else(|| {
            let names: Vec<String> = nodes.into_iter().map(Node::name).collect();
            Failure::new(
                format!("cannot find the node {name}"),
                format!("the cluster has {}", names.join(", ")),
                "name one of those",
            )
            .into()
        })
}

/// The person's exceptions and our networks.
fn without_proxy() -> String {
    let ours = [names::NODES, names::PODS, names::SERVICES]
        .concat()
        .join(",");
    match env::var("NO_PROXY").or_else(|_| env::var("no_proxy")) {
        Ok(theirs) if !theirs.is_empty() => format!("{theirs},{ours}"),
        _ => ours,
    }
}
