//! What the verbs of the command line print, once `cli` knows what was typed.
//!
//! Each writes to the `out` that it is given and returns an exit code; a reader that goes away early (`| head`) is a success. Errors are chains that
//! `failure` turns into three lines.

pub mod ask;
pub mod bpf;
pub mod explain;
pub mod iam;
pub mod lint;
pub mod mount_bpffs;
pub mod place;
pub mod status;
pub mod table;
pub mod uninstall;
pub mod wait;

use std::path::Path;

use crate::dataplane::preflight;
use crate::failure::Failure;
use crate::settings::Settings;

/// API version of every JSON object that a command prints.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";

/// Whether an agent with these settings can run here. Leaves nothing behind.
pub fn preflight(settings: &Settings) -> Result<(), Failure> {
    preflight_at(&settings.bpffs)
}

/// The same for whoever has no settings.
pub fn preflight_at(bpffs: &Path) -> Result<(), Failure> {
    preflight::check(bpffs).map_err(|error| Failure::from(anyhow::Error::from(error)))
}
