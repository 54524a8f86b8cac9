//! `cargo xtask fuzz`: libFuzzer makes up packets and policies by watching what they reach in our code.
//!
//! ```text
//! tests/fuzz/{corpus,crashes}/TARGET  --read-->  target/.../fuzz/TARGET  --finds-->   target/fuzz/corpus/TARGET    kept for the next run
//!                                      (profile `fuzz`, counters in all crates)  -->  target/fuzz/crashes/TARGET   what broke a promise
//! ```
//! Stable Rust has LLVM's counters behind flags of the compiler, so no nightly toolchain is needed and no `cargo fuzz`; sanitizers it has not, and our
//! own code is checked by its types but for the kernel programs. Several jobs are several processes that share the folder of finds.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::command::{HEARTBEAT, describe, loud, say};
use crate::layout::Layout;
use crate::setup;
use crate::tally::{Tally, show};

/// Counters for libFuzzer: which edges ran, and what was compared with what.
const COUNTERS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer is a finding: the same input takes milliseconds when it is harmless.
const SLOWEST_SECS: u32 = 20;
/// So is one that needs more memory.
const MOST_MEMORY_MIB: u32 = 2048;

/// How a job that is through with its time has longer to end.
const GRACE: Duration = Duration::from_mins(1);

/// Lines of a crash that are shown: the panic and where it came from.
const REPORT_LINES: usize = 12;

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// Any bytes to the packet parser
    Packet,
    /// Any file of objects to converter and compiler
    Policy,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Which fuzzer; both, one after the other, if none is named
    target: Option<Target>,
    /// How long each of them runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// How many processes share the work
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Give it only these files: what it found before, for example
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "target")]
    input: Vec<PathBuf>,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Policy => "policy",
        }
    }

    /// Longest input: what lies behind 1,024 bytes of a packet nobody reads, and a policy of 16 KiB holds every field many times.
    fn longest(self) -> u32 {
        match self {
            Self::Packet => 1024,
            Self::Policy => 16 * 1024,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let layout = Layout::find()?;
    let targets = match options.target {
        Some(target) => vec![target],
        None => vec![Target::Packet, Target::Policy],
    };
    let fuzzers: Vec<Fuzzer<'_>> = targets
        .into_iter()
        .map(|target| Fuzzer::build(&layout, target))
        .collect::<Result<_>>()?;
    let mut tally = Tally::new(false);
    for fuzzer in fuzzers {
        if options.input.is_empty() {
            fuzzer.search(options, &mut tally)?;
        } else {
            for file in &options.input {
                fuzzer.again(file, &mut tally)?;
            }
        }
    }
    Ok(tally.close())
}

/// A target that was built.
struct Fuzzer<'l> {
    layout: &'l Layout,
    target: Target,
    program: PathBuf,
}

/// What one process says on its way.
enum Said {
    /// Executions and coverage so far.
    Pulse(u64, u64),
    /// Another line.
    Line(String),
}

/// Sums over the processes of a target.
#[derive(Default)]
struct Progress {
    /// By process.
    executions: Vec<u64>,
    coverage: u64,
    /// The last lines of each process but for its pulse.
    lines: Vec<Vec<String>>,
}

impl<'l> Fuzzer<'l> {
    fn build(layout: &'l Layout, target: Target) -> Result<Self> {
        setup::ensure(setup::BUILD_TOOLS, "the fuzzers")?;
        setup::ensure(setup::FUZZ_TOOLS, "libFuzzer")?;
        let name = target.name();
        say(&format!(
            "Building the fuzzer `{name}`, with counters in every crate"
        ));
        let no_programs = layout.target.join("fuzz/no-programs.o");
        if !no_programs.exists() {
            let folder = layout.target.join("fuzz");
            fs::create_dir_all(&folder)
                .and_then(|()| fs::write(&no_programs, []))
                .with_context(|| format!("cannot write {}", no_programs.display()))?;
        }
        // No fuzzer loads kernel programs; and none is static, as nothing here goes to another machine.
        let mut cargo = layout.cargo("build", &no_programs);
        cargo
            .args(["--profile", "fuzz", "--package", "portcullis-fuzz"])
            .args(["--features", "libfuzzer", "--bin", name])
            .env("RUSTFLAGS", COUNTERS);
        loud(&mut cargo, "build the fuzzer")?;
        let program = layout.target.join(&layout.host).join("fuzz").join(name);
        Ok(Self {
            layout,
            target,
            program,
        })
    }

