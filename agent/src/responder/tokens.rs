//! Web-identity tokens for the responder: for pods of this node that have a role, and for the audience that their credentials need. For nobody else.

use std::time::Duration;

use portcullis_imds::cache::Owner;
use portcullis_imds::jwt::POD_IDENTITY_AUDIENCE;
use portcullis_imds::link::{Assigned, Pod};
use portcullis_imds::role::SourceKind;
use portcullis_imds::secret::Secret;

use crate::kube::token::TokenMaker;
use crate::token_reader::Reader;

/// How long the kubelet may take to write the token of a pod that is starting.
const STARTING: Duration = Duration::from_secs(10);

/// Who has tokens.
pub struct TokenSource {
    /// Makes them; nobody where there is no API server.
    pub maker: Option<TokenMaker>,
    /// Reads the pods' own.
    pub reader: Option<Reader>,
}

impl TokenSource {
    /// A token in the way that `source` says.
    pub async fn token(
        &self,
        owner: &Owner,
        audience: &str,
        source: SourceKind,
    ) -> Result<Secret, String> {
        match source {
            SourceKind::Projected => self.read(owner, audience, STARTING).await,
            SourceKind::TokenRequest => self.make(owner, audience).await,
            // The pod's own if it has one, for then nobody has to make any.
            SourceKind::Chained | SourceKind::EksAuth => {
                match self.read(owner, audience, Duration::ZERO).await {
                    Ok(token) => Ok(token),
                    Err(_) => self.make(owner, audience).await,
                }
            }
            SourceKind::AssumeRole => Err("assume-role needs no token".to_owned()),
        }
    }

    async fn read(&self, owner: &Owner, audience: &str, wait: Duration) -> Result<Secret, String> {
        match &self.reader {
            Some(reader) => reader.token(&owner.pod_uid, audience, wait).await,
            None => Err("there is no token reader".to_owned()),
        }
    }

    async fn make(&self, owner: &Owner, audience: &str) -> Result<Secret, String> {
        match &self.maker {
            Some(maker) => maker.token(owner, audience).await,
            None => Err("there is no API server".to_owned()),
        }
    }
}

/// Whether a pod's credentials are got in this way, with a token for this audience.
#[must_use]
pub fn needs(pod: &Pod, audience: &str, source: SourceKind) -> bool {
    match &pod.assigned {
        Assigned::Association => source == SourceKind::EksAuth && audience == POD_IDENTITY_AUDIENCE,
        Assigned::Role { grant } if grant.sources.contains(&source) => match source {
            SourceKind::EksAuth => audience == POD_IDENTITY_AUDIENCE,
            SourceKind::AssumeRole => false,
            SourceKind::Projected | SourceKind::TokenRequest | SourceKind::Chained => {
                grant.web.clone().unwrap_or_default().audience == audience
            }
        },
        Assigned::Role { .. }
        | Assigned::Undecided
        | Assigned::None { .. }
        | Assigned::Refused { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use portcullis_imds::role::{Grant, WebIdentity};

    use super::*;

    fn pod(assigned: Assigned) -> Pod {
        Pod {
            owner: Owner {
                namespace: "shop".to_owned(),
                service_account: "api".to_owned(),
                service_account_uid: "uid-api".to_owned(),
                pod: "web".to_owned(),
                pod_uid: "uid-web".to_owned(),
            },
            assigned,
            imds_v1: false,
            metadata_paths: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn a_token_is_got_for_the_way_and_the_audience_of_the_pods_role_alone() {
        use SourceKind::{AssumeRole, EksAuth, Projected, TokenRequest};
        let grant = Grant {
            sources: vec![TokenRequest, EksAuth, AssumeRole],
            role: "arn:aws:iam::123456789012:role/a".parse().expect("an ARN"),
            through: None,
            external_id: None,
            session_name: None,
            session_policy: None,
            session_policy_arns: Vec::new(),
            web: Some(WebIdentity::default()),
        };
        let with_role = pod(Assigned::Role {
            grant: Box::new(grant),
        });
        assert!(needs(&with_role, "sts.amazonaws.com", TokenRequest));
        assert!(needs(&with_role, POD_IDENTITY_AUDIENCE, EksAuth));
        for (audience, source) in [
            ("sts.amazonaws.com", Projected),
            ("sts.amazonaws.com", EksAuth),
            ("sts.amazonaws.com", AssumeRole),
            (POD_IDENTITY_AUDIENCE, TokenRequest),
            ("https://kubernetes.default.svc", TokenRequest),
        ] {
            assert!(
                !needs(&with_role, audience, source),
                "{audience} {source:?}"
            );
        }
        let association = pod(Assigned::Association);
        assert!(needs(&association, POD_IDENTITY_AUDIENCE, EksAuth));
        assert!(!needs(&association, "sts.amazonaws.com", TokenRequest));
        for nothing in [
            Assigned::Undecided,
            Assigned::None { why: String::new() },
            Assigned::Refused { why: String::new() },
        ] {
            assert!(!needs(&pod(nothing), POD_IDENTITY_AUDIENCE, EksAuth));
        }
    }
}
