//! `cargo xtask conformance e2e`: Kubernetes' own end-to-end tests of NetworkPolicy.
//!
//! ```text
//! list (dry run) -> those that this kernel can run -> e2e.test, several at a time -> table, docs/conformance.md
//! ```
//! Every spec makes namespaces of its own, so several run beside each other.

mod section;
mod spec;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::ground::Ground;
use super::page::{self, Section};
use super::{Circumstances, folder, minutes};
use crate::cluster::{Family, Proxy, Session};
use crate::command::{last_lines, output, say};
use crate::failure::Failure;
use crate::kernel;
use crate::layout::Layout;
use crate::tally::show;
use spec::{Result as Outcome, Spec};

/// All upstream specs of NetworkPolicy have it in their names.
const FOCUS: &str = "Netpol";
/// A line of progress this often.
const PROGRESS: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Options {
    /// Only specs whose names match; without --kernel nothing is written then
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// Let all pods run in a virtual machine with a kernel of this version
    #[arg(long, value_name = "VERSION", value_parser = kernel::known)]
    kernel: Option<&'static str>,
    /// How kube-proxy translates Services
    #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
    proxy: Proxy,
    /// Use the cluster that is up, and leave it up
    #[arg(long, conflicts_with = "proxy")]
    running: bool,
    /// How many specs at a time [default: 3, and 1 with --kernel]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    jobs: Option<u8>,
    /// End the suite after this many minutes [default: 20, and 600 with --kernel]
    #[arg(long)]
    minutes: Option<u64>,
}

/// What was wanted, whatever was said.
struct Pace {
    jobs: u8,
    minutes: u64,
}

