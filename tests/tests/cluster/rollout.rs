//! Agents are replaced, deleted and killed while numbered traffic flows: nothing denied passes, nothing allowed is lost, connections live on.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_tests::cluster::{Ground, Node, agent, is_long, kubectl};
use portcullis_tests::scene::wait_until;

use super::become_all;
use super::traffic::Traffic;

const PATIENCE: Duration = Duration::from_mins(1);

fn ground(name: &str) -> Ground {
    let ground = Ground::with(name, &["n1/server", "n1/near", "n2/far", "n1/stranger"]);
    ground.policy("friends", super::traffic::FROM_FRIENDS);
    ground.label("near", "friend=yes");
    ground.label("far", "friend=yes");
    for (client, open) in [("near", true), ("far", true), ("stranger", false)] {
        become_all(&ground, client, "server", open, "before");
    }
    ground
}

fn rounds() -> usize {
    if is_long() { 5 } else { 1 }
}

#[test]
fn rollout_restart_loses_nothing_and_lets_nothing_through() {
    let ground = ground("rollout-restart");
    for _ in 0..rounds() {
        let traffic = Traffic::start(&ground);
        let started = Instant::now();
        kubectl(&[
            "-n",
            agent::NAMESPACE,
            "rollout",
            "restart",
            "daemonset/portcullis",
        ]);
        agent::rolled_out();
        let took = started.elapsed();
        traffic.stop(&format!("rollout restart of two nodes in {took:?}"));
    }
    become_all(&ground, "near", "server", true, "after");
    become_all(&ground, "stranger", "server", false, "after");
}

#[test]
fn a_deleted_agent_loses_nothing_and_lets_nothing_through() {
    let ground = ground("rollout-delete");
    let node = Node::n1();
    for _ in 0..rounds() {
        let traffic = Traffic::start(&ground);
        let old = agent::name_on(&node);
        kubectl(&["-n", agent::NAMESPACE, "delete", "pod", &old]);
        let took = agent::becomes_ready_on(&node);
        assert_ne!(agent::name_on(&node), old);
        traffic.stop(&format!(
            "agent's pod deleted, the next one Ready {took:?} later"
        ));
    }
    // What changed while there was no agent, or changes now, is in force.
    ground.label("stranger", "friend=yes");
    become_all(&ground, "stranger", "server", true, "after");
}

#[test]
fn a_killed_agent_loses_nothing_and_lets_nothing_through() {
    let ground = ground("rollout-kill");
    let node = Node::n1();
    for _ in 0..rounds() {
        let traffic = Traffic::start(&ground);
        let old = agent::process_on(&node);
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("the agent runs");
        let started = Instant::now();
        wait_until("another agent runs", PATIENCE, || {
            agent::find_process_on(&node).is_some_and(|new| new != old)
        });
        let _ = agent::becomes_ready_on(&node);
        let took = started.elapsed();
        traffic.stop(&format!("agent killed, Ready again {took:?} later"));
    }
    ground.label("stranger", "friend=yes");
    become_all(&ground, "stranger", "server", true, "after");
}
