//! `portcullis uninstall`: the only command that takes protection away, and only when told twice.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use super::ask::runtime;
use crate::dataplane;
use crate::dataplane::pins::{Pins, this_owner};
use crate::failure::{Failure, exit};
use crate::responder::address::Addresses;
use crate::responder::listeners;

/// Removes every pin and filter below `bpffs`; without `yes` says what that would be. A second time finds nothing, which is a success too.
pub fn uninstall(bpffs: &Path, yes: bool, out: &mut dyn Write) -> Result<u8> {
    let pins = Pins::new(bpffs);
    let [links, programs, maps] = [pins.links().len(), pins.programs().len(), pins.maps().len()];
    if !yes {
        return Err(Failure::new(
            "PC5006",
            format!("nothing was removed from {}", bpffs.display()),
            format!("this would remove {links} links, {programs} programs, {maps} maps and the clsact filters of this network namespace; pods lose guard and policy"),
            "say so with --yes",
        )
        .into());
    }
    let count = dataplane::uninstall(bpffs)
        .with_context(|| format!("uninstalling from {}", bpffs.display()))?;
    // Behind the programs: until they are gone nobody but redirected pods reaches these.
    let addresses = Addresses::of(&this_owner()?);
    runtime()?.block_on(listeners::remove(&addresses))?;
    let text = if count == 0 {
        format!(
            "nothing is pinned below {}, nothing was removed",
            bpffs.display()
        )
    } else {
        let others = count.saturating_sub(links + programs + maps);
        let others = if others == 0 {
            String::new()
        } else {
            format!(" and {others} pins of other versions")
        };
        format!(
            "removed {links} links, {programs} programs, {maps} maps{others} from {}",
            bpffs.display()
        )
    };
    writeln!(out, "{text}")?;
    Ok(exit::DONE)
}

/// Waits for SIGTERM or SIGINT.
pub fn stay() -> Result<()> {
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    // Blocked, so that they wait for us instead of ending, or as process 1 being lost.
    ends.thread_block().context("blocking signals")?;
    ends.wait().context("waiting for a signal")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_yes_nothing_is_removed_and_the_usage_is_wrong() {
        let error = uninstall(Path::new("/nonexistent/pins"), false, &mut Vec::new())
            .expect_err("has to be confirmed");
        let failure = Failure::from(error);
        assert_eq!((failure.code, failure.exit_code()), ("PC5006", exit::USAGE));
    }
}
