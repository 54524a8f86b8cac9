//! EKS Pod Identity: `AssumeRoleForPodIdentity` of EKS Auth, a REST-JSON request that the node's or the agent's own credentials sign.
//!
//! ```text
//! POST /clusters/CLUSTER/assume-role-for-pod-identity  {"token": ...}
//! 200 {"subject", "audience", "podIdentityAssociation", "assumedRoleUser": {"arn"}, "credentials": {...}}
//! ```
//! AWS chooses the role, by the cluster's associations. Where annotations name one, another answer is refused: the pod would be somebody else than its
//! manifest says. A request of our own over the SDK's parts: docs/decisions.md says why.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{
    BehaviorVersion, ProvideCredentials as _, SharedCredentialsProvider, SharedHttpClient,
};
use aws_sdk_sts::error::DisplayErrorContext;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime::client::orchestrator::operation::Operation as Call;
use aws_smithy_runtime::client::retries::classifiers::{
    HttpStatusCodeClassifier, TransientErrorClassifier,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::body::SdkBody;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::cache::{Class, Fault};
use crate::credentials::Credentials;
use crate::metrics::{Metrics, Operation};
use crate::role::{RoleArn, SourceKind};
use crate::secret::Secret;
use crate::sts::{self, ATTEMPTS, CONNECT, FIRST_BACKOFF, NoEndpoint, WHOLE};

/// What requests are signed for.
const SERVICE: &str = "eks-auth";

/// EKS Auth of one cluster.
#[derive(Clone)]
pub struct EksAuth {
    cluster: String,
    endpoint: String,
    region: String,
    own: Option<SharedCredentialsProvider>,
    http: SharedHttpClient,
}

/// A name that no cluster has (EKS API reference, `CreateCluster`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's name is 1 to 100 letters, digits, - and _, the first no sign")]
pub struct NoCluster;

/// The answer, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    assumed_role_user: AssumedRoleUser,
    credentials: Keys,
}

#[derive(Deserialize)]
struct AssumedRoleUser {
    arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
    /// Seconds since 1970, with or without a fraction.
    expiration: f64,
}

/// A document that says what is wrong.
#[derive(Default, Deserialize)]
struct Trouble {
    #[serde(rename = "__type", alias = "code")]
    kind: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

/// A signed request. Its `Debug` shows nothing: the token is in it.
struct Signed(HttpRequest);

/// What came back. The same.
struct Answer {
    body: Secret,
    request_id: Option<String>,
}

/// An answer that is an error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
struct Refused {
    status: u16,
    code: String,
    message: String,
}

impl fmt::Debug for Signed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<signed request>")
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<answer>")
    }
}

