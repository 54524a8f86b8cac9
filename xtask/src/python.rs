//! The Python environment of the tests: real AWS clients, and moto, which imitates AWS' services.
//!
//! Made once in the cache, anew when `tests/python/requirements.txt` is another.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{quiet, say};
use crate::layout::{self, Layout};
use crate::setup;

/// Finds or makes it.
pub(crate) fn ready(layout: &Layout) -> Result<PathBuf> {
    let list = layout.root.join("tests/python/requirements.txt");
    let wanted =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let folder = layout::cache().join("python");
    let recipe = folder.join("requirements.txt");
    if fs::read_to_string(&recipe).is_ok_and(|made_of| made_of == wanted) {
        return Ok(folder);
    }
    setup::ensure(setup::PYTHON_TOOLS, "the tests of credentials")?;
    say("Installing Python packages for the tests of credentials (a minute)");
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    quiet(&mut make, "make a Python environment")?;
    let mut install = Command::new(folder.join("bin/pip"));
    install
        .args(["install", "--quiet", "--requirement"])
        .arg(&list);
    quiet(&mut install, "install Python packages")?;
    // Last: without it the environment is made anew.
    fs::write(&recipe, wanted).with_context(|| format!("cannot write {}", recipe.display()))?;
    Ok(folder)
}
