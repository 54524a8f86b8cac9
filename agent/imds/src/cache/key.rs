//! Which credentials: everything that changes what a source would return is in the key.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::link::{Assigned, Pod};
use crate::role::{Grant, RoleArn, SourceKind};

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
    /// The ways, in the order in which they are tried.
    pub sources: Vec<SourceKind>,
    /// Host of the STS endpoint that is asked.
    pub endpoint: String,
    /// The role; whichever the cluster's associations name, if absent.
    pub role: Option<RoleArn>,
    /// The role of the service account, from which a chain reaches it.
    pub through: Option<RoleArn>,
    /// With `AssumeRole` only.
    pub external_id: Option<String>,
    /// The session's name.
    pub session_name: String,
    /// Session tags, with `AssumeRole` only.
    pub tags: Vec<(String, String)>,
    /// Who is behind the session for good, also when it assumes other roles; with `AssumeRole` only.
    pub source_identity: Option<String>,
    /// An inline session policy.
    pub policy: Option<String>,
    /// Managed session policies.
    pub policy_arns: Vec<String>,
    /// Whom the web-identity token is for.
    pub audience: Option<String>,
    /// Whose it is, as far as it is not shared: no pod if a service account's pods share it.
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

/// Who shares a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Nobody: each pod has its own.
    #[default]
    Pod,
    /// Pods of one service account.
    ServiceAccount,
    /// Pods with one role. By web identity, those of one service account: its token is what gets the role.
    Role,
}

/// How sessions are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sessions {
    /// Who shares one.
    pub scope: Scope,
    /// Whether they have tags.
    pub tags: bool,
    /// Whether they have a source identity.
    pub source_identity: bool,
    /// The cluster's name, if it is known.
    pub cluster: Option<String>,
    /// The node's.
    pub node: String,
}

impl Key {
    /// The key of a pod's credentials; none for a pod without a role.
    #[must_use]
    pub fn of(pod: &Pod, endpoints: &Endpoints, sessions: &Sessions) -> Option<Self> {
        let grant = match &pod.assigned {
            Assigned::Role { grant } => grant,
            Assigned::Association => return Some(Self::of_association(pod, endpoints)),
            Assigned::Undecided | Assigned::None { .. } | Assigned::Refused { .. } => return None,
        };
        let Grant {
            sources,
            role,
            through,
            external_id,
            session_name,
            session_policy,
            session_policy_arns,
            web,
        } = &**grant;
        let wants_global = web.as_ref().is_some_and(|web| !web.regional_endpoint);
        let is_web = sources.iter().any(|source| source.is_web());
        let assumes = sources
            .iter()
            .any(|source| matches!(source, SourceKind::Chained | SourceKind::AssumeRole));
        let chains = sources.contains(&SourceKind::Chained);
        let own_name = sessions.name(&pod.owner);
        Some(Self {
            sources: sources.clone(),
            endpoint: if is_web && wants_global {
                endpoints.global.clone()
            } else {
                endpoints.regional.clone()
            },
            role: Some(role.clone()),
            through: through.clone().filter(|_| chains),
            external_id: external_id.clone(),
            tags: if sessions.tags && assumes {
                sessions.tags_of(&pod.owner)
            } else {
                Vec::new()
            },
            source_identity: (sessions.source_identity && assumes).then(|| own_name.clone()),
            session_name: session_name.clone().unwrap_or(own_name),
            policy: session_policy.clone(),
            policy_arns: session_policy_arns.clone(),
            audience: is_web.then(|| web.clone().unwrap_or_default().audience),
            owner: sessions.sharers(&pod.owner, sources),
        })
    }

    /// Whatever role the cluster's associations give the pod's service account. EKS names the session.
    fn of_association(pod: &Pod, endpoints: &Endpoints) -> Self {
        Self {
            sources: vec![SourceKind::EksAuth],
            endpoint: endpoints.regional.clone(),
            role: None,
            through: None,
            external_id: None,
            session_name: String::new(),
            tags: Vec::new(),
            source_identity: None,
            policy: None,
            policy_arns: Vec::new(),
            audience: None,
            owner: pod.owner.clone(),
        }
    }
}

