//! Which roles a namespace allows its pods.
//!
//! Two annotations, kube2iam's and kiam's; where both stand, both must allow. Nothing here looks at the pod.

use super::arn::RoleArn;
use super::base::BaseArn;
use super::malformed::Malformed;
use super::object::Namespace;
use super::refusal::Refusal;

/// `--namespace-restrictions`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// A namespace without an annotation allows nothing. kiam's behaviour.
    Required,
    /// A namespace without an annotation allows everything.
    IfPresent,
    /// Annotations are not looked at. kube2iam's default.
    Off,
}

/// What is required for each of the two ways to credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restrictions {
    /// For `AssumeRole` with the rights of the agent or node: nothing else stands between a pod and any role that these may assume.
    pub classic: Require,
    /// For web identity and EKS Pod Identity: the role's own trust policy names the service account.
    pub web: Require,
}

impl Default for Restrictions {
    fn default() -> Self {
        Self {
            classic: Require::Required,
            web: Require::IfPresent,
        }
    }
}

/// What the namespace's restrictions say of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// Not asked: there is no role to judge.
    NotJudged,
    /// Switched off.
    Off,
    /// The cluster's default role, which the administrator gave to all.
    Exempt,
    /// The namespace has none, and needs none.
    Absent,
    /// Allowed; at least one of the two stands there.
    Matched {
        /// The first entry that matches, as it was written.
        allowed_roles: Option<String>,
        /// The expression, as it was written.
        permitted: Option<String>,
    },
    /// Denied, or would be where the mode is audit.
    Denied(Refusal),
}

/// Judges a role.
///
/// 1. Off: allowed, whatever stands there.
/// 2. An annotation that cannot be read denies, whatever the other one says.
/// 3. Neither: denied if required, else allowed.
/// 4. Each that stands there must allow. An empty list and an empty expression allow nothing.
pub(super) fn judge(
    require: Require,
    namespace: &Namespace,
    role: &RoleArn,
    base: Option<&BaseArn>,
) -> Restriction {
    if require == Require::Off {
        return Restriction::Off;
    }
    let malformed =
        |error: &Malformed| Restriction::Denied(Refusal::RestrictionMalformed(error.clone()));
    let (allowed_roles, permitted) = match (&namespace.allowed_roles, &namespace.permitted) {
        (Err(error), _) | (_, Err(error)) => return malformed(error),
        (Ok(None), Ok(None)) if require == Require::Required => {
            return Restriction::Denied(Refusal::RestrictionMissing);
        }
        (Ok(None), Ok(None)) => return Restriction::Absent,
        (Ok(allowed_roles), Ok(permitted)) => (allowed_roles, permitted),
    };
    let entry = allowed_roles
        .as_ref()
        .map(|patterns| patterns.iter().find(|pattern| pattern.allows(role, base)));
    let expression = permitted
        .as_ref()
        .map(|pattern| Some(pattern).filter(|pattern| pattern.allows(role, base)));
    if matches!(entry, Some(None)) || matches!(expression, Some(None)) {
        return Restriction::Denied(Refusal::RoleNotAllowed(role.clone()));
    }
    let written = |pattern: &super::pattern::Pattern| pattern.as_str().to_owned();
    Restriction::Matched {
        allowed_roles: entry.flatten().map(written),
        permitted: expression.flatten().map(written),
    }
}
