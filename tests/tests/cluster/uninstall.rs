//! Portcullis is taken off the cluster as `deploy/README.md` says, and put on it again.

use portcullis_tests::cluster::agent::{self, Restored};
use portcullis_tests::cluster::{Ground, Node, kubectl};

use super::become_all;
use super::traffic::FROM_FRIENDS;

#[test]
fn nothing_is_left_on_any_node_and_a_new_installation_guards_again() {
    let ground = Ground::with("uninstall", &["n1/server", "n2/far", "n1/stranger"]);
    ground.policy("friends", FROM_FRIENDS);
    ground.label("far", "friend=yes");
    become_all(&ground, "far", "server", true, "before");
    become_all(&ground, "stranger", "server", false, "before");
    let restored = Restored::new();
    kubectl(&["-n", agent::NAMESPACE, "delete", "daemonset/portcullis"]);
    become_all(&ground, "stranger", "server", false, "without an agent");
    agent::uninstall();
    for node in [Node::n1(), Node::n2()] {
        let pins = node.answer(&["ls", "/sys/fs/bpf"], "");
        assert!(!pins.contains("portcullis"), "{pins}");
        let hooks = node.answer(&["bpftool", "net", "show"], "");
        assert!(!hooks.contains("pc_"), "{hooks}");
        let cgroups = node.answer(&["bpftool", "cgroup", "tree"], "");
        assert!(!cgroups.contains("pc_"), "{cgroups}");
    }
    become_all(&ground, "stranger", "server", true, "without Portcullis");
    drop(restored);
    become_all(&ground, "far", "server", true, "with it again");
    become_all(&ground, "stranger", "server", false, "with it again");
}
