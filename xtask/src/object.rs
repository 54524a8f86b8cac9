//! The BPF object: which compiler can make it here, and the call that does.
//!
//! 1. Debian's compiler (`rustc-web` and `libstd-rust-web-dev-bpf`): has `core` for BPF ready-made.
//! 2. rustup's nightly of [`NIGHTLY`] with `rust-src`, which compiles `core` first.
//!
//! Debian's is taken where its parts are present or can be installed; rustup's elsewhere. Both end in
//! `bpf-linker`, which must be linked with the same major LLVM as the compiler, or it reads no bitcode.
//! Cargo is always the one that runs us: it is known to read this workspace.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{loud, output, quiet, say};
use crate::elf::Elf;
use crate::failure::Failure;
use crate::layout::{self, Layout};
use crate::setup;

/// Pinned, because LLVM and the linker must stay together: 1.97 with LLVM 22.
const NIGHTLY: &str = "nightly-2026-05-20";
const LINKER_VERSION: &str = "0.13.0";
/// LLVM releases that this `bpf-linker` can be built with.
const LINKER_LLVM: &[u32] = &[22, 23];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const TARGET: &str = "bpfel-unknown-none";
/// v3 and v4 failed the verifier on the same source, and v2 was no slower. Left to itself the linker has LLVM call a `memset` that writes byte by byte,
/// where a few stores do. And it takes no record for aligned unless told so, and moves it byte by byte: memory that is not the stack needs no alignment on
/// the machines that we run on (LLVM 22).
const FLAGS: &str = "-C debuginfo=2 -C target-cpu=v2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order \
                     -C link-arg=--cpu-features=+allows-misaligned-mem-access";
