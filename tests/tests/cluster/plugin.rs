//! `kubectl portcullis`, as people run it: what it says of the cluster is what packets meet.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};

use portcullis_tests::binary;
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, answer, apply, said};
use portcullis_tests::scene::{SOON, wait_until};

use super::services::{cluster_ways, service};
use super::traffic::FROM_FRIENDS;
use super::{all_become, all_stay, become_all};

/// A folder with the plugin in it, for the `PATH`.
struct Plugin(PathBuf);

impl Plugin {
    fn new(test: &str) -> Self {
        let folder = env::temp_dir().join(format!("portcullis-plugin-{test}-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        symlink(binary::portcullis(), folder.join("kubectl-portcullis"))
            .expect("a link can be made");
        Self(folder)
    }

    fn command(&self, words: &[&str]) -> Command {
        let path = env::var("PATH").expect("there is a PATH");
        let mut command = Command::new("kubectl");
        command
            .arg("portcullis")
            .args(words)
            .env("PATH", format!("{}:{path}", self.0.display()));
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("kubectl runs")
    }

    /// What it prints; it has to end so.
    fn says(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        text
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn it_shows_every_node_and_explains_what_packets_meet() {
    let plugin = Plugin::new("explain");
    let status = plugin.says(&["status"], 0);
    for node in ["n1", "n2"] {
        let row = status.lines().find(|line| line.starts_with(node));
        assert!(row.is_some_and(|row| row.contains(" yes ")), "{status}");
    }
    let ground = Ground::with("plugin", &["n1/server", "n2/far", "n1/stranger"]);
    for client in ["far", "stranger"] {
        become_all(&ground, client, "server", true, "no policy");
    }
    ground.policy("friends", FROM_FRIENDS);
    ground.label("far", "friend=yes");
    // What has been applied is in force when it ends: nobody has to wait for packets to change.
    let _ = plugin.says(&["wait", "--synced", "--timeout=30s"], 0);
    for (client, open, verdict) in [("far", true, "ALLOW"), ("stranger", false, "DENY")] {
        all_stay(
            &ground.ways_to("server"),
            ground.netns(client),
            open,
            "behind `wait`",
        );
        let from = format!("{}/{client}", ground.name);
        let to = format!("{}/server:{PORT}", ground.name);
        let text = plugin.says(&["explain", &from, &to], 0);
        assert!(text.contains(&format!("VERDICT  {verdict}")), "{text}");
    }
    let maps = plugin.says(&["bpf", "maps", "--node", "n1"], 0);
    assert!(maps.contains("pc_conntrack"), "{maps}");
}

#[test]
fn it_does_nothing_that_its_caller_may_not() {
    let plugin = Plugin::new("rights");
    apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: nobody, namespace: default}}");
    let token = answer(&["create", "token", "nobody"]);
    let config = plugin.0.join("nobody.conf");
    let own = answer(&[
        "config",
        "view",
        "--raw",
        "--minify",
        "--flatten",
        "-o",
        "json",
    ]);
    let mut own: serde_json::Value = serde_json::from_str(&own).expect("kubectl prints JSON");
    own["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    fs::write(&config, own.to_string()).expect("a file can be written");
    let config = config.display().to_string();
    let text = plugin.says(&["status", "--kubeconfig", &config], 6);
    assert!(text.contains("PC4006"), "{text}");
    assert_eq!(
        plugin.run(&["uninstall", "--yes"]).status.code(),
        Some(2),
        "no verb of the plugin"
    );
}

#[test]
fn a_service_is_explained_by_the_backends_that_packets_meet() {
    let plugin = Plugin::new("service");
    let ground = Ground::with("plugin-service", &["n1/client", "n1/near", "n2/far"]);
    for backend in ["near", "far"] {
        ground.label(backend, "app=server");
    }
    let service = service(&ground, "server", "server");
    let here = ["-n", &ground.name, "--timeout=30s"];
    let with = |words: &[&'static str]| [words, &here[..]].concat();
    let _ = plugin.says(&with(&["wait", "-l", "app=server"]), 0);
    let ways = cluster_ways(&service);
    all_become(&ways, ground.netns("client"), true, "no policy");
    let explain = with(&["explain", "pod/client", "svc/server:tcp"]);
    // An agent hears of a slice when kube-proxy does, and nobody waits for it.
    wait_until("both backends are known", SOON, || {
        said(&plugin.run(&explain))
            .contains("ALLOW (Service plugin-service/server, 80/tcp: all 2 backends)")
    });
    ground.label("near", "colour=grey");
    ground.policy(
        "grey",
        "{podSelector: {matchLabels: {colour: grey}}, ingress: []}",
    );
    let _ = plugin.says(&["wait", "--synced", "--timeout=30s"], 0);
    let text = plugin.says(&explain, 0);
    assert!(
        text.contains("MIXED") && text.contains("1 of 2 backends denied"),
        "{text}"
    );
    assert!(
        text.contains("n1 (egress and ingress, ") && text.contains("n2 (ingress, "),
        "{text}"
    );
    all_stay(
        &ground.ways_to("near"),
        ground.netns("client"),
        false,
        "is grey",
    );
    all_stay(
        &ground.ways_to("far"),
        ground.netns("client"),
        true,
        "is not grey",
    );
    ground.label("far", "colour=grey");
    let _ = plugin.says(&["wait", "--synced", "--timeout=30s"], 0);
    // By the Service's address it is the same.
    let address = service["spec"]["clusterIP"].as_str().expect("it has one");
    let by_address = format!("{address}:80");
    let words = ["explain", "pod/client", &by_address, "--expect", "deny"];
    let text = plugin.says(&[&words[..], &here[..]].concat(), 0);
    assert!(
        text.contains("DENY (Service plugin-service/server, 80/tcp: all 2 backends)"),
        "{text}"
    );
    all_become(&ways, ground.netns("client"), false, "both are grey");
}

#[test]
fn nodes_are_chosen_by_labels_and_rights_are_those_of_whom_it_acts_as() {
    let plugin = Plugin::new("options");
    let text = plugin.says(&["status", "-l", "kubernetes.io/hostname=n2"], 0);
    let has = |node: &str| text.lines().any(|line| line.starts_with(node));
    assert!(has("n2") && !has("n1"), "{text}");
    let text = plugin.says(&["status", "--as", "somebody"], 6);
    assert!(
        text.contains("PC4006") && text.contains("somebody"),
        "{text}"
    );
    let master = ["status", "--as", "somebody", "--as-group", "system:masters"];
    let _ = plugin.says(&master, 0);
}

#[test]
fn a_watch_of_the_status_ends_with_its_reader() {
    let plugin = Plugin::new("watch");
    let mut command = plugin.command(&["status", "-w"]);
    let mut watch = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("is piped")).lines();
    for start in ["NODE", "n1", "n2"] {
        let line = lines.next().expect("a line").expect("text");
        assert!(line.starts_with(start), "{line}");
    }
    drop(lines);
    wait_until("the watch has ended", SOON, || {
        watch.try_wait().expect("it is ours").is_some()
    });
    let code = watch.wait().expect("it is ours").code();
    assert_eq!(code, Some(0));
}
