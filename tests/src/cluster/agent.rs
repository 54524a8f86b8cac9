//! The agents: their pods, their status, their log.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Node, kubectl, object, said, try_kubectl};
use crate::scene::wait_until;

/// Where they run.
pub const NAMESPACE: &str = "portcullis";
const PATIENCE: Duration = Duration::from_mins(1);

/// The agent's pod on a node, if there is one that is not about to go.
#[must_use]
pub fn pod_on(node: &Node) -> Option<Value> {
    let field = format!("spec.nodeName={}", node.name);
    let pods = object(&["-n", NAMESPACE, "pods", "--field-selector", &field]);
    let mut pods = pods["items"].as_array().expect("a list has items").iter();
    pods.find(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .cloned()
}

/// Its name.
#[must_use]
pub fn name_on(node: &Node) -> String {
    let pod = pod_on(node).expect("every node has an agent");
    pod["metadata"]["name"]
        .as_str()
        .expect("it has a name")
        .to_owned()
}

/// Whether the node has an agent that is Ready.
#[must_use]
pub fn is_ready_on(node: &Node) -> bool {
    pod_on(node).is_some_and(|pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// Waits for it. How long it took.
#[must_use]
pub fn becomes_ready_on(node: &Node) -> Duration {
    let started = Instant::now();
    wait_until("the agent is Ready", PATIENCE, || is_ready_on(node));
    started.elapsed()
}

/// The agent's process on a node.
#[must_use]
pub fn process_on(node: &Node) -> i32 {
    find_process_on(node).expect("the agent runs")
}

/// The same, if it runs.
#[must_use]
pub fn find_process_on(node: &Node) -> Option<i32> {
    let pod = pod_on(node)?;
    let uid = pod["metadata"]["uid"].as_str()?;
    node.processes_of(uid).into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "portcullis")
    })
}

/// What the agent's own command says in its pod.
#[must_use]
pub fn ask(node: &Node, words: &[&str]) -> String {
    let name = name_on(node);
    let mut all = vec!["-n", NAMESPACE, "exec", &name, "--", "portcullis"];
    all.extend(words);
    said(&try_kubectl(&all, ""))
}

/// Its log so far, also of the time before its last restart.
#[must_use]
pub fn log_of(node: &Node) -> String {
    let name = name_on(node);
    let before = try_kubectl(&["-n", NAMESPACE, "logs", &name, "--previous"], "");
    let now = try_kubectl(&["-n", NAMESPACE, "logs", &name], "");
    said(&before) + &said(&now)
}

/// Waits until the `DaemonSet` is as its template wants it, everywhere.
pub fn rolled_out() {
    let status = [
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "daemonset/portcullis",
        "--timeout=120s",
    ];
    kubectl(&status);
}
