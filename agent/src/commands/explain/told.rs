//! What agents said, put together and printed. Egress is the word of the agent on the source's node and ingress that of the one on the destination's:
//! these two enforce it.
//!
//! ```text
//! Answer of each side --> Told --> as offline, and who said so
//! ```
//! Where an agent does not answer another one stands in for it; then the answer is not certain.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use portcullis_policy::explain::{Explanation, Side};
use portcullis_policy::probe::ProbeId;
use serde::Serialize;

use super::online::{Answer, End, Speaker};
use super::{Document, Question};
use crate::failure::{Failure, exit};

/// Answers to one question, put together.
#[derive(Clone, Debug)]
pub struct Told {
    /// Whose egress side counts.
    pub egress: Answer,
    /// Whose ingress side counts.
    pub ingress: Answer,
    /// Agents that had a say and gave no answer, with the reason; another one stands in for them.
    pub silent: Vec<(String, Failure)>,
}

/// Who said what, for `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Witness {
    node: String,
    version: String,
    revision: u64,
    behind: Vec<String>,
    says: Vec<&'static str>,
}

/// Those who said it, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Witnesses(pub(super) Vec<Witness>);

/// Prints what agents said, as offline, and who said it. Exit code 4 where somebody had to stand in for an agent.
pub(super) fn print_told(
    question: &Question<'_>,
    told: &Told,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8> {
    let explained = told.explanation(question);
    let mut witnesses = Witnesses::default();
    witnesses.add("egress", &told.egress.by);
    witnesses.add("ingress", &told.ingress.by);
    let text = if json {
        let document = Document {
            agents: witnesses.0,
            ..Document::new(question, &explained)
        };
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        explained.to_string() + &witnesses.text(&told.silent)
    };
    out.write_all(text.as_bytes())?;
    if told.silent.is_empty() {
        Ok(question.exit_code(explained.verdict))
    } else {
        Ok(exit::UNREACHABLE)
    }
}

impl Told {
    /// One agent's word for both sides.
    #[must_use]
    pub fn by(answer: Answer) -> Self {
        Self {
            ingress: answer.clone(),
            egress: answer,
            silent: Vec::new(),
        }
    }

    fn explanation(&self, question: &Question<'_>) -> Explanation {
        Explanation::of(
            ProbeId::Text(format!("{} {}", question.source, question.destination)),
            named(&self.egress.egress, &self.egress.source),
            named(&self.ingress.ingress, &self.ingress.destination),
        )
    }
}

/// A side that was sent, with the end that it is about.
pub(super) fn named(side: &Side, end: &End) -> Side {
    Side {
        end: end.name.clone(),
        ..side.clone()
    }
}

impl Witnesses {
    pub(super) fn add(&mut self, direction: &'static str, by: &Speaker) {
        let known = self.0.iter_mut().find(|known| known.node == by.node);
        match known {
            Some(known) if known.says.contains(&direction) => {}
            Some(known) => known.says.push(direction),
            None => self.0.push(Witness {
                node: by.node.clone(),
                version: by.version.clone(),
                revision: by.revision,
                behind: by.behind.clone(),
                says: vec![direction],
            }),
        }
    }

    /// Who said it, who did not, and what is not in force yet.
    pub(super) fn text(&self, silent: &[(String, Failure)]) -> String {
        let by = self.0.iter().map(|witness| {
            let (node, says) = (&witness.node, witness.says.join(" and "));
            format!("{node} ({says}, revision {})", witness.revision)
        });
        let mut text = format!(" by       {}\n", by.collect::<Vec<_>>().join(", "));
        for (node, failure) in silent {
            let _ = writeln!(
                text,
                "! {node} does not answer for its pod, another agent did: {}: {}",
                failure.what, failure.why
            );
        }
        for witness in &self.0 {
            for behind in &witness.behind {
                let _ = writeln!(text, "! {}: not in force yet: {behind}", witness.node);
            }
        }
        text
    }
}
