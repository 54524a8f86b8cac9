//! What the agent of a benchmark's node is told: pods elsewhere, Services, and a policy with some rules.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::case::{self, PORT};

/// Groups of peers, each with a rule of its own, so that identities differ.
const GROUPS: u32 = 100;
/// Services of the cluster.
const SERVICES: u32 = 100;
/// The policy of the isolated endpoint: one rule for all peers, and one for each group of them.
#[must_use]
pub fn policy() -> String {
    let mut rules = [String::new(), String::new()];
    for (text, side) in rules.iter_mut().zip(["from", "to"]) {
        let _ = writeln!(
            text,
            "  - {side}: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{role: peer}}}}}}]\n    \
             ports: [{{protocol: TCP, port: 80}}, {{protocol: TCP, port: {PORT}}}]"
        );
        for group in 0..GROUPS {
            let _ = writeln!(
                text,
                "  - {side}: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{group: \"{group}\"}}}}}}]\n    \
                 ports: [{{protocol: TCP, port: {}}}]",
                6000 + group
            );
        }
    }
    let [ingress, egress] = rules;
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: bench, namespace: bench}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: isolated}}}}\n  policyTypes: [Ingress, Egress]\n  \
         ingress:\n{ingress}  egress:\n{egress}"
    )
}

/// Pods of another node.
#[must_use]
pub fn peers(count: u32) -> Value {
    let items: Vec<Value> = (0..count)
        .map(|number| {
            let addresses = [false, true].map(|v6| json!({ "ip": case::peer_address(number, v6).to_string() }));
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": format!("peer-{number}"), "namespace": "peers", "uid": format!("0000000b-0000-4000-8000-{number:012x}"),
                    "labels": {"role": "peer", "group": (number % GROUPS).to_string()},
                },
                "spec": {"nodeName": "node-b", "containers": [{"name": "main", "image": "none"}]},
                "status": {"phase": "Running", "podIPs": addresses},
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Services, because a cluster always has some: destinations are looked up there.
#[must_use]
pub fn services() -> Value {
    let items: Vec<Value> = (0..SERVICES)
        .map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("service-{number}"), "namespace": "peers"},
                "spec": {
                    "clusterIP": format!("10.96.0.{}", number + 1), "clusterIPs": [format!("10.96.0.{}", number + 1)],
                    "ports": [{"protocol": "TCP", "port": 443}],
                },
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
