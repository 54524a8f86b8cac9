//! What the agent was told to do, as it means it: `cli` holds what was typed.

mod roles;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_imds::upstream::Endpoint;
pub use roles::Roles;

use crate::token_reader::Reader;

/// Everything that `portcullis agent` can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node that it guards.
    pub node: String,
    /// Objects from files instead of an API server.
    pub manifests: Option<PathBuf>,
    /// Directory of a bpffs for pins.
    pub bpffs: PathBuf,
    /// The admin socket.
    pub socket: PathBuf,
    /// The CNI's result cache.
    pub cni_results: PathBuf,
    /// The pods' cgroup; found by itself if absent.
    pub pod_cgroup: Option<PathBuf>,
    /// The cgroup of the node's own processes and pods; the pods' parent if absent.
    pub host_cgroup: Option<PathBuf>,
    /// Uid of the agent's own pod, which tells one kubelet's cgroup from another's.
    pub own_uid: Option<String>,
    /// Namespace and service account of pods that the metadata guard lets through.
    pub metadata_allow: BTreeSet<(String, String)>,
    /// The socket over which the responder gets its listeners; metadata is blocked if absent.
    pub responder: Option<PathBuf>,
    /// Where audit records are written to as JSON lines; kept in memory alone if absent.
    pub audit_log: Option<PathBuf>,
    /// Who reads pods' projected tokens; nobody if absent.
    pub token_reader: Option<Reader>,
    /// The uid that the responder runs with.
    pub responder_uid: u32,
    /// The node's own metadata service.
    pub upstream: Endpoint,
    /// How roles are decided.
    pub roles: Roles,
    /// What an interface without a known pod does.
    pub unknown_pod: UnknownPod,
    /// How long a connection that was open when the agent first came to the node may be silent and still be known; none is if absent.
    pub adopt_existing: Option<Duration>,
    /// Where metrics are served over TCP; nowhere if absent.
    pub metrics: Option<SocketAddr>,
    /// Where health is served over TCP; nowhere if absent.
    pub health: Option<SocketAddr>,
}

/// What an interface without a known pod does. The metadata guard is closed either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownPod {
    /// Nothing passes but its node.
    Closed,
    /// Everything passes.
    Open,
}
