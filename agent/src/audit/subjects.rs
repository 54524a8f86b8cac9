//! Whom a record is about: attachments that were met, pods that are or were here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_imds::audit::{Record, Whose};
use portcullis_imds::caller::Attachment;
use portcullis_imds::link::Origin;
use portcullis_imds::role::{Mode, Outcome, Refusal, Restriction};

use crate::report::{DecisionStatus, OriginStatus};
use crate::world::{PodRole, PodRoles};

/// Attachments that are remembered: more than a node has connections.
const ATTACHMENTS: usize = 8192;
/// For how long a pod that is gone is remembered: its last records come a minute later.
const PAST: Duration = Duration::from_mins(5);
/// How many of those.
const MOST_PAST: usize = 4096;

/// Everybody who may be in a record.
#[derive(Default)]
pub(super) struct Subjects {
    wires: BTreeMap<Attachment, Wire>,
    /// Oldest first.
    order: VecDeque<Attachment>,
    roles: PodRoles,
    past: BTreeMap<String, (Arc<PodRole>, Instant)>,
}

/// The pod's end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wire {
    ifindex: u32,
    /// Of a pod in the host network.
    cgroup: Option<u64>,
    uid: Option<String>,
}

/// Whom one record is about, as far as it is known.
pub(super) struct Subject {
    wire: Option<(Attachment, Wire)>,
    pub(super) role: Option<Arc<PodRole>>,
}

/// A role that was refused.
pub(super) enum Refused<'a> {
    /// The pod has none.
    Now(&'a Refusal),
    /// The pod has it, because its namespace is in audit mode.
    InAudit(&'a Refusal),
}

impl Subjects {
    /// Whose an attachment is.
    pub(super) fn met(&mut self, origin: &Origin) {
        let wire = Wire {
            ifindex: origin.ifindex,
            cgroup: (origin.cgroup != 0).then_some(origin.cgroup),
            uid: origin.uid.clone(),
        };
        if self.wires.insert(origin.attachment, wire).is_some() {
            return;
        }
        self.order.push_back(origin.attachment);
        if self.order.len() > ATTACHMENTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.wires.remove(&oldest);
        }
    }

    /// Takes in the decisions of now; those that are new or have become others.
    pub(super) fn decided(&mut self, roles: &PodRoles) -> Vec<Arc<PodRole>> {
        if Arc::ptr_eq(&self.roles, roles) {
            return Vec::new();
        }
        let now = Instant::now();
        let before = std::mem::replace(&mut self.roles, Arc::clone(roles));
        self.past
            .retain(|uid, (_, since)| since.elapsed() < PAST && !roles.contains_key(uid));
        for (uid, role) in before.iter().filter(|(uid, _)| !roles.contains_key(*uid)) {
            if self.past.len() < MOST_PAST {
                self.past.insert(uid.clone(), (Arc::clone(role), now));
            }
        }
        let is_new = |(uid, role): &(&String, &Arc<PodRole>)| {
            before
                .get(*uid)
                .is_none_or(|known| known.decision != role.decision)
        };
        let new = roles.iter().filter(is_new);
        new.map(|(_, role)| Arc::clone(role)).collect()
    }

    /// Whom the responder means.
    pub(super) fn of(&self, record: &Record) -> Subject {
        match &record.whose {
            Whose::Attachment(attachment) => {
                let wire = self.wires.get(attachment).cloned();
                let uid = wire.as_ref().and_then(|wire| wire.uid.as_deref());
                Subject {
                    role: uid.and_then(|uid| self.pod(uid)).cloned(),
                    wire: wire.map(|wire| (*attachment, wire)),
                }
            }
            Whose::Pod(uid) => Subject {
                role: self.pod(uid).cloned(),
                wire: self.wire_of(uid),
            },
        }
    }

    /// The pod behind an attachment.
    pub(super) fn role_of(&self, attachment: Attachment) -> Option<&PodRole> {
        let uid = self.wires.get(&attachment)?.uid.as_deref()?;
        self.pod(uid).map(AsRef::as_ref)
    }

    /// Whether it is or was here.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.pod(uid).is_some()
    }

    fn pod(&self, uid: &str) -> Option<&Arc<PodRole>> {
        let past = || self.past.get(uid).map(|(role, _)| role);
        self.roles.get(uid).or_else(past)
    }

    fn wire_of(&self, uid: &str) -> Option<(Attachment, Wire)> {
        let mut wires = self.wires.iter();
        let (attachment, wire) = wires.find(|(_, wire)| wire.uid.as_deref() == Some(uid))?;
        Some((*attachment, wire.clone()))
    }
}

impl Subject {
    /// A pod of which no connection is meant.
    pub(super) fn of_pod(role: Arc<PodRole>) -> Self {
        Self {
            wire: None,
            role: Some(role),
        }
    }

    /// Whether it is in the host network.
    pub(super) fn in_host_network(&self) -> bool {
        let wire = self.wire.as_ref();
        wire.is_some_and(|(_, wire)| wire.cgroup.is_some())
    }

    /// Where the connection of `record` came from, if it is about one.
    pub(super) fn origin(&self, record: &Record) -> Option<OriginStatus> {
        let Whose::Attachment(attachment) = &record.whose else {
            return None;
        };
        let wire = self.wire.as_ref().map(|(_, wire)| wire);
        let cgroup_id = wire.and_then(|wire| wire.cgroup);
        Some(OriginStatus {
            kind: if cgroup_id.is_some() {
                "cgroup"
            } else {
                "interface"
            }
            .to_owned(),
            ifindex: wire
                .filter(|wire| wire.cgroup.is_none())
                .map(|wire| wire.ifindex),
            attachment_id: format!("{attachment:?}"),
            cgroup_id,
            src_ip: record.src_ip,
        })
    }
}

/// What of a pod's role was refused.
pub(super) fn refusal(role: &PodRole) -> Option<Refused<'_>> {
    match &role.decision.outcome {
        Outcome::Refused(refusal) => Some(Refused::Now(refusal)),
        _ => role.decision.would_deny().map(Refused::InAudit),
    }
}

/// The decision on a pod's role, in a record's words.
pub(super) fn decision(role: &PodRole) -> DecisionStatus {
    let decision = &role.decision;
    let grant = match &decision.outcome {
        Outcome::Role(grant) => Some(grant.role.as_str().to_owned()),
        _ => None,
    };
    let restriction = match &decision.restriction {
        Restriction::Matched {
            allowed_roles,
            permitted,
        } => {
            let patterns = allowed_roles.iter().chain(permitted);
            Some(patterns.cloned().collect::<Vec<_>>().join(" and "))
        }
        _ => None,
    };
    let refused = refusal(role).map(|(Refused::Now(refusal) | Refused::InAudit(refusal))| {
        refusal.reason().as_str().to_owned()
    });
    DecisionStatus {
        role_arn: grant,
        source: Some(decision.source.as_str().to_owned()),
        restriction,
        reason: None,
        refusal: refused,
        mode: Some(
            match decision.mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
            }
            .to_owned(),
        ),
    }
}
