//! Policies, labels of pods and of namespaces, and pods come and go through the API; packets between pods of one node and of two feel it.

use std::time::{Duration, Instant};

use portcullis_tests::cluster::{Ground, apply, is_long, kubectl, try_kubectl};

use super::{all_become, all_stay, become_all};

const FROM_FRIENDS: &str = "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
    ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";
const FROM_TEAM: &str = "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
    ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}";
const TO_FRIENDS: &str = "{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress], \
    egress: [{to: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";

#[test]
fn labels_and_policies_change_verdicts_between_pods_of_one_node_and_of_two() {
    let ground = Ground::with("churn", &["n1/server", "n1/near", "n2/far"]);
    let clients = ["near", "far"];
    let mut slowest = Duration::ZERO;
    let mut demand = |open: [bool; 2], what: &str| {
        for (client, open) in clients.iter().zip(open) {
            slowest = slowest.max(become_all(&ground, client, "server", open, what));
        }
    };
    demand([true, true], "no policy");
    ground.policy("friends", FROM_FRIENDS);
    demand([false, false], "a policy for friends");
    for round in 0..if is_long() { 20 } else { 2 } {
        let what = format!("labels, round {round}");
        ground.label("near", "friend=yes");
        demand([true, false], &what);
        ground.label("far", "friend=yes");
        demand([true, true], &what);
        ground.label("near", "friend-");
        demand([false, true], &what);
        ground.label("far", "friend=no");
        demand([false, false], &what);
    }
    // Which pods a policy selects changes too.
    ground.label("server", "app=retired");
    demand([true, true], "the server is not selected any more");
    ground.label("server", "app=server");
    demand([false, false], "the server is selected again");
    ground.drop_policy("friends");
    demand([true, true], "the policy is gone");
    // The client's side, on the client's node.
    ground.policy("to-friends", TO_FRIENDS);
    demand([false, true], "near may call friends only");
    ground.label("server", "friend=yes");
    demand([true, true], "the server is a friend");
    println!("churn: labels and policies took {slowest:?} at most");
}

#[test]
fn labels_of_a_namespace_change_verdicts() {
    let ground = Ground::with("churn-home", &["n1/server"]);
    let guests = Ground::with("churn-guests", &["n1/near", "n2/far"]);
    let ways = ground.ways_to("server");
    let mut slowest = Duration::ZERO;
    let mut demand = |open: bool, what: &str| {
        for guest in ["near", "far"] {
            slowest = slowest.max(all_become(&ways, guests.netns(guest), open, what));
        }
    };
    ground.policy("team", FROM_TEAM);
    demand(false, "a namespace without the label");
    for _ in 0..if is_long() { 10 } else { 2 } {
        kubectl(&[
            "label",
            "--overwrite",
            "namespace",
            &guests.name,
            "team=red",
        ]);
        demand(true, "a namespace with the label");
        kubectl(&[
            "label",
            "--overwrite",
            "namespace",
            &guests.name,
            "team=blue",
        ]);
        demand(false, "a namespace with another value");
    }
    println!("churn: labels of namespaces took {slowest:?} at most");
}

/// Each is judged by its own labels from its first packet on, whoever had its address before.
#[test]
fn pods_that_come_are_judged_by_their_labels_and_pods_that_go_leave_nothing() {
    let mut ground = Ground::with("churn-pods", &["n1/server"]);
    ground.policy("friends", FROM_FRIENDS);
    let rounds = if is_long() { 15 } else { 3 };
    for round in 0..rounds {
        let friend = format!("friend-{round}");
        let stranger = format!("stranger-{round}");
        let node = ["n1", "n2"][round % 2];
        ground.add(&[&format!("{node}/{friend}"), &format!("{node}/{stranger}")]);
        ground.label(&friend, "friend=yes");
        become_all(&ground, &friend, "server", true, "a friend that came");
        become_all(&ground, &stranger, "server", false, "a stranger that came");
        ground.remove(&friend);
        ground.remove(&stranger);
    }
    let old = ground.pod("server").addresses.clone();
    ground.remove("server");
    ground.add(&["n1/server"]);
    let new = &ground.pod("server").addresses;
    println!("churn: the server was {old:?}, and is {new:?}");
    ground.add(&["n2/friend", "n2/stranger"]);
    ground.label("friend", "friend=yes");
    become_all(&ground, "friend", "server", true, "a server that came");
    become_all(&ground, "stranger", "server", false, "a server that came");
}

/// Many at a time, by a Deployment that grows, shrinks and restarts, while one pod's verdict must not change.
#[test]
fn a_deployment_that_grows_and_shrinks_changes_nobody_elses_verdict() {
    let ground = Ground::with("churn-crowd", &["n1/server", "n1/near", "n2/far"]);
    ground.policy("friends", FROM_FRIENDS);
    ground.label("far", "friend=yes");
    become_all(&ground, "far", "server", true, "a friend");
    become_all(&ground, "near", "server", false, "no friend");
    apply(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: crowd, namespace: {}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: crowd}}}}
  template:
    metadata: {{labels: {{app: crowd, friend: 'yes'}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: box, image: 'cluster.test/box:1', imagePullPolicy: IfNotPresent}}]
",
        ground.name
    ));
    let started = Instant::now();
    let ways = ground.ways_to("server");
    let mut rounds = 0;
    let sizes = if is_long() {
        vec!["8", "1", "10", "0", "6"]
    } else {
        vec!["6", "0"]
    };
    for size in sizes {
        let scale = [
            "-n",
            &ground.name,
            "scale",
            "deployment/crowd",
            "--replicas",
            size,
        ];
        kubectl(&scale);
        let done = || {
            let status = ["-n", &ground.name, "get", "deployment/crowd", "-o"];
            let count = "jsonpath={.status.readyReplicas}/{.status.replicas}";
            let said = try_kubectl(&[&status[..], &[count]].concat(), "");
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            said == format!("{size}/{size}") || (size == "0" && said.trim_matches('/').is_empty())
        };
        while !done() {
            assert!(
                started.elapsed() < Duration::from_mins(5),
                "{size} replicas do not come"
            );
            all_stay(&ways, ground.netns("far"), true, "while others come and go");
            all_stay(
                &ways,
                ground.netns("near"),
                false,
                "while others come and go",
            );
            rounds += 1;
        }
    }
    println!(
        "churn: {rounds} rounds of probes in {:?} of a crowd",
        started.elapsed()
    );
}
