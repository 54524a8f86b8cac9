//! `cargo xtask conformance`: upstream suites judge Portcullis on the cluster, where it is installed as users
//! install it, and docs/conformance.md says what came of it.
//!
//! Each suite writes its own section of the page. No result is excused here: what a suite gets wrong by
//! itself is named in its section, with the reason.

pub(crate) mod cyclonus;
mod e2e;
mod ground;
mod page;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::cluster::Session;
use crate::command::output;
use crate::layout::Layout;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run Kubernetes' end-to-end tests of NetworkPolicy and write docs/conformance.md
    E2e(e2e::Options),
    /// Run Cyclonus' cases of NetworkPolicy, hours of them, and write docs/conformance.md
    Cyclonus(cyclonus::Options),
}

pub(crate) fn run(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::E2e(options) => e2e::run(options),
        Verb::Cyclonus(options) => cyclonus::run(options),
    }
}

/// Under what a suite ran.
pub(crate) struct Circumstances {
    kubernetes: String,
    proxy: String,
    kernel: String,
}

impl Circumstances {
    fn of(session: &Session) -> Result<Self> {
        Ok(Self {
            kubernetes: session.version()?,
            proxy: session.proxy.clone(),
            kernel: kernel()?,
        })
    }
}

/// The folder of what a suite leaves; what the last run left is still in it.
fn folder(layout: &Layout, suite: &str) -> Result<PathBuf> {
    let folder = layout.target.join("conformance").join(suite);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Whether the kernel has SCTP sockets, after a chance to load the module.
fn has_sctp() -> bool {
    output(Command::new("modprobe").args(["--quiet", "sctp"]));
    let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    protocols.lines().any(|line| line.starts_with("SCTP"))
}

fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.context("cannot read the kernel's version")?;
    // What a distribution adds to it says nothing about the kernel's own behaviour.
    let number = release
        .split(|c: char| c != '.' && !c.is_ascii_digit())
        .next();
    Ok(number.unwrap_or_default().trim().to_owned())
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}
