//! `portcullis policy lint`: what in files of objects is a mistake, or hardly what was meant. Needs no root, kernel, agent or cluster.
//!
//! ```text
//! files --manifests::gather--> World --problems of reading (refused)--\
//!                         \--> traps ---------------------------------- Finding, by object and field --> text or LintReport
//!                          \-> model --portcullis_policy::lint--------/
//! ```
//! One list of checks for all three, `Check`; `docs/policy-lint.md` has a row for each.

mod print;
mod refused;

use std::cmp::Ordering;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use portcullis_policy::lint::{self, Check, Severity};
use portcullis_policy::model::{self, Policy, PolicyKind, PolicyRef};

use crate::failure::exit;
use crate::kube::manifests::{self, Beside, Gathered};
use crate::kube::{Key, Kind, Problem, Reason, Trap};
use crate::world::{Refusal, World};

/// What was found, and in how much.
struct Report {
    policies: usize,
    pods: usize,
    findings: Vec<Finding>,
}

/// One thing that was found.
struct Finding {
    check: Check,
    object: Key,
    /// The document that it stands in; empty where the object stands in none.
    origin: String,
    /// Path within the object; empty for the object itself.
    field: String,
    /// What stands there; empty if nothing does, or if it is no single value.
    value: String,
    problem: String,
}

/// Looks the objects of files over. Exit code 1 if there is an error or a warning; with `strict` a note does too.
pub fn lint(paths: &[PathBuf], strict: bool, json: bool, out: &mut dyn Write) -> Result<u8> {
    let report = Report::new(manifests::gather(paths)?);
    let text = if json {
        print::json(&report)?
    } else {
        print::text(&report)
    };
    out.write_all(text.as_bytes())?;
    let counts = |finding: &Finding| strict || finding.check.severity() < Severity::Note;
    Ok(if report.findings.iter().any(counts) {
        exit::NEGATIVE
    } else {
        exit::DONE
    })
}

impl Report {
    fn new(gathered: Gathered) -> Self {
        let Gathered { batch, beside } = gathered;
        // No node: nothing here depends on who looks.
        let mut world = World::new("");
        world.apply_batch(batch, SystemTime::UNIX_EPOCH);
        let model = world.snapshot();
        let mut findings: Vec<Finding> = lint::lint(&model)
            .into_iter()
            .map(Finding::of_policy)
            .filter(|finding| {
                let policy = policy_of(&model, &finding.object);
                let problems = world.refused().get(&finding.object);
                !policy.is_some_and(is_closed) || problems.is_none_or(only_doubled)
            })
            .filter(|finding| !is_said_by_trap(finding, beside.get(&finding.object)))
            .collect();
        for (key, refusal) in world.refused() {
            let read = |problem: &Problem| Finding::of_problem(key, problem);
            findings.extend(refusal.problems.iter().map(read));
        }
        for (key, beside) in &beside {
            let traps = beside.traps.iter();
            findings.extend(traps.map(|trap| Finding::of_trap(key, trap.clone())));
        }
        for finding in &mut findings {
            if let Some(beside) = beside.get(&finding.object) {
                finding.origin.clone_from(&beside.origin);
            }
        }
        findings.sort_unstable_by(Finding::order);
        Self {
            policies: model.policies.len(),
            pods: model.workloads.len(),
            findings,
        }
    }

    /// The checks that had nothing to go by.
    fn unchecked(&self) -> &'static [Check] {
        const OF_PODS: &[Check] = &Check::OF_PODS;
        if self.pods == 0 && self.policies > 0 {
            OF_PODS
        } else {
            &[]
        }
    }

    fn count(&self, severity: Severity) -> usize {
        let same = |finding: &&Finding| finding.check.severity() == severity;
        self.findings.iter().filter(same).count()
    }
}

impl Finding {
    fn of_problem(object: &Key, problem: &Problem) -> Self {
        let Problem { field, reason } = problem;
        Self {
            check: refused::check(reason),
            object: object.clone(),
            origin: String::new(),
            field: field.clone(),
            value: refused::value(field, reason),
            problem: reason.to_string(),
        }
    }

    fn of_trap(object: &Key, trap: Trap) -> Self {
        Self {
            check: trap.check,
            object: object.clone(),
            origin: String::new(),
            field: trap.field,
            value: trap.value,
            problem: trap.problem,
        }
    }

    fn of_policy(finding: lint::Finding) -> Self {
        let PolicyRef {
            kind: _,
            namespace,
            name,
        } = finding.policy;
        Self {
            check: finding.check,
            object: Key {
                kind: Kind::NetworkPolicy,
                namespace,
                name,
            },
            origin: String::new(),
            field: finding.field,
            value: finding.value,
            problem: finding.problem,
        }
    }

    /// By object, then by field as it stands in the object, numbers by their value.
    fn order(one: &Self, other: &Self) -> Ordering {
        one.object
            .cmp(&other.object)
            .then_with(|| steps(&one.field).cmp(steps(&other.field)))
            .then_with(|| one.check.cmp(&other.check))
            .then_with(|| one.problem.cmp(&other.problem))
    }
}

fn policy_of<'w>(model: &'w model::World, object: &Key) -> Option<&'w Policy> {
    let name = PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    };
    model.policies.get(&name).map(AsRef::as_ref)
}

/// Whether it allows nothing. One whose frame could not be read is made so, and then it says nothing that its author wrote.
fn is_closed(policy: &Policy) -> bool {
    let mut directions = [&policy.ingress, &policy.egress].into_iter().flatten();
    directions.all(Vec::is_empty)
}

/// Whether nothing is wrong with an object but that it stands in two documents.
fn only_doubled(refusal: &Refusal) -> bool {
    let doubled = |problem: &Problem| matches!(problem.reason, Reason::Duplicate(_));
    refusal.problems.iter().all(doubled)
}

/// Whether a trap says the same and more.
fn is_said_by_trap(finding: &Finding, beside: Option<&Beside>) -> bool {
    let denied = |trap: &Trap| trap.check == Check::IngressDeniedToo;
    finding.check == Check::DeniesAll
        && finding.field == "spec.ingress"
        && beside.is_some_and(|beside| beside.traps.iter().any(denied))
}

/// A path, step by step: names, then numbers by their value.
fn steps(field: &str) -> impl Iterator<Item = (u64, &str)> {
    let steps = field.split(['.', '[', ']']);
    steps.map(|step| (step.parse().unwrap_or(u64::MAX), step))
}

#[cfg(test)]
mod tests;
