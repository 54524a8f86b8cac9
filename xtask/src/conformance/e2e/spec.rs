//! Specs and what they came to, as ginkgo's report tells them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result as Fallible};
use serde_json::Value;

const SCTP: &str = "Feature:SCTPConnectivity";

/// One of the suite's tests.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) needs_sctp: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Passed,
    Failed(String),
    /// By the suite.
    Skipped(String),
    /// By us, because this kernel cannot run it.
    Impossible(String),
}

/// What became of one.
pub(crate) struct Result {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) seconds: f64,
}

impl Result {
    /// One that this kernel cannot run.
    pub(crate) fn without_sctp(spec: Spec) -> Self {
        Self {
            name: spec.name,
            state: State::Impossible("the kernel has no SCTP sockets".to_owned()),
            seconds: 0.0,
        }
    }

    /// One of which the suite says nothing.
    pub(crate) fn unreported(spec: &Spec) -> Self {
        Self {
            name: spec.name.clone(),
            state: State::Failed("it did not run to its end".to_owned()),
            seconds: 0.0,
        }
    }
}

/// How many became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) impossible: usize,
}

pub(crate) fn count(results: &[Result]) -> Counts {
    let mut counts = Counts::default();
    for result in results {
        match result.state {
            State::Passed => counts.passed += 1,
            State::Failed(_) => counts.failed += 1,
            State::Skipped(_) => counts.skipped += 1,
            State::Impossible(_) => counts.impossible += 1,
        }
    }
    counts
}

/// The specs that a dry run chose.
pub(crate) fn listed(report: &Path) -> Fallible<Vec<Spec>> {
    let report = read(report)?;
    Ok(chosen(&report)
        .map(|spec| Spec {
            name: name(spec),
            needs_sctp: labels(spec).any(|label| label == SCTP),
        })
        .collect())
}

/// What the specs of a run came to.
pub(crate) fn reported(report: &Path) -> Fallible<Vec<Result>> {
    let report = read(report)?;
    Ok(chosen(&report)
        .map(|spec| Result {
            name: name(spec),
            state: state(spec),
            seconds: spec["RunTime"].as_f64().unwrap_or(0.0) / 1e9,
        })
        .collect())
}

/// A name as a regular expression that matches just it.
pub(crate) fn quoted(name: &str) -> String {
    let mut quoted = String::new();
    for letter in name.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted
}

fn read(report: &Path) -> Fallible<Value> {
    let text = fs::read_to_string(report)
        .with_context(|| format!("cannot read the report {}", report.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", report.display()))
}

/// The report has a row for each spec of the suite, and for each step before and after them.
fn chosen(report: &Value) -> impl Iterator<Item = &Value> {
    list(report)
        .flat_map(|suite| list(&suite["SpecReports"]))
        .filter(|spec| spec["LeafNodeType"] == "It")
        .filter(|spec| spec["State"] != "skipped" || !message(spec).is_empty())
}

fn name(spec: &Value) -> String {
    let words: Vec<&str> = list(&spec["ContainerHierarchyTexts"])
        .chain([&spec["LeafNodeText"]])
        .filter_map(Value::as_str)
        .collect();
    words.join(" ")
}

fn labels(spec: &Value) -> impl Iterator<Item = &str> {
    list(&spec["ContainerHierarchyLabels"])
        .flat_map(list)
        .chain(list(&spec["LeafNodeLabels"]))
        .filter_map(Value::as_str)
}

fn state(spec: &Value) -> State {
    match spec["State"].as_str() {
        Some("passed") => State::Passed,
        Some("skipped" | "pending") => State::Skipped(message(spec)),
        other => State::Failed(format!("{}: {}", other.unwrap_or("unknown"), message(spec))),
    }
}

/// The first line of what the spec says against itself.
fn message(spec: &Value) -> String {
    let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
    message.lines().next().unwrap_or_default().trim().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_tells_those_that_ran_from_those_that_were_not_chosen() {
        let spec = |state: &str, message: &str| {
            json!({"LeafNodeType": "It", "ContainerHierarchyTexts": ["[a] b"], "LeafNodeText": state, "State": state,
                   "ContainerHierarchyLabels": [["a"], ["Feature:SCTPConnectivity"]],
                   "RunTime": 7_000_000_000_i64, "Failure": {"Message": message}})
        };
        let report = json!([{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "State": "passed"},
            spec("passed", ""), spec("skipped", ""), spec("failed", "why\nand more"), spec("timedout", "late"),
        ]}]);
        let chosen: Vec<&Value> = chosen(&report).collect();
        assert_eq!(chosen.len(), 3);
        assert_eq!(name(chosen[0]), "[a] b passed");
        assert!(labels(chosen[0]).any(|label| label == SCTP));
        assert_eq!(state(chosen[0]), State::Passed);
        assert_eq!(state(chosen[1]), State::Failed("failed: why".to_owned()));
        assert_eq!(state(chosen[2]), State::Failed("timedout: late".to_owned()));
    }

    #[test]
    fn a_quoted_name_has_no_sign_of_a_regular_expression() {
        assert_eq!(quoted("[a] (b) c.d"), r"\[a\] \(b\) c\.d");
    }
}
