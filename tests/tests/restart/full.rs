//! A table that is full: the change is refused as a whole, everything goes on as before, the node says so, and recovers without a restart.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_common::abi::L4_SETS;
use portcullis_tests::scene::traffic::{connects, is_denied};
use portcullis_tests::scene::{Scene, ip, pod, wait_until};
use serde_json::{Value, json};

use super::{POLICIES, all_verdicts, pods, tcp};

/// A debug build reads some megabytes first.
const LONG: Duration = Duration::from_mins(2);

/// Lets `other` open to anyone, and needs a port set for each of its rules: a block and a port of its own.
fn policy(rules: u32) -> Value {
    let rules = (0..rules).map(|number| {
        let (high, middle, low) = (18 + (number >> 16), number >> 8 & 0xff, number & 0xff);
        let block = format!("198.{high}.{middle}.{low}/32");
        json!({"from": [{"ipBlock": {"cidr": block}}], "ports": [{"port": 1 + number}]})
    });
    let rules: Vec<Value> = rules.collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "large", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "other"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": rules, "egress": [{}],
        },
    })
}

fn outside() -> SocketAddr {
    (ip("192.0.2.7"), 8080).into()
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing_and_the_node_says_so() {
    let mut scene = Scene::up("full", &pods(), POLICIES);
    all_verdicts(&scene);
    scene
        .manifests
        .write("large.json", &policy(L4_SETS + 100).to_string());
    wait_until("the change is refused", LONG, || {
        scene.status()["applyErrors"].as_u64() > Some(0)
    });
    all_verdicts(&scene);
    assert!(
        is_denied(scene.netns("shop/other"), outside()),
        "half of the policy is in force"
    );
    let status = scene.status();
    let problems = status["problems"].to_string();
    assert_eq!(status["ready"], false);
    assert!(problems.contains("writing port set"), "{problems}");
    assert!(
        problems.len() < 1000,
        "{} bytes of problems",
        problems.len()
    );
    // Who comes now has no version of their own, and is closed.
    let late = pod("shop/late", "10.0.1.9 fd00:1::9").label("app", "web");
    scene.add(&late);
    wait_until("the newcomer has an endpoint", LONG, || {
        let endpoints = scene.status()["endpoints"].to_string();
        endpoints.contains("shop/late")
    });
    for to in tcp(&scene, "shop/db") {
        assert!(is_denied(scene.netns("shop/late"), to), "late to {to}");
    }
    all_verdicts(&scene);
    // As soon as it fits, everything is in force.
    scene
        .manifests
        .write("large.json", &policy(L4_SETS / 2).to_string());
    wait_until("the node is ready", LONG, || {
        scene.status()["ready"] == true
    });
    for to in tcp(&scene, "shop/db") {
        assert!(connects(scene.netns("shop/late"), to), "late to {to}");
    }
    assert!(connects(scene.netns("shop/other"), outside()));
    all_verdicts(&scene);
    scene.down();
}
