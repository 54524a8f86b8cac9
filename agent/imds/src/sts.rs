//! AWS STS, by the SDK: one pooled client, an endpoint for each region, two operations.
//!
//! ```text
//! projected, tokenrequest   token of the pod's service account -> AssumeRoleWithWebIdentity, unsigned
//! assume-role               credentials of the node or agent   -> AssumeRole, signed
//! ```
//! The SDK's own chains are not used: they would ask the metadata service. Nothing here retries for longer than [`WHOLE`]; the cache does.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sts::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{BehaviorVersion, Region, SharedCredentialsProvider, SharedHttpClient};
use aws_sdk_sts::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_sdk_sts::{Client, Config};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use jiff::Timestamp;
use thiserror::Error;

use crate::cache::{Class, Fault, Key, Owner, Source, SourceKind};
use crate::credentials::Credentials;
use crate::metrics::{Metrics, Operation};
use crate::secret::Secret;

/// One call, retries included.
pub const WHOLE: Duration = Duration::from_secs(2);
/// Until a connection stands.
const CONNECT: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The least that is the maximum of every role, and the most that a chained one may have.
const SESSION_SECS: i32 = 3600;

/// Who has tokens of service accounts.
pub trait Tokens: Send + Sync + 'static {
    /// A token of the owner's service account, bound to its pod, for this audience. Never an old one: tokens rotate.
    fn token(
        &self,
        owner: &Owner,
        audience: &str,
    ) -> impl Future<Output = Result<Secret, Fault>> + Send;
}

/// STS.
pub struct Sts<T> {
    tokens: T,
    /// Whose credentials sign `AssumeRole`.
    own: Option<SharedCredentialsProvider>,
    region: String,
    http: SharedHttpClient,
    metrics: Arc<Metrics>,
}

/// No endpoint is known for a region.
#[derive(Debug, Error)]
#[error("no STS endpoint for region {region:?}")]
pub struct NoEndpoint {
    region: String,
    #[source]
    source: aws_sdk_sts::error::BoxError,
}

/// Where STS is asked for a region, by the partition that it belongs to; the global endpoint on request.
pub async fn endpoint(region: &str, regional: bool) -> Result<String, NoEndpoint> {
    let no_endpoint = |source: aws_sdk_sts::error::BoxError| NoEndpoint {
        region: region.to_owned(),
        source,
    };
    let params = Params::builder()
        .region(region)
        .use_global_endpoint(!regional)
        .build()
        .map_err(|error| no_endpoint(error.into()))?;
    let endpoint = DefaultResolver::new()
        .resolve_endpoint(&params)
        .await
        .map_err(no_endpoint)?;
    Ok(endpoint.url().to_owned())
}

impl<T: Tokens> Sts<T> {
    /// A client that signs for `region`, with `own` credentials if there are any.
    #[must_use]
    pub fn new(tokens: T, region: &str, own: Option<SharedCredentialsProvider>) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        Self {
            tokens,
            own,
            region: region.to_owned(),
            http,
            metrics: Arc::default(),
        }
    }

    /// Counts calls there.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// The same connections for each client: the pool is the HTTP client's.
    fn client(&self, endpoint: &str) -> Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_timeout(WHOLE)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_BACKOFF);
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .endpoint_url(endpoint)
            .http_client(self.http.clone())
            .timeout_config(timeouts)
            .retry_config(retries);
        config.set_credentials_provider(self.own.clone());
        Client::from_conf(config.build())
    }

    async fn by_web_identity(&self, key: &Key) -> Result<Credentials, Fault> {
        let audience = key.audience.as_deref().unwrap_or("sts.amazonaws.com");
        let token = self.tokens.token(&key.owner, audience).await?;
        let asked = Timestamp::now();
        let call = self
            .client(&key.endpoint)
            .assume_role_with_web_identity()
            .role_arn(&key.role)
            .role_session_name(&key.session_name)
            .web_identity_token(token.expose())
            .duration_seconds(SESSION_SECS)
            .set_policy(key.policy.clone())
            .set_policy_arns(policies(key))
            .send();
        let answer = self
            .metrics
            .call(Operation::AssumeRoleWithWebIdentity, call, code)
            .await
            .map_err(|error| fault(&error))?;
        let id = answer.request_id().map(str::to_owned);
        credentials(key, asked, answer.credentials, id)
    }

    async fn by_own_credentials(&self, key: &Key) -> Result<Credentials, Fault> {
        let asked = Timestamp::now();
        let tags = key.tags.iter().map(|(name, value)| {
            Tag::builder()
                .key(name)
                .value(value)
                .build()
                .map_err(|error| Fault {
                    class: Class::Invalid,
                    code: "InvalidTag".to_owned(),
                    message: error.to_string(),
                })
        });
        let tags: Vec<Tag> = tags.collect::<Result<_, _>>()?;
        let call = self
            .client(&key.endpoint)
            .assume_role()
            .role_arn(&key.role)
            .role_session_name(&key.session_name)
            .duration_seconds(SESSION_SECS)
            .set_external_id(key.external_id.clone())
            .set_policy(key.policy.clone())
            .set_policy_arns(policies(key))
            .set_tags((!tags.is_empty()).then_some(tags))
            .send();
        let answer = self
            .metrics
            .call(Operation::AssumeRole, call, code)
            .await
            .map_err(|error| fault(&error))?;
        let id = answer.request_id().map(str::to_owned);
        credentials(key, asked, answer.credentials, id)
    }
}

