//! The metadata addresses, with a service that answers behind the nodes: no pod gets a word of it, but whom the agents allow it; the node itself does.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use portcullis_lab::Listen;
use portcullis_lab::client::{connect_tcp, http};
use portcullis_tests::cluster::node::control;
use portcullis_tests::cluster::{
    Ground, Node, agent, answer, apply, kubectl, object, said, try_kubectl,
};
use portcullis_tests::scene::{SOON, ip, wait_until};
use serde_json::json;

/// Those that a stand-in answers at.
const ADDRESSES: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
/// What it says.
const SERVICE: &str = "instance-metadata";
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// The metadata addresses in the control plane's namespace, where nodes send what is for nobody they know.
struct StandIn;

impl StandIn {
    fn up(ground: &Ground) -> Self {
        for address in ADDRESSES {
            address_on_control("replace", address);
        }
        ground.listen(&control(), Listen::Tcp(80), SERVICE);
        Self
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        for address in ADDRESSES {
            address_on_control("del", address);
        }
    }
}

fn address_on_control(verb: &str, address: &str) {
    let mut command = Command::new("ip");
    let bits = if address.contains(':') { 128 } else { 32 };
    command.args(["address", verb, &format!("{address}/{bits}"), "dev", "lo"]);
    control()
        .enter(&mut command)
        .expect("a namespace can be entered");
    assert!(
        command.status().expect("ip runs").success(),
        "{verb} {address}"
    );
}

/// A DaemonSet in the host network of a service account of its own.
fn host_daemons(ground: &Ground, name: &str) {
    let namespace = &ground.name;
    apply(&format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      hostNetwork: true
      serviceAccountName: {name}
      terminationGracePeriodSeconds: 0
      containers: [{{name: agnhost, image: '{AGNHOST}', imagePullPolicy: IfNotPresent, args: [pause]}}]
"
    ));
    let rollout = ["-n", namespace, "rollout", "status", "--timeout=60s"];
    kubectl(&[&rollout[..], &[&format!("daemonset/{name}")]].concat());
}

/// What each pod of a `DaemonSet` hears at the two addresses: the service, somebody else, or nobody.
fn heard(ground: &Ground, name: &str) -> Vec<String> {
    let selector = format!("app={name}");
    let get = ["-n", &ground.name, "get", "pods", "-l", &selector];
    let names = answer(&[&get[..], &["-o", "name"]].concat());
    let mut answers = Vec::new();
    for pod in names.lines() {
        for address in ADDRESSES {
            // The service speaks first, as no real one does.
            let listen = format!("timeout 3 nc -w 2 {address} 80 </dev/null");
            let exec = ["-n", &ground.name, "exec", pod, "--", "sh", "-c", &listen];
            answers.push(said(&try_kubectl(&exec, "")));
        }
    }
    assert_eq!(answers.len(), 4, "two nodes, two addresses");
    answers
}

/// Whether that was the service.
fn is_service(heard: &str) -> bool {
    heard.contains(SERVICE)
}

#[test]
fn metadata_is_closed_to_pods_and_open_to_nodes_and_allowed_daemons() {
    let ground = Ground::with("metadata", &["n1/near", "n2/far"]);
    let _stand_in = StandIn::up(&ground);
    let _restored = agent::Restored::new();
    // The stand-in tells no region, and without one the responder takes no connection.
    let set = ["-n", agent::NAMESPACE, "set", "env", "daemonset/portcullis"];
    kubectl(&[&set[..], &["-c", "responder", "AWS_REGION=eu-west-1"]].concat());
    agent::rolled_out();
    let places = ADDRESSES.map(|address| SocketAddr::new(ip(address) as IpAddr, 80));
    // The nodes' own processes.
    for node in [Node::n1(), Node::n2()] {
        for place in &places {
            let url = format!("http://{place}/");
            // The stand-in says its name and waits: that it answers is what counts.
            let said = node.try_run(&["curl", "--http0.9", "-s", "-m", "1", &url], "");
            assert!(
                String::from_utf8_lossy(&said.stdout).contains(SERVICE),
                "{}: {place}",
                node.name
            );
        }
    }
    for pod in ["near", "far"] {
        for place in &places {
            let url = "/latest/meta-data/";
            let answer = http(ground.netns(pod), *place, "GET", url, &[], SOON);
            let answer = answer.expect("the responder answers pods");
            assert_eq!(answer.status, 401, "without a session token: {answer:?}");
            // No other port has a responder behind it.
            let elsewhere = SocketAddr::new(place.ip(), 8080);
            connect_tcp(ground.netns(pod), elsewhere, SOON).expect_err("it is closed to pods");
        }
    }
    host_daemons(&ground, "plain");
    host_daemons(&ground, "reader");
    for heard in heard(&ground, "plain")
        .iter()
        .chain(&heard(&ground, "reader"))
    {
        assert!(!is_service(heard), "hostNetwork pods are closed: {heard}");
        println!("metadata: a pod in the host network gets: {}", heard.trim());
    }
    let allowed = Allowed::new(&format!("{}/reader", ground.name));
    wait_until("the reader has access", SOON, || {
        heard(&ground, "reader")
            .iter()
            .all(|heard| is_service(heard))
    });
    for heard in heard(&ground, "plain") {
        assert!(!is_service(&heard), "others stay closed");
    }
    drop(allowed);
    for heard in heard(&ground, "reader") {
        assert!(!is_service(&heard), "it is closed again");
    }
}

/// An argument more for the agents; it goes when this is dropped.
struct Allowed(String);

impl Allowed {
    fn new(account: &str) -> Self {
        let path = "/spec/template/spec/containers/0/args/-";
        let value = format!("--metadata-allow={account}");
        change(&json!([{"op": "add", "path": path, "value": value}]));
        Self(value)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let set = object(&["-n", agent::NAMESPACE, "daemonset", "portcullis"]);
        let words = set["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
        let mut words = words.into_iter().flatten();
        let Some(place) = words.position(|word| *word == self.0) else {
            return;
        };
        let path = format!("/spec/template/spec/containers/0/args/{place}");
        change(&json!([{"op": "remove", "path": path}]));
    }
}

fn change(patch: &serde_json::Value) {
    let words = [
        "-n",
        agent::NAMESPACE,
        "patch",
        "daemonset",
        "portcullis",
        "--type=json",
    ];
    kubectl(&[&words[..], &["-p", &patch.to_string()]].concat());
    agent::rolled_out();
}
