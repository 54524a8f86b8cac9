//! What the agent says of the roles of its pods. Never a credential, and of restrictions only what concerns the pod.

use portcullis_imds::role::{Decision, Mode, Outcome, Restriction};
use serde::{Deserialize, Serialize};

use crate::world::PodRole;

/// `GET /v1/roles`, and `portcullis iam whoami -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRoles {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeRoles`.
    pub kind: String,
    /// The node.
    pub node: String,
    /// Grows with every change of these roles while the agent runs.
    pub generation: u64,
    /// What keeps roles from being decided, or from being up to date, in sentences.
    pub problems: Vec<String>,
    /// Live pods of the node, hostNetwork ones too.
    pub items: Vec<RoleStatus>,
}

/// One pod's role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// `namespace/name`.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Name of its service account.
    pub service_account: String,
    /// Uid of that account, if it is known.
    pub service_account_uid: Option<String>,
    /// `role`, `none`, `association` (the cluster's associations are asked), `refused`, `undecided`.
    pub state: String,
    /// ARN of the role that it has.
    pub role: Option<String>,
    /// The ways to its credentials that it is offered, in the order in which they are tried.
    pub credential_sources: Vec<String>,
    /// The line of the precedence table that decided.
    pub source: String,
    /// Why it is refused, or what it waits for: a word of a closed list.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What its namespace's restrictions said: `not-judged`, `off`, `exempt`, `absent`, `matched`, `denied`.
    pub restriction: String,
    /// The entry of allowed-roles that allowed the role.
    pub allowed_roles: Option<String>,
    /// The expression of `permitted` that allowed it.
    pub permitted: Option<String>,
    /// What would be refused if the namespace were not in audit mode: a word of the same list as `reason`.
    pub would_deny: Option<String>,
    /// `enforce` or `audit`.
    pub mode: String,
    /// The name of its sessions, where it chose one.
    pub session_name: Option<String>,
    /// Whether it may ask for metadata without a session token.
    pub imds_v1: bool,
    /// Annotations of it, its account and its namespace that cannot be read, each with its object and what is wrong.
    pub malformed: Vec<String>,
}

impl RoleStatus {
    /// A pod's role, as it is reported.
    #[must_use]
    pub fn of(role: &PodRole) -> Self {
        let Decision {
            outcome,
            source,
            restriction,
            mode,
            association,
        } = &role.decision;
        let (state, reason, message) = match outcome {
            Outcome::Role(_) => ("role", None, None),
            Outcome::Nobody if *association => ("association", None, None),
            Outcome::Nobody => ("none", None, None),
            Outcome::Refused(refusal) => (
                "refused",
                Some(refusal.reason().as_str()),
                Some(refusal.to_string()),
            ),
            Outcome::Undecided(waiting) => ("undecided", Some(waiting.as_str()), None),
        };
        let grant = match outcome {
            Outcome::Role(grant) => Some(grant),
            _ => None,
        };
        let (word, allowed_roles, permitted) = match restriction {
            Restriction::NotJudged => ("not-judged", None, None),
            Restriction::Off => ("off", None, None),
            Restriction::Exempt => ("exempt", None, None),
            Restriction::Absent => ("absent", None, None),
            Restriction::Denied(_) => ("denied", None, None),
            Restriction::Matched {
                allowed_roles,
                permitted,
            } => ("matched", allowed_roles.clone(), permitted.clone()),
        };
        let malformed = role.malformed.iter();
        Self {
            pod: format!("{}/{}", role.namespace, role.name),
            uid: role.uid.clone(),
            service_account: role.service_account.clone(),
            service_account_uid: role.service_account_uid.clone(),
            state: state.to_owned(),
            role: grant.map(|grant| grant.role.as_str().to_owned()),
            credential_sources: grant
                .map(|grant| grant.sources.as_slice())
                .unwrap_or_default()
                .iter()
                .map(|source| source.as_str().to_owned())
                .collect(),
            source: source.as_str().to_owned(),
            reason: reason.map(str::to_owned),
            message,
            restriction: word.to_owned(),
            allowed_roles,
            permitted,
            would_deny: role
                .decision
                .would_deny()
                .map(|refusal| refusal.reason().as_str().to_owned()),
            mode: match mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
            }
            .to_owned(),
            session_name: grant.and_then(|grant| grant.session_name.clone()),
            imds_v1: role.imds_v1,
            malformed: malformed
                .map(|(object, malformed)| format!("{object}: {malformed}"))
                .collect(),
        }
    }
}
