//! The demo's result, for people and for machines.

use serde::Serialize;

/// All steps; prints as `kind: LabReport`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabReport {
    /// Version of this shape.
    pub api_version: &'static str,
    /// `LabReport`.
    pub kind: &'static str,
    /// In the order in which they were run.
    pub steps: Vec<StepReport>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: usize,
    /// What is shown.
    pub title: String,
    /// What was run.
    pub command: String,
    /// What should come out.
    pub expected: String,
    /// What came out.
    pub got: String,
    /// What a command printed, if it is worth showing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Whether that is the same.
    pub ok: bool,
    /// The time that matters in this step; else how long it took.
    pub milliseconds: f64,
}

impl Default for LabReport {
    fn default() -> Self {
        Self {
            api_version: "portcullis.dev/v1alpha1",
            kind: "LabReport",
            steps: Vec::new(),
        }
    }
}

impl LabReport {
    /// Whether every step got what it expected, and there was one.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }

    /// The last line.
    #[must_use]
    pub fn summary(&self) -> String {
        let good = self.steps.iter().filter(|step| step.ok).count();
        format!("{good} of {} steps as expected", self.steps.len())
    }
}

impl StepReport {
    /// The step's lines below its title.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("   run       {}", self.command),
            format!("   expected  {}", self.expected),
        ];
        let verdict = if self.ok {
            "as expected"
        } else {
            "NOT AS EXPECTED"
        };
        lines.push(format!("   got       {}", self.got));
        lines.extend(self.output.lines().map(|line| format!("   |  {line}")));
        lines.push(format!("   {verdict}, {:.1} ms\n", self.milliseconds));
        lines.join("\n")
    }
}