impl Pace {
    fn of(options: &Options) -> Self {
        // A virtual machine is slow, and a probe has ten seconds there too.
        let (jobs, minutes) = match options.kernel {
            None => (3, 20),
            Some(_) => (1, 600),
        };
        Self {
            jobs: options.jobs.unwrap_or(jobs),
            minutes: options.minutes.unwrap_or(minutes),
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let layout = Layout::find()?;
    let started = Instant::now();
    let session = if options.running {
        Session::running()?
    } else {
        Session::up(options.proxy, Family::Ipv4, options.kernel)?
    };
    session.install(&layout)?;
    let ready = started.elapsed();
    let suite = Section::E2e(options.kernel).name().replace(' ', "-");
    let folder = folder(&layout, &suite)?;
    // Reports of specs that are not run this time would be read as theirs.
    fs::remove_dir_all(&folder)
        .and_then(|()| fs::create_dir(&folder))
        .context("cannot remove what the last run left")?;
    let pace = Pace::of(options);
    let focus = options.focus.as_deref().unwrap_or(FOCUS);
    let specs = list(&session, &folder, focus)?;
    let ground = Ground::new(&session, options.kernel)?;
    let sctp = ground.has_sctp()?;
    let (runnable, other): (Vec<Spec>, Vec<Spec>) =
        specs.into_iter().partition(|spec| sctp || !spec.needs_sctp);
    say(&format!(
        "== {} specs, {} at a time",
        runnable.len(),
        pace.jobs
    ));
    let mut outcomes = judge(&session, &folder, &runnable, &pace)?;
    outcomes.extend(other.into_iter().map(Outcome::without_sctp));
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    let circumstances = Circumstances {
        kernel: ground.kernel()?,
        ..Circumstances::of(&session)?
    };
    drop(ground);
    drop(session);
    for line in section::table(&outcomes) {
        show(&line);
    }
    say(&format!(
        "{:.1} minutes: {:.1} until Portcullis was Ready, {:.1} for the specs; logs in {}",
        minutes(started.elapsed()),
        minutes(ready),
        minutes(started.elapsed().saturating_sub(ready)),
        folder.display()
    ));
    // In a virtual machine all of them take hours.
    if options.focus.is_none() || options.kernel.is_some() {
        let text = section::section(&circumstances, options.kernel, focus, &outcomes);
        page::write(&layout, Section::E2e(options.kernel), &text)?;
    }
    let spec::Counts {
        passed,
        failed,
        skipped,
        impossible,
    } = spec::count(&outcomes);
    if impossible > 0 {
        show(&format!("{impossible} cannot run on this kernel"));
    }
    show(&format!(
        "{passed} passed, {failed} failed, {skipped} skipped"
    ));
    Ok(passed > 0 && failed == 0)
}

/// The specs of that name, as the suite itself lists them.
fn list(session: &Session, folder: &Path, focus: &str) -> Result<Vec<Spec>> {
    let report = folder.join("list.json");
    let mut list = suite(session, &report)?;
    list.arg("-ginkgo.dry-run")
        .arg(format!("-ginkgo.focus={focus}"));
    output(&mut list).context("the suite does not list its specs")?;
    let specs = spec::listed(&report)?;
    if specs.is_empty() {
        return Err(Failure::new(
            "cannot run specs",
            format!("no spec has a name like `{focus}`"),
            "name another --focus; all of NetworkPolicy's have Netpol in their names",
        )
        .into());
    }
    Ok(specs)
}

/// Runs the specs in as many processes as wanted, and reads what each came to.
fn judge(session: &Session, folder: &Path, specs: &[Spec], pace: &Pace) -> Result<Vec<Outcome>> {
    let mut shares = Vec::new();
    for share in 0..usize::from(pace.jobs) {
        let names: Vec<&Spec> = specs
            .iter()
            .skip(share)
            .step_by(usize::from(pace.jobs))
            .collect();
        if !names.is_empty() {
            shares.push(Share::start(session, folder, share, &names, pace.minutes)?);
        }
    }
    let started = Instant::now();
    let limit = Duration::from_secs(pace.minutes * 60) + PROGRESS;
    let mut next = PROGRESS;
    while shares.iter_mut().any(Share::runs) {
        let elapsed = started.elapsed();
        if elapsed > limit {
            // It should have ended by itself; what it wrote until now counts.
            shares.iter_mut().for_each(Share::end);
        }
        if elapsed >= next {
            let done: usize = shares.iter().map(Share::done).sum();
            say(&format!(
                "  ... {done} of {} specs, {} s",
                specs.len(),
                elapsed.as_secs()
            ));
            next += PROGRESS;
        }
        thread::sleep(Duration::from_millis(200));
    }
    let mut outcomes = Vec::new();
    for share in &shares {
        outcomes.extend(share.outcomes());
    }
    for spec in specs {
        if !outcomes.iter().any(|outcome| outcome.name == spec.name) {
            outcomes.push(Outcome::unreported(spec));
        }
    }
    Ok(outcomes)
}

/// A process of the suite with its part of the specs.
struct Share {
    child: Child,
    log: PathBuf,
    report: PathBuf,
}

impl Share {
    fn start(
        session: &Session,
        folder: &Path,
        number: usize,
        specs: &[&Spec],
        minutes: u64,
    ) -> Result<Self> {
        let log = folder.join(format!("{number}.log"));
        let report = folder.join(format!("{number}.json"));
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let names: Vec<String> = specs.iter().map(|spec| spec::quoted(&spec.name)).collect();
        let child = suite(session, &report)?
            .arg(format!("-ginkgo.focus=({})$", names.join("|")))
            .arg(format!("-ginkgo.timeout={minutes}m"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log file")?)
            .stderr(output)
            .spawn()
            .context("cannot run e2e.test")?;
        Ok(Self { child, log, report })
    }

    fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn end(&mut self) {
        // It may have ended meanwhile.
        let _ = self.child.kill();
    }

    /// How many specs have ended.
    fn done(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // A dot for each that passed, in a row; a line that begins so for each that did not.
        log.matches('•').count()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        spec::reported(&self.report).unwrap_or_else(|error| {
            say(&format!("{error:#}; the log ends:"));
            for line in last_lines(&self.log, 15) {
                say(&format!("  | {line}"));
            }
            Vec::new()
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end();
        let _ = self.child.wait();
    }
}

fn suite(session: &Session, report: &Path) -> Result<Command> {
    let mut command = session.program("e2e.test")?;
    command
        .args([
            "-provider=local",
            "-ginkgo.no-color",
            "-ginkgo.silence-skips",
        ])
        .arg(format!("-ginkgo.json-report={}", report.display()));
    Ok(command)
}
