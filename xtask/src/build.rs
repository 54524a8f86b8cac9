//! The agent's binary: the BPF object goes in through `PORTCULLIS_BPF`, one static file comes out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command::{loud, say};
use crate::elf::Elf;
use crate::layout::Layout;
use crate::{object, setup};

/// What a build leaves behind.
pub(crate) struct Products {
    pub(crate) object: PathBuf,
    pub(crate) agent: PathBuf,
}

pub(crate) fn run(release: bool) -> Result<()> {
    let layout = Layout::find()?;
    let products = products(&layout, release)?;
    let agent = Elf::read(&products.agent)?;
    say(&format!(
        "Built {}: {}, {}, with a BPF object of {}",
        products.agent.display(),
        mebibytes(agent.size()),
        if agent.is_static()? {
            "static"
        } else {
            "dynamic"
        },
        mebibytes(Elf::read(&products.object)?.size()),
    ));
    Ok(())
}

/// Builds the object and the agent, as far as their sources changed.
pub(crate) fn products(layout: &Layout, release: bool) -> Result<Products> {
    let object = object::build(layout)?;
    setup::ensure(setup::BUILD_TOOLS, "the agent")?;
    let profile = if release { "release" } else { "debug" };
    say(&format!("Building the agent ({profile})"));
    let mut cargo = if release {
        layout.cargo_release("build", &object)
    } else {
        layout.cargo("build", &object)
    };
    cargo.args(["--package", "portcullis", "--bin", "portcullis"]);
    loud(&mut cargo, "build the agent")?;
    let built = layout
        .target
        .join(&layout.host)
        .join(profile)
        .join("portcullis");
    ensure!(
        Elf::read(&built)?.is_static()?,
        "{} is not static: it names a program interpreter",
        built.display()
    );
    let agent = layout.target.join(profile).join("portcullis");
    publish(&built, &agent)?;
    Ok(Products { object, agent })
}

/// Copies under another name first: an agent that runs from the old file keeps it.
fn publish(built: &Path, place: &Path) -> Result<()> {
    let describe = || format!("cannot write {}", place.display());
    let folder = place.parent().with_context(describe)?;
    fs::create_dir_all(folder).with_context(describe)?;
    let part = place.with_extension(format!("{}.part", std::process::id()));
    fs::copy(built, &part).with_context(describe)?;
    fs::rename(&part, place).with_context(describe)
}

fn mebibytes(size: usize) -> String {
    format!("{:.2} MiB", size as f64 / f64::from(1 << 20))
}
