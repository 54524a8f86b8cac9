//! Explanations by agents. Egress is the word of the agent on the source's node and ingress that of the one on the destination's: these two enforce it.
//!
//! ```text
//! agent: View --Explainer--> Answer --JSON--> client: Answer of each side --> Told --> as offline, and who said so
//! ```
//! Any agent can answer for both sides, for it knows all objects; that is what a client starts with, to learn where the ends are, and what it falls back
//! on where an agent does not answer. The code that judges is the one behind `explain -f`.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use portcullis_policy::explain::{Explainer, Explanation, Options, Side};
use portcullis_policy::probe::{self, Owner, ProbeId, Resolver};
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Document, Question, target};
use crate::client::quoted;
use crate::failure::{Failure, exit};
use crate::reconcile::View;

/// `GET /v1/explain`: what one agent says of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeExplanation`.
    pub kind: String,
    /// The node whose agent answers.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Revision of the tables in force there.
    pub revision: u64,
    /// What keeps the objects that it answers from out of its tables; empty if they are in force.
    pub behind: Vec<String>,
    /// Who opens the connection.
    pub source: End,
    /// To whom.
    pub destination: End,
    /// What the source's side says.
    pub egress: Side,
    /// What the destination's side says.
    pub ingress: Side,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// As people write it.
    pub name: String,
    /// Where the pod runs; absent for what is no endpoint.
    pub node: Option<String>,
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

/// Where an agent is asked.
#[must_use]
pub fn path(question: &Question<'_>) -> String {
    let (source, destination) = (quoted(question.source), quoted(question.destination));
    format!("/v1/explain?source={source}&destination={destination}")
}

/// What this agent says.
pub fn answer(view: &View, source: &str, destination: &str) -> Result<Answer> {
    let probe = target::probe(source, destination)?;
    let resolved = Resolver::new(&view.model).resolve(&probe)?;
    let options = Options {
        metadata_allow: view.metadata_allow.clone(),
    };
    let explained = Explainer::new(&view.model, options).explain_in_steps(&resolved);
    let end = |end: &probe::End| End {
        name: end.to_string(),
        node: match &end.owner {
            Owner::Pod(pod) => pod.node.as_deref().map(str::to_owned),
            Owner::Node(_) | Owner::Address => None,
        },
    };
    Ok(Answer {
        api_version: API_VERSION.to_owned(),
        kind: "NodeExplanation".to_owned(),
        node: view.model.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: view.revision,
        behind: view.behind.clone(),
        source: end(&resolved.src),
        destination: end(&resolved.dst),
        egress: explained.egress,
        ingress: explained.ingress,
    })
}

/// Prints what agents said, as offline, and who said it. Exit code 4 where somebody had to stand in for an agent.
pub fn print_told(
    question: &Question<'_>,
    told: &Told,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8> {
    let explained = told.explanation(question);
    let witnesses = told.witnesses();
    let text = if json {
        let document = Document {
            agents: witnesses,
            ..Document::new(question, &explained)
        };
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        let mut text = explained.to_string();
        let by = witnesses.iter().map(|witness| {
            let (node, says) = (&witness.node, witness.says.join(" and "));
            format!("{node} ({says}, revision {})", witness.revision)
        });
        let _ = writeln!(text, " by       {}", by.collect::<Vec<_>>().join(", "));
        for (node, failure) in &told.silent {
            let _ = writeln!(
                text,
                "! {node} does not answer for its pod, another agent did: {}: {}",
                failure.what, failure.why
            );
        }
        for witness in &witnesses {
            for behind in &witness.behind {
                let _ = writeln!(text, "! {}: not in force yet: {behind}", witness.node);
            }
        }
        text
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
        let named = |side: &Side, end: &End| Side {
            end: end.name.clone(),
            ..side.clone()
        };
        Explanation::of(
            ProbeId::Text(format!("{} {}", question.source, question.destination)),
            named(&self.egress.egress, &self.egress.source),
            named(&self.ingress.ingress, &self.ingress.destination),
        )
    }

    fn witnesses(&self) -> Vec<Witness> {
        let mut witnesses: Vec<Witness> = Vec::new();
        for (direction, answer) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            match witnesses.iter_mut().find(|known| known.node == answer.node) {
                Some(known) => known.says.push(direction),
                None => witnesses.push(Witness {
                    node: answer.node.clone(),
                    version: answer.version.clone(),
                    revision: answer.revision,
                    behind: answer.behind.clone(),
                    says: vec![direction],
                }),
            }
        }
        witnesses
    }
}

#[cfg(test)]
mod tests;