    /// Runs for the time that was given, or until every process has found something.
    fn search(&self, options: &Options, tally: &mut Tally) -> Result<()> {
        let name = self.target.name();
        let (finds, crashes) = (self.kept("corpus")?, self.kept("crashes")?);
        let kept_before = count(&finds)?;
        say(&format!(
            "== fuzz {name}: {} s, jobs: {}, finds of earlier runs: {}",
            options.seconds,
            options.jobs,
            grouped(kept_before)
        ));
        let started = Instant::now();
        let (sender, said) = mpsc::channel();
        let mut jobs = Vec::new();
        for number in 0..options.jobs as usize {
            jobs.push(self.start(number, options.seconds, &finds, &crashes, &sender)?);
        }
        drop(sender);
        let limit = Duration::from_secs(options.seconds.into()) + GRACE;
        let progress = self.follow(&said, jobs.len(), started, limit, &mut jobs);
        let mut good = true;
        for (job, lines) in jobs.iter_mut().zip(&progress.lines) {
            let status = job
                .wait()
                .with_context(|| format!("cannot wait for the fuzzer `{name}`"))?;
            if !status.success() {
                good = false;
                tally.fail(self.report(status, lines)?);
            }
        }
        if good {
            tally.pass();
        }
        show(&format!(
            "{name}: {} executions in {} s, coverage {}, {} finds kept, {} of them new",
            grouped(progress.executions.iter().sum()),
            started.elapsed().as_secs(),
            grouped(progress.coverage),
            grouped(count(&finds)?),
            grouped(count(&finds)?.saturating_sub(kept_before)),
        ));
        Ok(())
    }

