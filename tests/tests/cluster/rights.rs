//! What the agent may do in the cluster, with the token of an agent that runs: what its `ClusterRole` grants, and nothing else.

use std::collections::BTreeSet;
use std::process::Output;

use portcullis_tests::cluster::{Ground, Node, agent, object, said, try_kubectl};
use serde_json::{Value, json};

/// kubectl as the agent on the first node.
struct Agent {
    token: String,
}

impl Agent {
    fn new() -> Self {
        let process = agent::process_on(&Node::n1());
        let place =
            format!("/proc/{process}/root/var/run/secrets/kubernetes.io/serviceaccount/token");
        let token = std::fs::read_to_string(place).expect("the agent has a token");
        Self { token }
    }

    fn run(&self, words: &[&str], input: &str) -> Output {
        let token = format!("--token={}", self.token);
        let mut all = vec![
            "--kubeconfig=/dev/null",
            "--server=https://10.78.0.1:6443",
            "--certificate-authority=/var/lib/portcullis-cluster/pki/ca.crt",
            &token,
        ];
        all.extend(words);
        try_kubectl(&all, input)
    }

    fn is_refused(&self, words: &[&str], input: &str) {
        let output = self.run(words, input);
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains("forbidden"),
            "{words:?}: {said}"
        );
        assert!(
            said.contains("system:serviceaccount:portcullis:portcullis"),
            "{said}"
        );
    }

    fn is_allowed(&self, words: &[&str]) {
        let output = self.run(words, "");
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    }
}

#[test]
fn secrets_exec_and_writes_are_refused_to_the_agents_token() {
    let ground = Ground::with("rights", &["n2/box"]);
    let agent = Agent::new();
    let here = ["-n", &ground.name];
    let with = |words: &[&'static str]| [&here[..], words].concat();
    for words in [
        &["get", "secrets"][..],
        &["get", "configmaps"],
        &["logs", "box"],
        &["exec", "box", "--", "true"],
        &["delete", "pod", "box"],
        &["label", "pod", "box", "friend=yes"],
        &["annotate", "pod", "box", "a=b"],
        &["delete", "networkpolicy", "--all"],
        &["create", "token", "default"],
        &["patch", "pod", "box", "--subresource=status", "-p", "{}"],
        &["create", "serviceaccount", "mine"],
    ] {
        // A kind that cannot be read or listed is refused at that already.
        let output = agent.run(&with(words), "");
        let said = said(&output);
        let refused = said.to_lowercase().contains("forbidden");
        let nothing_there = words == ["delete", "networkpolicy", "--all"];
        assert!(
            refused || (nothing_there && said.contains("No resources")),
            "{words:?}: {said}"
        );
    }
    agent.is_refused(&["label", "node", "n1", "mine=yes"], "");
    agent.is_refused(
        &[
            "patch",
            "node",
            "n1",
            "-p",
            r#"{"spec": {"unschedulable": true}}"#,
        ],
        "",
    );
    agent.is_refused(&["delete", "node", "n2"], "");
    agent.is_refused(&["get", "secrets", "-A"], "");
    agent.is_refused(&["get", "clusterroles"], "");
    agent.is_refused(&["get", "--raw", "/api/v1/nodes/n1/proxy/pods"], "");
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "mine", "namespace": ground.name}, "spec": {"podSelector": {}}});
    agent.is_refused(&["create", "-f", "-"], &policy.to_string());
    for kind in [
        "pods",
        "namespaces",
        "nodes",
        "services",
        "serviceaccounts",
        "endpointslices",
        "networkpolicies",
    ] {
        agent.is_allowed(&["get", kind, "-A"]);
    }
    let left = object(&["-n", &ground.name, "pods"]);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

/// What a service account may do by itself, as the API server counts it, without what everybody may ask about himself.
#[test]
fn the_api_server_grants_exactly_these_verbs() {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "kube-system"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let output = Agent::new().run(&["create", "--raw", path, "-f", "-"], &review.to_string());
    assert!(output.status.success(), "{}", said(&output));
    let review: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    let list = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    let mut granted = BTreeSet::new();
    for rule in review["status"]["resourceRules"].as_array().expect("rules") {
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    if !resource.starts_with("selfsubject") {
                        granted.insert(format!("{verb} {resource}.{group}"));
                    }
                }
            }
        }
    }
    let mut expected = BTreeSet::new();
    for kind in [
        "pods.",
        "namespaces.",
        "nodes.",
        "services.",
        "serviceaccounts.",
        "endpointslices.discovery.k8s.io",
        "networkpolicies.networking.k8s.io",
    ] {
        expected.extend(["get", "list", "watch"].map(|verb| format!("{verb} {kind}")));
    }
    expected.extend(["create", "patch"].map(|verb| format!("{verb} events.events.k8s.io")));
    assert_eq!(granted, expected);
    println!("rights: {} verbs, all of the ClusterRole", granted.len());
}
