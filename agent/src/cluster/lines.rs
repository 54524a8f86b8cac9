//! Lines that stay open between two rounds of questions: an exec for each round would cost more than the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{AT_A_TIME, Agent, Asked, Cluster};
use crate::client::{ClientError, Line};
use crate::failure::Failure;

/// Open lines by the agent's pod. A bridge ends by itself when nothing is asked for a minute, and after an hour: a line that broke is opened again.
#[derive(Default)]
pub struct Lines(BTreeMap<String, Line>);

impl Lines {
    /// Puts one question to each agent, in the order of `agents`; none takes longer than `limit`. Lines to others are closed.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        cluster: &Cluster,
        agents: &[Agent],
        limit: Duration,
        path: &str,
    ) -> Vec<Asked<T>> {
        let mut kept = std::mem::take(&mut self.0);
        let asked = agents.iter().map(|agent| {
            let line = kept.remove(&agent.pod);
            async move {
                let answer = match timeout(limit, again(cluster, agent, line, path)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Cluster::late(agent, limit)),
                };
                (agent, answer)
            }
        });
        let asked: Vec<_> = stream::iter(asked).buffered(AT_A_TIME).collect().await;
        let answers = asked.into_iter().map(|(agent, answer)| {
            let answer = answer.map(|(line, answer)| {
                self.0.insert(agent.pod.clone(), line);
                answer
            });
            (agent.node.clone(), answer)
        });
        answers.collect()
    }
}

/// Asks on the line that is there, or on a new one where that is broken or missing.
async fn again<T: DeserializeOwned>(
    cluster: &Cluster,
    agent: &Agent,
    line: Option<Line>,
    path: &str,
) -> Result<(Line, T), Failure> {
    if let Some(mut line) = line {
        match line.ask(path).await {
            Ok(answer) => return Ok((line, answer)),
            Err(ClientError::Broken(_) | ClientError::Long(_)) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    let mut line = cluster.open_line(agent).await?;
    let answer = line.ask(path).await?;
    Ok((line, answer))
}
