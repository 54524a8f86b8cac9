//! The npm packages of the tests: the AWS SDK for JavaScript, as pods have it.
//!
//! Installed once in the cache, anew when `tests/node/package-lock.json` is another.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, quiet, say};
use crate::failure::Failure;
use crate::layout::{self, Layout};
use crate::setup;

/// The oldest that the SDK runs on.
const OLDEST: u32 = 20;

/// Finds or makes them: the folder `node_modules`.
pub(crate) fn ready(layout: &Layout) -> Result<PathBuf> {
    setup::ensure(setup::NODE_TOOLS, "the tests of credentials")?;
    check_version()?;
    let source = layout.root.join("tests/node");
    let read = |name: &str| {
        let path = source.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let wanted = [
        ("package.json", read("package.json")?),
        ("package-lock.json", read("package-lock.json")?),
    ];
    let folder = layout::cache().join("node");
    let modules = folder.join("node_modules");
    let recipe = folder.join("installed");
    let whole: String = wanted.iter().map(|(_, text)| text.as_str()).collect();
    if fs::read_to_string(&recipe).is_ok_and(|made_of| made_of == whole) {
        return Ok(modules);
    }
    say("Installing npm packages for the tests of credentials (a minute)");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, text) in &wanted {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut install = Command::new("npm");
    install
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&folder);
    quiet(&mut install, "install npm packages")?;
    // Last: without it they are installed anew.
    fs::write(&recipe, whole).with_context(|| format!("cannot write {}", recipe.display()))?;
    Ok(modules)
}

fn check_version() -> Result<()> {
    let version = output(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= OLDEST) {
        return Ok(());
    }
    Err(Failure::new(
        format!("cannot use node {}", version.trim()),
        format!("the SDK for JavaScript needs {OLDEST} or newer"),
        "install Node.js 20 and run the command again",
    )
    .into())
}
