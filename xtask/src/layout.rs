//! Where things lie: the workspace, what is built from it, our cache; and the Cargo that builds.
//!
//! `--target` is always named, even though it is the host: without it the flags would reach procedural
//! macros and build scripts too, and a procedural macro cannot be static. Everything that runs on the
//! host is built by [`Layout::cargo`] with the same flags, so that the dependencies are compiled once
//! per profile.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

const STATIC: &str = "-C target-feature=+crt-static";

/// A static program that can lie at any address relocates itself: 24 bytes for each pointer, or a bit (`DT_RELR`, glibc 2.36, binutils 2.38).
const PACKED: &str = "-C link-arg=-Wl,-z,pack-relative-relocs";

/// Leaves out the tables to unwind a stack by: a release ends where it panics, and has no symbols.
const UNTABLED: &str = "xtask/release.ld";

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
        self.cargo_with(verb, object, STATIC)
    }

    /// The same for what is measured and shipped.
    pub(crate) fn cargo_release(&self, verb: &str, object: &Path) -> Command {
        let script = self.root.join(UNTABLED);
        let untabled = format!("-C link-arg=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
        let mut command = self.cargo_with(verb, object, &format!("{STATIC} {PACKED} {untabled}"));
        command.arg("--release");
        command
    }

    fn cargo_with(&self, verb: &str, object: &Path, flags: &str) -> Command {
        let flags = format!("{} {flags}", env::var("RUSTFLAGS").unwrap_or_default());
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

/// The Cargo that runs us.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Our own folder for tools and packages, shared by all clones.
pub(crate) fn cache() -> PathBuf {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("portcullis")
}

fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let output = Command::new(rustc).arg("-vV").output().ok();
    output
        .and_then(|output| {
            let text = String::from_utf8(output.stdout).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("host: "))?;
            Some(line.to_owned())
        })
        .context("cannot ask rustc for the host's name")
}
