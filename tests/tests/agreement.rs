//! Compiler, kernel programs and real packets against the oracle, on random worlds.
//!
//! ```text
//! seed -> World -> files -> portcullis explain | lab probe -> answers
//!              \-> Oracle ----------------------------------> the same, or the world is made small and shown
//! ```
//! `PORTCULLIS_BIN` is the binary; `portcullis_tests::seeds` says which variables choose the worlds.

#[path = "agreement/giants.rs"]
mod giants;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use portcullis_tests::binary;
use portcullis_tests::directory::Directory;
use portcullis_tests::oracle::{Answer, Oracle, Reason, Side, SideVerdict, Verdict};
use portcullis_tests::scene::need_root;
use portcullis_tests::seeds::seeds;
use portcullis_tests::world::{Audience, World, minimise};

/// Labs at a time.
const LABS: usize = 4;
/// How often a failing world is tried again to make it small.
const MINIMISING_STEPS: usize = 400;
/// The same where each try builds a node.
const MINIMISING_STEPS_IN_THE_LAB: usize = 60;

#[test]
fn the_compiler_agrees_with_the_oracle() {
    let binary = binary::portcullis();
    for seed in seeds(500, 6000) {
        let world = World::random(seed, Audience::Compiler);
        demand(&world, MINIMISING_STEPS, |world| {
            compare_explain(&binary, world)
        });
    }
}

#[test]
fn the_programs_agree_with_the_oracle_by_test_run() {
    in_the_lab("test-run", seeds(500, 1500));
}

#[test]
fn the_programs_agree_with_the_oracle_by_packets() {
    in_the_lab("packets", seeds(60, 600));
}

/// Several worlds at a time: most of a lab's life is waiting for the kernel to take its namespaces down.
fn in_the_lab(how: &str, seeds: Range<u64>) {
    let binary = binary::portcullis();
    need_root();
    let (next, definite) = (AtomicU64::new(seeds.start), AtomicUsize::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let world = World::random(seed, Audience::Kernel);
            if Oracle::new(&world.objects).busiest_node().is_none() {
                continue;
            }
            demand(&world, MINIMISING_STEPS_IN_THE_LAB, |world| {
                let (disagreements, answered) = compare_lab(&binary, how, world)?;
                definite.fetch_add(answered, Ordering::Relaxed);
                Ok(disagreements)
            });
        }
    };
    thread::scope(|scope| {
        for _ in 0..LABS {
            scope.spawn(work);
        }
    });
    let definite = definite.into_inner();
    println!("{definite} answers by {how}");
    assert!(definite > 0, "every probe was skipped");
}

/// Panics with the smallest world found where `compare` reports a disagreement.
fn demand(
    world: &World,
    steps: usize,
    mut compare: impl FnMut(&World) -> Result<Vec<String>, String>,
) {
    let found = compare(world).unwrap_or_else(|failure| vec![failure]);
    if found.is_empty() {
        return;
    }
    let left = Cell::new(steps);
    let compare = RefCell::new(compare);
    // a crash of the program is kept apart from a wrong answer, so that one does not turn into the other
    let kind = |lines: &[String]| lines.iter().any(|line| line.starts_with(FAILED));
    let small = minimise(world, |candidate| {
        if left.get() == 0 {
            return false;
        }
        left.set(left.get() - 1);
        let lines = (compare.borrow_mut())(candidate).unwrap_or_else(|failure| vec![failure]);
        !lines.is_empty() && kind(&lines) == kind(&found)
    });
    let at_last = (compare.borrow_mut())(&small).unwrap_or_else(|failure| vec![failure]);
    panic!(
        "{} disagreements with the oracle, seed {} (PORTCULLIS_SEED={} PORTCULLIS_WORLDS=1):\n{}\nmade small:\n{}\n{}",
        found.len(),
        world.seed,
        world.seed,
        found.join("\n"),
        at_last.join("\n"),
        small.dump(),
    );
}

/// How a report begins whose cause is not an answer but the want of one.
const FAILED: &str = "the program failed";

