//! The agent's binary: the BPF object goes in through `PORTCULLIS_BPF`, one static file comes out.
//!
//! `--target` is always named, even though it is the host: without it the flags would reach procedural
//! macros and build scripts too, and a procedural macro cannot be static. Everything that runs on the
//! host is built by [`Layout::cargo`] with the same flags, so that the dependencies are compiled once
//! per profile.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{loud, output, say};
use crate::elf::Elf;
use crate::{object, setup};

const STATIC: &str = "-C target-feature=+crt-static";

/// Where the workspace and its products lie.
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) host: String,
}

impl Layout {
    pub(crate) fn find() -> Result<Self> {
        // Cargo sets the variable for what it runs; the compile-time value serves a direct start.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("xtask lies in the workspace")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder).context("cannot read CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self {
            root,
            target,
            host: host()?,
        })
    }

    /// Cargo for host code, with flags that make every product static.
    pub(crate) fn cargo(&self, verb: &str, object: &Path) -> Command {
        let flags = format!("{} {STATIC}", env::var("RUSTFLAGS").unwrap_or_default());
        let mut command = Command::new(cargo_path());
        command
            .current_dir(&self.root)
            .args([verb, "--locked", "--target", &self.host, "--target-dir"])
            .arg(&self.target)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", flags.trim())
            .env("PORTCULLIS_BPF", object);
        command
    }
}

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
    let mut cargo = layout.cargo("build", &object);
    cargo.args(["--package", "portcullis", "--bin", "portcullis"]);
    if release {
        cargo.arg("--release");
    }
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

/// The Cargo that runs us.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
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

fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    output(Command::new(rustc).arg("-vV"))
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("host: "))?;
            Some(line.to_owned())
        })
        .context("cannot ask rustc for the host's name")
}

fn mebibytes(size: usize) -> String {
    format!("{:.2} MiB", size as f64 / f64::from(1 << 20))
}
