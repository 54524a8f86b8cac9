//! What the compiler reads: a snapshot of the cluster in our own words.
//!
//! Tiers, orders and Allow/Deny/Pass are here from the first day: NetworkPolicy is the tier `default` at order 1000 with Allow rules only
//! (policy-spec 5.1), Calico's and ClusterNetworkPolicy's kinds fill the rest. What an object leaves out has already been decided by whoever built
//! the model: "absent" and "empty" are different types here, never a matter of an empty list.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use crate::shared::Shared;

/// Labels of an object; keys and values compare byte by byte.
pub type Labels = BTreeMap<String, String>;

/// Everything one compilation looks at. A copy shares all of it until one of the two changes.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The node whose endpoints get tables.
    pub node: String,
    /// Labels of each namespace; `kubernetes.io/metadata.name` is already among them.
    pub namespaces: Shared<BTreeMap<String, Labels>>,
    /// All pods of the cluster by uid, also those without addresses.
    pub workloads: OrdMap<String, Arc<Workload>>,
    /// Nodes by name.
    pub nodes: OrdMap<String, Node>,
    /// Tiers by name; `default` exists even when absent here.
    pub tiers: Shared<BTreeMap<String, Tier>>,
    /// All policies by their reference.
    pub policies: OrdMap<PolicyRef, Arc<Policy>>,
}

/// A pod as far as policy can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`. Pods of one owner are mostly alike: what is an `Arc` here they can share.
    pub labels: Arc<Labels>,
    /// `spec.serviceAccountName`, `default` if the object has none.
    pub service_account: Arc<str>,
    /// `spec.nodeName`; `None` while unscheduled.
    pub node: Option<Arc<str>>,
    /// Addresses that the pod owns now: empty for hostNetwork pods, finished pods and pods whose address the CNI took back.
    pub addresses: Vec<IpAddr>,
    /// Whether it lives in its node's network namespace.
    pub host_network: bool,
    /// Phase `Succeeded` or `Failed`.
    pub finished: bool,
    /// Named container ports, of all containers and of sidecars; unnamed ones do not matter to policy.
    pub ports: Arc<[NamedPort]>,
}

impl Workload {
    /// Whether it is an endpoint, with an address or before it has one: policy governs it, selectors of rules find its addresses.
    #[must_use]
    pub const fn is_endpoint(&self) -> bool {
        !self.host_network && !self.finished
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// `ports[].name`.
    pub name: String,
    /// `ports[].protocol`, TCP if absent.
    pub protocol: Protocol,
    /// `ports[].containerPort`.
    pub number: u16,
}

/// A node as a peer and as an address owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
}

/// IANA protocol number; prints as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::SCTP => f.write_str("sctp"),
            Self::ICMP => f.write_str("icmp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

/// A group of policies that is walked as one; low orders first.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Rank among the tiers: `default` is 1,000,000, `kube-admin` 1,000, `kube-baseline` 10,000,000.
    pub order: f64,
    /// What happens to a packet that a policy of this tier selects and no rule of it decides.
    pub at_end: AtEnd,
}

/// Fate of what a tier governs but does not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AtEnd {
    /// Denied: the tier isolates.
    Deny,
    /// The next tier decides.
    Pass,
}

/// Kinds of policy objects, as users write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
        })
    }
}

/// The name of a policy; prints as `NetworkPolicy shop/db-allow`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Its namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// One policy, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The object it was made from.
    pub name: PolicyRef,
    /// The tier it stands in.
    pub tier: String,
    /// Rank within the tier, low first; ties go by `name`. NetworkPolicy: 1000.
    pub order: f64,
    /// Whom it governs.
    pub subject: PodSelector,
    /// Rules for what is opened to the subject; `None` = does not govern that direction, `Some(vec![])` = governs it and allows nothing.
    pub ingress: Option<Vec<Rule>>,
    /// The same for what the subject opens.
    pub egress: Option<Vec<Rule>>,
}

/// Match and action. Rules are counted from 0 in the order of the object's own list.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What to do with what matches.
    pub action: RuleAction,
    /// The other side.
    pub peers: Peers,
    /// Protocols and destination ports.
    pub ports: Ports,
}

impl Rule {
    /// What stands in the place of a rule that cannot be read: it matches nothing, and the others keep their numbers.
    #[must_use]
    pub const fn unread() -> Self {
        Self {
            action: RuleAction::Allow,
            peers: Peers::OneOf(Vec::new()),
            ports: Ports::OneOf(Vec::new()),
        }
    }

    /// Whether it stands in such a place.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        *self == Self::unread()
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Let it through; no later tier is asked.
    Allow,
    /// Drop it.
    Deny,
    /// Skip the rest of this tier.
    Pass,
}

/// The other side of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Peers {
    /// Anyone at all: pods, nodes, outside.
    Any,
    /// Whoever one of these matches; an empty list matches nobody.
    OneOf(Vec<Peer>),
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Endpoints by labels.
    Pods(PodSelector),
    /// Addresses in `cidr` and in none of `except`; endpoints' addresses too.
    Cidr {
        /// Canonical (host bits masked).
        cidr: IpNet,
        /// Strictly inside `cidr`; canonical.
        except: Vec<IpNet>,
    },
}

/// Endpoints by namespace and labels; both hold for one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodSelector {
    /// Which namespaces.
    pub namespaces: NamespaceScope,
    /// Which pods in them.
    pub pods: LabelSelector,
}

/// Where a pod selector looks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceScope {
    /// One namespace by name.
    Named(String),
    /// Namespaces by their labels; the empty selector is every namespace.
    Selected(LabelSelector),
}

/// `metav1.LabelSelector`: all requirements hold. Empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSelector(pub Vec<Requirement>);

/// One requirement on a label set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// Key present and value listed.
    In(String, Vec<String>),
    /// Key absent, or value not listed.
    NotIn(String, Vec<String>),
    /// Key present.
    Exists(String),
    /// Key absent.
    DoesNotExist(String),
}

/// Protocols and ports of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Ports {
    /// Every port of every protocol, protocols without ports too.
    Any,
    /// What one of these matches; an empty list matches nothing.
    OneOf(Vec<Port>),
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The packet's protocol.
    pub protocol: Protocol,
    /// The packet's destination port.
    pub port: PortMatch,
}

/// How a destination port is matched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// Any port of the protocol.
    All,
    /// From the first to the last, inclusive; one port twice is one port.
    Range(u16, u16),
    /// The destination pod declares a port of this name, protocol and number.
    Named(String),
}
