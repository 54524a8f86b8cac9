//! `portcullis wait`: ends when something is in force, or when time is up. Pods by labels are in `wait::selected`.
//!
//! Agents that go away meanwhile are asked again, also their successors: a rollout is no reason to give up. What an agent has not been told of yet
//! it cannot wait for; the API server tells it of a new object within milliseconds.

mod selected;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hyper::Method;
use tokio::time::{Instant, sleep, timeout_at};

use super::place::Place;
use crate::cli::WaitArgs;
use crate::client::{self, Line, quoted};
use crate::cluster::{Access, Agent, Cluster};
use crate::failure::Failure;
use crate::report::PodStatus;

/// Between two questions about a pod.
const AGAIN: Duration = Duration::from_millis(200);

/// Before agents that failed are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long one question for everything may hang: then whether its agent is still the node's is looked up.
const HOLD: Duration = Duration::from_secs(15);

/// How long one question about a pod may take: then another agent is asked.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits for what was typed.
pub async fn wait(arguments: &WaitArgs, place: Place) -> Result<()> {
    let deadline = Instant::now() + arguments.timeout;
    if let Some(labels) = &arguments.selector {
        let Place::Cluster(access) = place else {
            unreachable!("labels are the API server's to read");
        };
        let cluster = access.connect().await?;
        let namespace = arguments.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| cluster.default_namespace.clone());
        selected::all_ready(&cluster, &namespace, labels, deadline).await?;
        return Ok(());
    }
    match (&arguments.pod, place) {
        (None, Place::Here(socket)) => {
            client::wait_synced(&socket, arguments.timeout).await?;
        }
        (None, Place::Cluster(access)) => all_synced(&access.connect().await?, deadline).await?,
        (Some((namespace, name)), place) => {
            let mut source = match place {
                Place::Here(socket) => Source::Here(socket),
                Place::Cluster(access) => Source::cluster(access, deadline).await?,
            };
            let namespace = namespace
                .clone()
                .or_else(|| arguments.namespace.clone())
                .unwrap_or_else(|| source.default_namespace());
            pod_ready(&mut source, &namespace, name, deadline).await?;
        }
    }
    Ok(())
}

/// Every node's agent has everything in force, and every node has an agent.
async fn all_synced(cluster: &Cluster, deadline: Instant) -> Result<(), Failure> {
    let mut done: Vec<String> = Vec::new();
    let mut failures: BTreeMap<String, Failure> = BTreeMap::new();
    loop {
        let fleet = match timeout_at(deadline, cluster.fleet()).await {
            Ok(fleet) => fleet?,
            Err(_) => return Err(out_of_time(&failures)),
        };
        failures.clear();
        let left = fleet
            .agents
            .iter()
            .filter(|agent| !done.contains(&agent.node));
        let hold = HOLD.min(deadline.saturating_duration_since(Instant::now()));
        let asked = cluster
            .each(left, hold, |_, mut line| async move {
                line.call(Method::POST, "/v1/synced").await?;
                Ok(())
            })
            .await;
        for (node, answer) in asked {
            match answer {
                Ok(()) => done.push(node),
                Err(failure) if failure.code == "PC4006" => return Err(failure),
                Err(failure) => {
                    failures.insert(node, failure);
                }
            }
        }
        if failures.is_empty() && fleet.missing.count == 0 {
            return Ok(());
        }
        if fleet.missing.count > 0 {
            let what = format!("nodes without an agent: {}", fleet.missing.count);
            let failure = Failure::new("PC4007", what, fleet.missing.among.join(" "), "");
            failures.insert(String::new(), failure);
        }
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Err(out_of_time(&failures));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Exit code 4 if a node could not be asked, 5 if it was not done.
fn out_of_time(failures: &BTreeMap<String, Failure>) -> Failure {
    let unreachable = failures
        .values()
        .find(|failure| failure.code != "PC4003")
        .map(|failure| failure.code);
    let each = failures.iter().map(|(node, failure)| {
        let why = match failure.code {
            "PC4003" => "not in sync yet".to_owned(),
            _ => format!("{}: {}", failure.what, failure.why),
        };
        format!("{node}: {why}").trim_start_matches(": ").to_owned()
    });
    let why: Vec<String> = each.collect();
    Failure::new(
        unreachable.unwrap_or("PC4003"),
        "not every node was in sync in time",
        if why.is_empty() {
            "the API server did not list the agents in time".to_owned()
        } else {
            why.join("; ")
        },
        "see `kubectl portcullis status`, or raise --timeout",
    )
}

/// Who is asked about a pod.
enum Source {
    Here(std::path::PathBuf),
    Cluster(Box<Cluster>, Vec<Agent>),
}

impl Source {
    async fn cluster(access: Access, deadline: Instant) -> Result<Self, Failure> {
        let cluster = access.connect().await?;
        let fleet = match timeout_at(deadline, cluster.fleet()).await {
            Ok(fleet) => fleet?,
            Err(_) => return Err(Failure::from(client::ClientError::TimedOut)),
        };
        Ok(Self::Cluster(Box::new(cluster), fleet.agents))
    }

    fn default_namespace(&self) -> String {
        match self {
            Self::Here(_) => "default".to_owned(),
            Self::Cluster(cluster, _) => cluster.default_namespace.clone(),
        }
    }

    /// A line to the agent of `node`, or to the `turn`-th one.
    async fn line(&self, node: Option<&str>, turn: usize) -> Result<Line, Failure> {
        match self {
            Self::Here(socket) => Ok(Line::to_socket(socket).await?),
            Self::Cluster(cluster, agents) => {
                let at = |node| agents.iter().find(|agent| agent.node == node);
                let agent = node
                    .and_then(at)
                    .or_else(|| agents.get(turn % agents.len().max(1)));
                match agent {
                    Some(agent) => cluster.open_line(agent).await,
                    None => Err(Failure::new(
                        "PC4007",
                        "no agents were found",
                        "no node has one",
                        "apply deploy/portcullis.yaml",
                    )),
                }
            }
        }
    }

    /// Looks for the agents again.
    async fn look(&mut self) {
        if let Self::Cluster(cluster, agents) = self
            && let Ok(fleet) = cluster.fleet().await
        {
            *agents = fleet.agents;
        }
    }

    /// Whether there is an agent on `node` to ask instead of the one that was asked.
    fn has(&self, node: &str) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Cluster(_, agents) => agents.iter().any(|agent| agent.node == node),
        }
    }
}

