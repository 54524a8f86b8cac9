//! `cargo xtask conformance cyclonus`: the cases that Cyclonus generates from the API of NetworkPolicy, all of
//! them, each with 81 pairs of pods on every port.
//!
//! ```text
//! for each destination: Cyclonus -> its tables and its log, line by line -> a verdict for each case
//! ```
//! A probe is tried once, a second after which it has failed; a pod's probes of a step go by one exec. Cases
//! change labels of namespaces with fixed names, so they run one after the other.

mod cases;
mod section;
mod verdict;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::ground::Ground;
use super::page::{self, Section};
use super::{Circumstances, folder, has_sctp, minutes};
use crate::cluster::{Family, Proxy, Session};
use crate::command::{last_lines, quiet, say};
use crate::failure::Failure;
use crate::layout::Layout;
use crate::tally::show;
use cases::{Case, Name, Reader};
use verdict::Verdict;

/// The namespaces of its cases.
const NAMESPACES: &[&str] = &["x", "y", "z", "w", "y-2"];
/// No case is silent for so long.
const SILENCE: Duration = Duration::from_mins(5);
/// Cases whose pods have no Service address to Cyclonus: created or relabelled ones. It finds them by name.
const BY_NAME: &[&str] = &[
    "create-namespace",
    "create-pod",
    "example",
    "set-pod-labels",
];

#[derive(Args)]
pub(crate) struct Options {
    /// Only cases with one of these tags, as Cyclonus names them; nothing is written to docs/ then
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    include: Vec<String>,
    /// Only what calls these; the others' results stay as they are
    #[arg(long, value_enum)]
    destination: Option<Destination>,
    /// The family of the addresses that are called
    #[arg(long, value_enum, default_value_t = Family::Ipv4)]
    family: Family,
    /// How kube-proxy translates Services
    #[arg(long, value_enum, default_value_t = Proxy::Iptables)]
    proxy: Proxy,
    /// Use the cluster that is up, and leave it up
    #[arg(long, conflicts_with_all = ["proxy", "family"])]
    running: bool,
    /// Seconds that a change has until it is judged
    #[arg(long, default_value_t = 2)]
    wait: u8,
}

/// What a probe calls.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Destination {
    PodIp,
    ServiceIp,
    ServiceName,
}

impl Destination {
    /// As Cyclonus and we name it on the command line.
    fn word(self) -> &'static str {
        match self {
            Self::PodIp => "pod-ip",
            Self::ServiceIp => "service-ip",
            Self::ServiceName => "service-name",
        }
    }
}

/// Some cases and what they call.
struct Round {
    destination: Destination,
    /// Tags; none for all cases.
    include: Vec<String>,
}

/// What became of a round.
struct Answer {
    destination: Destination,
    version: String,
    verdicts: Vec<(Name, Verdict)>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let layout = Layout::find()?;
    let session = if options.running {
        Session::running()?
    } else {
        Session::up(options.proxy, options.family, None)?
    };
    session.install(&layout)?;
    let rounds = match options.destination {
        None => rounds(&options.include),
        Some(destination) => vec![Round::of(destination, &options.include)],
    };
    let whole = options.include.is_empty();
    let (passed, failed) = judge(&layout, &session, &rounds, options.wait, whole)?;
    show(&format!("{passed} passed, {failed} failed, 0 skipped"));
    Ok(passed > 0 && failed == 0)
}

/// Everything with the addresses of one family; how many cases passed and failed.
pub(crate) fn everything(layout: &Layout, family: Family) -> Result<(u64, u64)> {
    let session = Session::up(Proxy::Iptables, family, None)?;
    session.install(layout)?;
    judge(layout, &session, &rounds(&[]), 2, true)
}

fn rounds(include: &[String]) -> Vec<Round> {
    let mut destinations = vec![Destination::PodIp, Destination::ServiceIp];
    if include.is_empty() {
        destinations.push(Destination::ServiceName);
    }
    let round = |destination| Round::of(destination, include);
    destinations.into_iter().map(round).collect()
}

fn judge(
    layout: &Layout,
    session: &Session,
    rounds: &[Round],
    wait: u8,
    whole: bool,
) -> Result<(u64, u64)> {
    let _ground = Ground::new(session, None)?;
    let part = if whole { "" } else { "-part" };
    // Columns of one page were made under the same circumstances.
    let suite = format!("cyclonus-{}-{}{part}", session.family.name(), session.proxy);
    let folder = folder(layout, &suite)?;
    let started = Instant::now();
    let mut answers = Vec::new();
    for round in rounds {
        let log = folder.join(format!("{}.log", round.destination.word()));
        say(&format!(
            "== Cyclonus, {}, {}, log in {}",
            session.family.name(),
            round.destination.word(),
            log.display()
        ));
        answers.push(round.ask(session, &log, wait)?);
        if whole {
            // What is known is written at once, with what the last rounds of the other destinations said.
            let circumstances = Circumstances::of(session)?;
            let text = section::section(&circumstances, session.family, wait, &known(&folder)?);
            page::write(layout, Section::Cyclonus(session.family), &text)?;
        }
    }
    for line in section::table(&answers) {
        show(&line);
    }
    say(&format!(
        "{:.1} minutes; logs in {}",
        minutes(started.elapsed()),
        folder.display()
    ));
    clear(session)?;
    let verdicts = answers.iter().flat_map(|answer| &answer.verdicts);
    let (passed, failed): (Vec<_>, Vec<_>) = verdicts.partition(|(_, verdict)| verdict.is_good());
    Ok((passed.len() as u64, failed.len() as u64))
}

