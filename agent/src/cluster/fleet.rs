//! Which agents there are: one for each node, and the nodes that have none.
//!
//! The `DaemonSet` says how many nodes are to have an agent; which ones lack it is told by name where the person may list nodes. In this order:
//! 1. pods of the agents, by label: without the right to list them nothing goes;
//! 2. the `DaemonSet`'s count; without that right nobody is missed;
//! 3. nodes' names, only if somebody is missed;
//! 4. nodes by their labels, only if such are asked for: then without the right to list them nothing goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pod::{Metadata, Pod};
use super::{Cluster, refusal};
use crate::client::quoted;
use crate::failure::Failure;

/// Labels of the `DaemonSet` and of its pods.
const LABELS: &str = "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=agent";

/// The agent of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The node.
    pub node: String,
    /// Its pod.
    pub pod: String,
    /// Why it cannot be asked.
    pub trouble: Option<String>,
}

/// Nodes that are to have an agent and have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many.
    pub count: usize,
    /// Which they may be: exactly those, more than that, or none where the person may not list nodes.
    pub among: Vec<String>,
}

/// All agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// One for each node, by name.
    pub agents: Vec<Agent>,
    /// Nodes without.
    pub missing: Missing,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct DaemonSet {
    status: DaemonSetStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DaemonSetStatus {
    desired_number_scheduled: usize,
}

#[derive(Deserialize)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
}

impl Fleet {
    /// What of it concerns these nodes. Where it is not known which nodes lack an agent, as many are missed as may be among them.
    fn of(mut self, nodes: &BTreeSet<String>) -> Self {
        let exact = self.missing.among.len() == self.missing.count;
        self.agents.retain(|agent| nodes.contains(&agent.node));
        self.missing.among.retain(|node| nodes.contains(node));
        let most = self.missing.among.len();
        self.missing.count = if exact {
            most
        } else {
            self.missing.count.min(most)
        };
        self
    }
}

impl Cluster {
    /// Finds the agents, those of the wanted nodes only.
    pub async fn fleet(&self) -> Result<Fleet, Failure> {
        let Some(labels) = &self.access.labels else {
            return self.named().await;
        };
        let (fleet, nodes) = tokio::join!(self.named(), self.labelled_nodes(labels));
        let fleet = fleet?.of(&nodes?);
        if fleet.agents.is_empty() && fleet.missing.count == 0 {
            return Err(Failure::new(
                "PC4007",
                "no agents were found",
                format!("no agent runs on a node with the labels {labels}"),
                format!("see `kubectl get nodes -l {labels}`"),
            ));
        }
        Ok(fleet)
    }

    /// The agents of the nodes that are wanted by name, of all if none is.
    async fn named(&self) -> Result<Fleet, Failure> {
        let namespace = &self.access.namespace;
        let at = quoted(namespace).replace('/', "%2F");
        let (pods, sets) = (
            format!("/api/v1/namespaces/{at}/pods"),
            format!("/apis/apps/v1/namespaces/{at}/daemonsets"),
        );
        let (pods, sets) = tokio::join!(
            self.list::<Pod>(&pods, LABELS),
            self.list::<DaemonSet>(&sets, LABELS)
        );
        let doing = format!("list pods in namespace {namespace}");
        let pods = pods.map_err(|error| refusal::failure(&doing, &error))?;
        let agents = agents(pods);
        if !self.access.nodes.is_empty() {
            return self.wanted(agents);
        }
        // Who may not see the DaemonSet still sees the agents that there are.
        let desired = |set: &DaemonSet| set.status.desired_number_scheduled;
        let wanted: usize = sets.map_or(0, |sets| sets.iter().map(desired).sum());
        let count = wanted.saturating_sub(agents.len());
        if agents.is_empty() && count == 0 {
            return Err(self.none());
        }
        let among = if count > 0 {
            self.without_agent(&agents).await
        } else {
            Vec::new()
        };
        Ok(Fleet {
            agents,
            missing: Missing { count, among },
        })
    }

    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        labels: &str,
    ) -> kube::Result<Vec<T>> {
        let wanted = ListParams::default().labels(labels);
        let request = Request::new(path)
            .list(&wanted)
            .map_err(kube::Error::BuildRequest)?;
        let list: List<T> = self.client.request(request).await?;
        Ok(list.items)
    }

    fn wanted(&self, agents: Vec<Agent>) -> Result<Fleet, Failure> {
        let known: BTreeSet<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
        let nodes = &self.access.nodes;
        if let Some(unknown) = nodes.iter().find(|node| !known.contains(node.as_str())) {
            let names: Vec<&str> = known.into_iter().take(20).collect();
            return Err(Failure::new(
                "PC4007",
                format!("no agent runs on node {unknown:?}"),
                format!("there are agents on {}", names.join(" ")),
                "give the name of one of these with --node",
            ));
        }
        let wanted = |agent: &Agent| nodes.contains(&agent.node);
        Ok(Fleet {
            agents: agents.into_iter().filter(wanted).collect(),
            missing: Missing::default(),
        })
    }

    fn none(&self) -> Failure {
        let namespace = &self.access.namespace;
        Failure::new(
            "PC4007",
            "no agents were found",
            format!("no pod in namespace {namespace} has the labels {LABELS}"),
            "apply deploy/portcullis.yaml, or name the agents' namespace with --agent-namespace",
        )
    }

    /// Linux nodes without an agent; none where they may not be listed.
    async fn without_agent(&self, agents: &[Agent]) -> Vec<String> {
        let nodes = self
            .list::<Node>("/api/v1/nodes", "kubernetes.io/os=linux")
            .await;
        let names = nodes.into_iter().flatten().map(|node| node.metadata.name);
        names
            .filter(|name| !agents.iter().any(|agent| agent.node == *name))
            .collect()
    }
}

/// The newest pod of each node that is not going; one that is going only where there is no other.
fn agents(mut pods: Vec<Pod>) -> Vec<Agent> {
    pods.sort_by_key(|pod| Reverse((!pod.is_going(), pod.trouble().is_none(), pod.age())));
    let mut newest: BTreeMap<String, Agent> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.node() else { continue };
        newest.entry(node.clone()).or_insert_with(|| Agent {
            node,
            trouble: pod.trouble(),
            pod: pod.metadata.name,
        });
    }
    newest.into_values().collect()
}

#[cfg(test)]
mod tests;
