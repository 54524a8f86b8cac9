//! Web-identity tokens of pods' service accounts, made by the API server (`TokenRequest`, KEP-1205) and bound to the pod: they end with it.

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use portcullis_imds::cache::Owner;
use portcullis_imds::secret::Secret;

/// How long a token lives. The API server makes none shorter; each is used once, at once.
const LIFE_SECS: i64 = 600;

/// Makes tokens.
#[derive(Clone)]
pub struct TokenMaker {
    client: Client,
}

impl TokenMaker {
    /// With the agent's own rights: `create serviceaccounts/token`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A token of the owner's service account for this audience, bound to its pod. The API server refuses a pod that is gone or has another account.
    pub async fn token(&self, owner: &Owner, audience: &str) -> Result<Secret, String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &owner.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.to_owned()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(owner.pod.clone()),
                    uid: Some(owner.pod_uid.clone()),
                }),
                expiration_seconds: Some(LIFE_SECS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(&owner.service_account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("the API server makes no token: {error}"))?;
        let token = answer.status.and_then(|status| status.token);
        token
            .map(Secret::new)
            .ok_or_else(|| "the API server answered without a token".to_owned())
    }
}
