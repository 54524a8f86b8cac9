//! `cargo xtask test`: the ladder of tests, from the ones that need only cargo to the whole agent.
//!
//! Unit tests stand in the crates' sources and run first. A test file of its own belongs to one rung, and
//! [`FILES`] says to which: a file that has no row and a row without a file are both errors. Tests get these
//! variables, and nothing else from here:
//!
//! | variable | is |
//! |---|---|
//! | `PORTCULLIS_BIN` | the release binary, static |
//! | `PORTCULLIS_BPF` | the BPF object (not on another kernel, where only the binary is) |
//! | `PORTCULLIS_PYTHON` | an environment with boto3, awscli and moto (agent and cluster rungs only) |
//! | `PORTCULLIS_NODE_MODULES` | the AWS SDK for JavaScript (agent rung only) |
//! | `PORTCULLIS_LONG` | `1` with `--long`: more rounds, larger worlds |
//! | `PORTCULLIS_XTASK` | this program, for `cluster run` (cluster rung only) |
//!
//! The cluster rung needs minutes and Go, so it runs only when it is named: `test cluster`. With `--long` it needs
//! hours: Cyclonus has its say then.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::build;
use crate::cluster::{Family, Proxy, Session};
use crate::command::say;
use crate::conformance::cyclonus;
use crate::failure::Failure;
use crate::layout::Layout;
use crate::tally::Tally;
use crate::{node, python, setup, vm};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rung {
    Unit,
    Kernel,
    Netns,
    Agent,
    Cluster,
}

const RUNGS: &[(&str, Rung)] = &[
    ("unit", Rung::Unit),
    ("kernel", Rung::Kernel),
    ("netns", Rung::Netns),
    ("agent", Rung::Agent),
    ("cluster", Rung::Cluster),
];

/// Where test files lie, and the package that compiles them.
const FOLDERS: &[(&str, &str)] = &[
    ("tests/tests", "portcullis-tests"),
    ("tests/fuzz/tests", "portcullis-fuzz"),
    ("agent/tests", "portcullis"),
    ("agent/lab/tests", "portcullis-lab"),
    ("agent/policy/tests", "portcullis-policy"),
    ("common/tests", "portcullis-common"),
];

/// Which rung a test file stands on, in the order in which they run.
const FILES: &[(&str, Rung)] = &[
    ("tests/tests/deploy.rs", Rung::Unit),
    ("tests/tests/lint.rs", Rung::Unit),
    ("tests/fuzz/tests/corpus.rs", Rung::Unit),
    ("tests/tests/verifier.rs", Rung::Kernel),
    ("tests/tests/packets.rs", Rung::Kernel),
    ("tests/tests/agreement.rs", Rung::Kernel),
    ("agent/lab/tests/lab.rs", Rung::Netns),
    ("agent/lab/tests/background.rs", Rung::Netns),
    ("agent/lab/tests/demo.rs", Rung::Netns),
    ("tests/tests/conntrack.rs", Rung::Netns),
    ("tests/tests/services.rs", Rung::Netns),
    ("tests/tests/guard.rs", Rung::Netns),
    ("tests/tests/redirect.rs", Rung::Netns),
    ("tests/tests/restart.rs", Rung::Netns),
    ("tests/tests/leak.rs", Rung::Netns),
    ("tests/tests/feed.rs", Rung::Agent),
    ("tests/tests/roles.rs", Rung::Agent),
    ("tests/tests/imds.rs", Rung::Agent),
    ("tests/tests/sdk.rs", Rung::Agent),
    ("tests/tests/facts.rs", Rung::Agent),
    ("tests/tests/audit.rs", Rung::Agent),
    ("tests/tests/identity.rs", Rung::Agent),
    ("tests/tests/churn.rs", Rung::Agent),
    ("tests/tests/cluster.rs", Rung::Cluster),
];

/// Tests share the machine's interfaces, CPUs and BPF memory limits with each other.
const THREADS: &str = "2";

#[derive(Args)]
pub(crate) struct Options {
    /// A rung (unit, kernel, netns, agent, cluster) or a test file, then a part of tests' names
    #[arg(num_args = 0..=2, value_names = ["RUNG", "FILTER"])]
    words: Vec<String>,
    /// More rounds and larger worlds
    #[arg(long)]
    long: bool,
    /// Run the core tests on this kernel in QEMU
    #[arg(long, value_name = "VERSION", value_parser = ["6.1"])]
    kernel: Option<String>,
    /// Show what passing tests print
    #[arg(long)]
    show_output: bool,
    /// Cluster tests: use the cluster that is up, and leave it up
    #[arg(long)]
    running: bool,
}

/// A row of [`FILES`] taken apart.
#[derive(Clone, Copy)]
pub(crate) struct TestFile {
    pub(crate) path: &'static str,
    pub(crate) package: &'static str,
    /// The file's name without its end, which is the target's name too.
    pub(crate) name: &'static str,
    rung: Rung,
}

