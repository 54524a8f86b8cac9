//! What the agent says of itself: one value, which `status`, metrics, readiness and the event log read.

mod audit;
mod roles;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use audit::{
    AuditRecord, CredentialStatus, DecisionStatus, NodeAudit, NodeCache, OriginStatus, PodName,
    RequestStatus,
};
pub use roles::{NodeRoles, RoleStatus};

/// `GET /v1/status`, and `portcullis status -o json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeStatus`.
    pub kind: String,
    /// The node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Running kernel.
    pub kernel: String,
    /// Whether every local endpoint is enforced and the tables equal what is wanted.
    pub ready: bool,
    /// What keeps it from being ready, and what is degraded, in sentences.
    pub problems: Vec<String>,
    /// Whether an earlier agent's pins were taken over at start.
    pub adopted: bool,
    /// `tcx` or `clsact`.
    pub attachment: String,
    /// Grows with each set of tables that was put in force.
    pub revision: u64,
    /// Endpoints of this node.
    pub endpoints: Vec<EndpointStatus>,
    /// Interfaces that lead to the network and have the guard.
    pub uplinks: Vec<String>,
    /// Socket hooks that are on; empty = hostNetwork pods are not guarded at their sockets.
    pub cgroup_hooks: Vec<String>,
    /// The pods' cgroup, or why there is none.
    pub pod_cgroup: Option<String>,
    /// Objects by kind.
    pub objects: BTreeMap<String, usize>,
    /// State of each feed by kind: in sync, and what troubles it.
    pub feeds: Vec<FeedStatus>,
    /// Objects that were refused, whole or in part.
    pub refused: Vec<RefusedObject>,
    /// Dropped packets by direction and reason; every reason is there.
    pub drops: Vec<DropCount>,
    /// Deny events that were not sent.
    pub events_lost: u64,
    /// Entries of the conntrack table.
    pub conntrack_entries: u64,
    /// Its size.
    pub conntrack_capacity: u64,
    /// Entries of each map that the agent writes.
    pub map_entries: BTreeMap<String, MapFill>,
    /// Map updates that failed, since start.
    pub apply_errors: u64,
    /// Map writes since start.
    pub map_writes: u64,
    /// How long the last compilation and application took, milliseconds.
    pub last_apply_ms: f64,
    /// Decisions on pods' roles since the start.
    #[serde(default)]
    pub role_decisions: Vec<RoleCount>,
}

/// Decisions of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleCount {
    /// `role`, `would_deny`, `none`, `refused`, `undecided`.
    pub result: String,
    /// Why there is no role, else what named it.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// `namespace/name`, or `<unknown>`.
    pub pod: String,
    /// Pod uid.
    pub uid: Option<String>,
    /// Host interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Slot in the tables.
    pub slot: u16,
    /// Generation of the slot.
    pub generation: u8,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `enforced`, `closed` (no pod is known), `failed`.
    pub state: String,
    /// Policies that isolate it, by direction.
    pub ingress: Vec<String>,
    /// As `ingress`.
    pub egress: Vec<String>,
    /// Whether the metadata guard lets it through.
    pub metadata_allowed: bool,
    /// From the first sight of the interface to tables in force, milliseconds.
    pub start_to_enforced_ms: Option<f64>,
    /// Its connections: opened by it, opened to it, half-open ones of both.
    pub flows: [u64; 4],
}

/// `GET /v1/pods/NAMESPACE/NAME`: whether the pod's policies are in force, as far as the agent that was asked can tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `PodStatus`.
    pub kind: String,
    /// The node whose agent answers.
    pub node: String,
    /// `namespace/name`.
    pub pod: String,
    /// Uid of the pod that the agent knows by this name.
    pub uid: Option<String>,
    /// Where the pod runs; absent if the agent knows no such pod, or it has no node yet.
    pub runs_on: Option<String>,
    /// Everything known of it is in force; never true on a node where it does not run.
    pub ready: bool,
    /// What it lacks for that.
    pub missing: Option<String>,
    /// Revision of the tables.
    pub revision: u64,
}

/// One feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedStatus {
    /// Kind of the objects.
    pub kind: String,
    /// Whether all were listed.
    pub in_sync: bool,
    /// What fails, if something does.
    pub trouble: Option<String>,
    /// Since when; what has changed in the cluster since then is not in force.
    pub stale_secs: Option<u64>,
}

/// One refused object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedObject {
    /// Kind, namespace and name.
    pub object: String,
    /// Whether all of it was refused.
    pub whole: bool,
    /// Field, value and reason of each problem.
    pub problems: Vec<String>,
}

/// One drop counter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropCount {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Spelling of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// Fill of one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapFill {
    /// Entries in use.
    pub used: u64,
    /// Room.
    pub capacity: u64,
}
