//! The agents of a cluster, seen from wherever a kubeconfig is: found by the API server, asked through its exec.
//!
//! ```text
//! kubeconfig --access--> Cluster --fleet--> Agent of each node
//!                           \--carry: exec `portcullis bridge`--> Line --> that agent's admin API
//! ```
//! Everything is done with the rights of the person who asks: list pods in the agents' namespace, exec into them. There is no server of ours in between
//! and nothing listens anywhere. Beside `kube`, this is the only place that knows Kubernetes' types.

mod access;
mod carry;
mod fleet;
mod lines;
mod pod;
mod refusal;
mod selected;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::stream::{self, StreamExt as _};

pub use access::{Access, AsWhom, Cluster};
pub use fleet::{Agent, Fleet, Missing};
pub use lines::Lines;
pub use selected::Selected;

use crate::client::Line;
use crate::failure::Failure;

/// Agents that are asked at the same time. Each costs the API server and a kubelet an exec, unless its line is open.
const AT_A_TIME: usize = 32;

/// An agent's node, and what came of asking it.
pub type Asked<T> = (String, Result<T, Failure>);

impl Cluster {
    /// Puts one question to each agent, `AT_A_TIME` at once; answers in the order of `agents`. None takes longer than `limit`.
    pub async fn each<'a, T, A>(
        &'a self,
        agents: impl IntoIterator<Item = &'a Agent>,
        limit: Duration,
        question: impl Fn(&'a Agent, Line) -> A,
    ) -> Vec<Asked<T>>
    where
        A: Future<Output = Result<T, Failure>>,
    {
        let question = &question;
        let asked = agents.into_iter().map(|agent| async move {
            let answer = self.one(agent, limit, |line| question(agent, line)).await;
            (agent.node.clone(), answer)
        });
        stream::iter(asked).buffered(AT_A_TIME).collect().await
    }

    /// Puts one question to one agent.
    pub async fn one<T, A>(
        &self,
        agent: &Agent,
        limit: Duration,
        question: impl Fn(Line) -> A,
    ) -> Result<T, Failure>
    where
        A: Future<Output = Result<T, Failure>>,
    {
        let asked = async {
            let (stream, bridge) = self.open(agent).await?;
            let line = Line::over(stream, ()).await?;
            match question(line).await {
                // Its end may tell more than the break that it caused.
                Err(failure) if failure.code == "PC4002" => Err(bridge.last_word_or(failure).await),
                other => other,
            }
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Self::late(agent, limit)),
        }
    }

    fn late(agent: &Agent, limit: Duration) -> Failure {
        Failure::new(
            "PC4003",
            format!("the agent on {} did not answer in time", agent.node),
            format!("nothing came from pod {} within {limit:?}", agent.pod),
            "raise --timeout, or see whether the node answers at all",
        )
    }
}
