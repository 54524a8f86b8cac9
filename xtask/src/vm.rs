//! Tests on another kernel: QEMU without hardware help, a root file system in memory, a serial console.
//!
//! ```text
//! test binaries, agent, busybox, modules -> cpio -> kernel -> console -> tally
//! ```
//! The guest reports by lines that start with [`guest::MARK`]; a guest that falls silent, dies or takes
//! longer than the limit is a failure. Emulation is some ten times slower than the machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build;
use crate::command::{HEARTBEAT, quiet, say};
use crate::failure::Failure;
use crate::guest::{self, Load, MARK};
use crate::kernel::Kernel;
use crate::layout::Layout;
use crate::setup;
use crate::tally::{Tally, show};
use crate::test::TestFile;

/// Names of the test files that run on every kernel.
///
/// They must not need the source tree: in the guest there are the test binary, `PORTCULLIS_BIN`, busybox,
/// bpffs, cgroup v2 at /sys/fs/cgroup, /tmp and the modules of `guest::MODULES`, but no files of the
/// repository (`CARGO_MANIFEST_DIR` names a folder that is not there; use `include_str!`), no bpftool,
/// no network. They run as root, and slowly: wait for what must happen, not for a time.
const VM_TESTS: &[&str] = &["verifier", "packets", "guard"];

const LIMIT: Duration = Duration::from_mins(10);
const LONG_LIMIT: Duration = Duration::from_mins(40);

/// What to run, and on which kernel.
pub(crate) struct Guest<'a> {
    pub(crate) kernel: &'a str,
    /// Files that were asked for; those of [`VM_TESTS`] among them are run.
    pub(crate) files: &'a [TestFile],
    pub(crate) filter: Option<&'a str>,
    pub(crate) long: bool,
}

impl Guest<'_> {
    pub(crate) fn run(&self, layout: &Layout, tally: &mut Tally) -> Result<()> {
        if !layout.host.starts_with("x86_64") {
            return Err(Failure::new(
                format!("cannot run tests on kernel {}", self.kernel),
                "its kernel package is for x86-64, and so must the tests be",
                "run this on an x86-64 machine",
            )
            .into());
        }
        let files: Vec<TestFile> = self
            .files
            .iter()
            .copied()
            .filter(|file| VM_TESTS.contains(&file.name))
            .collect();
        if files.is_empty() {
            tally.fail(format!("no test file runs on kernel {}", self.kernel));
            return Ok(());
        }
        let purpose = format!("tests on kernel {}", self.kernel);
        setup::ensure(setup::VM_TOOLS, &purpose)?;
        let kernel = Kernel::find(self.kernel, &purpose)?;
        let products = build::products(layout, true)?;
        let folder = layout.target.join("vm");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let tests = test_binaries(layout, &products.object, &files, &folder)?;
        let archive = guest::archive(
            &kernel,
            &Load {
                agent: &products.agent,
                tests: &tests,
                filter: self.filter.unwrap_or_default(),
                long: self.long,
            },
        )?;
        let initramfs = folder.join(format!("{}.cpio", kernel.release));
        fs::write(&initramfs, &archive)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        say(&format!(
            "Booting {} in QEMU with {} MiB of tests",
            kernel.release,
            archive.len() >> 20
        ));
        let limit = if self.long { LONG_LIMIT } else { LIMIT };
        Console::start(&kernel.image, &initramfs)?.follow(&files, limit, tally);
        Ok(())
    }
}

/// Builds the test binaries and takes their debug information away: the guest has 2 GiB.
fn test_binaries(
    layout: &Layout,
    object: &Path,
    files: &[TestFile],
    folder: &Path,
) -> Result<Vec<(String, PathBuf)>> {
    say("Building the tests for the guest");
    let mut cargo = layout.cargo("test", object);
    cargo
        .arg("--no-run")
        .arg("--message-format=json-render-diagnostics");
    for file in files {
        cargo.args(["--package", file.package, "--test", file.name]);
    }
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cannot build the tests");
    let mut tests = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let (Some(name), Some(file)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) else {
            continue;
        };
        if message["target"]["kind"][0] == "test" {
            let stripped = folder.join(name);
            let mut strip = Command::new("strip");
            strip
                .arg("--strip-debug")
                .arg("-o")
                .arg(&stripped)
                .arg(file);
            quiet(&mut strip, "strip a test binary")?;
            tests.push((name.to_owned(), stripped));
        }
    }
    ensure!(
        tests.len() == files.len(),
        "cargo built {} of {} test files",
        tests.len(),
        files.len()
    );
    Ok(tests)
}