/// One entry of `explain --probes -o json`.
#[derive(Debug, Deserialize)]
struct Explained {
    id: String,
    verdict: String,
    egress: ExplainedSide,
    ingress: ExplainedSide,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExplainedSide {
    verdict: String,
    reason: Option<String>,
    policy: Option<String>,
    rule: Option<usize>,
    #[serde(default)]
    isolated_by: Vec<String>,
}

fn compare_explain(binary: &Path, world: &World) -> Result<Vec<String>, String> {
    let answers: Vec<Explained> = ask(binary, world, &["explain"])?;
    let expected = judge(world);
    let ids = answers.iter().map(|answer| answer.id.as_str());
    demand_same_ids(&expected, ids)?;
    let wrong = |(expected, got): &(&Answer, &Explained)| {
        let sides = [
            (&expected.egress, &got.egress),
            (&expected.ingress, &got.ingress),
        ];
        spelled(expected.verdict()) != got.verdict
            || !sides.iter().all(|(side, got)| same_side(side, got))
    };
    let pairs = expected.iter().zip(&answers).filter(wrong);
    Ok(pairs
        .map(|(expected, got)| format!("expected {expected:?}\n     got {got:?}"))
        .collect())
}

fn same_side(expected: &Side, got: &ExplainedSide) -> bool {
    // whether a packet to oneself has sides at all, no text says
    if expected.reason == Reason::OwnAddress {
        return got.verdict != "deny";
    }
    let verdict = match expected.verdict {
        SideVerdict::Allow => "allow",
        SideVerdict::Deny => "deny",
        SideVerdict::None => "none",
    };
    let by_a_rule = expected.reason == Reason::AllowRule;
    let names_a_rule_that_allows = expected.rules.iter().any(|rule| {
        got.policy.as_deref() == Some(rule.policy.as_str()) && got.rule == Some(rule.rule)
    });
    let mut isolated_by = got.isolated_by.clone();
    isolated_by.sort_unstable();
    got.verdict == verdict
        && isolated_by == expected.isolating
        && by_a_rule == (got.reason.as_deref() == Some("allow-rule"))
        && (!by_a_rule || names_a_rule_that_allows)
}

/// One entry of `lab probe --probes -o json`.
#[derive(Debug, Deserialize)]
struct Probed {
    id: String,
    verdict: String,
    reason: Option<String>,
}

/// The disagreements, and how many probes were answered by allow or deny.
fn compare_lab(binary: &Path, how: &str, world: &World) -> Result<(Vec<String>, usize), String> {
    let oracle = Oracle::new(&world.objects);
    let Some(node) = oracle.busiest_node() else {
        return Ok((Vec::new(), 0));
    };
    let answers: Vec<Probed> = ask(
        binary,
        world,
        &["lab", "probe", "--node", &node, "--how", how],
    )?;
    let expected = judge(world);
    demand_same_ids(&expected, answers.iter().map(|answer| answer.id.as_str()))?;
    let mut disagreements = Vec::new();
    for ((probe, answer), got) in world.probes.iter().zip(&expected).zip(&answers) {
        let here = oracle
            .expected_at(&node, probe)
            .map_err(|error| error.to_string())?;
        if !here.accepts(&got.verdict) {
            let reason = got.reason.as_deref().unwrap_or("-");
            disagreements.push(format!(
                "{how} on {node}: expected {here:?}, got {} ({reason}) for {probe:?}\n     oracle {answer:?}",
                got.verdict
            ));
        }
    }
    let answered = answers
        .iter()
        .filter(|answer| answer.verdict != "skipped")
        .count();
    Ok((disagreements, answered))
}

fn judge(world: &World) -> Vec<Answer> {
    let oracle = Oracle::new(&world.objects);
    let answer = |probe| {
        oracle
            .judge(probe)
            .expect("every probe of a generated world can be answered")
    };
    world.probes.iter().map(answer).collect()
}

fn demand_same_ids<'a>(
    expected: &[Answer],
    got: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let expected: Vec<&str> = expected.iter().map(|answer| answer.id.as_str()).collect();
    let got: Vec<&str> = got.collect();
    if expected == got {
        return Ok(());
    }
    Err(format!(
        "{FAILED}: asked for {expected:?}, answered {got:?}"
    ))
}

fn spelled(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// Runs the program on a world; its standard output must be one JSON array and nothing else.
fn ask<T: DeserializeOwned>(
    binary: &Path,
    world: &World,
    command: &[&str],
) -> Result<Vec<T>, String> {
    let directory = Directory::new("agreement");
    let files = world
        .write(directory.path())
        .map_err(|error| format!("{FAILED}: cannot write the world: {error}"))?;
    let output = Command::new(binary)
        .args(command)
        .arg("--manifests")
        .arg(&files.manifests)
        .arg("--probes")
        .arg(&files.probes)
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{FAILED}: cannot start {}: {error}", binary.display()))?;
    let report = |what: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        format!(
            "{FAILED}: {what}\n{}\nstderr:\n{stderr}\nstdout:\n{stdout}",
            command.join(" ")
        )
    };
    if !output.status.success() {
        return Err(report(&output.status.to_string()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| report(&error.to_string()))
}
