//! The agents: their pods, their status, their log; how they come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Node, kubectl, object, said, try_kubectl};
use crate::scene::wait_until;

/// Where they run.
pub const NAMESPACE: &str = "portcullis";
const PATIENCE: Duration = Duration::from_mins(1);

/// The agent's pod on a node, if there is one that is not about to go.
#[must_use]
pub fn pod_on(node: &Node) -> Option<Value> {
    let field = format!("spec.nodeName={}", node.name);
    let label = "app.kubernetes.io/component=agent";
    let on_node = ["--field-selector", &field, "-l", label];
    let pods = object(&[&["-n", NAMESPACE, "pods"][..], &on_node].concat());
    let mut pods = pods["items"].as_array().expect("a list has items").iter();
    pods.find(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .cloned()
}

/// Its name.
#[must_use]
pub fn name_on(node: &Node) -> String {
    let pod = pod_on(node).expect("every node has an agent");
    pod["metadata"]["name"]
        .as_str()
        .expect("it has a name")
        .to_owned()
}

/// Whether the node has an agent that is Ready.
#[must_use]
pub fn is_ready_on(node: &Node) -> bool {
    pod_on(node).is_some_and(|pod| {
        let conditions = pod["status"]["conditions"].as_array().cloned();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// Waits for it. How long it took.
#[must_use]
pub fn becomes_ready_on(node: &Node) -> Duration {
    let started = Instant::now();
    wait_until("the agent is Ready", PATIENCE, || is_ready_on(node));
    started.elapsed()
}

/// The agent's process on a node.
#[must_use]
pub fn process_on(node: &Node) -> i32 {
    find_process_on(node).expect("the agent runs")
}

/// The same, if it runs.
#[must_use]
pub fn find_process_on(node: &Node) -> Option<i32> {
    find(node, "agent")
}

/// The responder's process on a node, in the agent's pod.
#[must_use]
pub fn responder_on(node: &Node) -> i32 {
    find_responder_on(node).expect("the responder runs")
}

/// The same, if it runs.
#[must_use]
pub fn find_responder_on(node: &Node) -> Option<i32> {
    find(node, "responder")
}

/// The process in the agent's pod that runs this verb of our program.
fn find(node: &Node, verb: &str) -> Option<i32> {
    let pod = pod_on(node)?;
    let uid = pod["metadata"]["uid"].as_str()?;
    node.processes_of(uid).into_iter().find(|pid| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split('\0');
        words.next() == Some("/bin/portcullis") && words.next() == Some(verb)
    })
}

/// What the agent's own command says in its pod.
#[must_use]
pub fn ask(node: &Node, words: &[&str]) -> String {
    let name = name_on(node);
    let mut all = vec!["-n", NAMESPACE, "exec", &name, "--", "portcullis"];
    all.extend(words);
    said(&try_kubectl(&all, ""))
}

/// Its log so far, also of the time before its last restart.
#[must_use]
pub fn log_of(node: &Node) -> String {
    let name = name_on(node);
    let before = try_kubectl(&["-n", NAMESPACE, "logs", &name, "--previous"], "");
    let now = try_kubectl(&["-n", NAMESPACE, "logs", &name], "");
    said(&before) + &said(&now)
}

/// Waits until the `DaemonSet` is as its template wants it, everywhere.
pub fn rolled_out() {
    let status = [
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "daemonset/portcullis",
        "--timeout=120s",
    ];
    kubectl(&status);
}

/// Where a file of `deploy/` is.
#[must_use]
pub fn shipped_path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file)
}

/// A file of `deploy/`.
#[must_use]
pub fn shipped(file: &str) -> String {
    fs::read_to_string(shipped_path(file)).expect("the file is there")
}

/// Installs them as `deploy/README.md` says, with these arguments more, and waits until all are Ready.
pub fn install_with(arguments: &[&str]) {
    let line = |argument: &str| format!("            - {argument}\n");
    let mut all = line("agent");
    all.extend(arguments.iter().copied().map(line));
    let manifest = shipped("portcullis.yaml").replacen(&line("agent"), &all, 1);
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let output = try_kubectl(&apply, &manifest);
    assert!(output.status.success(), "{}", said(&output));
    rolled_out();
}

/// Takes Portcullis off every node as `deploy/README.md` says.
pub fn uninstall() {
    let delete = ["-n", NAMESPACE, "delete", "--ignore-not-found"];
    kubectl(&[&delete[..], &["daemonset/portcullis"]].concat());
    kubectl(&["apply", "--server-side", "-f", &path_text("uninstall.yaml")]);
    let status = [
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        REMOVAL,
        "--timeout=120s",
    ];
    kubectl(&status);
    kubectl(&["-n", NAMESPACE, "delete", REMOVAL]);
}

const REMOVAL: &str = "daemonset/portcullis-uninstall";

fn path_text(file: &str) -> String {
    shipped_path(file).display().to_string()
}

/// The cluster is as it was, with Portcullis as shipped, when this is dropped: also behind a test that failed, so that the next one finds what it needs.
#[derive(Debug)]
pub struct Restored(());

impl Restored {
    /// Whatever becomes of the cluster from here on is undone.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is there to be dropped")]
    pub fn new() -> Self {
        Self(())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        for node in [Node::n1(), Node::n2()] {
            let mount = "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf";
            let _ = node.try_run(&["sh", "-c", mount], "");
        }
        let next = "daemonset/portcullis-next";
        let delete = [
            "-n",
            NAMESPACE,
            "delete",
            "--ignore-not-found",
            REMOVAL,
            next,
        ];
        let _ = try_kubectl(&delete, "");
        if thread::panicking() {
            // A second panic would end all tests.
            let _ = std::panic::catch_unwind(|| install_with(&[]));
        } else {
            install_with(&[]);
        }
    }
}
