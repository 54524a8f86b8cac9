//! Where credentials come from: the ways that a pod is offered, tried in their order.
//!
//! ```text
//! projected, tokenrequest   token -> AssumeRoleWithWebIdentity
//! chained                   token -> AssumeRoleWithWebIdentity (the service account's role) -> AssumeRole
//! assume-role               own credentials -> AssumeRole
//! eks-auth                  token -> AssumeRoleForPodIdentity
//! ```
//! A way that cannot begin, because there is no token or no association, gives way to the next. What AWS refuses stays refused: the next way would get the
//! same role around a rule that somebody made.

use std::sync::Arc;

use crate::cache::{Class, Fault, Key, Owner, Source};
use crate::credentials::Credentials;
use crate::eks_auth::EksAuth;
use crate::jwt::POD_IDENTITY_AUDIENCE;
use crate::metrics::Metrics;
use crate::role::{RoleArn, SourceKind};
use crate::secret::Secret;
use crate::sts::Sts;

/// For whom tokens are whose role is in the service account's trust policy, unless it says another name.
const USUAL_AUDIENCE: &str = "sts.amazonaws.com";

/// Who has tokens of service accounts.
pub trait Tokens: Send + Sync + 'static {
    /// A token of the owner's service account, bound to its pod, for this audience and this way. Never an old one: tokens rotate.
    fn token(
        &self,
        owner: &Owner,
        audience: &str,
        source: SourceKind,
    ) -> impl Future<Output = Result<Secret, Fault>> + Send;
}

/// All ways.
pub struct Sources<T> {
    tokens: T,
    sts: Sts,
    eks_auth: Option<EksAuth>,
    metrics: Arc<Metrics>,
}

impl<T: Tokens> Sources<T> {
    /// With tokens from `tokens`.
    #[must_use]
    pub fn new(tokens: T, sts: Sts, eks_auth: Option<EksAuth>, metrics: Arc<Metrics>) -> Self {
        Self {
            tokens,
            sts: sts.counted(Arc::clone(&metrics)),
            eks_auth,
            metrics,
        }
    }

    async fn by(&self, source: SourceKind, key: &Key, owner: &Owner) -> Result<Credentials, Fault> {
        match (source, &key.role, &key.through) {
            (SourceKind::Projected | SourceKind::TokenRequest, Some(role), _) => {
                self.by_web_identity(source, key, owner, role, true).await
            }
            (SourceKind::Chained, Some(role), Some(through)) => {
                let first = self
                    .by_web_identity(source, key, owner, through, false)
                    .await?;
                self.sts.assume_role(key, role, Some(&first)).await
            }
            (SourceKind::AssumeRole, Some(role), _) => self.sts.assume_role(key, role, None).await,
            (SourceKind::EksAuth, role, _) => self.by_association(owner, role.as_ref()).await,
            (_, None, _) | (SourceKind::Chained, _, None) => Err(Fault {
                class: Class::Invalid,
                code: "NoSource".to_owned(),
                message: format!("{} cannot get these credentials", source.as_str()),
            }),
        }
    }

    async fn by_association(
        &self,
        owner: &Owner,
        role: Option<&RoleArn>,
    ) -> Result<Credentials, Fault> {
        let Some(eks_auth) = &self.eks_auth else {
            return Err(Fault {
                class: Class::Invalid,
                code: "NoCluster".to_owned(),
                message: "eks-auth needs --cluster-name on the responder".to_owned(),
            });
        };
        let token = || {
            self.tokens
                .token(owner, POD_IDENTITY_AUDIENCE, SourceKind::EksAuth)
        };
        let first = token().await?;
        let refused = match eks_auth.assume(&first, role, &self.metrics).await {
            Err(fault) if fault.class == Class::BadToken => fault,
            result => return result,
        };
        let next = token().await?;
        if next == first {
            return Err(refused);
        }
        eks_auth.assume(&next, role, &self.metrics).await
    }

    /// With a token that was read for this call. If STS says that it has ended, the kubelet may have written the next one meanwhile.
    async fn by_web_identity(
        &self,
        source: SourceKind,
        key: &Key,
        owner: &Owner,
        role: &RoleArn,
        last: bool,
    ) -> Result<Credentials, Fault> {
        let audience = key.audience.as_deref().unwrap_or(USUAL_AUDIENCE);
        let token = self.tokens.token(owner, audience, source).await?;
        let refused = match self.sts.web_identity(key, role, &token, last).await {
            Err(fault) if fault.class == Class::BadToken => fault,
            result => return result,
        };
        let next = self.tokens.token(owner, audience, source).await?;
        if next == token {
            return Err(refused);
        }
        self.sts.web_identity(key, role, &next, last).await
    }
}

impl<T: Tokens> Source for Sources<T> {
    async fn fetch(&self, key: &Key, owner: &Owner) -> Result<Credentials, Fault> {
        let mut gave_way = Fault {
            class: Class::Invalid,
            code: "NoSource".to_owned(),
            message: "no source is configured".to_owned(),
        };
        for source in &key.sources {
            match self.by(*source, key, owner).await {
                Err(fault) if fault.class.gives_way() => gave_way = fault,
                Err(fault) => return Err(fault),
                Ok(credentials) => {
                    return Ok(Credentials {
                        source: *source,
                        ..credentials
                    });
                }
            }
        }
        Err(gave_way)
    }
}

#[cfg(test)]
mod tests;
