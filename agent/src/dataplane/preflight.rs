//! What the kernel and this process must offer, asked before anything is made: a refusal here leaves nothing behind.
//!
//! In this order, so that the first answer is the one that explains the others:
//! 1. the binary has its kernel programs;
//! 2. the kernel is 6.1 or newer, has BTF and TC classifiers;
//! 3. the process may use BPF and change the network;
//! 4. pins would lie in a bpffs.
//!
//! Whether classifiers get on an interface by TCX links (6.6) or by clsact is found out when one is attached: both need the same kernel options, and
//! adding a qdisc to find out would be a change.

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{MapData, MapError};
use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use aya::util::KernelVersion;

use super::error::OpenError;
use super::pins::Pins;

/// The oldest kernel that programs are tested on: major and minor.
pub const OLDEST_KERNEL: (u8, u8) = (6, 1);

/// Numbers from `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// `BPF_F_NO_PREALLOC`, which tries insist on.
const ON_DEMAND: u32 = 1;

/// Checks everything; makes one map of one entry that is gone again when this returns.
pub fn check(bpffs: &Path) -> Result<(), OpenError> {
    if super::OBJECT.is_empty() {
        return Err(OpenError::NoObject);
    }
    check_version(&release())?;
    check_privileges()?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(OpenError::NoBtf);
    }
    if let Ok(false) = is_program_supported(ProgramType::SchedClassifier) {
        return Err(OpenError::NoClassifier);
    }
    Pins::new(bpffs).check()
}

/// `uname -r`.
fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

fn check_version(release: &str) -> Result<(), OpenError> {
    let (major, minor) = OLDEST_KERNEL;
    match KernelVersion::current() {
        Ok(kernel) if kernel < KernelVersion::new(major, minor, 0) => {
            Err(OpenError::OldKernel(release.to_owned()))
        }
        // A version that cannot be read is no reason to leave a node without guard: the verifier has the last word.
        _ => Ok(()),
    }
}

/// Tries where trying shows it: sandboxes refuse `bpf` to processes that have the capability.
fn check_privileges() -> Result<(), OpenError> {
    let effective = effective_capabilities();
    let has = |number: u32| effective.is_none_or(|set| set & (1 << number) != 0);
    // An LPM trie is never for the unprivileged, whatever kernel.unprivileged_bpf_disabled says.
    match LpmTrie::<MapData, u32, u32>::create(1, ON_DEMAND) {
        Ok(_map) => {}
        Err(MapError::CreateError { io_error, .. }) if is_refusal(&io_error) => {
            return Err(OpenError::NotPermitted {
                lacks: "CAP_BPF",
                source: Some(io_error),
            });
        }
        Err(_other) if has(CAP_BPF) || has(CAP_SYS_ADMIN) => {}
        Err(_other) => {
            return Err(OpenError::NotPermitted {
                lacks: "CAP_BPF",
                source: None,
            });
        }
    }
    if !has(CAP_NET_ADMIN) {
        return Err(OpenError::NotPermitted {
            lacks: "CAP_NET_ADMIN",
            source: None,
        });
    }
    Ok(())
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// Capabilities that this process has; `None` where /proc does not say.
fn effective_capabilities() -> Option<u64> {
    parse_capabilities(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_process_status() {
        let status = "Name:\tx\nCapPrm:\t0\nCapEff:\t0000008000001000\n";
        let set = parse_capabilities(status).expect("the line is there");
        assert_ne!(set & (1 << CAP_BPF), 0);
        assert_ne!(set & (1 << CAP_NET_ADMIN), 0);
        assert_eq!(set & (1 << CAP_SYS_ADMIN), 0);
        assert_eq!(parse_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn a_directory_outside_a_bpffs_is_named_with_its_parent() {
        let error = Pins::new(Path::new("/proc/portcullis"))
            .check()
            .expect_err("/proc is no bpffs");
        assert!(matches!(error, OpenError::NoBpffs { parent, .. } if parent == Path::new("/proc")));
    }
}
