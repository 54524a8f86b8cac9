//! What the responder is told of this node's pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_common::abi::Owner as Mark;
use portcullis_imds::cache::Owner;
use portcullis_imds::caller::Attachment;
use portcullis_imds::link::{Assigned, Pod};
use portcullis_imds::role::{Decision, Outcome};

use super::Node;
use crate::dataplane::names::uid_digest;
use crate::endpoint::cgroup::PodCgroup;
use crate::endpoint::resolve::{EndpointBinding, Evidence};
use crate::world::PodRole;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// By the attachments of their interfaces; none for an interface of which no pod is known, or not yet.
    pub interfaces: BTreeMap<Attachment, Option<Arc<Pod>>>,
    /// Those in the host network by uid: their attachments are their cgroups.
    pub host: BTreeMap<String, Arc<Pod>>,
}

impl Callers {
    /// The pod of this uid.
    #[must_use]
    pub fn of(&self, uid: &str) -> Option<&Pod> {
        let host = self.host.get(uid);
        let mut pods = self.interfaces.values().flatten().chain(host);
        pods.find(|pod| pod.owner.pod_uid == uid).map(AsRef::as_ref)
    }
}

impl Node {
    /// What the responder may know now.
    #[must_use]
    pub fn callers(&self) -> Callers {
        let roles = self.world.roles();
        let pods = self.bindings.iter().map(|binding| {
            let uid = binding.uid.as_ref().filter(|_| self.is_sure_of(binding));
            let pod = uid
                .and_then(|uid| roles.get(uid))
                .map(|role| Arc::new(caller(role)));
            (attachment(&self.dataplane.owner, binding.ifindex), pod)
        });
        let host = self.world.local_pods().filter_map(|pod| {
            let workload = &pod.workload;
            let role = roles.get(&workload.uid)?;
            let is_here = workload.host_network && !workload.finished;
            is_here.then(|| (workload.uid.clone(), Arc::new(caller(role))))
        });
        Callers {
            interfaces: pods.collect(),
            host: host.collect(),
        }
    }

    /// Where pods in the host network are found.
    #[must_use]
    pub fn pods_cgroup(&self) -> Option<PodCgroup> {
        self.cgroup.as_ref().ok().cloned()
    }

    /// Whether an interface is of the pod that it is bound to, and not merely of one that has its address. While a pod is being wired, the address may still be
    /// that of its predecessor's object: policy is told apart by address anyway, but keys would be another's. Where the CNI leaves no records there is nothing
    /// better to go by.
    fn is_sure_of(&self, binding: &EndpointBinding) -> bool {
        binding.evidence == Evidence::Cni || !self.observed.has_records
    }
}

fn caller(role: &PodRole) -> Pod {
    Pod {
        owner: Owner {
            namespace: role.namespace.clone(),
            service_account: role.service_account.clone(),
            service_account_uid: role.service_account_uid.clone().unwrap_or_default(),
            pod: role.name.clone(),
            pod_uid: role.uid.clone(),
        },
        assigned: assigned(&role.decision),
        imds_v1: role.imds_v1,
        metadata_paths: role.metadata_paths.clone(),
    }
}

fn assigned(decision: &Decision) -> Assigned {
    match &decision.outcome {
        Outcome::Undecided(_) => Assigned::Undecided,
        Outcome::Nobody if decision.association => Assigned::Association,
        Outcome::Nobody => Assigned::None {
            why: "this pod has no role".to_owned(),
        },
        Outcome::Refused(refusal) => Assigned::Refused {
            why: refusal.to_string(),
        },
        Outcome::Role(grant) => Assigned::Role {
            grant: grant.clone(),
        },
    }
}

/// An interface keeps its index for as long as it is there. Another one may have it afterwards: the responder ends connections when the pod behind one is another.
#[must_use]
pub fn attachment(mark: &Mark, ifindex: u32) -> Attachment {
    let boot = u128::from_be_bytes(mark.boot_id);
    let name = format!("attachment {boot:x} {} {ifindex}", mark.netns_cookie);
    Attachment(uid_digest(&name))
}

/// The kernel does not give a cgroup's id again before it starts anew.
#[must_use]
pub fn host_attachment(mark: &Mark, cgroup: u64) -> Attachment {
    let boot = u128::from_be_bytes(mark.boot_id);
    Attachment(uid_digest(&format!("attachment {boot:x} cgroup {cgroup}")))
}