/// What the words mean.
struct Selection {
    rung: Option<Rung>,
    file: Option<String>,
    filter: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let layout = Layout::find()?;
    let selection = Selection::parse(&options.words)?;
    check_table(&layout)?;
    let files: Vec<TestFile> = rows().filter(|file| selection.holds(file)).collect();
    let on_cluster = selection.rung == Some(Rung::Cluster);
    // What those measure is half of what they say.
    let mut tally = Tally::new(options.show_output || on_cluster);
    if on_cluster {
        on_a_cluster(&layout, options, &selection, &files, &mut tally)?;
    } else if let Some(kernel) = &options.kernel {
        let guest = vm::Guest {
            kernel,
            files: &files,
            filter: selection.filter.as_deref(),
            long: options.long,
        };
        guest.run(&layout, &mut tally)?;
    } else {
        on_this_kernel(&layout, options, &selection, &files, &mut tally)?;
    }
    Ok(tally.close())
}

fn on_this_kernel(
    layout: &Layout,
    options: &Options,
    selection: &Selection,
    files: &[TestFile],
    tally: &mut Tally,
) -> Result<()> {
    if files.iter().any(|file| file.rung != Rung::Unit) {
        setup::need_root("run the tests", "cargo xtask test")?;
        setup::ensure(setup::TEST_TOOLS, "the tests")?;
        setup::mount_bpffs()?;
    }
    let clients = if files.iter().any(|file| file.rung == Rung::Agent) {
        Some((python::ready(layout)?, node::ready(layout)?))
    } else {
        None
    };
    let products = build::products(layout, true)?;
    let cargo_test = |tally: &mut Tally, targets: &[&str], threads: &[&str]| {
        let mut cargo = layout.cargo("test", &products.object);
        cargo
            .arg("--no-fail-fast")
            .args(targets)
            .env("PORTCULLIS_BIN", &products.agent);
        if let Some((python, node)) = &clients {
            cargo.env("PORTCULLIS_PYTHON", python);
            cargo.env("PORTCULLIS_NODE_MODULES", node);
        }
        if options.long {
            cargo.env("PORTCULLIS_LONG", "1");
        }
        cargo.args(["--", "--show-output"]).args(threads);
        tally.stream(cargo.args(&selection.filter))
    };
    if selection.holds_units() {
        let crates = ["--workspace", "--exclude", "portcullis-ebpf"];
        say("== unit: sources");
        cargo_test(tally, &[&crates[..], &["--lib", "--bins"]].concat(), &[])?;
        say("== unit: examples in docs");
        cargo_test(tally, &[&crates[..], &["--doc"]].concat(), &[])?;
    }
    for (rung_name, rung) in RUNGS {
        for file in files.iter().filter(|file| file.rung == *rung) {
            say(&format!("== {rung_name}: {}", file.path));
            let before = tally.ran();
            let target = ["--package", file.package, "--test", file.name];
            cargo_test(tally, &target, &["--test-threads", THREADS])?;
            if tally.ran() == before && selection.filter.is_none() {
                tally.fail(format!("{} holds no test", file.path));
            }
        }
    }
    Ok(())
}

/// A cluster for each way to translate Services: one, or with `--long` all, and Cyclonus after them.
fn on_a_cluster(
    layout: &Layout,
    options: &Options,
    selection: &Selection,
    files: &[TestFile],
    tally: &mut Tally,
) -> Result<()> {
    setup::ensure(setup::TEST_TOOLS, "the tests")?;
    let python = python::ready(layout)?;
    let products = build::products(layout, true)?;
    let proxies = match (options.running, options.long) {
        (true, _) => vec![None],
        (false, false) => vec![Some(Proxy::Iptables)],
        (false, true) => vec![Some(Proxy::Iptables), Some(Proxy::Nftables)],
    };
    for proxy in proxies {
        let started = Instant::now();
        let session = match proxy {
            Some(proxy) => Session::up(proxy, Family::Ipv4, None)?,
            None => Session::running()?,
        };
        session.install(layout)?;
        let ready = started.elapsed();
        for file in files {
            say(&format!("== cluster, {}: {}", session.proxy, file.path));
            let mut cargo = layout.cargo("test", &products.object);
            session.enter(&mut cargo)?;
            cargo
                .args(["--package", file.package, "--test", file.name])
                .env("PORTCULLIS_BIN", &products.agent)
                .env("PORTCULLIS_PYTHON", &python);
            if options.long {
                cargo.env("PORTCULLIS_LONG", "1");
            }
            // One at a time: some stop the API server or every agent.
            cargo.args(["--", "--show-output", "--test-threads", "1"]);
            tally.stream(cargo.args(&selection.filter))?;
        }
        say(&format!(
            "{:.1} minutes until Portcullis was Ready, {:.1} for the tests",
            ready.as_secs_f64() / 60.0,
            started.elapsed().saturating_sub(ready).as_secs_f64() / 60.0
        ));
    }
    if options.long && !options.running && selection.filter.is_none() {
        for family in [Family::Ipv4, Family::Ipv6] {
            let (passed, failed) = cyclonus::everything(layout, family)?;
            tally.add(passed, failed);
        }
    }
    Ok(())
}