    fn start(
        &self,
        number: usize,
        seconds: u32,
        finds: &Path,
        crashes: &Path,
        said: &Sender<(usize, Said)>,
    ) -> Result<Child> {
        let committed = self.layout.root.join("tests/fuzz");
        let mut command = self.command(crashes);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={}", self.target.longest()))
            .arg("-print_final_stats=1");
        let dictionary = committed.join(format!("{}.dict", self.target.name()));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // The first folder takes the finds; the others are only read.
        command
            .arg(finds)
            .args(["corpus", "crashes"].map(|kind| committed.join(kind).join(self.target.name())));
        let mut job = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{}`", describe(&command)))?;
        let output = job.stderr.take().context("stderr is piped")?;
        let said = said.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let _ = said.send((number, Said::of(line)));
            }
        });
        Ok(job)
    }

    /// Until all have ended; one that overstays its time by far is ended.
    fn follow(
        &self,
        said: &mpsc::Receiver<(usize, Said)>,
        count: usize,
        started: Instant,
        limit: Duration,
        jobs: &mut [Child],
    ) -> Progress {
        let mut progress = Progress {
            executions: vec![0; count],
            lines: vec![Vec::new(); count],
            ..Progress::default()
        };
        let mut next = HEARTBEAT;
        loop {
            let wait = next.saturating_sub(started.elapsed());
            match said.recv_timeout(wait) {
                Ok((number, Said::Pulse(executions, coverage))) => {
                    progress.executions[number] = executions;
                    progress.coverage = progress.coverage.max(coverage);
                }
                Ok((number, Said::Line(line))) => progress.lines[number].push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return progress,
            }
            if started.elapsed() >= next {
                next += HEARTBEAT;
                say(&format!(
                    "  ... {}: {} s, {} executions, coverage {}",
                    self.target.name(),
                    started.elapsed().as_secs(),
                    grouped(progress.executions.iter().sum()),
                    grouped(progress.coverage)
                ));
            }
            if started.elapsed() >= limit {
                for job in &mut *jobs {
                    // One that has ended by itself cannot be ended; the answer to both is `wait`.
                    let _ = job.kill();
                }
            }
        }
    }

    /// Says what was found and how to see it again; the same stands beside the input.
    fn report(&self, status: ExitStatus, lines: &[String]) -> Result<String> {
        let name = self.target.name();
        for line in panic_of(lines) {
            say(&format!("  | {line}"));
        }
        let written = lines
            .iter()
            .find_map(|line| line.split_once("Test unit written to "))
            .map(|(_, path)| PathBuf::from(path.trim()));
        let Some(path) = written else {
            return Ok(format!(
                "the fuzzer `{name}` ended with {status} and left no input"
            ));
        };
        let again = format!("cargo xtask fuzz {name} --input {}", path.display());
        let story = path.with_added_extension("txt");
        let text = format!("again: {again}\n\n{}\n", panic_of(lines).join("\n"));
        fs::write(&story, text).with_context(|| format!("cannot write {}", story.display()))?;
        Ok(format!("{name} breaks a promise; again: {again}"))
    }

    /// One input by itself.
    fn again(&self, file: &Path, tally: &mut Tally) -> Result<()> {
        let crashes = self.kept("crashes")?;
        let file = std::path::absolute(file).context("cannot tell the input's path")?;
        let output = self
            .command(&crashes)
            .arg(&file)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if output.status.success() {
            tally.pass();
            show(&format!("{}: every promise is kept", file.display()));
        } else {
            for line in panic_of(&lines) {
                say(&format!("  | {line}"));
            }
            tally.fail(format!(
                "{} breaks a promise of `{}`",
                file.display(),
                self.target.name()
            ));
        }
        Ok(())
    }

    fn command(&self, crashes: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.layout.root)
            .env("RUST_BACKTRACE", "0")
            .arg(format!("-timeout={SLOWEST_SECS}"))
            .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()));
        command
    }

    /// A folder of this target that outlives the run.
    fn kept(&self, kind: &str) -> Result<PathBuf> {
        let folder = self
            .layout
            .target
            .join("fuzz")
            .join(kind)
            .join(self.target.name());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }
}

impl Said {
    /// A pulse is `#1234  NEW  cov: 56 ft: 78 ...`; the final count comes as a statistic.
    fn of(line: String) -> Self {
        let pulse = || {
            let (executions, rest) = line.strip_prefix('#')?.split_once(['\t', ' '])?;
            let (_, coverage) = rest.split_once("cov: ")?;
            let coverage = coverage.split(' ').next()?;
            Some(Self::Pulse(
                executions.parse().ok()?,
                coverage.parse().ok()?,
            ))
        };
        let total = || {
            let (_, total) = line.split_once("stat::number_of_executed_units:")?;
            Some(Self::Pulse(total.trim().parse().ok()?, 0))
        };
        pulse().or_else(total).unwrap_or(Self::Line(line))
    }
}

/// The lines that say what broke: the panic, or libFuzzer's own summary.
fn panic_of(lines: &[String]) -> Vec<&str> {
    let wanted = |line: &&String| {
        line.contains("panicked at")
            || line.starts_with("SUMMARY")
            || line.contains("ERROR: libFuzzer")
    };
    let first = lines.iter().position(|line| wanted(&line)).unwrap_or(0);
    let report = lines[first..].iter().take(REPORT_LINES);
    report
        .map(String::as_str)
        .filter(|line| !line.starts_with("NOTE:"))
        .collect()
}

fn count(folder: &Path) -> Result<u64> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.count() as u64)
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_and_coverage_are_read_from_what_libfuzzer_says() {
        let pulse = |line: &str| match Said::of(line.to_owned()) {
            Said::Pulse(executions, coverage) => Some((executions, coverage)),
            Said::Line(_) => None,
        };
        assert_eq!(
            pulse("#2048\tpulse  cov: 512 ft: 900 corp: 7/89b lim: 4 exec/s: 0 rss: 33Mb"),
            Some((2048, 512))
        );
        assert_eq!(
            pulse("stat::number_of_executed_units: 4096"),
            Some((4096, 0))
        );
        assert_eq!(pulse("#0\tREAD units: 3"), None);
        assert_eq!(
            pulse("thread '<unnamed>' panicked at src/lib.rs:1:1:"),
            None
        );
    }

    #[test]
    fn a_report_begins_at_the_panic() {
        let lines: Vec<String> = [
            "INFO: seed",
            "thread 'x' panicked at a.rs:1:",
            "left: 1",
            "NOTE: libFuzzer",
            "SUMMARY: deadly signal",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(
            panic_of(&lines),
            [
                "thread 'x' panicked at a.rs:1:",
                "left: 1",
                "SUMMARY: deadly signal"
            ]
        );
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
    }
}
