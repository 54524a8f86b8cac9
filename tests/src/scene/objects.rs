//! Pods as both sides know them, and the directory that the agent follows: one file for each object, replaced by rename.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, process};

use portcullis_lab::{LabPod, Listen};
use serde_json::{Map, Value, json};

use super::{NODE, NODE_V4, NODE_V6, ip};

/// A pod to be: an object for the agent, a namespace for the lab.
#[derive(Debug, Clone)]
pub struct Pod {
    key: String,
    node: String,
    addresses: Vec<IpAddr>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    account: String,
}

/// A pod of the scene's node, `namespace/name`, with addresses separated by blanks. It answers on TCP 8080 and UDP 5353.
#[must_use]
pub fn pod(key: &str, addresses: &str) -> Pod {
    Pod {
        key: key.to_owned(),
        node: NODE.to_owned(),
        addresses: addresses.split_whitespace().map(ip).collect(),
        labels: Map::new(),
        annotations: Map::new(),
        account: "default".to_owned(),
    }
}

/// A pod in the scene's node's network: it has no addresses of its own, only a cgroup.
#[must_use]
pub fn host_pod(key: &str) -> Pod {
    pod(key, "")
}

impl Pod {
    /// Adds a label, or changes it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// Adds an annotation, or changes it.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// Runs it under another service account.
    #[must_use]
    pub fn account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.account);
        self
    }

    /// Binds it to another node: an object only.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> Value {
        let (namespace, name) = self.names();
        let host_network = self.addresses.is_empty();
        let addresses = if host_network {
            [NODE_V4, NODE_V6].map(ip).to_vec()
        } else {
            self.addresses.clone()
        };
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({ "ip": address.to_string() }))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": self.uid(),
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": {
                "nodeName": self.node,
                "serviceAccountName": self.account,
                "hostNetwork": host_network,
                "containers": [{"name": "main", "image": "none"}],
            },
            "status": {"phase": "Running", "podIPs": addresses},
        })
    }

    /// What the lab builds.
    #[must_use]
    pub fn in_lab(&self) -> LabPod {
        let (namespace, name) = self.names();
        LabPod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.uid(),
            addresses: self.addresses.clone(),
            ports: vec![Listen::Tcp(8080), Listen::Udp(5353)],
            host_network: self.addresses.is_empty(),
        }
    }

    fn names(&self) -> (&str, &str) {
        self.key.split_once('/').expect("a pod is namespace/name")
    }

    /// A UUID that follows from the name (FNV-1a).
    fn uid(&self) -> String {
        let digest = self
            .key
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        format!("0000000a-0000-4000-8000-{:012x}", digest & 0xffff_ffff_ffff)
    }
}

/// The directory of objects, gone with the value.
#[derive(Debug)]
pub struct Manifests(PathBuf);

impl Manifests {
    /// The node, the pods that are the scene's, and the policies, in force together.
    #[must_use]
    pub fn new(pods: &[Pod], policies: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("portcullis-scene-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("the temporary directory can be written");
        let this = Self(path);
        let addresses =
            [NODE_V4, NODE_V6].map(|address| json!({"type": "InternalIP", "address": address}));
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "status": {"addresses": addresses},
        });
        this.write("node.json", &node.to_string());
        for pod in pods {
            this.put(pod);
        }
        this.write("policies.yaml", policies);
        this
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file by rename, as whoever replaces objects under a running agent should.
    pub fn write(&self, name: &str, text: &str) {
        // Outside of the directory, so that the draft is never read.
        let draft = self.0.with_extension(format!("{name}.draft"));
        fs::write(&draft, text).expect("a draft can be written");
        fs::rename(&draft, self.0.join(name)).expect("a file can be replaced");
    }

    /// Writes a pod, in place of what it was.
    pub fn put(&self, pod: &Pod) {
        self.write(&file_name(&pod.key), &pod.object().to_string());
    }

    /// Removes a pod's object.
    pub fn remove(&self, key: &str) {
        self.remove_file(&file_name(key));
    }

    /// Removes a file.
    pub fn remove_file(&self, name: &str) {
        fs::remove_file(self.0.join(name)).expect("the file was there");
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn file_name(key: &str) -> String {
    format!("pod-{}.json", key.replace('/', "-"))
}
