//! Web-identity tokens of pods' service accounts, made by the API server (`TokenRequest`, KEP-1205) and bound to the pod: they end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    counts: Arc<TokenCounts>,
}

/// What came of asking for tokens, by status of the API server.
#[derive(Debug, Default)]
pub struct TokenCounts {
    counts: [AtomicU64; CODES.len()],
}

/// Values of the label `code`: a status, `unreachable` if there was none, `other` if it is another one.
pub const CODES: [&str; 11] = [
    "201",
    "400",
    "401",
    "403",
    "404",
    "409",
    "422",
    "429",
    "500",
    "unreachable",
    "other",
];

impl TokenCounts {
    fn count(&self, result: Result<(), &kube::Error>) {
        let code = match result {
            Ok(()) => "201".to_owned(),
            Err(kube::Error::Api(status)) => status.code.to_string(),
            Err(_) => "unreachable".to_owned(),
        };
        let at = CODES.iter().position(|known| *known == code);
        self.counts[at.unwrap_or(CODES.len() - 1)].fetch_add(1, Relaxed);
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        CODES.into_iter().zip(counts)
    }
}

impl TokenMaker {
    /// With the agent's own rights: `create serviceaccounts/token`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            counts: Arc::default(),
        }
    }

    /// What came of it so far.
    #[must_use]
    pub fn counts(&self) -> Arc<TokenCounts> {
        Arc::clone(&self.counts)
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
            .await;
        self.counts.count(answer.as_ref().map(|_token| ()));
        let answer = answer.map_err(|error| format!("the API server makes no token: {error}"))?;
        let token = answer.status.and_then(|status| status.token);
        token
            .map(Secret::new)
            .ok_or_else(|| "the API server answered without a token".to_owned())
    }
}