fn rows() -> impl Iterator<Item = TestFile> {
    FILES.iter().map(|(path, rung)| {
        let (folder, file) = path.rsplit_once('/').expect("a row names a folder");
        let (_, package) = FOLDERS
            .iter()
            .find(|(known, _)| *known == folder)
            .expect("a row's folder is one of FOLDERS");
        TestFile {
            path,
            package,
            name: file.trim_end_matches(".rs"),
            rung: *rung,
        }
    })
}

/// Table and folders must say the same.
fn check_table(layout: &Layout) -> Result<()> {
    let mut written = BTreeSet::new();
    for (folder, _) in FOLDERS {
        for entry in fs::read_dir(layout.root.join(folder)).into_iter().flatten() {
            let name = entry
                .with_context(|| format!("cannot list {folder}"))?
                .file_name();
            let path = format!("{folder}/{}", name.to_string_lossy());
            if Path::new(&path).extension().is_some_and(|end| end == "rs") {
                written.insert(path);
            }
        }
    }
    let mut wrong = Vec::new();
    for path in &written {
        if !FILES.iter().any(|(row, _)| row == path) {
            wrong.push(format!("{path} has no row"));
        }
    }
    for (path, _) in FILES {
        if !written.contains(*path) {
            wrong.push(format!("{path} has a row but is not there"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        "cannot tell which tests belong to which rung",
        wrong.join(", "),
        "correct FILES in xtask/src/test.rs",
    )
    .into())
}

impl Selection {
    fn parse(words: &[String]) -> Result<Self> {
        let mut selection = Self {
            rung: None,
            file: None,
            filter: None,
        };
        let mut words = words.iter();
        let Some(first) = words.next() else {
            return Ok(selection);
        };
        if let Some((_, rung)) = RUNGS.iter().find(|(name, _)| name == first) {
            selection.rung = Some(*rung);
        } else if rows().any(|file| file.name == first) {
            selection.file = Some(first.clone());
        } else {
            selection.filter = Some(first.clone());
        }
        if let Some(second) = words.next()
            && let Some(first) = selection.filter.replace(second.clone())
        {
            return Err(Failure::new(
                format!("cannot run the tests of `{first}`"),
                "it is neither a rung nor a test file",
                "name unit, kernel, netns, agent, cluster or a file; a filter comes after it",
            )
            .into());
        }
        Ok(selection)
    }

    fn holds(&self, file: &TestFile) -> bool {
        self.rung
            .map_or(file.rung != Rung::Cluster, |wanted| wanted == file.rung)
            && self.file.as_ref().is_none_or(|wanted| wanted == file.name)
    }

    /// Whether the tests in the crates' sources are meant too.
    fn holds_units(&self) -> bool {
        self.file.is_none() && self.rung.is_none_or(|wanted| wanted == Rung::Unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Selection> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Selection::parse(&words).ok()
    }

    #[test]
    fn the_first_word_is_a_rung_or_a_file_or_a_filter() {
        let rung = parse(&["netns", "leak_of"]).expect("a rung and a filter");
        assert!(rung.rung == Some(Rung::Netns) && rung.filter.as_deref() == Some("leak_of"));
        let file = parse(&["verifier"]).expect("a file");
        assert!(file.filter.is_none() && !file.holds_units());
        let held: Vec<_> = rows().filter(|row| file.holds(row)).collect();
        assert!(held.len() == 1 && held[0].path == "tests/tests/verifier.rs");
        let filter = parse(&["deny_"]).expect("a filter");
        assert!(filter.filter.as_deref() == Some("deny_") && filter.holds_units());
        assert!(parse(&["nonsense", "deny_"]).is_none());
    }

    #[test]
    fn the_cluster_is_tested_only_when_it_is_named() {
        let holds = |words: &[&str]| {
            let selection = parse(words).expect("words with a meaning");
            rows().any(|row| row.rung == Rung::Cluster && selection.holds(&row))
        };
        assert!(holds(&["cluster"]) && holds(&["cluster", "churn"]));
        assert!(!holds(&[]) && !holds(&["agent"]) && !holds(&["deny_"]));
    }

    #[test]
    fn no_file_stands_on_two_rungs() {
        let paths: BTreeSet<&str> = rows().map(|file| file.path).collect();
        assert_eq!(paths.len(), FILES.len());
    }
}
