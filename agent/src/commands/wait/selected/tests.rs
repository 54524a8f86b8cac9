use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::api::Request;
use crate::cluster::stand_in::StandIn;
use crate::failure::exit;

fn pod(name: &str, node: Option<&str>, status: &Value) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": node},
        "status": status,
    })
}

fn running() -> Value {
    json!({"phase": "Running"})
}

/// An agent that knows of these pods, each from its so manieth question on.
fn knows(node: &str, pods: &[(&str, usize)]) -> impl Fn(Request) + Send + 'static + use<> {
    let node = node.to_owned();
    let pods: BTreeMap<String, (usize, AtomicUsize)> = pods
        .iter()
        .map(|(name, from)| ((*name).to_owned(), (*from, AtomicUsize::new(0))))
        .collect();
    move |request| {
        let Request::Pod(namespace, name, answer) = request else {
            return;
        };
        assert_eq!(namespace, "shop");
        let ready = pods
            .get(&name)
            .is_some_and(|(from, asked)| asked.fetch_add(1, Ordering::Relaxed) >= *from);
        let status = PodStatus {
            node: node.clone(),
            pod: format!("{namespace}/{name}"),
            uid: Some(format!("uid-{name}")),
            ready,
            missing: (!ready).then(|| "has no interface yet".to_owned()),
            ..PodStatus::default()
        };
        let _ = answer.send(status);
    }
}

const PODS: &str = "/api/v1/namespaces/shop/pods";

async fn wait(cluster: &StandIn, labels: &str, limit: Duration) -> Result<(), Failure> {
    let access = cluster.access().connect().await.expect("a kubeconfig");
    let namespace = access.default_namespace.clone();
    all_ready(&access, &namespace, labels, Instant::now() + limit).await
}

#[tokio::test]
async fn all_pods_with_the_labels_are_waited_for_and_no_others() {
    let cluster = StandIn::start().await;
    let mut other = pod("other", Some("n1"), &running());
    other["metadata"]["labels"]["app"] = json!("db");
    let mut going = pod("going", Some("n1"), &running());
    going["metadata"]["deletionTimestamp"] = json!("2026-03-02T20:00:00Z");
    let pods = vec![
        pod("a", Some("n1"), &running()),
        pod("b", Some("n2"), &running()),
        pod("done", Some("n1"), &json!({"phase": "Succeeded"})),
        other,
        going,
    ];
    cluster.list(PODS, pods);
    cluster.agent("n1", knows("n1", &[("a", 2)]));
    cluster.agent("n2", knows("n2", &[("b", 0)]));
    let waited = wait(&cluster, "app=web", Duration::from_secs(20)).await;
    assert_eq!(waited, Ok(()));
    // One line to each agent, however often it was asked.
    let execs = cluster.asked().into_iter();
    let execs = execs.filter(|asked| asked.path.contains("/exec"));
    assert_eq!(execs.count(), 2);
}

#[tokio::test]
async fn time_that_is_up_names_each_pod_and_what_it_lacks() {
    let cluster = StandIn::start().await;
    let pods = vec![
        pod("a", Some("n1"), &running()),
        pod("b", Some("n1"), &running()),
        pod("unscheduled", None, &json!({"phase": "Pending"})),
    ];
    cluster.list(PODS, pods);
    cluster.agent("n1", knows("n1", &[("b", 0)]));
    let failure = wait(&cluster, "app=web", Duration::from_secs(1)).await;
    let failure = failure.expect_err("two are not ready");
    assert_eq!(failure.exit_code(), exit::TIMED_OUT);
    let what = "2 of 3 pods with the labels app=web were not ready in time";
    assert_eq!(failure.what, what);
    let why = "a: n1 says: it has no interface yet; unscheduled: it has no node yet";
    assert_eq!(failure.why, why);
}

#[tokio::test]
async fn a_node_without_an_agent_is_another_end_than_a_pod_that_is_not_ready() {
    let cluster = StandIn::start().await;
    cluster.list(PODS, vec![pod("a", Some("n9"), &running())]);
    cluster.agent("n1", knows("n1", &[]));
    let failure = wait(&cluster, "app=web", Duration::from_millis(600)).await;
    let failure = failure.expect_err("nobody can say");
    assert_eq!(failure.exit_code(), exit::UNREACHABLE);
    assert_eq!(failure.why, "a: no agent runs on n9");
}

#[tokio::test]
async fn it_waits_for_the_first_pod_and_not_for_a_predecessor_of_the_name() {
    let cluster = StandIn::start().await;
    cluster.list(PODS, Vec::new());
    cluster.agent("n1", knows("n1", &[("a", 0)]));
    let failure = wait(&cluster, "app=web", Duration::from_millis(600)).await;
    let failure = failure.expect_err("there is none");
    assert_eq!(failure.exit_code(), exit::TIMED_OUT);
    assert!(failure.what.starts_with("no pod with"), "{}", failure.what);
    let mut successor = pod("a", Some("n1"), &running());
    successor["metadata"]["uid"] = json!("another");
    cluster.list(PODS, vec![successor]);
    let failure = wait(&cluster, "app=web", Duration::from_secs(1)).await;
    assert!(failure.is_err(), "the agent knows another pod a");
    cluster.list(PODS, vec![pod("a", Some("n1"), &running())]);
    let waited = wait(&cluster, "app=web", Duration::from_secs(20)).await;
    assert_eq!(waited, Ok(()));
}

#[tokio::test]
async fn what_the_api_server_refuses_ends_the_wait_at_once() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", knows("n1", &[]));
    let failure = wait(&cluster, "app=web", Duration::from_secs(20)).await;
    let failure = failure.expect_err("pods may not be listed");
    assert_eq!(failure.exit_code(), exit::NOT_PERMITTED);
    assert!(failure.what.contains("list pods in namespace shop"));
    cluster.list(PODS, Vec::new());
    let failure = wait(&cluster, "!", Duration::from_secs(20)).await;
    let failure = failure.expect_err("no labels");
    assert_eq!((failure.code, failure.exit_code()), ("PC5001", exit::USAGE));
}