/// A running guest; dropping it ends QEMU.
struct Console {
    qemu: Child,
    lines: Receiver<String>,
    started: Instant,
}

impl Console {
    fn start(image: &Path, initramfs: &Path) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "2G", "-nic", "none", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            // A panic ends the guest at once instead of leaving it hanging.
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run qemu-system-x86_64")?;
        let output = qemu.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let _ = sender.send(line.trim_end_matches('\r').to_owned());
            }
        });
        Ok(Self {
            qemu,
            lines,
            started: Instant::now(),
        })
    }

    /// Shows and counts what the guest prints until it is done.
    fn follow(self, files: &[TestFile], limit: Duration, tally: &mut Tally) {
        let mut report = Report::new(files.iter().map(|file| file.name));
        while self.started.elapsed() < limit {
            match self.lines.recv_timeout(HEARTBEAT) {
                Ok(line) => {
                    if let Some(words) = line.strip_prefix(MARK) {
                        if let Some(line) = report.mark(words, tally) {
                            say(&line);
                        }
                    } else if tally.count(&line) && !report.done {
                        show(&line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.started.elapsed().as_secs();
                    say(&format!("  ... {} {seconds} s", report.at));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        report.close(tally);
        say(&format!(
            "The guest ran for {:.1} s",
            self.started.elapsed().as_secs_f64()
        ));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What the guest's marks have told so far.
struct Report {
    /// Files that have not ended yet.
    open: Vec<String>,
    done: bool,
    at: String,
    failures_before: u64,
    ran_before: u64,
}

impl Report {
    fn new<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            open: files.into_iter().map(ToOwned::to_owned).collect(),
            done: false,
            at: "booting".to_owned(),
            failures_before: 0,
            ran_before: 0,
        }
    }

    /// Takes in a mark; returns what the person should know of it.
    fn mark(&mut self, words: &str, tally: &mut Tally) -> Option<String> {
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        match verb {
            "booted" => {
                let (release, uptime) = rest.split_once(' ').unwrap_or((rest, "?"));
                return Some(format!("Kernel {release} is up after {uptime} s"));
            }
            "begin" => {
                rest.clone_into(&mut self.at);
                self.failures_before = tally.failures();
                self.ran_before = tally.ran();
                return Some(format!("== {rest}"));
            }
            "end" => {
                let (file, code) = rest.split_once(' ').unwrap_or((rest, "?"));
                self.open.retain(|open| open != file);
                if code != "0" && tally.failures() == self.failures_before {
                    tally.fail(format!("{file} ended with code {code} in the guest"));
                } else if tally.ran() == self.ran_before {
                    tally.fail(format!("{file} ran no test in the guest"));
                }
            }
            "done" => self.done = true,
            _ => tally.fail(format!("the guest reports: {words}")),
        }
        None
    }

    fn close(&self, tally: &mut Tally) {
        for file in &self.open {
            tally.fail(format!("{file} did not end in the guest"));
        }
        if !self.done && self.open.is_empty() {
            tally.fail("the guest ended before it was done".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_dies_or_crashes_is_counted_as_failed() {
        let mut tally = Tally::new(false);
        let mut report = Report::new(["one", "two"]);
        report.mark("begin one", &mut tally);
        tally.count("test result: ok. 3 passed; 0 failed; 0 ignored;");
        report.mark("end one 0", &mut tally);
        assert_eq!(tally.failures(), 0);
        report.mark("begin two", &mut tally);
        report.mark("end two 139", &mut tally);
        assert_eq!(tally.failures(), 1);
        report.close(&mut tally);
        assert_eq!(tally.failures(), 2);
    }

    #[test]
    fn a_whole_run_closes_without_failure() {
        let mut tally = Tally::new(false);
        let mut report = Report::new(["one"]);
        report.mark("booted 6.1.0 4.2", &mut tally);
        report.mark("begin one", &mut tally);
        tally.count("test result: ok. 1 passed; 0 failed; 0 ignored;");
        report.mark("end one 0", &mut tally);
        report.mark("done", &mut tally);
        report.close(&mut tally);
        assert_eq!((tally.failures(), tally.ran()), (0, 1));
    }
}
