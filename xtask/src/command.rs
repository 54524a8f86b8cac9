//! Running other programs: loudly (their output is ours) or quietly (a log file and a line every ten
//! seconds), never silently.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::failure::Failure;
use crate::layout;

/// Quiet for longer than this, and a line says that work goes on.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// One line for the person. A closed terminal is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs a program whose output goes straight to the terminal; a bad exit is an error.
pub(crate) fn loud(command: &mut Command, what: &str) -> Result<()> {
    if succeeds(command)? {
        return Ok(());
    }
    Err(Failure::new(
        format!("cannot {what}"),
        format!("`{}` failed", describe(command)),
        "correct what its output above names and run the command again",
    )
    .into())
}

/// Runs a program whose output goes straight to the terminal; false if it exits badly.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    Ok(status.success())
}

/// Runs a program with its output in a log; says every ten seconds that it still runs, and the log's
/// last lines if it fails.
pub(crate) fn quiet(command: &mut Command, what: &str) -> Result<()> {
    let path = log_path(what)?;
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let started = Instant::now();
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run `{}`", describe(command)))?;
    let mut next = HEARTBEAT;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            break status;
        }
        if started.elapsed() >= next {
            say(&format!("  ... {what}: {} s", started.elapsed().as_secs()));
            next += HEARTBEAT;
        }
        thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(());
    }
    for line in last_lines(&path, 15) {
        say(&format!("  | {line}"));
    }
    Err(Failure::new(
        format!("cannot {what}"),
        format!("`{}` failed", describe(command)),
        format!("read {}", path.display()),
    )
    .into())
}

/// What a program prints, if it runs and exits well.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn log_path(what: &str) -> Result<PathBuf> {
    let folder = layout::cache().join("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name: String = what
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(60)
        .collect();
    Ok(folder.join(format!("{name}.log")))
}

/// The end of a log.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(ToString::to_string)
        .collect()
}
