//! Taking a name for a lab: whoever makes its directory has it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Makes the lab's directory; that it is new makes the lab ours.
pub(super) fn claim(directory: &Path) -> Result<()> {
    // The last lab to go takes the root with it, at any moment.
    for _ in 0..10 {
        fs::create_dir_all(crate::state::ROOT)
            .with_context(|| format!("creating {}", crate::state::ROOT))?;
        match fs::create_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!(
                    "{} exists: take that lab down first, or give another name",
                    directory.display()
                );
            }
            Err(error) => {
                return Err(error).with_context(|| format!("creating {}", directory.display()));
            }
        }
    }
    bail!("{} is taken away again and again", crate::state::ROOT)
}

/// Refuses what is no file name, interface name or cgroup name everywhere.
pub(super) fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 40 || !name.bytes().all(good) {
        bail!("{name:?} is no name for a lab: up to 40 lower-case letters, digits and hyphens");
    }
    Ok(())
}
