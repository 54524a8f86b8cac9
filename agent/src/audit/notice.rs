//! Which records become Kubernetes events on their pods, and in which words. Never those of another pod.
//!
//! | event | when |
//! |---|---|
//! | `RoleAssumed` | the pod was handed keys for the first time |
//! | `RoleDenied` | its role is refused by the namespace's restrictions, or because it names one itself |
//! | `RoleInvalid` | its role is refused because a value cannot be read, or needs what is not there |
//! | `CredentialError` | the source of its keys failed |
//! | `MetadataBlocked` | it asked for a path that it may not read, or without a session token |
//! | `TokenMismatch` | it sent a web-identity token of another pod |

use std::collections::BTreeSet;

use portcullis_imds::audit::{Event, Record};
use portcullis_imds::reason::Reason;
use portcullis_imds::role::Reason as Refusal;

use super::subjects::{Refused, Subject, refusal};
use crate::kube::event::Notice;
use crate::world::PodRole;

/// What was told before.
#[derive(Default)]
pub(super) struct Notices {
    /// Uids of pods that were handed keys.
    assumed: BTreeSet<String>,
}

impl Notices {
    /// What a decision says to the pod's owner.
    pub(super) fn decided(role: &PodRole) -> Option<Notice> {
        let Some(Refused::Now(refused)) = refusal(role) else {
            return None;
        };
        let reason = match refused.reason() {
            Refusal::RoleSource
            | Refusal::RestrictionMissing
            | Refusal::RestrictionMalformed
            | Refusal::RoleNotAllowed => "RoleDenied",
            _ => "RoleInvalid",
        };
        let note = format!("{}: {refused}", refused.reason());
        Some(warning(role, reason, "AssumeRole", note))
    }

    /// What a record says to them.
    pub(super) fn recorded(&mut self, record: &Record, subject: &Subject) -> Option<Notice> {
        let role = subject.role.as_deref()?;
        let path = record.request.as_ref().map_or("", |asked| &asked.path);
        match (record.event, record.reason) {
            (Event::Issued, _) => {
                if !self.assumed.insert(role.uid.clone()) {
                    return None;
                }
                let keys = record.credential.as_ref();
                let source = keys
                    .and_then(|keys| keys.kind)
                    .map_or("", |kind| kind.as_str());
                let arn = super::subjects::decision(role).role_arn.unwrap_or_default();
                let note = format!("credentials of {arn} by {source}");
                Some(Notice {
                    warns: false,
                    ..warning(role, "RoleAssumed", "AssumeRole", note)
                })
            }
            (Event::Failed, _) => {
                let fault = record.fault.as_ref()?;
                let note = format!("no credentials: {} ({})", fault.code, fault.class);
                Some(warning(role, "CredentialError", "AssumeRole", note))
            }
            (Event::BlockedPath, _) => {
                let note = format!("this pod may not read {path}");
                Some(warning(role, "MetadataBlocked", "Deny", note))
            }
            (Event::Denied, Some(Reason::NoToken)) => {
                let note = "metadata was asked for without a session token (IMDSv1)".to_owned();
                Some(warning(role, "MetadataBlocked", "Deny", note))
            }
            (Event::Denied, Some(Reason::ForeignWebIdentity)) => {
                let note = "a web-identity token of another pod was sent".to_owned();
                Some(warning(role, "TokenMismatch", "Deny", note))
            }
            _ => None,
        }
    }

    /// Forgets pods that nobody knows any more.
    pub(super) fn forget_all_but(&mut self, is_known: impl Fn(&str) -> bool) {
        self.assumed.retain(|uid| is_known(uid));
    }
}

fn warning(role: &PodRole, reason: &'static str, action: &'static str, note: String) -> Notice {
    Notice {
        namespace: role.namespace.clone(),
        pod: role.name.clone(),
        uid: role.uid.clone(),
        reason,
        warns: true,
        action,
        series: note.clone(),
        note,
        paced: true,
    }
}
