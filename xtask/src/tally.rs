//! Counting what Rust's test harness prints, while it prints it.
//!
//! A test that did not run is no success: ignored tests and lines with `SKIP:` are counted, and one of
//! them makes the answer negative. To see such lines of passing tests the harness is told to show their
//! output, which is counted here and kept from the terminal unless somebody wants it.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::{HEARTBEAT, describe, say};

/// What a test prints, anywhere in a line, if it cannot run.
const SKIP: &str = "SKIP:";

#[derive(Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// What the closing lines repeat: each skip, each crash.
    notes: Vec<String>,
    /// Between `successes:` and the next heading.
    inside_successes: bool,
    show_successes: bool,
}

impl Tally {
    pub(crate) fn new(show_successes: bool) -> Self {
        Self {
            show_successes,
            ..Self::default()
        }
    }

    /// Counts a line; true if the person should see it.
    pub(crate) fn count(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.inside_successes = true;
        } else if line == "failures:" || line.starts_with("test result:") {
            self.inside_successes = false;
        }
        if let Some(counts) = line.strip_prefix("test result:") {
            self.passed += number_before(counts, " passed");
            self.failed += number_before(counts, " failed");
            let ignored = number_before(counts, " ignored");
            self.skipped += ignored;
            if ignored > 0 {
                self.notes.push(format!("{ignored} ignored tests"));
            }
        } else if line.contains(SKIP) {
            self.skipped += 1;
            self.notes.push(line.trim().to_owned());
            return true;
        }
        self.show_successes || !self.inside_successes
    }

    /// Counts what went well and is no test.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts what no test reported: a crash, a test that is missing.
    pub(crate) fn fail(&mut self, note: String) {
        self.failed += 1;
        self.notes.push(note);
    }

    /// Counts what another suite reported.
    pub(crate) fn add(&mut self, passed: u64, failed: u64) {
        self.passed += passed;
        self.failed += failed;
    }

    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed + self.skipped
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed
    }

    /// Runs a command that prints harness output on stdout.
    pub(crate) fn stream(&mut self, command: &mut Command) -> Result<()> {
        let failed_before = self.failed;
        let line = describe(command);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{line}`"))?;
        let output = child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        let started = Instant::now();
        loop {
            match lines.recv_timeout(HEARTBEAT) {
                Ok(line) if self.count(&line) => show(&line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    say(&format!("  ... {} s", started.elapsed().as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.inside_successes = false;
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{line}`"))?;
        if !status.success() && self.failed == failed_before {
            self.fail(format!("no test failed, but `{line}` did"));
        }
        Ok(())
    }

    /// Prints the notes and the closing line; true if all is well.
    pub(crate) fn close(&self) -> bool {
        for note in &self.notes {
            show(&format!("note: {note}"));
        }
        if self.ran() == 0 {
            show("note: no test has such a name");
        }
        show(&format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        ));
        self.is_good()
    }

    /// Something ran, and all of it passed.
    fn is_good(&self) -> bool {
        self.passed > 0 && self.failed == 0 && self.skipped == 0
    }
}

/// Test output belongs to stdout; a closed pipe does not stop the tests.
pub(crate) fn show(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn number_before(counts: &str, word: &str) -> u64 {
    counts
        .split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_ignored_tests_are_skips() {
        let mut tally = Tally::new(false);
        tally.count("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        tally.count("test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured");
        assert_eq!((tally.passed, tally.failed, tally.skipped), (12, 2, 1));
        assert_eq!(tally.ran(), 15);
    }

    #[test]
    fn output_of_passing_tests_is_hidden_but_a_skip_in_it_is_seen() {
        let mut tally = Tally::new(false);
        assert!(tally.count("test a ... ok"));
        assert!(!tally.count("successes:"));
        assert!(!tally.count("chatter"));
        assert!(tally.count(&format!("{SKIP} no bpffs here")));
        assert!(tally.count("failures:"));
        assert!(tally.count("why it failed"));
        assert_eq!(tally.skipped, 1);
        assert!(!tally.is_good());
    }

    #[test]
    fn a_run_without_any_test_is_no_success() {
        assert!(!Tally::new(false).is_good());
    }
}
