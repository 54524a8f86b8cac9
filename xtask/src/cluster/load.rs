//! `cargo xtask cluster load`: the same images on every node.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result};

use super::names::Node;
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
    each(&nodes, |node| import(&Place::on(node)?, &path, &files))?;
    let names: Vec<String> = nodes.into_iter().map(Node::name).collect();
    say(&format!(
        "Loaded {} file(s) on {}",
        files.len(),
        names.join(", ")
    ));
    Ok(())
}

/// Imports images where containerd runs.
pub(crate) fn import(place: &Place, path: &OsStr, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let output = place
            .command("ctr")
            .env("PATH", path)
            .args(["--namespace", "k8s.io", "images", "import", "--local"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .context("cannot run ctr")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
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
