//! `cargo xtask image`: the agent on an empty root, as the file target/image/portcullis.tar.
//!
//! The same sources and toolchain give the same file: times in it are `SOURCE_DATE_EPOCH`, or 0.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::command::{output, say};
use crate::layout::Layout;
use crate::oci::{self, Image, Layer};

/// The one place that says how the image is called; its tag is the version of the workspace.
const REPOSITORY: &str = "ghcr.io/portcullis-dev/portcullis";
const SOURCE: &str = env!("CARGO_PKG_REPOSITORY");
const PROGRAM: &str = "bin/portcullis";
/// Every node pulls it.
const MOST_BYTES: u64 = 20_000_000;

pub(crate) fn run() -> Result<()> {
    build(&Layout::find()?).map(|_| ())
}

/// The name under which nodes know the image: that of deploy/.
pub(crate) fn name() -> String {
    format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Builds the agent and its image; returns the image's file.
pub(crate) fn build(layout: &Layout) -> Result<PathBuf> {
    let products = build::products(layout, true)?;
    let path = layout.target.join("image/portcullis.tar");
    let digest = image(layout, &products.agent)?.write(&path, source_date()?)?;
    let size = fs::metadata(&path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    ensure!(
        size < MOST_BYTES,
        "{} has {size} bytes, more than {MOST_BYTES}",
        path.display()
    );
    say(&format!(
        "Wrote {}: {}, {:.1} MB, {digest}",
        path.display(),
        name(),
        size as f64 / 1e6
    ));
    Ok(path)
}

fn image(layout: &Layout, agent: &Path) -> Result<Image> {
    let mut layer = Layer::default();
    layer.copy(PROGRAM, 0o755, agent)?;
    // The same program is kubectl's plugin when it is called so.
    layer.link("bin/kubectl-portcullis", "portcullis");
    Ok(Image {
        names: vec![name()],
        architecture: oci::architecture(&layout.host).to_owned(),
        entrypoint: vec![format!("/{PROGRAM}")],
        env: vec!["PATH=/bin".to_owned()],
        labels: labels(revision(&layout.root)),
        layers: vec![layer],
    })
}

fn labels(revision: Option<String>) -> BTreeMap<String, String> {
    let mut labels = vec![
        ("title", "Portcullis".to_owned()),
        (
            "description",
            "Guards the pods of a node: metadata guard and network policy in eBPF".to_owned(),
        ),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("licenses", env!("CARGO_PKG_LICENSE").to_owned()),
        ("source", SOURCE.to_owned()),
    ];
    labels.extend(revision.map(|revision| ("revision", revision)));
    labels
        .into_iter()
        .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value))
        .collect()
}

/// The commit that is checked out, marked if files differ from it; none outside a clone.
fn revision(root: &Path) -> Option<String> {
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(root).args(args));
    let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(if changed {
        format!("{commit}-dirty")
    } else {
        commit
    })
}

fn source_date() -> Result<u64> {
    env::var("SOURCE_DATE_EPOCH").map_or(Ok(0), |value| {
        value
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is no number of seconds: {value}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_bear_the_prefix_of_the_specification() {
        let labels = labels(Some("abc".to_owned()));
        assert_eq!(
            labels["org.opencontainers.image.licenses"],
            "Apache-2.0 OR MIT"
        );
        assert_eq!(labels["org.opencontainers.image.revision"], "abc");
        assert!(name().ends_with(&format!(":{}", labels["org.opencontainers.image.version"])));
    }
}
