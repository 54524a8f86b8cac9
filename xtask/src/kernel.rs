//! Kernels for guests, and their modules.
//!
//! A kernel that the machine has is used, else its Debian package is unpacked into the cache; it is never
//! installed. Module dependencies are read from the modules themselves, because an unpacked package has no
//! `modules.dep`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::failure::Failure;
use crate::initramfs::Archive;
use crate::layout;
use crate::setup;

/// Kernels that we can boot: version, Debian meta-package, how the real package's name starts.
const KERNELS: &[(&str, &str, &str)] = &[("6.1", "linux-image-cloud-amd64", "linux-image-6.1.")];

/// The version as we know it, for the command line.
pub(crate) fn known(version: &str) -> Result<&'static str, String> {
    let mut known = KERNELS.iter().map(|(version, ..)| *version);
    known
        .clone()
        .find(|known| *known == version)
        .ok_or_else(|| {
            let list: Vec<&str> = known.by_ref().collect();
            format!("kernels that can be had: {}", list.join(", "))
        })
}

/// A kernel image and its modules.
pub(crate) struct Kernel {
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// The newest kernel of a version: installed, in the cache, or downloaded now.
    pub(crate) fn find(version: &str, purpose: &str) -> Result<Self> {
        let (_, meta, prefix) = KERNELS
            .iter()
            .find(|(known, ..)| *known == version)
            .with_context(|| format!("there is no recipe for kernel {version}"))?;
        if let Some(kernel) = newest(Path::new("/"), version) {
            return Ok(kernel);
        }
        let unpacked = fs::read_dir(layout::cache().join("packages"))
            .into_iter()
            .flatten()
            .filter_map(|entry| newest(&entry.ok()?.path(), version))
            .max_by_key(|kernel| numbers(&kernel.release));
        if let Some(kernel) = unpacked {
            return Ok(kernel);
        }
        let Some(package) = setup::behind(meta, prefix) else {
            return Err(Failure::new(
                format!("cannot find a kernel {version}"),
                format!("none is installed, and apt's {meta} is not of that version"),
                "run this on Debian 12, or install that kernel under /boot and /lib/modules",
            )
            .into());
        };
        let root = setup::unpack(&package, purpose)?;
        newest(&root, version).with_context(|| format!("{package} holds no kernel {version}"))
    }

    /// Puts modules into `modules/`, those that they depend on too, and into `modules/order` a line for each,
    /// with its parameters, after those of its dependencies.
    pub(crate) fn add_modules(&self, names: &[&str], archive: &mut Archive) -> Result<()> {
        archive.directory("modules");
        let mut order = Vec::new();
        for (module, content) in self.modules(names)? {
            let (name, parameters) = module.split_once(' ').unwrap_or((&module, ""));
            archive.program(&format!("modules/{name}.ko"), &content);
            order.extend(format!("{name}.ko {parameters}\n").bytes());
        }
        archive.program("modules/order", &order);
        Ok(())
    }

    /// Each before what needs it.
    fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = BTreeMap::new();
        index(&self.modules.join("kernel"), &mut files)?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin.replace('-', "_");
        let mut loaded = Vec::new();
        for name in names {
            add(name, &files, &builtin, &mut loaded)?;
        }
        Ok(loaded)
    }
}

fn newest(root: &Path, version: &str) -> Option<Kernel> {
    let start = format!("vmlinuz-{version}.");
    fs::read_dir(root.join("boot"))
        .ok()?
        .filter_map(|entry| {
            let image = entry.ok()?.path();
            let name = image.file_name()?.to_string_lossy().into_owned();
            let release = name
                .starts_with(&start)
                .then(|| &name["vmlinuz-".len()..])?;
            let modules = ["lib/modules", "usr/lib/modules"]
                .map(|folder| root.join(folder).join(release))
                .into_iter()
                .find(|folder| folder.join("kernel").is_dir())?;
            Some(Kernel {
                release: release.to_owned(),
                image,
                modules,
            })
        })
        .max_by_key(|kernel| numbers(&kernel.release))
}

/// `6.1.0-56-cloud-amd64` as numbers that can be compared.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn add(
    module: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &str,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let name = module.split(' ').next().unwrap_or_default();
    let is_name = |known: &str| known.split(' ').next() == Some(name);
    if loaded.iter().any(|(known, _)| is_name(known)) {
        return Ok(());
    }
    let Some(file) = files.get(name) else {
        ensure!(
            builtin.contains(&format!("/{name}.ko")),
            "the kernel has no module {name}"
        );
        return Ok(());
    };
    let content = unpacked(file)?;
    for needed in depends(&content) {
        add(&needed, files, builtin, loaded)?;
    }
    loaded.push((module.to_owned(), content));
    Ok(())
}

/// Module files by name, written with underscores as the kernel does.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let describe = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(describe)? {
        let path = entry.with_context(describe)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = name.split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The names in a module's `depends=` entry, which stands between zero bytes.
fn depends(module: &[u8]) -> Vec<String> {
    let names = module
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    String::from_utf8_lossy(names)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} cannot unpack {}",
        file.display()
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF..\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0retpoline=Y\0";
        assert_eq!(depends(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert!(depends(b"\0depends=\0name=veth\0").is_empty());
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }
}
