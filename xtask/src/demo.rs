//! `cargo xtask demo`: build what is lacking, then become `portcullis lab demo`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::layout::Layout;
use crate::setup;

pub(crate) fn run(args: &[String]) -> Result<bool> {
    setup::need_root("run the demo", "cargo xtask demo")?;
    let layout = Layout::find()?;
    let products = build::products(&layout, true)?;
    setup::ensure(setup::RUNTIME_TOOLS, "the demo")?;
    setup::mount_bpffs()?;
    let error = Command::new(&products.agent)
        .args(["lab", "demo"])
        .args(args)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", products.agent.display()))
}
