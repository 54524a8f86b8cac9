//! A namespace of the API for one test, with pods that sleep and listeners of the test in their network namespaces.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use portcullis_lab::server::{Answer, Bound, Server};
use portcullis_lab::{Listen, NetNs};

use super::{Pod, Way, apply, kubectl, object};

/// Where listeners listen, TCP and UDP.
pub const PORT: u16 = 8080;

/// A namespace with pods. It goes when this is dropped.
#[derive(Debug)]
pub struct Ground {
    /// The namespace's name.
    pub name: String,
    pods: BTreeMap<String, Pod>,
    server: Server,
}

impl Ground {
    /// A namespace of this name with these pods, `NODE/NAME` each, all running; a pod's label `app` is its name. They listen on [`PORT`].
    #[must_use]
    pub fn with(name: &str, pods: &[&str]) -> Self {
        kubectl(&["create", "namespace", name]);
        // Without it no pod is taken.
        let account = [
            "-n",
            name,
            "wait",
            "--for=create",
            "--timeout=30s",
            "serviceaccount/default",
        ];
        kubectl(&account);
        let mut ground = Self {
            name: name.to_owned(),
            pods: BTreeMap::new(),
            server: Server::start().expect("the listeners' thread starts"),
        };
        ground.add(pods);
        ground
    }

    /// More pods.
    pub fn add(&mut self, pods: &[&str]) {
        let mut yaml = String::new();
        for pod in pods {
            let (node, name) = pod.split_once('/').expect("NODE/NAME");
            write!(
                yaml,
                "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers: [{{name: box, image: 'cluster.test/box:1', imagePullPolicy: IfNotPresent, ports: [{{name: web, containerPort: {PORT}}}]}}]
",
                self.name
            )
            .expect("a string takes everything");
        }
        apply(&yaml);
        let names: Vec<&str> = pods
            .iter()
            .filter_map(|pod| Some(pod.split_once('/')?.1))
            .collect();
        self.found(&names);
    }

    /// Waits for pods that somebody else made, and listens in them.
    pub fn found(&mut self, names: &[&str]) {
        let mut wait = vec![
            "wait",
            "-n",
            &self.name,
            "--for=condition=Ready",
            "--timeout=60s",
            "pod",
        ];
        wait.extend(names);
        kubectl(&wait);
        for name in names {
            let pod = Pod::of(&object(&["-n", &self.name, "pod", name]));
            for port in [Listen::Tcp(PORT), Listen::Udp(PORT)] {
                self.listen(&pod.netns, port, name);
            }
            self.pods.insert((*name).to_owned(), pod);
        }
    }

    /// Listens in a namespace and answers with a name.
    pub fn listen(&self, netns: &NetNs, port: Listen, name: &str) {
        let bound = netns.run(|| Bound::listen(port, Answer::Name(name.into())));
        let bound = bound.expect("the port is free");
        self.server.add(name, bound).expect("the listeners live");
    }

    /// Ends the listeners of that name.
    pub fn forget(&self, name: &str) {
        self.server.forget(name).expect("the listeners live");
    }

    /// Removes a pod and waits until it is gone.
    pub fn remove(&mut self, name: &str) {
        self.forget(name);
        self.pods.remove(name);
        kubectl(&["-n", &self.name, "delete", "pod", name, "--wait=true"]);
    }

    /// One of its pods.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods
            .get(name)
            .unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The network namespace of one of its pods.
    #[must_use]
    pub fn netns(&self, name: &str) -> &NetNs {
        &self.pod(name).netns
    }

    /// TCP and UDP to a pod, in both families.
    #[must_use]
    pub fn ways_to(&self, name: &str) -> Vec<Way> {
        let addresses = self.pod(name).addresses.iter();
        addresses
            .map(|address| SocketAddr::from((*address, PORT)))
            .flat_map(|to| [Way::Tcp(to), Way::Udp(to)])
            .collect()
    }

    /// A policy of this namespace: its name, and its `spec` in flow style.
    pub fn policy(&self, name: &str, spec: &str) {
        apply(&format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {}}}
spec: {spec}
",
            self.name
        ));
    }

    /// Takes a policy away.
    pub fn drop_policy(&self, name: &str) {
        kubectl(&["-n", &self.name, "delete", "networkpolicy", name]);
    }

    /// Changes a label of a pod: `KEY=VALUE`, or `KEY-`.
    pub fn label(&self, pod: &str, label: &str) {
        kubectl(&["-n", &self.name, "label", "--overwrite", "pod", pod, label]);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = super::try_kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}
