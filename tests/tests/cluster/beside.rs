//! Others on a node: a second Portcullis, an agent on the same hooks, rules of tools that are gone. Each is named, none opens anything.

use std::os::fd::AsFd as _;
use std::time::Duration;

use aya_obj::generated::bpf_attach_type;
use nix::net::if_::if_nametoindex;
use portcullis_tests::bench::program;
use portcullis_tests::cluster::agent::{self, Restored};
use portcullis_tests::cluster::{Ground, Node, apply, kubectl, object};
use portcullis_tests::scene::wait_until;

use super::become_all;
use super::traffic::{FROM_FRIENDS, Traffic};

/// A look at others comes every half minute.
const PATIENCE: Duration = Duration::from_mins(1);

/// A ground where `near` and `far` may reach `server`, and `stranger` may not.
fn ground(name: &str) -> Ground {
    let ground = Ground::with(name, &["n1/server", "n1/near", "n2/far", "n1/stranger"]);
    ground.policy("friends", FROM_FRIENDS);
    ground.label("near", "friend=yes");
    ground.label("far", "friend=yes");
    for (client, open) in [("near", true), ("far", true), ("stranger", false)] {
        become_all(&ground, client, "server", open, "before");
    }
    ground
}

/// The `DaemonSet` as shipped, of another name and release, with another port for the kubelet.
fn another() -> String {
    let all = agent::shipped("portcullis.yaml");
    let set = all.rsplit("---\n").next().expect("it is the last object");
    set.replace("  name: portcullis\n", "  name: portcullis-next\n")
        .replace("component: agent", "component: next")
        .replace("portcullis:0.1.0", "portcullis:0.1.1")
        .replace("9471", "9472")
}

#[test]
fn a_second_portcullis_waits_and_says_so_and_takes_over_when_the_first_is_gone() {
    let ground = ground("second");
    let restored = Restored::new();
    let image = "ghcr.io/portcullis-dev/portcullis";
    for node in [Node::n1(), Node::n2()] {
        let tag = [&format!("{image}:0.1.0"), &format!("{image}:0.1.1")];
        node.run(
            &[
                "ctr", "-n", "k8s.io", "images", "tag", "--force", tag[0], tag[1],
            ],
            "",
        );
    }
    let traffic = Traffic::start(&ground);
    apply(&another());
    let of_second = [
        "-n",
        agent::NAMESPACE,
        "pods",
        "-l",
        "app.kubernetes.io/component=next",
    ];
    wait_until("the second one says why it cannot start", PATIENCE, || {
        let pods = object(&of_second);
        let pods = pods["items"].as_array().expect("a list has items");
        pods.len() == 2
            && pods.iter().all(|pod| {
                pod["status"]["containerStatuses"]
                    .to_string()
                    .contains("PC1010")
            })
    });
    for node in [Node::n1(), Node::n2()] {
        assert!(agent::is_ready_on(&node), "the first one goes on");
    }
    kubectl(&["-n", agent::NAMESPACE, "delete", "daemonset/portcullis"]);
    kubectl(&[
        "-n",
        agent::NAMESPACE,
        "rollout",
        "status",
        "daemonset/portcullis-next",
        "--timeout=300s",
    ]);
    traffic.stop("a second Portcullis took over");
    // It is the one that follows changes now.
    ground.label("stranger", "friend=yes");
    become_all(
        &ground,
        "stranger",
        "server",
        true,
        "the second one decides",
    );
    kubectl(&[
        "-n",
        agent::NAMESPACE,
        "delete",
        "daemonset/portcullis-next",
    ]);
    drop(restored);
    ground.label("stranger", "friend-");
    become_all(
        &ground,
        "stranger",
        "server",
        false,
        "the first one is back",
    );
}

#[test]
fn another_agent_on_the_hooks_makes_the_node_not_ready_and_its_rules_open_nothing() {
    let ground = ground("others");
    let node = Node::n1();
    // As kube2iam and Calico write them.
    let rule = "-p tcp -d 169.254.169.254/32 --dport 80 -j DNAT --to-destination 10.78.0.11:8181";
    let iptables = |verb: &str, words: &str| {
        let mut all = vec!["iptables", "-w", "-t", "nat", verb, "PREROUTING"];
        all.extend(words.split(' '));
        node.run(&all, "");
    };
    iptables("-A", rule);
    node.run(&["iptables", "-w", "-N", "cali-FORWARD"], "");
    let interface = interface_of(&ground, "server");
    let attached = node.netns.run(|| {
        let program = program::empty()?;
        let ifindex = if_nametoindex(interface.as_str())?;
        Ok(program::attach(
            program.as_fd(),
            ifindex,
            bpf_attach_type::BPF_TCX_EGRESS,
            true,
        )?)
    });
    let attached = attached.expect("a program goes in front of ours");
    wait_until("the node is not ready", PATIENCE, || {
        !agent::is_ready_on(&node)
    });
    let status = agent::ask(&node, &["status"]);
    println!("beside others, status says:\n{status}");
    for code in ["PC1101", "PC1103", "PC1104"] {
        assert!(status.contains(code), "{code} in {status}");
        assert!(agent::log_of(&node).contains(code), "{code} in the log");
    }
    let log = agent::log_of(&node);
    let line = log.lines().find(|line| line.contains("PC1101"));
    let line = line.expect("it is in the log");
    assert!(
        line.contains("\"why\":") && line.contains("\"do\":"),
        "{line}"
    );
    assert!(line.contains(&interface), "{line}");
    become_all(&ground, "stranger", "server", false, "beside others");
    become_all(&ground, "near", "server", true, "beside others");
    drop(attached);
    iptables("-D", rule);
    node.run(&["iptables", "-w", "-X", "cali-FORWARD"], "");
    let took = agent::becomes_ready_on(&node);
    println!("without them, Ready after {took:?}");
    // Rules are read less often than programs, and keep no node from being ready.
    wait_until("status names nobody", PATIENCE, || {
        !agent::ask(&node, &["status"]).contains("PC110")
    });
}

/// The node's end of a pod's link, as the agent tells it.
fn interface_of(ground: &Ground, pod: &str) -> String {
    let status = agent::ask(&Node::n1(), &["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
    let key = format!("{}/{pod}", ground.name);
    let endpoints = status["endpoints"].as_array().expect("a list");
    let found = endpoints
        .iter()
        .find(|endpoint| endpoint["pod"] == key.as_str());
    let found = found.unwrap_or_else(|| panic!("no endpoint {key}: {status:#}"));
    found["interface"].as_str().expect("a name").to_owned()
}
