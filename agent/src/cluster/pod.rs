//! A pod, as far as it matters to whoever wants to ask an agent: mostly the agent's own. Kubernetes' own types are ten times the code.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The container of the agent.
pub(super) const CONTAINER: &str = "agent";

/// Where the one node stands that a pod of a `DaemonSet` waits for.
const TERMS: &str =
    "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
    /// RFC 3339 in UTC and whole seconds: later is greater.
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    #[serde(default)]
    affinity: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    container_statuses: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<IgnoredAny>,
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Deserialize)]
struct Waiting {
    reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Terminated {
    message: Option<String>,
}

impl Pod {
    /// Where it runs, or the one node that it may run on.
    pub(super) fn node(&self) -> Option<String> {
        if let Some(node) = &self.spec.node_name {
            return Some(node.clone());
        }
        let terms = self.spec.affinity.pointer(TERMS)?.as_array()?;
        let mut fields = terms
            .iter()
            .filter_map(|term| term.get("matchFields")?.as_array())
            .flatten();
        let name = fields.find(|field| field["key"] == "metadata.name")?;
        Some(name["values"].get(0)?.as_str()?.to_owned())
    }

    /// Whether it was told to end.
    pub(super) fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its containers have ended for good.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Greater for younger pods.
    pub(super) fn age(&self) -> Option<String> {
        self.metadata.creation_timestamp.clone()
    }

    /// Why nobody in it can be asked.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut containers = self.status.container_statuses.iter();
        let agent = containers.find(|container| container.name == CONTAINER);
        if agent.is_some_and(|agent| agent.state.running.is_some()) {
            return None;
        }
        let phase = self.status.phase.as_deref().unwrap_or("unknown");
        let waiting = agent.and_then(|agent| agent.state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        let last = agent.and_then(Container::last_words);
        let parts = [Some(phase), reason, last];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        Some(format!(
            "pod {} is {}",
            self.metadata.name,
            parts.join(", ")
        ))
    }
}

impl Container {
    /// What happened, of the three lines with which it ended the last time.
    fn last_words(&self) -> Option<&str> {
        let ended = [&self.state, &self.last_state];
        let mut ended = ended
            .into_iter()
            .filter_map(|state| state.terminated.as_ref());
        let message = ended.next()?.message.as_deref()?;
        message.lines().find(|line| line.starts_with("error PC"))
    }
}