impl EksAuth {
    /// That of `cluster`, asked at `endpoint`.
    pub fn new(
        cluster: &str,
        endpoint: &str,
        region: &str,
        own: Option<SharedCredentialsProvider>,
        http: SharedHttpClient,
    ) -> Result<Self, NoCluster> {
        let is_name = (1..=100).contains(&cluster.len())
            && cluster.starts_with(|first: char| first.is_ascii_alphanumeric())
            && cluster
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !is_name {
            return Err(NoCluster);
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region: region.to_owned(),
            own,
            http,
        })
    }

    /// The credentials that an association gives the token's service account. Of another role than `wanted` they are refused.
    pub(crate) async fn assume(
        &self,
        token: &Secret,
        wanted: Option<&RoleArn>,
        metrics: &Metrics,
    ) -> Result<Credentials, Fault> {
        let asked = Timestamp::now();
        let request = self.sign(token).await?;
        let call = self.call();
        let answer = metrics
            .call(
                Operation::AssumeRoleForPodIdentity,
                call.invoke(Signed(request)),
                code,
            )
            .await
            .map_err(|error| fault(&error))?;
        credentials(&answer, asked, wanted)
    }

    /// Signed by a digest of the body, so that what signs does not see the token.
    async fn sign(&self, token: &Secret) -> Result<HttpRequest, Fault> {
        let cannot = |message: String| Fault {
            class: Class::Network,
            code: "NoCredentials".to_owned(),
            message,
        };
        let own = self
            .own
            .as_ref()
            .ok_or_else(|| cannot("there are no credentials to sign with".to_owned()))?;
        let keys = own
            .provide_credentials()
            .await
            .map_err(|error| cannot(format!("there are no credentials to sign with: {error}")))?;
        let body = serde_json::json!({ "token": token.expose() }).to_string();
        let path = format!("/clusters/{}/assume-role-for-pod-identity", self.cluster);
        let url = format!("{}{path}", self.endpoint);
        let host = url
            .split('/')
            .nth(2)
            .ok_or_else(|| cannot(format!("{url} has no host")))?;
        let headers = [("content-type", "application/json"), ("host", host)];
        let signed = (|| {
            let identity = keys.into();
            let params = v4::SigningParams::builder()
                .identity(&identity)
                .region(&self.region)
                .name(SERVICE)
                .time(SystemTime::now())
                .settings(SigningSettings::default())
                .build()?
                .into();
            let digest = SignableBody::Precomputed(hex(&Sha256::digest(body.as_bytes())));
            let request = SignableRequest::new("POST", &url, headers.into_iter(), digest)?;
            let (instructions, _) = sign(request, &params)?.into_parts();
            let mut request = HttpRequest::new(SdkBody::from(body));
            request.set_method("POST")?;
            request.set_uri(path)?;
            for (name, value) in headers {
                request.headers_mut().insert(name, value.to_owned());
            }
            let (made, _) = instructions.into_parts();
            for header in made {
                let value = header.value().to_owned();
                request.headers_mut().insert(header.name(), value);
            }
            Ok::<_, aws_sdk_sts::error::BoxError>(request)
        })();
        signed.map_err(|error| cannot(format!("the request could not be signed: {error}")))
    }

    fn call(&self) -> Call<Signed, Answer, Refused> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_timeout(WHOLE)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_BACKOFF);
        Call::builder()
            .service_name(SERVICE)
            .operation_name("AssumeRoleForPodIdentity")
            .behavior_version(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .endpoint_url(&self.endpoint)
            .no_auth()
            .standard_retry(&retries)
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(TransientErrorClassifier::<Refused>::new())
            .timeout_config(timeouts)
            .sleep_impl(TokioSleep::new())
            .time_source(SystemTimeSource::new())
            .serializer(|Signed(request)| Ok(request))
            .deserializer(read)
            .build()
    }
}

/// Where EKS Auth is asked for a region: it has dual-stack names alone, so it is STS' dual-stack name with another beginning.
pub async fn endpoint(region: &str) -> Result<String, NoEndpoint> {
    let sts = sts::dual_stack(region).await?;
    Ok(sts.replacen("://sts.", "://eks-auth.", 1))
}

fn read(response: &HttpResponse) -> Result<Answer, OrchestratorError<Refused>> {
    let body = response.body().bytes().unwrap_or_default();
    let header = |name: &str| response.headers().get(name).map(str::to_owned);
    if response.status().is_success() {
        let text = String::from_utf8(body.to_vec())
            .map_err(|_not_text| OrchestratorError::other("the answer is no text"))?;
        return Ok(Answer {
            body: Secret::new(text),
            request_id: header("x-amzn-requestid"),
        });
    }
    let trouble: Trouble = serde_json::from_slice(body).unwrap_or_default();
    let code = header("x-amzn-errortype").or(trouble.kind);
    // `PREFIX#Code:URL` in full.
    let code = code.as_deref().map(|code| {
        let code = code.rsplit('#').next().unwrap_or(code);
        code.split(':').next().unwrap_or(code).to_owned()
    });
    Err(OrchestratorError::operation(Refused {
        status: response.status().as_u16(),
        code: code.unwrap_or_else(|| "Unknown".to_owned()),
        message: trouble
            .message
            .unwrap_or_else(|| "EKS Auth said no more".to_owned()),
    }))
}