/// What the logs of a folder say, in the order of the rounds.
fn known(folder: &Path) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for Round { destination, .. } in rounds(&[]) {
        let log = folder.join(format!("{}.log", destination.word()));
        if !log.exists() {
            continue;
        }
        let file = File::open(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let mut judge = Judge::default();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", log.display()))?;
            judge.line(&String::from_utf8_lossy(&line), destination);
        }
        answers.push(judge.answer(destination));
    }
    Ok(answers)
}

/// Makes verdicts of lines.
#[derive(Default)]
struct Judge {
    reader: Reader,
    verdicts: Vec<(Name, Verdict)>,
}

impl Judge {
    /// Takes a line; the case's name and verdict, if the line ends one.
    fn line(&mut self, line: &str, destination: Destination) -> Option<&(Name, Verdict)> {
        let case = self.reader.line(line)?;
        let verdict = Verdict::of(&case, destination);
        self.verdicts.push((case.name, verdict));
        self.verdicts.last()
    }

    /// All verdicts; cases that were listed and have none did not run to their end.
    fn answer(mut self, destination: Destination) -> Answer {
        for name in self.reader.listed() {
            if !self.verdicts.iter().any(|(other, _)| other == name) {
                let case = Case::unfinished(name.clone());
                self.verdicts
                    .push((case.name.clone(), Verdict::of(&case, destination)));
            }
        }
        Answer {
            destination,
            version: self.reader.version,
            verdicts: self.verdicts,
        }
    }
}

impl Round {
    /// All cases that are to be asked this way; by name those alone that need it.
    fn of(destination: Destination, include: &[String]) -> Self {
        let include = if include.is_empty() && destination == Destination::ServiceName {
            BY_NAME.iter().map(ToString::to_string).collect()
        } else {
            include.to_vec()
        };
        Self {
            destination,
            include,
        }
    }

    fn ask(&self, session: &Session, log: &Path, wait: u8) -> Result<Answer> {
        clear(session)?;
        let started = Instant::now();
        let mut judge = Judge::default();
        let mut process = Process::start(session, self, log, wait)?;
        let mut case_started = started;
        while let Some(line) = process.line()? {
            let Some((name, verdict)) = judge.line(&line, self.destination) else {
                continue;
            };
            let (title, word) = (section::title(name), verdict.word());
            say(&format!(
                "  {:3} of {}  {:5.1} s  {word}  {title}",
                judge.verdicts.len(),
                judge.reader.listed().len(),
                case_started.elapsed().as_secs_f64(),
            ));
            case_started = Instant::now();
        }
        let ended_well = process.end()?;
        let answer = judge.answer(self.destination);
        if answer.verdicts.is_empty() || !ended_well {
            say("Cyclonus did not run to its end; its log ends:");
            for line in last_lines(log, 10) {
                say(&format!("  | {line}"));
            }
        }
        if answer.verdicts.is_empty() {
            return Err(Failure::new(
                "cannot run Cyclonus' cases",
                "it named none",
                format!(
                    "read {}; tags are in `cyclonus generate --help`",
                    log.display()
                ),
            )
            .into());
        }
        say(&format!("  {:.1} minutes", minutes(started.elapsed())));
        Ok(answer)
    }
}

/// Cyclonus at work. What it prints and what it logs come by one pipe, in the order in which they were written.
struct Process {
    child: Child,
    lines: mpsc::Receiver<io::Result<Vec<u8>>>,
    log: File,
}

impl Process {
    fn start(session: &Session, round: &Round, log: &Path, wait: u8) -> Result<Self> {
        let (output, input) = io::pipe().context("cannot make a pipe")?;
        let protocols = if has_sctp() {
            "TCP,UDP,SCTP"
        } else {
            "TCP,UDP"
        };
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = session
            .program("cyclonus")?
            .args(["batches", "--verbosity=debug"])
            .arg(format!("--include={}", round.include.join(",")))
            .arg(format!("--destination-type={}", round.destination.word()))
            .arg(format!("--server-protocol={protocols}"))
            .arg(format!("--perturbation-wait-seconds={wait}"))
            .stdin(Stdio::null())
            .stdout(input.try_clone().context("cannot share the pipe")?)
            .stderr(input)
            .spawn()
            .context("cannot run Cyclonus")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            log: file,
        })
    }

    /// The next line; none after the last one.
    fn line(&mut self) -> Result<Option<String>> {
        let line = match self.lines.recv_timeout(SILENCE) {
            Ok(line) => line.context("cannot read what Cyclonus says")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                say(&format!(
                    "Cyclonus has been silent for {} minutes; ending it",
                    SILENCE.as_secs() / 60
                ));
                return Ok(None);
            }
        };
        self.log
            .write_all(&[&line[..], b"\n"].concat())
            .context("cannot write Cyclonus' log")?;
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    /// Whether it ended by itself and well.
    fn end(&mut self) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                return Ok(status.success());
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes what cases left: Cyclonus would use its pods as they are.
fn clear(session: &Session) -> Result<()> {
    let mut delete = session.kubectl()?;
    delete
        .args(["delete", "namespace", "--ignore-not-found"])
        .args(NAMESPACES)
        .arg("--timeout=120s");
    quiet(&mut delete, "remove the namespaces of Cyclonus' cases")
}
