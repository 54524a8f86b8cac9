//! What is known of a pod's role once it has been decided.

use serde::{Deserialize, Serialize};

use super::arn::RoleArn;
use super::object::Mode;
use super::refusal::Refusal;
use super::restriction::Restriction;
use super::source::SourceKind;

/// The answer for one pod, with everything that explains it afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the pod gets.
    pub outcome: Outcome,
    /// Which line of the precedence table decided.
    pub source: Source,
    /// What the namespace's restrictions said.
    pub restriction: Restriction,
    /// Whether they deny or report.
    pub mode: Mode,
    /// Nothing names a role, and the cluster's associations (EKS Pod Identity) are asked whether they do.
    pub association: bool,
}

impl Decision {
    /// What restrictions would have denied if the namespace were not in audit mode. The role is given all the same.
    #[must_use]
    pub const fn would_deny(&self) -> Option<&Refusal> {
        match (&self.outcome, &self.restriction) {
            (Outcome::Role(_), Restriction::Denied(refusal)) => Some(refusal),
            _ => None,
        }
    }
}

/// What a pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not known yet: hold the request. Never the default role.
    Undecided(Waiting),
    /// This role.
    Role(Box<Grant>),
    /// No role, and that is as it should be.
    Nobody,
    /// No role, because something forbids it or is wrong.
    Refused(Refusal),
}

/// What a decision waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The watches are not in sync.
    Sync,
    /// The pod's object.
    Pod,
    /// The object of the pod's namespace.
    Namespace,
    /// The object of the pod's service account. Each kind has its own watch, so a pod can be there first.
    ServiceAccount,
    /// The base ARN is still to be found out from the node.
    BaseArn,
    /// The default role is still to be found out from the node.
    DefaultRole,
}

impl Waiting {
    /// Its word in metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::ServiceAccount => "service-account",
            Self::BaseArn => "base-arn",
            Self::DefaultRole => "default-role",
        }
    }
}

/// A role, with all that has to be told to STS along with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The ways to its credentials, in the order in which they are tried. Never empty.
    pub sources: Vec<SourceKind>,
    /// The role.
    pub role: RoleArn,
    /// The role of its service account, from which a chain reaches it.
    pub through: Option<RoleArn>,
    /// From the same object as the role. Part of what makes two credentials different.
    pub external_id: Option<String>,
    /// The whole session name, if the pod chose one and may.
    pub session_name: Option<String>,
    /// The namespace's inline session policy.
    pub session_policy: Option<String>,
    /// The namespace's managed session policies.
    pub session_policy_arns: Vec<String>,
    /// For web identity only.
    pub web: Option<WebIdentity>,
}

/// How the service account wants its web-identity tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// Whom they are for.
    pub audience: String,
    /// How long they live.
    pub token_expiration_secs: u64,
    /// Whether STS is asked in the node's region.
    pub regional_endpoint: bool,
}

impl Default for WebIdentity {
    /// The defaults of amazon-eks-pod-identity-webhook; the regional endpoint is AWS' advice.
    fn default() -> Self {
        Self {
            audience: "sts.amazonaws.com".to_owned(),
            token_expiration_secs: 86_400,
            regional_endpoint: true,
        }
    }
}

/// The line of the precedence table that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Line 1: the pod is not known yet.
    Unknown,
    /// Line 2: the pod names a role and must not.
    RoleSource,
    /// Line 3: the pod.
    Pod,
    /// Line 4: the service account, `eks.amazonaws.com/role-arn`.
    ServiceAccountArn,
    /// Line 4: the service account, the key that pods use.
    ServiceAccount,
    /// Line 5: the namespace's default.
    NamespaceDefault,
    /// Line 6: the cluster's default.
    ClusterDefault,
    /// Line 7: nothing names a role.
    Nothing,
}

impl Source {
    /// The number of the line.
    #[must_use]
    pub const fn line(self) -> u8 {
        match self {
            Self::Unknown => 1,
            Self::RoleSource => 2,
            Self::Pod => 3,
            Self::ServiceAccountArn | Self::ServiceAccount => 4,
            Self::NamespaceDefault => 5,
            Self::ClusterDefault => 6,
            Self::Nothing => 7,
        }
    }

    /// Its word in audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::RoleSource => "role-source",
            Self::Pod => "pod",
            Self::ServiceAccountArn => "service-account-arn",
            Self::ServiceAccount => "service-account",
            Self::NamespaceDefault => "namespace-default",
            Self::ClusterDefault => "cluster-default",
            Self::Nothing => "nothing",
        }
    }

    /// Its words in a sentence.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Unknown | Self::Nothing => "nothing",
            Self::RoleSource | Self::Pod => "the pod",
            Self::ServiceAccountArn | Self::ServiceAccount => "the service account",
            Self::NamespaceDefault => "the namespace's default",
            Self::ClusterDefault => "the cluster's default",
        }
    }
}
