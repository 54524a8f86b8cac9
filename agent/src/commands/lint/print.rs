//! A lint's report for people and for programs.

use std::fmt::Write as _;

use anyhow::Result;
use portcullis_policy::lint::{Check, Severity};
use serde::Serialize;

use super::{Finding, Report};
use crate::commands::API_VERSION;
use crate::kube::Key;

/// Two lines for each finding, under its object; how many there are in the end.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let names = report
        .findings
        .iter()
        .map(|finding| finding.check.name().len());
    let width = names.max().unwrap_or(0);
    let mut object = None;
    for finding in &report.findings {
        if object != Some(&finding.object) {
            object = Some(&finding.object);
            let _ = writeln!(text, "{}", heading(finding));
        }
        let (severity, check) = (finding.check.severity(), finding.check);
        let _ = writeln!(
            text,
            "  {severity:<7}  {check:<width$}  {}",
            sentence(finding)
        );
        let _ = writeln!(text, "           do: {}", check.remedy());
    }
    let _ = writeln!(text, "{}", summary(report));
    if !report.unchecked().is_empty() {
        let names: Vec<&str> = report
            .unchecked()
            .iter()
            .map(|check| check.name())
            .collect();
        let _ = writeln!(
            text,
            "! there are no pods among the objects: not looked for: {}",
            names.join(", ")
        );
    }
    text
}

fn heading(finding: &Finding) -> String {
    let object = finding.object.to_string();
    // A document is named after the place where it stands.
    if finding.origin.is_empty() || object.ends_with(&finding.origin) {
        object
    } else {
        format!("{object} ({})", finding.origin)
    }
}

/// Where, what stands there if the problem does not say so itself, and the problem.
fn sentence(finding: &Finding) -> String {
    let Finding {
        field,
        value,
        problem,
        ..
    } = finding;
    let mut text = field.clone();
    // The last step of the path says it already.
    if !value.is_empty() && !problem.contains(value.as_str()) && !field.ends_with(value.as_str()) {
        let _ = write!(text, " ({value})");
    }
    if !text.is_empty() {
        text.push_str(": ");
    }
    text + problem
}

fn summary(report: &Report) -> String {
    let number = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let policies = number(report.policies, "policy", "policies");
    let kinds = [
        (Severity::Error, "error", "errors"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Note, "note", "notes"),
    ];
    let counts: Vec<String> = kinds
        .into_iter()
        .map(|(severity, one, many)| (report.count(severity), one, many))
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| number(count, one, many))
        .collect();
    if counts.is_empty() {
        format!("nothing found in {policies}")
    } else {
        format!("{} in {policies}", counts.join(", "))
    }
}

/// `LintReport`.
pub(super) fn json(report: &Report) -> Result<String> {
    let document = Document {
        api_version: API_VERSION,
        kind: "LintReport",
        policies: report.policies,
        pods: report.pods,
        summary: Summary {
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            notes: report.count(Severity::Note),
        },
        unchecked: report
            .unchecked()
            .iter()
            .map(|check| check.name())
            .collect(),
        findings: report.findings.iter().map(Item::new).collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    policies: usize,
    pods: usize,
    summary: Summary,
    /// Checks that had nothing to go by.
    unchecked: Vec<&'static str>,
    findings: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Summary {
    errors: usize,
    warnings: usize,
    notes: usize,
}

#[derive(Serialize)]
struct Item<'a> {
    check: &'static str,
    severity: &'static str,
    object: Object<'a>,
    origin: &'a str,
    field: &'a str,
    value: &'a str,
    problem: &'a str,
    #[serde(rename = "do")]
    remedy: &'static str,
}

#[derive(Serialize)]
struct Object<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Item<'a> {
    fn new(finding: &'a Finding) -> Self {
        let Key {
            kind,
            namespace,
            name,
        } = &finding.object;
        let check: Check = finding.check;
        Self {
            check: check.name(),
            severity: check.severity().name(),
            object: Object {
                kind: kind.name(),
                namespace: namespace.as_deref(),
                name,
            },
            origin: &finding.origin,
            field: &finding.field,
            value: &finding.value,
            problem: &finding.problem,
            remedy: check.remedy(),
        }
    }
}
