//! Why a pod is refused a role: a closed list for metrics and audit, and a sentence for people.
//!
//! A message names the pod's own role and the annotation, never a pattern, another pod or another namespace: the pod itself may read it.

use std::fmt;

use super::arn::{ArnError, RoleArn};
use super::decision::Source;
use super::malformed::{Malformed, excerpt};

/// Why a role is refused. Append-only; `as_str` is the label of metrics and audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The pod names a role and its namespace takes them from service accounts only.
    RoleSource,
    /// The pod names a role and whether it may cannot be read.
    RoleSourceMalformed,
    /// The value names no role.
    RoleMalformed,
    /// The value needs a base ARN and there is none.
    NoBaseArn,
    /// The external id of the object that names the role cannot be read.
    ExternalIdMalformed,
    /// The pod's session name cannot be read.
    SessionNameMalformed,
    /// The namespace's session policy or its list of policies cannot be read.
    SessionPolicyMalformed,
    /// The service account's audience, token expiration or choice of endpoints cannot be read.
    TokenSettingsMalformed,
    /// Restrictions are required and the namespace has none.
    RestrictionMissing,
    /// The namespace's restrictions cannot be read.
    RestrictionMalformed,
    /// The namespace's restrictions do not name the role.
    RoleNotAllowed,
    /// There is an external id, and no way to credentials can carry one.
    ExternalIdWithoutSource,
    /// No way to credentials is open to this pod.
    NoSource,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::RoleSource,
        Self::RoleSourceMalformed,
        Self::RoleMalformed,
        Self::NoBaseArn,
        Self::ExternalIdMalformed,
        Self::SessionNameMalformed,
        Self::SessionPolicyMalformed,
        Self::TokenSettingsMalformed,
        Self::RestrictionMissing,
        Self::RestrictionMalformed,
        Self::RoleNotAllowed,
        Self::ExternalIdWithoutSource,
        Self::NoSource,
    ];

    /// Its word in metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoleSource => "role-source",
            Self::RoleSourceMalformed => "role-source-malformed",
            Self::RoleMalformed => "role-malformed",
            Self::NoBaseArn => "no-base-arn",
            Self::ExternalIdMalformed => "external-id-malformed",
            Self::SessionNameMalformed => "session-name-malformed",
            Self::SessionPolicyMalformed => "session-policy-malformed",
            Self::TokenSettingsMalformed => "token-settings-malformed",
            Self::RestrictionMissing => "restriction-missing",
            Self::RestrictionMalformed => "restriction-malformed",
            Self::RoleNotAllowed => "role-not-allowed",
            Self::ExternalIdWithoutSource => "external-id-without-source",
            Self::NoSource => "no-source",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal, with what a person needs to end it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Annotate the service account, or let the namespace's `role-source` be `any`.
    #[error("the pod names a role, and its namespace takes roles from service accounts only")]
    RoleSource,
    /// Correct the namespace's `role-source`.
    #[error("the pod names a role, and whether it may cannot be read: {0}")]
    RoleSourceMalformed(Malformed),
    /// Correct the value.
    #[error("{source_words} names no role, {value}: {error}", source_words = .source_line.words(), value = excerpt(.value))]
    RoleMalformed {
        /// Where the value stands.
        source_line: Source,
        /// The value.
        value: String,
        /// What is wrong with it.
        error: ArnError,
    },
    /// Write the full ARN, or give the agent a base ARN.
    #[error("{source_words} names no full ARN, {value}, and no base ARN is known", source_words = .source_line.words(), value = excerpt(.value))]
    NoBaseArn {
        /// Where the value stands.
        source_line: Source,
        /// The value.
        value: String,
    },
    /// Correct the annotation.
    #[error("{0}")]
    ExternalId(Malformed),
    /// Correct the annotation.
    #[error("{0}")]
    SessionName(Malformed),
    /// Correct the namespace's annotation.
    #[error("{0}")]
    SessionPolicy(Malformed),
    /// Correct the service account's annotation.
    #[error("{0}")]
    TokenSettings(Malformed),
    /// Annotate the namespace with the roles that its pods may have.
    #[error("the namespace names no roles that its pods may have, and has to")]
    RestrictionMissing,
    /// Correct the namespace's annotation.
    #[error("{0}")]
    RestrictionMalformed(Malformed),
    /// Add the role to the namespace's restrictions, or give the pod another one.
    #[error("the namespace does not allow {0}")]
    RoleNotAllowed(RoleArn),
    /// Give the agent the source `chained` or `assume-role`; `chained` needs a role on the service account too.
    #[error(
        "the external id needs a source that can carry it: chained, with a role on the service account, or assume-role"
    )]
    ExternalIdWithoutSource,
    /// Give the agent another source, the pod a projected token, or its service account a role.
    #[error("none of the configured sources can get this role's credentials for this pod")]
    NoSource,
}

impl Refusal {
    /// Its entry in the closed list.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::RoleSource => Reason::RoleSource,
            Self::RoleSourceMalformed(_) => Reason::RoleSourceMalformed,
            Self::RoleMalformed { .. } => Reason::RoleMalformed,
            Self::NoBaseArn { .. } => Reason::NoBaseArn,
            Self::ExternalId(_) => Reason::ExternalIdMalformed,
            Self::SessionName(_) => Reason::SessionNameMalformed,
            Self::SessionPolicy(_) => Reason::SessionPolicyMalformed,
            Self::TokenSettings(_) => Reason::TokenSettingsMalformed,
            Self::RestrictionMissing => Reason::RestrictionMissing,
            Self::RestrictionMalformed(_) => Reason::RestrictionMalformed,
            Self::RoleNotAllowed(_) => Reason::RoleNotAllowed,
            Self::ExternalIdWithoutSource => Reason::ExternalIdWithoutSource,
            Self::NoSource => Reason::NoSource,
        }
    }
}