impl Sessions {
    /// The name of a pod's session.
    fn name(&self, owner: &Owner) -> String {
        let cluster = self.cluster.as_deref().unwrap_or("cluster");
        match self.scope {
            Scope::Pod => fitted(&owner.namespace, &owner.pod, &owner.pod_uid),
            Scope::ServiceAccount => fitted(
                &owner.namespace,
                &owner.service_account,
                &owner.service_account_uid,
            ),
            Scope::Role => fitted(cluster, &self.node, &self.node),
        }
    }

    /// Tags in the words of EKS Pod Identity; of a shared session what its pods have in common.
    fn tags_of(&self, owner: &Owner) -> Vec<(String, String)> {
        let pod = self.scope == Scope::Pod;
        let account = self.scope != Scope::Role;
        [
            ("eks-cluster-name", self.cluster.as_deref(), true),
            ("kubernetes-namespace", Some(&*owner.namespace), account),
            (
                "kubernetes-service-account",
                Some(&*owner.service_account),
                account,
            ),
            ("kubernetes-pod-name", Some(&*owner.pod), pod),
            ("kubernetes-pod-uid", Some(&*owner.pod_uid), pod),
        ]
        .into_iter()
        .filter_map(|(key, value, said)| said.then_some((key, value?)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }

    /// What is left of the owner in the key of a session. What a service account's token gets is never another account's.
    fn sharers(&self, owner: &Owner, sources: &[SourceKind]) -> Owner {
        let nobody = String::new;
        match self.scope {
            Scope::Pod => owner.clone(),
            Scope::Role if sources == [SourceKind::AssumeRole] => Owner {
                namespace: nobody(),
                service_account: nobody(),
                service_account_uid: nobody(),
                pod: nobody(),
                pod_uid: nobody(),
            },
            // Tokens of Pod Identity are of one pod: AWS names the session after it.
            _ if sources.contains(&SourceKind::EksAuth) => owner.clone(),
            Scope::ServiceAccount | Scope::Role => Owner {
                pod: nobody(),
                pod_uid: nobody(),
                ..owner.clone()
            },
        }
    }
}

/// Longest name of a session (STS API reference, `RoleSessionName`).
const LONGEST_NAME: usize = 64;

/// `FIRST.SECOND`. What no session's name may have becomes a hyphen; of a long name the first 51 characters stay, and a digest of the uid tells it from
/// others.
fn fitted(first: &str, second: &str, uid: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name: String = format!("{first}.{second}")
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let digest = Sha256::digest(uid.as_bytes());
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
            pod_uid: format!("8e2c3b1a-0000-0000-0000-{namespace}-{pod}"),
        }
    }

    fn arn(name: &str) -> RoleArn {
        format!("arn:aws:iam::123456789012:role/{name}")
            .parse()
            .expect("an ARN")
    }

    fn sessions(scope: Scope) -> Sessions {
        Sessions {
            scope,
            tags: true,
            source_identity: true,
            cluster: Some("blue".to_owned()),
            node: "n1".to_owned(),
        }
    }

    fn key(
        sources: &[SourceKind],
        sessions: &Sessions,
        owner: Owner,
        change: fn(&mut Grant),
    ) -> Key {
        let endpoints = Endpoints {
            regional: "https://regional".to_owned(),
            global: "https://global".to_owned(),
        };
        let mut grant = Grant {
            sources: sources.to_vec(),
            role: arn("a"),
            through: Some(arn("first")),
            external_id: None,
            session_name: None,
            session_policy: None,
            session_policy_arns: Vec::new(),
            web: Some(crate::role::WebIdentity::default()),
        };
        change(&mut grant);
        let pod = Pod {
            owner,
            assigned: Assigned::Role {
                grant: Box::new(grant),
            },
            imds_v1: false,
            metadata_paths: std::collections::BTreeSet::new(),
        };
        Key::of(&pod, &endpoints, sessions).expect("it has a role")
    }

    const CLASSIC: &[SourceKind] = &[SourceKind::AssumeRole];
    const WEB: &[SourceKind] = &[SourceKind::TokenRequest];
    const CHAIN: &[SourceKind] = &[SourceKind::Chained];

    #[test]
    fn a_session_is_named_after_its_pod() {
        let name = |owner: &Owner| Sessions::default().name(owner);
        assert_eq!(name(&owner("shop", "web-1")), "shop.web-1");
        let long = name(&owner("shop", &"w".repeat(80)));
        assert_eq!(long.len(), LONGEST_NAME);
        let other = name(&Owner {
            pod_uid: "other".to_owned(),
            ..owner("shop", &"w".repeat(80))
        });
        assert!(long != other && long[..52] == other[..52]);
    }

