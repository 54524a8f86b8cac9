//! AWS STS, by the SDK: one pooled client, an endpoint for each region, two operations.
//!
//! ```text
//! token of the pod's service account                      -> AssumeRoleWithWebIdentity, unsigned
//! credentials of the node, the agent or a chain's first   -> AssumeRole, signed
//! ```
//! The SDK's own chains are not used: they would ask the metadata service. Nothing here retries for longer than [`WHOLE`]; the cache does.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sts::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{
    BehaviorVersion, Credentials as SdkCredentials, Region, SharedCredentialsProvider,
    SharedHttpClient,
};
use aws_sdk_sts::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use aws_sdk_sts::{Client, Config};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use jiff::Timestamp;
use thiserror::Error;

use crate::cache::{Class, Fault, Key};
use crate::credentials::Credentials;
use crate::metrics::{Metrics, Operation};
use crate::role::{RoleArn, SourceKind};
use crate::secret::Secret;
use crate::trust;

/// One call, retries included.
pub const WHOLE: Duration = Duration::from_secs(2);
/// Until a connection stands.
pub(crate) const CONNECT: Duration = Duration::from_millis(250);
pub(crate) const ATTEMPTS: u32 = 3;
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The least that is the maximum of every role, and the most that a chained one may have.
const SESSION_SECS: i32 = 3600;

/// STS.
pub struct Sts {
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
    resolve(region, regional, false).await
}

/// The same by a name that has addresses of both families, as newer services have them alone.
pub(crate) async fn dual_stack(region: &str) -> Result<String, NoEndpoint> {
    resolve(region, true, true).await
}

async fn resolve(region: &str, regional: bool, dual_stack: bool) -> Result<String, NoEndpoint> {
    let no_endpoint = |source: aws_sdk_sts::error::BoxError| NoEndpoint {
        region: region.to_owned(),
        source,
    };
    let params = Params::builder()
        .region(region)
        .use_global_endpoint(!regional)
        .use_dual_stack(dual_stack)
        .build()
        .map_err(|error| no_endpoint(error.into()))?;
    let endpoint = DefaultResolver::new()
        .resolve_endpoint(&params)
        .await
        .map_err(no_endpoint)?;
    Ok(endpoint.url().to_owned())
}

impl Sts {
    /// A client that signs for `region`, with `own` credentials if there are any.
    #[must_use]
    pub fn new(
        region: &str,
        own: Option<SharedCredentialsProvider>,
        http: SharedHttpClient,
    ) -> Self {
        Self {
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
    fn client(&self, endpoint: &str, signer: Option<SharedCredentialsProvider>) -> Client {
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
        config.set_credentials_provider(signer);
        Client::from_conf(config.build())
    }

    /// `AssumeRoleWithWebIdentity`, unsigned. Policies reduce the `last` session of a chain alone: the first has to be able to take the second's role.
    pub(crate) async fn web_identity(
        &self,
        key: &Key,
        role: &RoleArn,
        token: &Secret,
        last: bool,
    ) -> Result<Credentials, Fault> {
        let asked = Timestamp::now();
        let call = self
            .client(&key.endpoint, None)
            .assume_role_with_web_identity()
            .role_arn(role.as_str())
            .role_session_name(&key.session_name)
            .web_identity_token(token.expose())
            .duration_seconds(SESSION_SECS)
            .set_policy(key.policy.clone().filter(|_| last))
            .set_policy_arns(policies(key).filter(|_| last))
            .send();
        let answer = self
            .metrics
            .call(Operation::AssumeRoleWithWebIdentity, call, code)
            .await
            .map_err(|error| fault(&error))?;
        let id = answer.request_id().map(str::to_owned);
        credentials(role, asked, answer.credentials, id)
    }

    /// `AssumeRole`, signed with the credentials of a chain's `first` role, or with our own.
    pub(crate) async fn assume_role(
        &self,
        key: &Key,
        role: &RoleArn,
        first: Option<&Credentials>,
    ) -> Result<Credentials, Fault> {
        let signer = first.map_or_else(
            || self.own.clone(),
            |first| Some(SharedCredentialsProvider::new(signer(first))),
        );
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
            .client(&key.endpoint, signer)
            .assume_role()
            .role_arn(role.as_str())
            .role_session_name(&key.session_name)
            .duration_seconds(SESSION_SECS)
            .set_external_id(key.external_id.clone())
            .set_source_identity(key.source_identity.clone())
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
        credentials(role, asked, answer.credentials, id)
    }
}

/// The pooled HTTP client that all requests to AWS share.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(trust::roots())
        .build_https()
}

fn signer(first: &Credentials) -> SdkCredentials {
    SdkCredentials::new(
        &first.access_key_id,
        first.secret_access_key.expose(),
        Some(first.token.expose().to_owned()),
        Some(first.expiration.into()),
        "chain",
    )
}

fn policies(key: &Key) -> Option<Vec<PolicyDescriptorType>> {
    let arns = key.policy_arns.iter();
    let list: Vec<_> = arns
        .map(|arn| PolicyDescriptorType::builder().arn(arn).build())
        .collect();
    (!list.is_empty()).then_some(list)
}

fn credentials(
    role: &RoleArn,
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
        account_id: role.account().to_owned(),
        request_id,
        source: SourceKind::AssumeRole,
        role: None,
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