impl<T: Tokens> Source for Sts<T> {
    async fn fetch(&self, key: &Key) -> Result<Credentials, Fault> {
        match key.source {
            SourceKind::Projected | SourceKind::TokenRequest => self.by_web_identity(key).await,
            SourceKind::AssumeRole => self.by_own_credentials(key).await,
        }
    }
}

fn policies(key: &Key) -> Option<Vec<PolicyDescriptorType>> {
    let arns = key.policy_arns.iter();
    let list: Vec<_> = arns
        .map(|arn| PolicyDescriptorType::builder().arn(arn).build())
        .collect();
    (!list.is_empty()).then_some(list)
}

fn credentials(
    key: &Key,
    asked: Timestamp,
    answer: Option<aws_sdk_sts::types::Credentials>,
    request_id: Option<String>,
) -> Result<Credentials, Fault> {
    let nonsense = |what: &str| Fault {
        class: Class::Network,
        code: "Nonsense".to_owned(),
        message: format!("STS answered without {what}"),
    };
    let answer = answer.ok_or_else(|| nonsense("credentials"))?;
    let expiration = Timestamp::from_second(answer.expiration.secs())
        .map_err(|error| nonsense(&format!("a time that there is: {error}")))?;
    if expiration <= asked {
        return Err(nonsense("an end in the future"));
    }
    Ok(Credentials {
        access_key_id: answer.access_key_id,
        secret_access_key: Secret::new(answer.secret_access_key),
        token: Secret::new(answer.session_token),
        expiration,
        last_updated: asked,
        account_id: key.role.split(':').nth(4).unwrap_or_default().to_owned(),
        request_id,
    })
}

/// AWS' word for what went wrong, if it said one.
fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<&str> {
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
}

/// What an error of the SDK means to the cache. Its text never has the request in it, so no token.
fn fault<E, R>(error: &SdkError<E, R>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
    SdkError<E, R>: RequestId,
{
    let Some(code) = code(error) else {
        return Fault {
            class: Class::Network,
            code: "NoAnswer".to_owned(),
            message: DisplayErrorContext(error).to_string(),
        };
    };
    let message = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::message);
    Fault {
        class: class(code),
        code: code.to_owned(),
        message: message.unwrap_or("STS said no more").to_owned(),
    }
}

/// Codes of the STS API reference and of its common errors.
fn class(code: &str) -> Class {
    match code {
        "AccessDenied" | "AccessDeniedException" => Class::Denied,
        "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidIdentityToken"
        | "InvalidIdentityTokenException"
        | "IDPRejectedClaim"
        | "IDPRejectedClaimException" => Class::BadToken,
        "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "RequestThrottled" => Class::Throttled,
        "MalformedPolicyDocument"
        | "PackedPolicyTooLarge"
        | "ValidationError"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "RegionDisabledException"
        | "MissingParameter" => Class::Invalid,
        _ => Class::Network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn k3_the_endpoint_is_the_regions_own_in_every_partition_and_the_global_one_on_request() {
        for (region, regional, url) in [
            ("eu-west-1", true, "https://sts.eu-west-1.amazonaws.com"),
            ("eu-west-1", false, "https://sts.amazonaws.com"),
            (
                "us-gov-west-1",
                true,
                "https://sts.us-gov-west-1.amazonaws.com",
            ),
            (
                "cn-north-1",
                true,
                "https://sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                "us-iso-east-1",
                true,
                "https://sts.us-iso-east-1.c2s.ic.gov",
            ),
        ] {
            assert_eq!(
                endpoint(region, regional).await.expect("there is one"),
                url,
                "{region}"
            );
        }
    }

    #[test]
    fn what_aws_calls_its_errors_is_told_apart() {
        for (code, wanted) in [
            ("AccessDenied", Class::Denied),
            ("ExpiredTokenException", Class::BadToken),
            ("Throttling", Class::Throttled),
            ("PackedPolicyTooLarge", Class::Invalid),
            ("IDPCommunicationError", Class::Network),
            ("InternalFailure", Class::Network),
        ] {
            assert_eq!(class(code), wanted, "{code}");
        }
    }
}
