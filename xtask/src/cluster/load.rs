//! `cargo xtask cluster load`: the same images on every node.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use super::names::Node;
use super::node::SOCKET;
use super::place::Place;
use super::run;
use crate::command::say;
use crate::failure::Failure;

pub(crate) fn load(files: &[PathBuf]) -> Result<()> {
    let path = run::path()?;
    let files: Vec<PathBuf> = files
        .iter()
        .map(|file| {
            file.canonicalize()
                .with_context(|| format!("cannot read {}", file.display()))
        })
        .collect::<Result<_>>()?;
    let nodes = Node::present();
    let socket = Path::new(SOCKET);
    each(&nodes, |node| {
        import(&Place::on(node)?, &path, socket, &files)
    })?;
    let names: Vec<String> = nodes.into_iter().map(Node::name).collect();
    say(&format!(
        "Loaded {} file(s) on {}",
        files.len(),
        names.join(", ")
    ));
    Ok(())
}

/// Whether containerd does.
pub(crate) fn answers(place: &Place, path: &OsStr, socket: &Path) -> bool {
    let answer = ctr(place, path, socket).arg("version").output();
    answer.is_ok_and(|output| output.status.success())
}

/// Imports images where containerd runs.
pub(crate) fn import(place: &Place, path: &OsStr, socket: &Path, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let output = ctr(place, path, socket)
            // A guest does not have the file.
            .args(["--namespace", "k8s.io", "images", "import", "--local", "-"])
            .stdin(File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
            .stderr(Stdio::piped())
            .output()
            .context("cannot run ctr")?;
        if !output.status.success() {
            // Over a guest's wire errors come as output.
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            return Err(Failure::new(
                format!("cannot load {}", file.display()),
                said.trim().lines().last().unwrap_or("ctr does not say"),
                "name archives as `docker save` or `cargo xtask image` write them",
            )
            .into());
        }
    }
    Ok(())
}

fn ctr(place: &Place, path: &OsStr, socket: &Path) -> Command {
    let mut command = place.command("ctr");
    command.env("PATH", path).arg("--address").arg(socket);
    command
}

/// Does the same for all nodes at a time; the first error is the answer.
pub(crate) fn each(nodes: &[Node], work: impl Fn(Node) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || work(*node)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("work does not panic"))
    })
}
