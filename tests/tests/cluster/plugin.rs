//! `kubectl portcullis`, as people run it: what it says of the cluster is what packets meet.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{self, Command, Output};

use portcullis_tests::binary;
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, answer, apply, said};

use super::traffic::FROM_FRIENDS;
use super::{all_stay, become_all};

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

    fn run(&self, words: &[&str]) -> Output {
        let path = env::var("PATH").expect("there is a PATH");
        Command::new("kubectl")
            .arg("portcullis")
            .args(words)
            .env("PATH", format!("{}:{path}", self.0.display()))
            .output()
            .expect("kubectl runs")
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
