//! Objects in our own words, as the feeds hand them to the world.
//!
//! Policies, namespaces and nodes are the compiler's own records; pods and services carry what only the node's dataplane asks for. None of these
//! holds more of the Kubernetes object than some feature reads.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_imds::role::Annotations;
use portcullis_policy::model::{Labels, Node, Policy, Protocol, Workload};

use super::problem::Problem;

/// Kinds that the agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` `ServiceAccount`.
    ServiceAccount,
    /// A document of a manifest directory that is no object of the kinds above; only ever refused.
    Document,
}

impl Kind {
    /// The kinds that have a feed.
    pub const FED: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceAccount,
    ];

    /// The kinds that roles are decided from; until each of them is in sync no pod has one.
    pub const OF_ROLES: [Self; 3] = [Self::Pod, Self::Namespace, Self::ServiceAccount];

    /// Whether tables depend on the kind: its feed has to be in sync before the first one is written. The feed of another kind holds nothing back.
    #[must_use]
    pub fn is_in_tables(self) -> bool {
        !matches!(self, Self::ServiceAccount | Self::Document)
    }

    /// The name that users write and read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::Document => "Document",
        }
    }

    /// Whether objects of the kind live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::Document)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of an object; prints as `Pod shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// An object as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// What it says; `None` = refused as a whole.
    pub object: Option<Object>,
    /// What could not be read, in the order of the object's fields.
    pub problems: Vec<Problem>,
    /// Of its annotations those that roles are decided from ([`Keep`](super::Keep)); `None` if there is none.
    pub annotations: Option<Arc<Annotations>>,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A namespace's labels, `kubernetes.io/metadata.name` among them.
    Namespace(Labels),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A policy.
    Policy(Arc<Policy>),
    /// A Service.
    Service(Service),
    /// A slice of a Service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A service account.
    ServiceAccount(ServiceAccount),
}

/// A pod: what the compiler reads, and what only its own node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The compiler's record; addresses as the API says them.
    pub workload: Arc<Workload>,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` if the object has none.
    pub created_secs: Option<i64>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// The CNI said that it took the addresses back (policy-spec A5); they come back by no other source either.
    pub withdrawn: bool,
    /// The uid that the kubelet gave a static pod; the API object mirrors it under a uid of its own.
    pub static_uid: Option<Box<str>>,
    /// Ports of the node that lead to the pod; none for hostNetwork pods, whose ports are the node's own.
    pub host_ports: Box<[HostPort]>,
    /// Audiences of the service account tokens that its volumes hold. Tokens for the API server itself have none here.
    pub tokens: Box<[Box<str>]>,
}

impl Pod {
    /// Whether it is a live pod with a network namespace of its own: one that may have an interface on its node.
    #[must_use]
    pub fn is_endpoint(&self) -> bool {
        !self.workload.host_network && !self.workload.finished
    }
}

/// A container port that the node forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `hostIP`; `None` = every address of the node.
    pub address: Option<IpAddr>,
    /// `hostPort`.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A service account. There may be tens of thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `metadata.uid`: tells it from a successor of the same name.
    pub uid: Box<str>,
}

/// A Service: where the node translates for it, and what `explain` asks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// How clients get behind it.
    pub way: Way,
    /// Cluster, external and load balancer addresses; none for those that are not translated.
    pub addresses: Vec<IpAddr>,
    /// `ports`, reachable on each of `addresses`.
    pub ports: Vec<ServicePort>,
    /// `ports[].nodePort`, reachable on every address of every node.
    pub node_ports: Vec<(u16, Protocol)>,
}

/// How clients of a Service get to its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// By an address that the node translates.
    #[default]
    Translated,
    /// By the backends' own addresses (`clusterIP: None`).
    Headless,
    /// By a name that leads somewhere else (`type: ExternalName`).
    External,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty if it has none.
    pub name: Box<str>,
    /// `port`.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A slice of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of the Service, of the slice's own namespace; `None` if its label is missing.
    pub service: Option<String>,
    /// Where the Service leads.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports there.
    pub ports: Vec<SlicePort>,
}

/// One backend of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses; the first one is used.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, true if missing.
    pub ready: bool,
}

/// One port of a slice's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service port; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The backends' port; `None` = every port.
    pub number: Option<u16>,
}