/// The agent of the pod's node says that the pod is ready. Any agent tells which node that is.
async fn pod_ready(
    source: &mut Source,
    namespace: &str,
    name: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let path = format!("/v1/pods/{}/{}", quoted(namespace), quoted(name));
    let mut line: Option<Line> = None;
    let mut node: Option<String> = None;
    let mut last: Option<Result<PodStatus, Failure>> = None;
    let mut turn = 0;
    loop {
        let asked = async {
            let mut open = match line.take() {
                Some(open) => open,
                None => source.line(node.as_deref(), turn).await?,
            };
            let status: PodStatus = open.ask(&path).await?;
            Ok::<_, Failure>((open, status))
        };
        let limit = deadline.min(Instant::now() + ANSWER);
        let answer = match timeout_at(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(client::ClientError::TimedOut.into()),
        };
        let pause = match answer {
            Ok((_, status)) if status.ready => return Ok(()),
            Ok((open, status)) => {
                let elsewhere = status
                    .runs_on
                    .clone()
                    .filter(|on| *on != status.node && source.has(on));
                last = Some(Ok(status));
                if elsewhere.is_some() {
                    node = elsewhere;
                    Duration::ZERO
                } else {
                    line = Some(open);
                    AGAIN
                }
            }
            Err(failure) if failure.code == "PC4006" => return Err(failure),
            Err(failure) => {
                // What somebody said of the pod says more than that nobody answers now.
                if !matches!(last, Some(Ok(_))) {
                    last = Some(Err(failure));
                }
                node = None;
                turn += 1;
                if timeout_at(deadline, source.look()).await.is_err() {
                    return Err(too_late(namespace, name, last));
                }
                LOOK_AGAIN
            }
        };
        if Instant::now() + pause >= deadline {
            return Err(too_late(namespace, name, last));
        }
        sleep(pause).await;
    }
}

fn too_late(namespace: &str, name: &str, last: Option<Result<PodStatus, Failure>>) -> Failure {
    let what = format!("pod {namespace}/{name} was not ready in time");
    match last {
        Some(Err(failure)) => failure,
        Some(Ok(status)) => Failure::new(
            "PC4003",
            what,
            format!(
                "the agent on {} says: it {}",
                status.node,
                status.missing.as_deref().unwrap_or("is not ready")
            ),
            "see the node's agent with `portcullis status`, or raise --timeout",
        ),
        None => Failure::new(
            "PC4003",
            what,
            "no agent has answered yet",
            "raise --timeout",
        ),
    }
}

#[cfg(test)]
mod tests;
