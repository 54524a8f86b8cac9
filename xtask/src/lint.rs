//! `cargo xtask lint`: every check is run, whatever the one before said; the answer is one line each.

use std::process::Command;

use anyhow::Result;

use crate::command::{say, succeeds};
use crate::failure::three_lines;
use crate::layout::{self, Layout};
use crate::{abi, setup, tree};

pub(crate) fn run() -> Result<bool> {
    let layout = Layout::find()?;
    setup::ensure(setup::BUILD_TOOLS, "clippy")?;
    setup::ensure(setup::LINT_TOOLS, "lint")?;
    let cargo = |args: &[&str]| {
        say(&format!("== cargo {}", args.join(" ")));
        succeeds(
            Command::new(layout::cargo_path())
                .current_dir(&layout.root)
                .args(args)
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    };
    let mut results = vec![
        ("fmt", cargo(&["fmt", "--all", "--check"])?),
        (
            "clippy",
            cargo(&[
                "clippy",
                "--locked",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])?,
        ),
        ("doc", cargo(&["doc", "--locked", "--no-deps"])?),
    ];
    say("== record contract and tree");
    let contract = abi::run(false);
    if let Err(error) = &contract {
        say(&three_lines(error));
    }
    results.push(("abi", contract.is_ok()));
    let findings = tree::findings(&layout.root)?;
    for finding in &findings {
        say(finding);
    }
    results.push(("tree", findings.is_empty()));
    for (name, good) in &results {
        say(&format!(
            "lint: {name} {}",
            if *good { "ok" } else { "FAILED" }
        ));
    }
    Ok(results.iter().all(|(_, good)| *good))
}