fn credentials(
    answer: &Answer,
    asked: Timestamp,
    wanted: Option<&RoleArn>,
) -> Result<Credentials, Fault> {
    let nonsense = |what: String| Fault {
        class: Class::Network,
        code: "Nonsense".to_owned(),
        message: format!("EKS Auth answered {what}"),
    };
    // Where the answer is no such document serde would quote it, and there are keys in it.
    let document: Document = serde_json::from_str(answer.body.expose())
        .map_err(|_quotes| nonsense("with something that is no credentials".to_owned()))?;
    let role = assumed(&document.assumed_role_user.arn)
        .ok_or_else(|| nonsense("without the role that was assumed".to_owned()))?;
    if let Some(wanted) = wanted
        && (role.partition(), role.account(), role.name())
            != (wanted.partition(), wanted.account(), wanted.name())
    {
        return Err(Fault {
            class: Class::Denied,
            code: "OtherRole".to_owned(),
            message: format!(
                "the cluster associates another role than {wanted} with this service account"
            ),
        });
    }
    let expiration = Timestamp::from_second(document.credentials.expiration as i64)
        .map_err(|error| nonsense(format!("a time that is none: {error}")))?;
    if expiration <= asked {
        return Err(nonsense("with credentials that have ended".to_owned()));
    }
    Ok(Credentials {
        access_key_id: document.credentials.access_key_id,
        secret_access_key: document.credentials.secret_access_key,
        token: document.credentials.session_token,
        expiration,
        last_updated: asked,
        account_id: role.account().to_owned(),
        request_id: answer.request_id.clone(),
        source: SourceKind::EksAuth,
        role: Some(role),
    })
}

/// The role of `arn:PARTITION:sts::ACCOUNT:assumed-role/NAME/SESSION`. Its path is not told; names are unique in an account.
fn assumed(arn: &str) -> Option<RoleArn> {
    let mut parts = arn.splitn(6, ':');
    let mut part = || parts.next();
    let ("arn", partition, "sts", "", account, resource) =
        (part()?, part()?, part()?, part()?, part()?, part()?)
    else {
        return None;
    };
    let (name, session) = resource.strip_prefix("assumed-role/")?.split_once('/')?;
    if name.is_empty() || session.is_empty() || session.contains('/') {
        return None;
    }
    RoleArn::parse(&format!("arn:{partition}:iam::{account}:role/{name}")).ok()
}

fn code(error: &SdkError<Refused, HttpResponse>) -> Option<&str> {
    error
        .as_service_error()
        .map(|refused| refused.code.as_str())
}

/// What an error means to the cache (EKS Auth API reference, `AssumeRoleForPodIdentity`).
fn fault(error: &SdkError<Refused, HttpResponse>) -> Fault {
    let Some(Refused {
        status,
        code,
        message,
    }) = error.as_service_error()
    else {
        return Fault {
            class: Class::Network,
            code: "NoAnswer".to_owned(),
            message: DisplayErrorContext(error).to_string(),
        };
    };
    let class = match &**code {
        "AccessDeniedException" => Class::Denied,
        "ExpiredTokenException" | "InvalidTokenException" => Class::BadToken,
        "ResourceNotFoundException" => Class::NoAssociation,
        "ThrottlingException" => Class::Throttled,
        "InvalidParameterException" | "InvalidRequestException" => Class::Invalid,
        _ if *status == 429 => Class::Throttled,
        _ => Class::Network,
    };
    Fault {
        class,
        code: code.clone(),
        message: message.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_read_out_of_the_session_that_was_assumed() {
        let role = assumed("arn:aws-cn:sts::123456789012:assumed-role/app/eks-blue-web-1")
            .expect("a role");
        assert_eq!(role.as_str(), "arn:aws-cn:iam::123456789012:role/app");
        for arn in [
            "",
            "arn:aws:iam::123456789012:role/app",
            "arn:aws:sts::123456789012:assumed-role/app",
            "arn:aws:sts::123456789012:assumed-role//x",
            "arn:aws:sts::123456789012:assumed-role/a/b/c",
            "arn:aws:sts::1:assumed-role/a/b",
        ] {
            assert_eq!(assumed(arn), None, "{arn}");
        }
    }

    #[tokio::test]
    async fn the_endpoint_is_the_regions_own_in_every_partition() {
        for (region, url) in [
            ("eu-west-1", "https://eks-auth.eu-west-1.api.aws"),
            ("us-gov-west-1", "https://eks-auth.us-gov-west-1.api.aws"),
            (
                "cn-north-1",
                "https://eks-auth.cn-north-1.api.amazonwebservices.com.cn",
            ),
        ] {
            assert_eq!(endpoint(region).await.expect("there is one"), url);
        }
    }

    #[test]
    fn a_cluster_has_a_name_and_no_path() {
        let http = sts::http_client();
        let of = |name| EksAuth::new(name, "https://x", "eu-west-1", None, http.clone()).is_ok();
        assert!(of("blue-1_x"));
        for name in ["", "a/b", "..", "-a", "a b", &"a".repeat(101)] {
            assert!(!of(name), "{name}");
        }
    }
}
