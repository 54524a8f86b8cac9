//! What keeps secrets inside of a process: no core dump, no memory for others, no words of libraries about what they carry.

use anyhow::{Context as _, Result};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;

/// Has the kernel write no core of this process, and let nobody without `CAP_SYS_PTRACE` look into it: `/proc/PID` is root's from now on.
pub fn seal() -> Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    set_dumpable(false).context("closing this process to others")
}

/// Whether a log line may be written, whatever the filter asks for: libraries that carry keys and tokens say nothing below `info`.
#[must_use]
pub fn may_say(line: &Metadata<'_>) -> bool {
    let is_ours = line.target().starts_with("portcullis");
    is_ours || *line.level() <= LevelFilter::INFO
}
