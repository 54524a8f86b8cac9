//! `portcullis mount-bpffs`: for nodes whose system mounts none. The agent itself never mounts: that needs `CAP_SYS_ADMIN`, which it does not have.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::dataplane::pins::Pins;
use crate::failure::{Failure, exit};

/// Mounts a bpffs over `directory`, unless there is one. Only root may look into it.
pub fn mount_bpffs(directory: &Path, out: &mut dyn Write) -> Result<u8> {
    let shown = directory.display();
    if Pins::new(directory).check().is_ok() {
        writeln!(out, "there is a bpffs at {shown}")?;
        return Ok(exit::DONE);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("bpf"),
        directory,
        Some("bpf"),
        flags,
        Some("mode=0700"),
    )
    .map_err(|errno| {
        let todo = match errno {
            Errno::EPERM => "run as root with CAP_SYS_ADMIN; in a pod, in a privileged container",
            Errno::ENOENT => "make the directory, or mount sysfs, which has /sys/fs/bpf",
            _ => "look for CONFIG_BPF_SYSCALL in the kernel's configuration",
        };
        Failure::new(
            "PC1002",
            format!("cannot mount a bpffs at {shown}"),
            errno.desc(),
            todo,
        )
    })?;
    writeln!(out, "mounted a bpffs at {shown}")?;
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_refused_in_three_lines() {
        let error = mount_bpffs(Path::new("/nonexistent/bpf"), &mut Vec::new())
            .expect_err("nothing can be mounted there");
        assert_eq!(Failure::from(error).code, "PC1002");
    }
}