/// What the Cargo that runs us, or the person, has put into the environment for another compiler.
const FOREIGN: &[&str] = &[
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A compiler that can produce BPF.
struct Compiler {
    rustc: PathBuf,
    llvm: u32,
    builds_core: bool,
}

/// Builds the object, if its sources changed, and returns its path.
pub(crate) fn build(layout: &Layout) -> Result<PathBuf> {
    let compiler = find_compiler()?;
    let linker = find_linker(&compiler)?;
    let folder = layout.target.join("bpf");
    say(&format!(
        "Building the BPF object with {} (LLVM {})",
        compiler.rustc.display(),
        compiler.llvm
    ));
    let mut cargo = clean(&layout::cargo_path());
    cargo
        .current_dir(&layout.root)
        .args(["build", "--locked", "--package", "portcullis-ebpf"])
        .args(["--profile", "bpf", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS)
        .env("PATH", path_with(&linker)?);
    if compiler.builds_core {
        cargo.args(["-Z", "build-std=core"]);
    }
    loud(&mut cargo, "build the BPF object")?;
    let object = folder.join(TARGET).join("bpf").join("portcullis-ebpf");
    ensure!(
        Elf::read(&object)?.has_section(".BTF")?,
        "{} has no section .BTF: the linker did not get --btf",
        object.display()
    );
    Ok(object)
}

/// Debian's compiler, installed if need be; else rustup's, likewise.
fn find_compiler() -> Result<Compiler> {
    if let Some(compiler) = debian() {
        return Ok(compiler);
    }
    let offered = DEBIAN_PACKAGES.iter().all(|name| setup::available(name));
    if offered && setup::is_root() {
        setup::install(DEBIAN_PACKAGES, "the BPF object")?;
        return debian()
            .with_context(|| format!("{DEBIAN_RUSTC} does not know the target {TARGET} even now"));
    }
    if let Some(compiler) = nightly() {
        return Ok(compiler);
    }
    let remedy = if offered {
        format!(
            "as root: apt-get install --no-install-recommends {}",
            DEBIAN_PACKAGES.join(" ")
        )
    } else if setup::find("rustup").is_some() {
        install_nightly()?;
        return nightly().with_context(|| format!("{NIGHTLY} was installed but cannot be found"));
    } else {
        "install rustup from https://rustup.rs and run the command again".to_owned()
    };
    Err(Failure::new(
        "cannot build the BPF object",
        format!("no compiler here knows {TARGET}: neither Debian's nor a rustup nightly"),
        remedy,
    )
    .into())
}

/// `/usr/bin/rustc`, if it has `core` for BPF.
fn debian() -> Option<Compiler> {
    let rustc = PathBuf::from(DEBIAN_RUSTC);
    let libraries = output(clean(&rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    let has_core = fs::read_dir(libraries.trim())
        .ok()?
        .filter_map(Result::ok)
        .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"));
    has_core.then_some(())?;
    Some(Compiler {
        llvm: llvm_of(&rustc)?,
        rustc,
        builds_core: false,
    })
}

/// The pinned nightly, if it is installed with the sources of `core`.
fn nightly() -> Option<Compiler> {
    let rustup = setup::find("rustup")?;
    let toolchains = output(clean(&rustup).args(["toolchain", "list"]))?;
    toolchains
        .lines()
        .any(|line| line.starts_with(NIGHTLY))
        .then_some(())?;
    let which = output(clean(&rustup).args(["which", "--toolchain", NIGHTLY, "rustc"]))?;
    let rustc = PathBuf::from(which.trim());
    let sysroot = output(clean(&rustc).args(["--print", "sysroot"]))?;
    Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .exists()
        .then_some(())?;
    Some(Compiler {
        llvm: llvm_of(&rustc)?,
        rustc,
        builds_core: true,
    })
}

fn install_nightly() -> Result<()> {
    say(&format!(
        "Installing {NIGHTLY} with rust-src through rustup, for the BPF object (about 100 MB)"
    ));
    quiet(
        clean(Path::new("rustup"))
            .args(["toolchain", "install", NIGHTLY, "--profile", "minimal"])
            .args(["--component", "rust-src", "--no-self-update"]),
        "install the nightly compiler",
    )
}

/// `bpf-linker` for this compiler: on `PATH`, in our cache, or built into our cache.
fn find_linker(compiler: &Compiler) -> Result<PathBuf> {
    let llvm = compiler.llvm;
    if let Some(found) = setup::find("bpf-linker")
        && linker_fits(&found, llvm)
    {
        return Ok(found);
    }
    let folder = layout::cache()
        .join("tools")
        .join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let linker = folder.join("bin").join("bpf-linker");
    if linker_fits(&linker, llvm) {
        return Ok(linker);
    }
    ensure!(
        LINKER_LLVM.contains(&llvm),
        "bpf-linker {LINKER_VERSION} cannot be built with LLVM {llvm}, which {} has",
        compiler.rustc.display()
    );
    let prefix = ensure_llvm(llvm)?;
    setup::ensure(setup::BUILD_TOOLS, "bpf-linker")?;
    say(&format!(
        "Building bpf-linker {LINKER_VERSION} into {} (two minutes, once)",
        folder.display()
    ));
    let feature = format!("llvm-{llvm}");
    let mut cargo = Command::new(layout::cargo_path());
    for name in FOREIGN.iter().filter(|name| **name != "RUSTUP_TOOLCHAIN") {
        cargo.env_remove(name);
    }
    cargo
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--locked", "--no-default-features", "--features", &feature])
        .arg("--root")
        .arg(&folder)
        // Outside the workspace: its configuration and lock are not the linker's.
        .current_dir("/")
        .env("LLVM_PREFIX", prefix);
    loud(&mut cargo, "build bpf-linker")?;
    Ok(linker)
}

/// The right version, and linked either statically or with the compiler's LLVM.
fn linker_fits(linker: &Path, llvm: u32) -> bool {
    let version = format!("bpf-linker {LINKER_VERSION}");
    let says = output(Command::new(linker).arg("--version"));
    if says.is_none_or(|text| text.trim() != version) {
        return false;
    }
    let bytes = fs::read(linker).unwrap_or_default();
    let library = format!("libLLVM.so.{llvm}");
    !holds(&bytes, b"libLLVM.so.") || holds(&bytes, library.as_bytes())
}

/// Where LLVM's headers and libraries are.
fn ensure_llvm(major: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let config = prefix.join("bin/llvm-config");
    let package = format!("llvm-{major}-dev");
    if config.exists() {
        return Ok(prefix);
    }
    let config_name = format!("llvm-config-{major}");
    if let Some(text) =
        setup::find(&config_name).and_then(|path| output(Command::new(path).arg("--prefix")))
    {
        return Ok(PathBuf::from(text.trim()));
    }
    if setup::available(&package) {
        setup::install(&[&package], "bpf-linker")?;
        return Ok(prefix);
    }
    Err(Failure::new(
        "cannot build bpf-linker",
        format!("it needs LLVM {major} with headers, as the compiler has, and there is none here"),
        format!(
            "install LLVM {major} (apt.llvm.org has {package}), or put bpf-linker {LINKER_VERSION} \
             for it on PATH"
        ),
    )
    .into())
}

fn llvm_of(rustc: &Path) -> Option<u32> {
    let text = output(clean(rustc).arg("-vV"))?;
    let version = text
        .lines()
        .find_map(|l| l.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// A command without what other compilers left in the environment.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

fn path_with(linker: &Path) -> Result<OsString> {
    let folder = linker.parent().context("the linker lies in a folder")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
    env::join_paths(folders).context("cannot put the linker's folder on PATH")
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
