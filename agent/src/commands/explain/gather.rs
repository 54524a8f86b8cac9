//! Whose word is needed for an answer, and asking them.
//!
//! ```text
//! any agent --where are the ends?--> their nodes' agents --what they say--> Word
//!                                          \--silent: any agent again, in their stead
//! ```
//! Any agent can say where the ends are, for it knows all objects; each side is then the word of the agent that enforces it.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;

use super::Question;
use super::online::{Answer, Said, ServiceAnswer, path};
use super::service::{Gathered, ServiceTold};
use super::told::{Told, print_told};
use crate::client::Line;
use crate::cluster::{Agent, Cluster, Fleet};
use crate::failure::Failure;

/// What agents said of a question.
#[derive(Clone, Debug)]
pub enum Word {
    /// On one connection.
    Connection(Box<Told>),
    /// On one to each backend of a Service.
    Service(ServiceTold),
}

impl Word {
    /// One agent's word on everything.
    pub fn by(said: Said) -> Result<Self, Failure> {
        Ok(match said {
            Said::Connection(answer) => Self::Connection(Box::new(Told::by(*answer))),
            Said::Service(answer) => Self::Service(Gathered::new(&answer).told(Vec::new())?),
        })
    }
}

/// Prints what was said; the exit code is the answer's.
pub fn print(question: &Question<'_>, word: &Word, json: bool, out: &mut dyn Write) -> Result<u8> {
    match word {
        Word::Connection(told) => print_told(question, told, json, out),
        Word::Service(told) => told.print(question, json, out),
    }
}

/// The word of the agents of all ends; of any agent for an end that has none. `limit` is for each of them.
pub async fn gather(
    cluster: &Cluster,
    fleet: &Fleet,
    limit: Duration,
    question: &Question<'_>,
) -> Result<Word, Failure> {
    let asking = Asking {
        cluster,
        fleet,
        limit,
        question,
    };
    // Of a Service only who is behind it: sides are judged where they are enforced.
    let nobody = path(question, Some(&BTreeSet::new()));
    let (agent, first, silent) = asking.first(&nobody).await?;
    match first {
        Said::Connection(answer) => {
            let told = asking.connection(*answer, silent).await?;
            Ok(Word::Connection(Box::new(told)))
        }
        Said::Service(answer) => {
            let told = asking.service(agent, &answer, silent).await?;
            Ok(Word::Service(told))
        }
    }
}

/// Agents that did not answer, and why.
type Silent = Vec<(String, Failure)>;

struct Asking<'a> {
    cluster: &'a Cluster,
    fleet: &'a Fleet,
    limit: Duration,
    question: &'a Question<'a>,
}

impl Asking<'_> {
    async fn one(&self, agent: &Agent, path: &str) -> Result<Said, Failure> {
        let question =
            |mut line: Line| async move { line.ask::<Said>(path).await.map_err(Failure::from) };
        self.cluster.one(agent, self.limit, question).await
    }

    /// The first agent that answers, its answer, and those that did not.
    async fn first(&self, path: &str) -> Result<(&Agent, Said, Silent), Failure> {
        let mut silent = Silent::new();
        for agent in &self.fleet.agents {
            match self.one(agent, path).await {
                Ok(said) => return Ok((agent, said, silent)),
                // Another one may answer.
                Err(failure) if is_silence(&failure) => silent.push((agent.node.clone(), failure)),
                Err(failure) => return Err(failure),
            }
        }
        let failure = silent.into_iter().next().map(|(_, failure)| failure);
        Err(failure.unwrap_or_else(nobody))
    }

    /// The word of the agent on `node`, if it is not one that is `silent` already.
    async fn on(&self, node: &str, silent: &Silent, path: &str) -> Result<Said, Failure> {
        // Once is enough.
        if let Some((_, failure)) = silent.iter().find(|(silent, _)| silent == node) {
            return Err(failure.clone());
        }
        match self.fleet.agents.iter().find(|agent| agent.node == node) {
            Some(agent) => self.one(agent, path).await,
            None => Err(nobody()),
        }
    }

    async fn connection(&self, first: Answer, silent: Silent) -> Result<Told, Failure> {
        let path = path(self.question, None);
        let end = |node: &Option<String>| {
            let node = node.clone().filter(|node| *node != first.by.node);
            let (path, silent) = (&path, &silent);
            async move {
                let node = node?;
                let said = self.on(&node, silent, path).await;
                Some((node, said.and_then(connection)))
            }
        };
        let (egress, ingress) = tokio::join!(end(&first.source.node), end(&first.destination.node));
        let mut told = Told::by(first);
        for (side, asked) in [(&mut told.egress, egress), (&mut told.ingress, ingress)] {
            match asked {
                None => {}
                Some((_, Ok(answer))) => *side = answer,
                // Both ends may be there.
                Some((node, _)) if told.silent.iter().any(|(silent, _)| *silent == node) => {}
                Some((node, Err(failure))) => told.silent.push((node, failure)),
            }
        }
        Ok(told)
    }

    async fn service(
        &self,
        first_agent: &Agent,
        first: &ServiceAnswer,
        mut silent: Silent,
    ) -> Result<ServiceTold, Failure> {
        let mut gathered = Gathered::new(first);
        let nodes = gathered.lacking();
        let agents = self.fleet.agents.iter();
        let is_asked = |agent: &&Agent| {
            let is_silent = silent.iter().any(|(node, _)| *node == agent.node);
            nodes.contains(&agent.node) && !is_silent
        };
        let question = |agent: &Agent, mut line: Line| {
            let own = BTreeSet::from([agent.node.clone()]);
            let path = path(self.question, Some(&own));
            async move { service(line.ask::<Said>(&path).await?) }
        };
        let asked = self
            .cluster
            .each(agents.filter(is_asked), self.limit, question)
            .await;
        for (node, answer) in asked {
            match answer {
                Ok(answer) => gathered.take(&answer),
                Err(failure) => silent.push((node, failure)),
            }
        }
        let lacking = gathered.lacking();
        silent.retain(|(node, _)| lacking.contains(node));
        for node in &lacking {
            if !silent.iter().any(|(silent, _)| silent == node) {
                let has_agent = self.fleet.agents.iter().any(|agent| agent.node == *node);
                let failure = if has_agent { other_view() } else { nobody() };
                silent.push((node.clone(), failure));
            }
        }
        if !lacking.is_empty() {
            let instead = path(self.question, Some(&lacking));
            gathered.take(&service(self.one(first_agent, &instead).await?)?);
        }
        gathered.told(silent)
    }
}

fn connection(said: Said) -> Result<Answer, Failure> {
    match said {
        Said::Connection(answer) => Ok(*answer),
        Said::Service(_) => Err(other_view()),
    }
}

fn service(said: Said) -> Result<ServiceAnswer, Failure> {
    match said {
        Said::Service(answer) => Ok(*answer),
        Said::Connection(_) => Err(other_view()),
    }
}

fn other_view() -> Failure {
    Failure::new(
        "PC4004",
        "the agent knows other objects",
        "it does not see the ends where another agent sees them; they come or go just now",
        "ask again",
    )
}

fn nobody() -> Failure {
    Failure::new(
        "PC4007",
        "no agent could be asked",
        "none runs there",
        "see `kubectl portcullis status`",
    )
}

fn is_silence(failure: &Failure) -> bool {
    matches!(failure.code, "PC4002" | "PC4003")
}

#[cfg(test)]
mod tests;
