//! Waits for every pod that a label selector finds. The API server says which pods these are, each pod's own agent whether it is ready.
//!
//! ```text
//! list pods --> pods that were not ready yet, by node --one line to each agent, asked until HOLD is over--> ready, or what it lacks
//! ```
//! A pod that was ready once counts; pods that come, go or are replaced meanwhile are found by the next list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{AGAIN, LOOK_AGAIN};
use crate::client::{Line, quoted};
use crate::cluster::{Agent, Cluster, Selected};
use crate::failure::Failure;
use crate::report::PodStatus;

/// How long an agent is asked about its pods before they are listed again.
const HOLD: Duration = Duration::from_secs(5);

/// Pods that are named one by one when time is up.
const NAMED: usize = 10;

/// Pods that were ready by uid, and what the others lack by name.
#[derive(Default)]
struct Known {
    ready: BTreeSet<String>,
    lacks: BTreeMap<String, Failure>,
}

/// Every live pod of `namespace` with these labels is ready, and there is at least one.
pub(super) async fn all_ready(
    cluster: &Cluster,
    namespace: &str,
    labels: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let mut known = Known::default();
    let mut count = None;
    loop {
        let looked = async {
            let pods = cluster.selected_pods(namespace, labels).await?;
            Ok::<_, Failure>((pods, cluster.fleet().await?))
        };
        let Ok(looked) = timeout_at(deadline, looked).await else {
            return Err(too_late(&known, count, namespace, labels));
        };
        let (pods, fleet) = looked?;
        count = Some(pods.len());
        known.lacks.clear();
        known
            .ask(cluster, namespace, &pods, &fleet.agents, deadline)
            .await?;
        if !pods.is_empty() && known.lacks.is_empty() {
            return Ok(());
        }
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Err(too_late(&known, count, namespace, labels));
        }
        sleep(LOOK_AGAIN).await;
    }
}

impl Known {
    async fn ask(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        pods: &[Selected],
        agents: &[Agent],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut by_node: BTreeMap<&str, Vec<&Selected>> = BTreeMap::new();
        for pod in pods {
            if self.ready.contains(&pod.uid) {
                continue;
            }
            match pod.node.as_deref() {
                Some(node) if agents.iter().any(|agent| agent.node == node) => {
                    by_node.entry(node).or_default().push(pod);
                }
                Some(node) => self.note(pod, "PC4007", format!("no agent runs on {node}")),
                None => self.note(pod, "PC4003", "it has no node yet".to_owned()),
            }
        }
        let hold = deadline.min(Instant::now() + HOLD);
        let question = |agent: &Agent, line: Line| {
            let pods = by_node.get(agent.node.as_str()).cloned();
            ask_until_ready(line, namespace, pods.unwrap_or_default(), hold)
        };
        let wanted = agents
            .iter()
            .filter(|agent| by_node.contains_key(agent.node.as_str()));
        let limit = deadline.saturating_duration_since(Instant::now());
        // One answer may be on its way when the time to hold is over.
        let asked = cluster.each(wanted, limit.min(HOLD * 2), question).await;
        for (node, answer) in asked {
            let pods = by_node.get(node.as_str()).into_iter().flatten();
            match answer {
                Ok(statuses) => {
                    for (pod, status) in pods.zip(statuses) {
                        if is_ready(pod, &status) {
                            self.ready.insert(pod.uid.clone());
                        } else {
                            let missing = status.missing.as_deref().unwrap_or("is not ready");
                            self.note(pod, "PC4003", format!("{node} says: it {missing}"));
                        }
                    }
                }
                Err(failure) if failure.code == "PC4006" => return Err(failure),
                Err(failure) => {
                    for pod in pods {
                        let why = format!("{}: {}", failure.what, failure.why);
                        self.note(pod, failure.code, why);
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, pod: &Selected, code: &'static str, why: String) {
        let failure = Failure::new(code, "", why, "");
        self.lacks.insert(pod.name.clone(), failure);
    }
}

/// Whether it is this pod that is ready, and not a predecessor of its name that the agent still knows.
fn is_ready(pod: &Selected, status: &PodStatus) -> bool {
    status.ready && status.uid.as_ref().is_none_or(|uid| *uid == pod.uid)
}

/// What an agent says of its pods: once all are ready, else when the time to hold is over.
async fn ask_until_ready(
    mut line: Line,
    namespace: &str,
    pods: Vec<&Selected>,
    hold: Instant,
) -> Result<Vec<PodStatus>, Failure> {
    loop {
        let mut statuses = Vec::with_capacity(pods.len());
        for pod in &pods {
            let path = format!("/v1/pods/{}/{}", quoted(namespace), quoted(&pod.name));
            statuses.push(line.ask::<PodStatus>(&path).await?);
        }
        let mut both = pods.iter().zip(&statuses);
        let done = both.all(|(pod, status)| is_ready(pod, status));
        if done || Instant::now() + AGAIN >= hold {
            return Ok(statuses);
        }
        sleep(AGAIN).await;
    }
}

/// Exit code 4 if an agent could not be asked, 5 if pods were not ready.
fn too_late(known: &Known, count: Option<usize>, namespace: &str, labels: &str) -> Failure {
    let unreachable = known
        .lacks
        .values()
        .find(|failure| failure.code != "PC4003")
        .map(|failure| failure.code);
    let mut named: Vec<String> = known
        .lacks
        .iter()
        .take(NAMED)
        .map(|(pod, failure)| format!("{pod}: {}", failure.why))
        .collect();
    if known.lacks.len() > NAMED {
        named.push(format!("and {} more", known.lacks.len() - NAMED));
    }
    let (what, why) = match count {
        None => (
            format!("pods with the labels {labels} were not ready in time"),
            "the API server did not list them in time".to_owned(),
        ),
        Some(0) => (
            format!("no pod with the labels {labels} was there in time"),
            format!("namespace {namespace} has no live pod with them"),
        ),
        Some(count) => (
            format!(
                "{} of {count} pods with the labels {labels} were not ready in time",
                known.lacks.len()
            ),
            named.join("; "),
        ),
    };
    Failure::new(
        unreachable.unwrap_or("PC4003"),
        what,
        why,
        "see `kubectl portcullis status`, or raise --timeout",
    )
}

#[cfg(test)]
mod tests;
