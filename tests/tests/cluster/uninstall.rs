//! Portcullis is taken off the cluster as `deploy/README.md` says, and put on it again.

use std::fs;
use std::path::Path;

use portcullis_tests::cluster::{Ground, Node, agent, apply, kubectl};

use super::become_all;
use super::traffic::FROM_FRIENDS;

fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file);
    fs::read_to_string(path).expect("the file is there")
}

/// Puts it on the cluster again, also if the test fails.
struct Again;

impl Drop for Again {
    fn drop(&mut self) {
        let removal = "daemonset/portcullis-uninstall";
        kubectl(&[
            "-n",
            agent::NAMESPACE,
            "delete",
            removal,
            "--ignore-not-found",
        ]);
        apply(&deploy("portcullis.yaml"));
        agent::rolled_out();
    }
}

#[test]
fn nothing_is_left_on_any_node_and_a_new_installation_guards_again() {
    let ground = Ground::with("uninstall", &["n1/server", "n2/far", "n1/stranger"]);
    ground.policy("friends", FROM_FRIENDS);
    ground.label("far", "friend=yes");
    become_all(&ground, "far", "server", true, "before");
    become_all(&ground, "stranger", "server", false, "before");
    let again = Again;
    kubectl(&["-n", agent::NAMESPACE, "delete", "daemonset/portcullis"]);
    become_all(&ground, "stranger", "server", false, "without an agent");
    apply(&deploy("uninstall.yaml"));
    kubectl(&[
        "-n",
        agent::NAMESPACE,
        "rollout",
        "status",
        "daemonset/portcullis-uninstall",
        "--timeout=120s",
    ]);
    for node in [Node::n1(), Node::n2()] {
        let pins = node.answer(&["ls", "/sys/fs/bpf"], "");
        assert!(!pins.contains("portcullis"), "{pins}");
        let hooks = node.answer(&["bpftool", "net", "show"], "");
        assert!(!hooks.contains("pc_"), "{hooks}");
        let cgroups = node.answer(&["bpftool", "cgroup", "tree"], "");
        assert!(!cgroups.contains("pc_"), "{cgroups}");
    }
    become_all(&ground, "stranger", "server", true, "without Portcullis");
    drop(again);
    become_all(&ground, "far", "server", true, "with it again");
    become_all(&ground, "stranger", "server", false, "with it again");
}
