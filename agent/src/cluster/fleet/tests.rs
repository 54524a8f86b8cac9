use serde_json::{Value, json};

use super::*;

/// A pod of the agent: `more` goes over the usual fields.
fn pod(name: &str, node: Option<&str>, status: &Value, metadata: &Value) -> Pod {
    let mut object = json!({
        "metadata": {"name": name, "creationTimestamp": "2026-03-02T20:00:00Z"},
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    });
    for (key, value) in metadata.as_object().into_iter().flatten() {
        object["metadata"][key] = value.clone();
    }
    serde_json::from_value(object).expect("a pod")
}

fn running() -> Value {
    let started = json!({"startedAt": "2026-03-02T20:00:01Z"});
    json!({"phase": "Running", "containerStatuses": [container(&json!({"running": started}), &json!({}))]})
}

fn container(state: &Value, last: &Value) -> Value {
    json!({"name": "agent", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": state, "lastState": last})
}

#[test]
fn each_node_has_its_newest_agent_by_name() {
    let later = json!({"creationTimestamp": "2026-03-02T21:00:00Z"});
    let going = json!({"creationTimestamp": "2026-03-02T22:00:00Z", "deletionTimestamp": "2026-03-02T23:00:00Z"});
    let pods = [
        pod("b", Some("n2"), &running(), &json!({})),
        pod("old", Some("n1"), &running(), &json!({})),
        pod("new", Some("n1"), &running(), &later),
        pod("going", Some("n1"), &running(), &going),
    ];
    let found: Vec<(String, String)> = agents(pods.to_vec())
        .into_iter()
        .map(|agent| (agent.node, agent.pod))
        .collect();
    let expected = [("n1", "new"), ("n2", "b")];
    assert_eq!(
        found,
        expected.map(|(node, pod)| (node.to_owned(), pod.to_owned()))
    );
}

#[test]
fn an_agent_that_does_not_run_says_why() {
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let last = json!({"terminated": {"exitCode": 1, "message": "error PC1002: no bpffs at /x\nwhy:  y\ndo:   z"}});
    let status = json!({"phase": "Running", "containerStatuses": [container(&waiting, &last)]});
    let found = agents(vec![pod("a", Some("n1"), &status, &json!({}))]);
    assert_eq!(
        found[0].trouble.as_deref(),
        Some("pod a is Running, CrashLoopBackOff, error PC1002: no bpffs at /x")
    );
    let pending = json!({"phase": "Pending"});
    let found = agents(vec![pod("a", Some("n1"), &pending, &json!({}))]);
    assert_eq!(found[0].trouble.as_deref(), Some("pod a is Pending"));
}

#[test]
fn a_pod_that_waits_for_its_node_is_that_nodes() {
    let object = |affinity: Value| -> Pod {
        let spec = json!({"affinity": affinity});
        let object =
            json!({"metadata": {"name": "a"}, "spec": spec, "status": {"phase": "Pending"}});
        serde_json::from_value(object).expect("a pod")
    };
    assert!(agents(vec![object(Value::Null)]).is_empty());
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n3"]}]}
    ]}}});
    assert_eq!(agents(vec![object(affinity)])[0].node, "n3");
}
