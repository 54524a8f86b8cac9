//! What the agent says of what pods were given and refused. Never a secret key, a session token or a web-identity token.

use std::net::IpAddr;

use jiff::Timestamp;
use portcullis_imds::audit::Event;
use portcullis_imds::link::CacheEntry;
use portcullis_imds::metrics::{Class, ImdsVersion};
use portcullis_imds::reason::Reason;
use serde::{Deserialize, Serialize};

/// `GET /v1/audit`, and `portcullis iam audit -o json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAudit {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeAudit`.
    pub kind: String,
    /// The node.
    pub node: String,
    /// The number of the newest record of this agent, whether it is shown or not; 0 = none yet.
    pub newest: u64,
    /// The number of the oldest record that is still kept.
    pub oldest: u64,
    /// Oldest first.
    pub items: Vec<AuditRecord>,
}

/// One decision, or something that was handed out or refused. Also a line of `--audit-log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// When: RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// From 1, without a gap, for as long as the agent runs.
    pub seq: u64,
    /// The node.
    pub node: String,
    /// What.
    pub event: Event,
    /// How many answers it stands for.
    pub count: u64,
    /// The pod, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginStatus>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestStatus>,
    /// Why.
    pub decision: DecisionStatus,
    /// The keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
}

/// Who a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Whether it is in the host network.
    pub host_network: bool,
}

/// Where a connection came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginStatus {
    /// `interface` or `cgroup`.
    pub kind: String,
    /// The node's end of the pod's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The first eight digits.
    pub attachment_id: String,
    /// The pod's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    /// Information only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_ip: Option<IpAddr>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestStatus {
    /// `imds`, `eks`, `ecs`.
    pub endpoint: String,
    /// What it was about.
    pub class: Class,
    /// `v1`, `v2`, `none`.
    pub version: ImdsVersion,
    /// What it was answered with.
    pub status: u16,
    /// How long that took; absent where the record stands for several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// At most 128 characters, escaped, without a query.
    pub path: String,
}

/// What was decided of the pod's role, and of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionStatus {
    /// The role that the pod has.
    pub role_arn: Option<String>,
    /// The line of the precedence table that decided.
    pub source: Option<String>,
    /// The patterns that allowed the role.
    pub restriction: Option<String>,
    /// Why the answer was another one than asked for.
    pub reason: Option<Reason>,
    /// Why the role was refused, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// `enforce` or `audit`.
    pub mode: Option<String>,
}

/// Keys, without what is secret of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Who they are in the cloud's logs.
    pub access_key_id: Option<String>,
    /// When they end.
    pub expiration: Option<String>,
    /// The session's name.
    pub session_name: Option<String>,
    /// Where they are from.
    pub kind: Option<String>,
    /// `hit`, `miss`, `joined`, `stale`, `negative`.
    pub cache: Option<String>,
    /// The number under which AWS knows the call.
    pub sts_request_id: Option<String>,
    /// How many other pods have them.
    pub shared_with: Option<u64>,
    /// The kind of failure, and AWS' code for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// `GET /v1/cache`, and `portcullis iam cache -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCache {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeCache`.
    pub kind: String,
    /// The node.
    pub node: String,
    /// When the responder was asked.
    pub asked_at: Timestamp,
    /// By namespace, pod and role.
    pub items: Vec<CacheEntry>,
}