    #[test]
    fn wider_scopes_name_and_tag_what_is_shared() {
        let of = |scope| {
            let key = key(CLASSIC, &sessions(scope), owner("shop", "web"), |_| {});
            let tags: Vec<String> = key.tags.into_iter().map(|(name, _)| name).collect();
            (key.session_name, key.source_identity, tags)
        };
        let named = |name: &str| (name.to_owned(), Some(name.to_owned()));
        let (name, identity, tags) = of(Scope::Pod);
        assert_eq!((name, identity), named("shop.web"));
        assert_eq!(tags.len(), 5);
        let (name, identity, tags) = of(Scope::ServiceAccount);
        assert_eq!((name, identity), named("shop.default"));
        assert_eq!(
            tags,
            [
                "eks-cluster-name",
                "kubernetes-namespace",
                "kubernetes-service-account"
            ]
        );
        let (name, identity, tags) = of(Scope::Role);
        assert_eq!((name, identity), named("blue.n1"));
        assert_eq!(tags, ["eks-cluster-name"]);
    }

    #[test]
    fn who_shares_a_session_is_who_could_have_got_it() {
        let of = |sources, scope, owner: Owner| key(sources, &sessions(scope), owner, |_| {});
        let other_account = Owner {
            service_account_uid: "another".to_owned(),
            ..owner("shop", "db")
        };
        for sources in [CLASSIC, WEB, CHAIN] {
            let same = |scope, other: &Owner| {
                of(sources, scope, owner("shop", "web")) == of(sources, scope, other.clone())
            };
            assert!(!same(Scope::Pod, &owner("shop", "db")));
            assert!(same(Scope::ServiceAccount, &owner("shop", "db")));
            assert!(!same(Scope::ServiceAccount, &other_account));
            assert!(same(Scope::Role, &owner("shop", "db")));
            // A role that trusts one account's tokens is not lent to another account.
            assert_eq!(same(Scope::Role, &other_account), sources == CLASSIC);
            assert_eq!(same(Scope::Role, &owner("ops", "web")), sources == CLASSIC);
        }
    }

    #[test]
    fn tags_and_source_identity_are_off_unless_asked_for_and_only_where_sts_takes_them() {
        let plain = key(CLASSIC, &Sessions::default(), owner("shop", "web"), |_| {});
        assert!(plain.tags.is_empty() && plain.source_identity.is_none());
        let web = key(WEB, &sessions(Scope::Pod), owner("shop", "web"), |_| {});
        assert!(web.tags.is_empty() && web.source_identity.is_none());
        let chain = key(CHAIN, &sessions(Scope::Pod), owner("shop", "web"), |_| {});
        assert!(!chain.tags.is_empty() && chain.source_identity.is_some());
    }

    #[test]
    fn everything_that_changes_what_sts_returns_is_in_the_key() {
        let plain = || owner("shop", "web");
        let changes: [fn(&mut Grant); 6] = [
            |_| {},
            |grant| grant.external_id = Some("x".to_owned()),
            |grant| grant.session_name = Some("shop.x".to_owned()),
            |grant| grant.session_policy = Some("{}".to_owned()),
            |grant| grant.session_policy_arns = vec!["arn:aws:iam::aws:policy/x".to_owned()],
            |grant| grant.role = arn("b"),
        ];
        let mut keys: Vec<Key> = changes
            .into_iter()
            .flat_map(|change| {
                [CLASSIC, WEB, CHAIN]
                    .map(|sources| key(sources, &Sessions::default(), plain(), change))
            })
            .collect();
        let web: [fn(&mut Grant); 2] = [
            |grant| grant.web.get_or_insert_default().audience = "other".to_owned(),
            |grant| grant.web.get_or_insert_default().regional_endpoint = false,
        ];
        keys.extend(web.map(|change| key(WEB, &Sessions::default(), plain(), change)));
        keys.push(key(CHAIN, &Sessions::default(), plain(), |grant| {
            grant.through = Some(arn("other"));
        }));
        keys.push(key(
            CLASSIC,
            &Sessions::default(),
            owner("shop", "db"),
            |_| {},
        ));
        keys.push(key(CLASSIC, &sessions(Scope::Pod), plain(), |_| {}));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        let global = key(WEB, &Sessions::default(), plain(), web[1]);
        assert_eq!(global.endpoint, "https://global");
    }
}
