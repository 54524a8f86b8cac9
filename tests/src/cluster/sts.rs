//! STS behind the nodes, in the control plane's namespace: moto, whose keys say whose they are, and the tokens that it was shown.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use portcullis_lab::client;
use serde_json::{Value, json};

use super::node::{Node, control};
use super::{agent, answer, try_kubectl};
use crate::cloud::moto::{Moto, PORT, python, url};
use crate::scene::{SOON, ip};

/// Where nodes reach it.
const ADDRESS: &str = "10.78.0.1";
/// What was made beside Portcullis, and goes with the test.
const EXTRAS: [&str; 4] = [
    "clusterrole/portcullis-tokenrequest",
    "clusterrolebinding/portcullis-tokenrequest",
    "validatingadmissionpolicy/portcullis-tokenrequest",
    "validatingadmissionpolicybinding/portcullis-tokenrequest",
];

/// STS, and agents whose pods get credentials from it as an overlay of `deploy/` says. The shipped manifest is back when this is dropped.
#[derive(Debug)]
pub struct Sts {
    moto: Moto,
    _restored: agent::Restored,
    _extras: Extras,
}

#[derive(Debug)]
struct Extras;

impl Sts {
    /// Starts it, and applies the overlay.
    #[must_use]
    pub fn with_overlay(overlay: &str) -> Self {
        let moto = Moto::start(&control());
        let extras = Extras;
        let restored = agent::Restored::new();
        apply_overlay(overlay);
        let at = (ip("127.0.0.1"), PORT).into();
        for verb in ["reset", "start"] {
            let path = format!("/moto-api/recorder/{verb}-recording");
            let answer = client::http(&control(), at, "POST", &path, &[], SOON);
            assert_eq!(answer.expect("moto answers").status, 200, "{path}");
        }
        Self {
            moto,
            _restored: restored,
            _extras: extras,
        }
    }

    /// The ARN of whoever has these keys.
    #[must_use]
    pub fn whose(&self, keys: &Value) -> String {
        self.moto.whose(keys)
    }

    /// The calls with web-identity tokens so far, with the claims of those that the API server's own keys signed.
    #[must_use]
    pub fn tokens(&self) -> Vec<Value> {
        let keys = answer(&["get", "--raw", "/openid/v1/jwks"]);
        let mut command = Command::new(python("python3"));
        command
            .args(["-c", include_str!("../../python/tokens.py")])
            .arg(url(ip("127.0.0.1")))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        control()
            .enter(&mut command)
            .expect("a namespace can be entered");
        let mut child = command.spawn().expect("Python starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(keys.as_bytes()).expect("it reads the keys");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "the recording can be read");
        serde_json::from_slice(&output.stdout).expect("it is a list")
    }
}

impl Drop for Extras {
    fn drop(&mut self) {
        let delete = [&["delete", "--ignore-not-found"][..], &EXTRAS].concat();
        let _ = try_kubectl(&delete, "");
    }
}

/// What the overlay makes, with an STS that is reachable here.
fn apply_overlay(overlay: &str) {
    let folder = agent::shipped_path(&format!("overlays/{overlay}"));
    let folder = folder.to_str().expect("a path of text");
    let text = answer(&["kustomize", folder]);
    let mut items: Vec<Value> = serde_saphyr::from_multiple(&text).expect("kustomize writes YAML");
    let set = items.iter_mut().find(|item| item["kind"] == "DaemonSet");
    let containers =
        &mut set.expect("it has a DaemonSet")["spec"]["template"]["spec"]["containers"];
    for container in containers.as_array_mut().expect("it has containers") {
        if container["name"] == "responder" {
            let environment = container["env"].as_array_mut().expect("it has variables");
            let url = url(ip(ADDRESS));
            environment.push(json!({"name": "AWS_ENDPOINT_URL_STS", "value": url}));
            // No metadata service tells it here.
            environment.push(json!({"name": "AWS_REGION", "value": "eu-west-1"}));
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let words = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let output = try_kubectl(&words, &list.to_string());
    assert!(output.status.success(), "{}", super::said(&output));
    agent::rolled_out();
}

/// The next pod on this node gets the lowest address that is free, not the one behind the last: the CNI plugin forgets which that was.
pub fn forget_last_address(node: &Node) {
    for file in ["last_reserved_ip.0", "last_reserved_ip.1"] {
        // Nobody may have had one yet.
        let _ = fs::remove_file(addresses(node).join(file));
    }
}

/// Whether the CNI plugin may give an address of this node to a pod.
#[must_use]
pub fn is_free(node: &Node, address: IpAddr) -> bool {
    !addresses(node).join(address.to_string()).exists()
}

/// Where the CNI plugin keeps which are given.
fn addresses(node: &Node) -> PathBuf {
    PathBuf::from("/var/lib/portcullis-cluster/nodes")
        .join(node.name)
        .join("ipam/cluster")
}
