//! What the responder is told of the pods behind this node's interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_common::abi::Owner as Mark;
use portcullis_imds::cache::{Owner, SourceKind};
use portcullis_imds::caller::Attachment;
use portcullis_imds::link::{Assigned, Pod};
use portcullis_imds::role::Outcome;

use super::Node;
use crate::dataplane::names::uid_digest;
use crate::world::PodRole;

/// Pods by their attachments; none for an interface of which no pod is known, or not yet.
pub type Callers = BTreeMap<Attachment, Option<Arc<Pod>>>;

impl Node {
    /// What the responder may know now.
    #[must_use]
    pub fn callers(&self) -> Callers {
        let roles = self.world.roles();
        let pods = self.bindings.iter().map(|binding| {
            let uid = binding.uid.as_ref();
            let pod = uid
                .and_then(|uid| roles.get(uid))
                .map(|role| Arc::new(self.caller(role)));
            (attachment(&self.dataplane.owner, binding.ifindex), pod)
        });
        pods.collect()
    }

    fn caller(&self, role: &PodRole) -> Pod {
        Pod {
            owner: Owner {
                namespace: role.namespace.clone(),
                service_account: role.service_account.clone(),
                service_account_uid: role.service_account_uid.clone().unwrap_or_default(),
                pod: role.name.clone(),
                pod_uid: role.uid.clone(),
            },
            assigned: assigned(&role.decision.outcome, self.settings.source),
            imds_v1: role.imds_v1,
        }
    }
}

fn assigned(outcome: &Outcome, source: SourceKind) -> Assigned {
    match outcome {
        Outcome::Undecided(_) => Assigned::Undecided,
        Outcome::Nobody => Assigned::None {
            why: "this pod has no role".to_owned(),
        },
        Outcome::Refused(refusal) => Assigned::Refused {
            why: refusal.to_string(),
        },
        // It has no parameter for it: dropped, the role would be another one.
        Outcome::Role(grant) if grant.external_id.is_some() && source != SourceKind::AssumeRole => {
            Assigned::Refused {
                why: "an external id needs the source assume-role".to_owned(),
            }
        }
        Outcome::Role(grant) => Assigned::Role {
            source,
            grant: grant.clone(),
        },
    }
}

/// An interface keeps its index for as long as it is there, and the kernel gives a number again only after all others.
#[must_use]
pub fn attachment(mark: &Mark, ifindex: u32) -> Attachment {
    let boot = u128::from_be_bytes(mark.boot_id);
    let name = format!("attachment {boot:x} {} {ifindex}", mark.netns_cookie);
    Attachment(uid_digest(&name))
}
