//! What a cluster may lack: a bpffs on a node, a right of the agent. Each is named, nothing is half done, and the remedy works.

use std::time::{Duration, Instant};

use portcullis_tests::cluster::agent::Restored;
use portcullis_tests::cluster::{Ground, Node, agent, kubectl};
use portcullis_tests::scene::wait_until;
use serde_json::json;

use super::become_all;

const PATIENCE: Duration = Duration::from_mins(1);

fn restart_on(node: &Node) {
    let name = agent::name_on(node);
    kubectl(&["-n", agent::NAMESPACE, "delete", "pod", &name]);
}

#[test]
fn a_node_without_bpffs_is_named_and_the_overlay_mounts_it() {
    let node = Node::n2();
    let ground = Ground::with("no-bpffs", &["n1/server", "n2/far"]);
    let restored = Restored::new();
    node.run(&["umount", "--lazy", "/sys/fs/bpf"], "");
    restart_on(&node);
    wait_until("the error is in the log", PATIENCE, || {
        agent::pod_on(&node).is_some() && agent::log_of(&node).contains("PC1002")
    });
    assert!(!agent::is_ready_on(&node));
    let log = agent::log_of(&node);
    let lines: Vec<&str> = log
        .lines()
        .skip_while(|line| !line.contains("PC1002"))
        .take(3)
        .collect();
    println!("without bpffs:\n{}", lines.join("\n"));
    assert!(lines[1].trim_start().starts_with("why"), "{log}");
    assert!(lines[2].trim_start().starts_with("do"), "{log}");
    // The kubelet writes it a moment after the log has it.
    wait_until("the API tells it too", PATIENCE, || {
        agent::pod_on(&node).is_some_and(|pod| {
            let statuses = pod["status"]["containerStatuses"].to_string();
            statuses.contains("PC1002")
        })
    });
    kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-k",
        &agent::shipped_path("overlays/mount-bpffs")
            .display()
            .to_string(),
    ]);
    // A pod that never was Ready is in nobody's way.
    agent::rolled_out();
    let mounts = node.answer(&["cat", "/proc/self/mounts"], "");
    assert!(mounts.contains("/sys/fs/bpf bpf"), "{mounts}");
    ground.policy(
        "nobody",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress]}",
    );
    become_all(&ground, "far", "server", false, "the agent is back");
    drop(restored);
    become_all(&ground, "far", "server", false, "without the overlay");
}

#[test]
fn a_right_that_is_missing_is_named_by_readiness_status_and_log() {
    let node = Node::n1();
    let ground = Ground::with("no-right", &["n1/server", "n2/far"]);
    ground.policy(
        "nobody",
        "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}",
    );
    become_all(&ground, "far", "server", false, "before");
    let restored = Restored::new();
    let without = json!([{"op": "replace", "path": "/rules/2/verbs", "value": ["get", "list"]}]);
    kubectl(&[
        "patch",
        "clusterrole",
        "portcullis",
        "--type=json",
        "-p",
        &without.to_string(),
    ]);
    restart_on(&node);
    wait_until("the log names the right", PATIENCE, || {
        agent::pod_on(&node).is_some() && agent::log_of(&node).contains("PC4005")
    });
    become_all(&ground, "far", "server", false, "the last state stays");
    assert!(!agent::is_ready_on(&node));
    let status = agent::ask(&node, &["status"]);
    assert!(status.contains("networkpolicies"), "{status}");
    println!("without a right, status says:\n{status}");
    let started = Instant::now();
    drop(restored);
    let took = started.elapsed();
    println!("with the right again, Ready after {took:?}");
    become_all(&ground, "far", "server", false, "after");
}
