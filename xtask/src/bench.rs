//! `cargo xtask bench NAME`: runs `tests/src/bin/bench-NAME.rs`, optimised, with the products it measures.

use anyhow::Result;

use crate::build;
use crate::command::succeeds;
use crate::failure::Failure;
use crate::layout::Layout;
use crate::setup;

pub(crate) fn run(name: &str, args: &[String]) -> Result<bool> {
    let layout = Layout::find()?;
    let source = layout
        .root
        .join("tests/src/bin")
        .join(format!("bench-{name}.rs"));
    if !source.exists() {
        return Err(Failure::new(
            format!("cannot run the benchmark `{name}`"),
            format!("there is no {}", source.display()),
            "name one of the bench-*.rs files of tests/src/bin",
        )
        .into());
    }
    setup::need_root("run a benchmark", &format!("cargo xtask bench {name}"))?;
    let products = build::products(&layout, true)?;
    setup::ensure(setup::TEST_TOOLS, "the benchmark")?;
    setup::mount_bpffs()?;
    succeeds(
        layout
            .cargo_release("run", &products.object)
            .args(["--package", "portcullis-tests", "--bin"])
            .arg(format!("bench-{name}"))
            .arg("--")
            .args(args)
            .env("PORTCULLIS_BIN", &products.agent),
    )
}
