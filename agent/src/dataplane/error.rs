//! Why the dataplane cannot be opened, as far as an operator can do something about it.
//!
//! Everything else stays an ordinary chain of contexts; [`is_ours`] says whether such a chain comes from here.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;
use aya::sys::SyscallError;
use aya::{BtfError, EbpfError};

use super::state::Action;

/// A write that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("writing {action}")]
pub struct WriteError {
    /// What was to be written.
    pub action: Box<Action>,
    /// What the kernel said: E2BIG or ENOSPC when a map is full, ENOMEM.
    #[source]
    pub source: MapError,
}

/// What the dataplane needs and does not find.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Build the binary with `cargo xtask build`.
    #[error("this binary has no BPF object")]
    NoObject,
    /// Mount a bpffs, or name a directory of one with `--bpffs`.
    #[error("no bpffs at {}", .root.display())]
    NoBpffs {
        /// The directory for pins.
        root: PathBuf,
        /// Its nearest ancestor that exists.
        parent: PathBuf,
    },
    /// End the other agent, or give this one pins of its own with `--bpffs`.
    #[error("another agent runs on the pins at {}", .root.display())]
    Taken {
        /// The directory for pins.
        root: PathBuf,
    },
    /// Run as root, or with `CAP_BPF` and `CAP_NET_ADMIN`.
    #[error("{lacks} is missing")]
    NotPermitted {
        /// The capability.
        lacks: &'static str,
        /// What the kernel said when it was tried, if it was.
        #[source]
        source: Option<io::Error>,
    },
    /// Use a kernel of at least the version in [`super::preflight::OLDEST_KERNEL`].
    #[error("kernel {0} is too old")]
    OldKernel(String),
    /// Use a kernel that is built with `CONFIG_DEBUG_INFO_BTF`.
    #[error("the kernel has no BTF")]
    NoBtf,
    /// Use a kernel that is built with `CONFIG_NET_CLS_ACT` and `CONFIG_NET_SCH_INGRESS`.
    #[error("the kernel has no TC classifiers")]
    NoClassifier,
    /// A kernel that this version was not tested on, or a bug of ours: report it with the log.
    #[error("the kernel refuses program {program}")]
    Refused {
        /// The program.
        program: String,
        /// The end of the verifier's log.
        log: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Whether one link of an error's chain was made by the kernel's BPF or TC interface.
#[must_use]
pub fn is_ours(error: &(dyn Error + 'static)) -> bool {
    error.is::<OpenError>()
        || error.is::<WriteError>()
        || error.is::<MapError>()
        || error.is::<ProgramError>()
        || error.is::<LinkError>()
        || error.is::<PinError>()
        || error.is::<TcError>()
        || error.is::<SyscallError>()
        || error.is::<EbpfError>()
        || error.is::<BtfError>()
}
