//! The API server dies, etcd stands still, watches are cut: verdicts stay, and what changed is in force soon after the return.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portcullis_tests::cluster::node::{control_process, restart_followers};
use portcullis_tests::cluster::{CONVERGED, Ground, Node, is_long, kubectl, said, try_kubectl};
use portcullis_tests::scene::wait_until;

use super::traffic::{FROM_FRIENDS, Traffic};
use super::{all_stay, become_all};

const PATIENCE: Duration = Duration::from_mins(1);

/// A server, a friend on each node, a stranger, and a guest who is a friend for a while.
fn ground(name: &str) -> Ground {
    let pods = ["n1/server", "n1/near", "n2/far", "n1/stranger", "n2/guest"];
    let ground = Ground::with(name, &pods);
    ground.policy("friends", FROM_FRIENDS);
    ground.label("near", "friend=yes");
    ground.label("far", "friend=yes");
    for (client, open) in [("near", true), ("far", true), ("stranger", false)] {
        become_all(&ground, client, "server", open, "before");
    }
    ground
}

/// New connections while nothing changes.
fn verdicts_stay(ground: &Ground, time: Duration, what: &str) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let ways = ground.ways_to("server");
        all_stay(&ways, ground.netns("near"), true, what);
        all_stay(&ways, ground.netns("far"), true, what);
        all_stay(&ways, ground.netns("stranger"), false, what);
    }
}

/// A change through the API, and how long after `since` packets feel it.
fn converges(ground: &Ground, since: Instant, what: &str) {
    ground.label("guest", "friend=yes");
    let written = since.elapsed();
    become_all(ground, "guest", "server", true, what);
    let took = since.elapsed();
    println!(
        "{what}: a change is in force {took:?} after the return, {written:?} of it for writing the change"
    );
    assert!(took <= CONVERGED, "{what}: {took:?}");
    ground.label("guest", "friend-");
    become_all(ground, "guest", "server", false, what);
}

fn is_ready() -> bool {
    try_kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"], "")
        .status
        .success()
}

#[test]
fn the_api_server_is_killed_and_comes_back() {
    let ground = ground("outage-api");
    let traffic = Traffic::start(&ground);
    let server = control_process("kube-apiserver");
    let mut again = server.again();
    server.signal(Signal::SIGKILL);
    wait_until("the API server is gone", PATIENCE, || !is_ready());
    let away = Duration::from_secs(if is_long() { 30 } else { 4 });
    verdicts_stay(&ground, away, "without an API server");
    assert!(again.status().expect("a shell runs").success());
    wait_until("the API server is back", PATIENCE, is_ready);
    converges(&ground, Instant::now(), "API server killed");
    traffic.stop("API server killed");
    restart_followers();
}

#[test]
fn etcd_stands_still_and_goes_on() {
    let ground = ground("outage-etcd");
    let traffic = Traffic::start(&ground);
    let etcd = control_process("etcd");
    etcd.signal(Signal::SIGSTOP);
    let away = Duration::from_secs(if is_long() { 40 } else { 8 });
    verdicts_stay(&ground, away, "without etcd");
    let refused = try_kubectl(
        &[
            "-n",
            &ground.name,
            "label",
            "pod",
            "near",
            "a=b",
            "--request-timeout=2s",
        ],
        "",
    );
    assert!(
        !refused.status.success(),
        "etcd stands still: {}",
        said(&refused)
    );
    etcd.signal(Signal::SIGCONT);
    wait_until("the API server is back", PATIENCE, is_ready);
    converges(&ground, Instant::now(), "etcd paused");
    traffic.stop("etcd paused");
    restart_followers();
}

#[test]
fn watches_are_cut_and_taken_up_again() {
    let ground = ground("outage-watch");
    let traffic = Traffic::start(&ground);
    let nodes = [Node::n1(), Node::n2()];
    for round in 0..if is_long() { 10 } else { 2 } {
        let what = format!("watches cut, round {round}");
        let started = Instant::now();
        for node in &nodes {
            // Every connection of the node to the API server: the agent's, and the kubelet's and kube-proxy's too.
            let killed = node.answer(
                &[
                    "ss",
                    "--kill",
                    "--tcp",
                    "state",
                    "established",
                    "( dport = :6443 or dport = :443 )",
                ],
                "",
            );
            assert!(
                killed.lines().count() > 1,
                "{} has connections: {killed}",
                node.name
            );
        }
        converges(&ground, started, &what);
    }
    // Packets go nowhere for a while, which no socket is told.
    for node in &nodes {
        node.run(&["nft", "-f", "-"], CUT);
    }
    let away = Duration::from_secs(if is_long() { 60 } else { 6 });
    kubectl(&["-n", &ground.name, "label", "pod", "near", "noise=1"]);
    verdicts_stay(&ground, away, "cut off");
    for node in &nodes {
        node.run(&["nft", "delete", "table", "inet", "outage"], "");
    }
    converges(&ground, Instant::now(), "nodes cut off");
    traffic.stop("watches cut");
    restart_followers();
}

const CUT: &str = "table inet outage {
    chain out { type filter hook output priority 0; tcp dport 6443 drop; }
    chain in { type filter hook input priority 0; tcp sport 6443 drop; }
}
";
