//! What pods, service accounts and namespaces say about roles, in our own words.
//!
//! Three things are kept apart for every annotation: it is absent (`Ok(None)`), it has a value (`Ok(Some(_))`), it cannot be read (`Err(_)`).
//! Empty is a value where it means something (a role: nobody) and malformed where it does not.

use super::imds_v1::Access;
use super::malformed::Malformed;
use super::pattern::Pattern;
use crate::facts::OptIn;

/// What stands under a key: nothing, a value, or something that is none.
pub type Reading<T> = Result<Option<T>, Malformed>;

/// What an object says about the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Explicitly no role: an empty value, or `none` as a namespace's default.
    Nobody,
    /// A name or an ARN, as it was written. Whether it names a role depends on the base ARN, which may not be known yet.
    Role(String),
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// The role that it names itself.
    pub role: Option<Wanted>,
    /// The external id for that role.
    pub external_id: Reading<String>,
    /// The whole session name, `<namespace>.` included.
    pub session_name: Reading<String>,
    /// Whether it may ask without a session token; can only tighten.
    pub imds_v1: Reading<Access>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `eks.amazonaws.com/role-arn`: a full ARN.
    pub role_arn: Option<Wanted>,
    /// The same key as on pods: a name or an ARN.
    pub role: Option<Wanted>,
    /// The external id for either.
    pub external_id: Reading<String>,
    /// Whom web-identity tokens are for.
    pub audience: Reading<String>,
    /// How long a web-identity token lives; at least 600.
    pub token_expiration_secs: Reading<u64>,
    /// Whether STS is asked in the node's region.
    pub regional_endpoint: Reading<bool>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// kube2iam's allowed roles: one of them has to match.
    pub allowed_roles: Reading<Vec<Pattern>>,
    /// kiam's `permitted`.
    pub permitted: Reading<Pattern>,
    /// The role of pods that have none.
    pub default_role: Option<Wanted>,
    /// Which objects may name a role.
    pub role_source: Reading<RoleSource>,
    /// Whether restrictions deny or only report.
    pub role_mode: Reading<Mode>,
    /// Whether pods may ask without a session token.
    pub imds_v1: Reading<Access>,
    /// What its pods may read of the node beyond the common paths.
    pub metadata_paths: Reading<Vec<OptIn>>,
    /// An inline session policy.
    pub session_policy: Reading<String>,
    /// Managed policies that limit sessions.
    pub session_policy_arns: Reading<Vec<String>>,
}

/// `portcullis.dev/role-source`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleSource {
    /// Pods and service accounts.
    Any,
    /// Service accounts; a role named by a pod is refused.
    ServiceAccount,
}

/// `portcullis.dev/role-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Restrictions deny.
    Enforce,
    /// Restrictions report what they would deny.
    Audit,
}

impl Wanted {
    /// Empty is nobody.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        if text.is_empty() {
            Self::Nobody
        } else {
            Self::Role(text.to_owned())
        }
    }
}

impl Pod {
    /// Every annotation of it that cannot be read, used or not.
    #[must_use]
    pub fn malformed(&self) -> Vec<&Malformed> {
        [
            error(&self.external_id),
            error(&self.session_name),
            error(&self.imds_v1),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl ServiceAccount {
    /// Every annotation of it that cannot be read, used or not.
    #[must_use]
    pub fn malformed(&self) -> Vec<&Malformed> {
        [
            error(&self.external_id),
            error(&self.audience),
            error(&self.token_expiration_secs),
            error(&self.regional_endpoint),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Namespace {
    /// Every annotation of it that cannot be read, used or not.
    #[must_use]
    pub fn malformed(&self) -> Vec<&Malformed> {
        [
            error(&self.allowed_roles),
            error(&self.permitted),
            error(&self.role_source),
            error(&self.role_mode),
            error(&self.imds_v1),
            error(&self.metadata_paths),
            error(&self.session_policy),
            error(&self.session_policy_arns),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The mode in force: audit only where it is asked for in so many letters.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.role_mode {
            Ok(Some(mode)) => mode,
            Ok(None) | Err(_) => Mode::Enforce,
        }
    }
}

fn error<T>(reading: &Reading<T>) -> Option<&Malformed> {
    reading.as_ref().err()
}
