//! Which credentials: everything that changes what a source would return is in the key.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::link::{Assigned, Pod};
use crate::role::{Grant, Kind};

/// The way in which credentials are got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The pod's own projected token, then `AssumeRoleWithWebIdentity`.
    Projected,
    /// A token that the API server makes for the pod, then the same.
    #[serde(rename = "tokenrequest")]
    TokenRequest,
    /// `AssumeRole` with the node's or the agent's own credentials.
    AssumeRole,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Projected, Self::TokenRequest, Self::AssumeRole];

    /// Which restrictions hold for it.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Projected | Self::TokenRequest => Kind::Web,
            Self::AssumeRole => Kind::Classic,
        }
    }

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// Where STS is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// In the node's region.
    pub regional: String,
    /// The partition's first one, for service accounts that want it.
    pub global: String,
}

impl Key {
    /// The key of a pod's credentials; none for a pod without a role.
    #[must_use]
    pub fn of(pod: &Pod, endpoints: &Endpoints) -> Option<Self> {
        let Assigned::Role { source, grant } = &pod.assigned else {
            return None;
        };
        let Grant {
            role,
            external_id,
            session_name,
            session_policy,
            session_policy_arns,
            web,
        } = &**grant;
        let is_web = *source != SourceKind::AssumeRole;
        let wants_global = web.as_ref().is_some_and(|web| !web.regional_endpoint);
        Some(Self {
            source: *source,
            endpoint: if is_web && wants_global {
                endpoints.global.clone()
            } else {
                endpoints.regional.clone()
            },
            role: role.to_string(),
            external_id: external_id.clone(),
            session_name: session_name
                .clone()
                .unwrap_or_else(|| session_name_of(&pod.owner)),
            tags: Vec::new(),
            policy: session_policy.clone(),
            policy_arns: session_policy_arns.clone(),
            audience: is_web.then(|| web.clone().unwrap_or_default().audience),
            owner: pod.owner.clone(),
        })
    }
}

/// Longest name of a session (STS API reference, `RoleSessionName`).
const LONGEST_NAME: usize = 64;

/// `NAMESPACE.POD`. What no session's name may have becomes a hyphen; of a long name the first 51 characters stay, and a digest of the pod's uid tells it
/// from others.
fn session_name_of(owner: &Owner) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name: String = format!("{}.{}", owner.namespace, owner.pod)
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let digest = Sha256::digest(owner.pod_uid.as_bytes());
    let [a, b, c, d, e, f, ..] = digest[..] else {
        unreachable!("a SHA-256 has 32 bytes");
    };
    let start = &name[..51];
    format!("{start}.{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(namespace: &str, pod: &str) -> Owner {
        Owner {
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            service_account_uid: "sa".to_owned(),
            pod: pod.to_owned(),
            pod_uid: "8e2c3b1a-0000-0000-0000-000000000001".to_owned(),
        }
    }

    #[test]
    fn a_session_is_named_after_its_pod() {
        assert_eq!(session_name_of(&owner("shop", "web-1")), "shop.web-1");
        let long = session_name_of(&owner("shop", &"w".repeat(80)));
        assert_eq!(long.len(), LONGEST_NAME);
        let other = session_name_of(&Owner {
            pod_uid: "other".to_owned(),
            ..owner("shop", &"w".repeat(80))
        });
        assert!(long != other && long[..52] == other[..52]);
    }

    #[test]
    fn everything_that_changes_what_sts_returns_is_in_the_key() {
        let endpoints = Endpoints {
            regional: "https://regional".to_owned(),
            global: "https://global".to_owned(),
        };
        let grant = Grant {
            role: "arn:aws:iam::123456789012:role/a".parse().expect("an ARN"),
            external_id: None,
            session_name: None,
            session_policy: None,
            session_policy_arns: Vec::new(),
            web: Some(crate::role::WebIdentity::default()),
        };
        let key = |source, change: fn(&mut Grant), owner: Owner| {
            let mut grant = grant.clone();
            change(&mut grant);
            let pod = Pod {
                owner,
                assigned: Assigned::Role {
                    source,
                    grant: Box::new(grant),
                },
                imds_v1: false,
                metadata_paths: std::collections::BTreeSet::new(),
            };
            Key::of(&pod, &endpoints).expect("it has a role")
        };
        let plain = || owner("shop", "web");
        let changes: [fn(&mut Grant); 6] = [
            |_| {},
            |grant| grant.external_id = Some("x".to_owned()),
            |grant| grant.session_name = Some("shop.x".to_owned()),
            |grant| grant.session_policy = Some("{}".to_owned()),
            |grant| grant.session_policy_arns = vec!["arn:aws:iam::aws:policy/x".to_owned()],
            |grant| grant.role = "arn:aws:iam::123456789012:role/b".parse().expect("an ARN"),
        ];
        let mut keys: Vec<Key> = changes
            .into_iter()
            .flat_map(|change| {
                [SourceKind::AssumeRole, SourceKind::TokenRequest]
                    .map(|source| key(source, change, plain()))
            })
            .collect();
        let web: [fn(&mut Grant); 2] = [
            |grant| grant.web.get_or_insert_default().audience = "other".to_owned(),
            |grant| grant.web.get_or_insert_default().regional_endpoint = false,
        ];
        keys.extend(web.map(|change| key(SourceKind::TokenRequest, change, plain())));
        keys.push(key(SourceKind::AssumeRole, |_| {}, owner("shop", "db")));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        let global = key(SourceKind::TokenRequest, web[1], plain());
        assert_eq!(global.endpoint, "https://global");
    }
}
