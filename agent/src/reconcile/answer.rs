//! What the node answers to questions that are not about itself alone: one pod, or the objects that verdicts are made from.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_policy::model;

use super::Node;
use super::report::lacks;
use crate::kube::Kind;
use crate::report::{NodeRoles, PodStatus, RoleStatus};
use crate::world::{PodRoles, Services};

/// The node's objects at one moment. Explaining from them takes its time, which is not the world task's.
#[derive(Clone, Debug)]
pub struct View {
    /// The objects.
    pub model: Arc<model::World>,
    /// Services and their backends.
    pub services: Arc<Services>,
    /// Whom the metadata guard lets through.
    pub metadata_allow: BTreeSet<(String, String)>,
    /// Revision of the tables in force.
    pub revision: u64,
    /// What keeps these objects from being in force.
    pub behind: Vec<String>,
}

impl Node {
    /// The objects as they are now.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            model: self.world.snapshot(),
            services: self.world.services(),
            metadata_allow: self.settings.metadata_allow.clone(),
            revision: self.revision,
            behind: self.behind(),
        }
    }

    /// Whether the policies of a pod are in force.
    #[must_use]
    pub fn pod_status(&self, namespace: &str, name: &str) -> PodStatus {
        let pod = self.world.pod(namespace, name);
        let runs_on = pod.and_then(|pod| pod.workload.node.as_deref());
        let missing = self.pod_lacks(namespace, name);
        PodStatus {
            api_version: "portcullis.dev/v1alpha1".to_owned(),
            kind: "PodStatus".to_owned(),
            node: self.world.node().to_owned(),
            pod: format!("{namespace}/{name}"),
            uid: pod.map(|pod| pod.workload.uid.clone()),
            runs_on: runs_on.map(ToString::to_string),
            ready: missing.is_none(),
            missing,
            revision: self.revision,
        }
    }

    /// What is decided of the roles of this node's pods. Cheap.
    #[must_use]
    pub fn role_decisions(&self) -> PodRoles {
        self.world.roles()
    }

    /// The roles of this node's pods.
    #[must_use]
    pub fn roles(&self) -> NodeRoles {
        let feeds = self.world.feeds().iter();
        let of_roles = feeds.filter(|(kind, _)| Kind::OF_ROLES.contains(kind));
        let mut items: Vec<RoleStatus> = self
            .world
            .roles()
            .values()
            .map(|role| RoleStatus::of(role))
            .collect();
        items.sort_by(|a, b| a.pod.cmp(&b.pod));
        NodeRoles {
            api_version: "portcullis.dev/v1alpha1".to_owned(),
            kind: "NodeRoles".to_owned(),
            node: self.world.node().to_owned(),
            generation: self.world.roles_generation(),
            problems: of_roles
                .filter_map(|(kind, feed)| feed.problem(*kind))
                .collect(),
            items,
        }
    }

    fn pod_lacks(&self, namespace: &str, name: &str) -> Option<String> {
        let Some(pod) = self.world.pod(namespace, name) else {
            return Some("is not known".to_owned());
        };
        match pod.workload.node.as_deref() {
            None => return Some("has no node yet".to_owned()),
            Some(node) if node != self.world.node() => return Some(format!("runs on {node}")),
            Some(_) => {}
        }
        if pod.workload.finished {
            return Some("has ended".to_owned());
        }
        if let Some(behind) = self.behind().into_iter().next() {
            return Some(format!("waits for its node: {behind}"));
        }
        if pod.workload.host_network {
            // It has no interface of its own, and no policy is about it.
            return None;
        }
        let model = self.world.snapshot();
        let workload = model.workloads.get(&pod.workload.uid)?;
        if workload.addresses.is_empty() {
            return Some("has no address yet".to_owned());
        }
        lacks(&self.bound(), &workload.uid).map(str::to_owned)
    }
}
