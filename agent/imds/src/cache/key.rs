//! Which credentials: everything that changes what a source would return is in the key.

/// The way in which credentials are got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// The pod's own projected token, then `AssumeRoleWithWebIdentity`.
    Projected,
    /// A token that the API server makes for the pod, then the same.
    TokenRequest,
    /// `AssumeRole` with the node's or the agent's own credentials.
    AssumeRole,
}

impl SourceKind {
    /// Its word in settings and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Projected => "projected",
            Self::TokenRequest => "tokenrequest",
            Self::AssumeRole => "assume-role",
        }
    }
}

/// Whose token is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// Its uid: one that was made anew under the old name is somebody else.
    pub service_account_uid: String,
    /// The pod that the token is bound to.
    pub pod: String,
    /// Its uid.
    pub pod_uid: String,
}

/// Which credentials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The way.
    pub source: SourceKind,
    /// Host of the endpoint that is asked.
    pub endpoint: String,
    /// ARN of the role.
    pub role: String,
    /// With classic `AssumeRole` only.
    pub external_id: Option<String>,
    /// The session's name.
    pub session_name: String,
    /// Session tags, with classic `AssumeRole` only.
    pub tags: Vec<(String, String)>,
    /// An inline session policy.
    pub policy: Option<String>,
    /// Managed session policies.
    pub policy_arns: Vec<String>,
    /// Whom the web-identity token is for.
    pub audience: Option<String>,
    /// Whose it is.
    pub owner: Owner,
}
