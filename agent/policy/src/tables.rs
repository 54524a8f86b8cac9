//! What the compiler writes: symbolic tables, free of kernel ids.
//!
//! ```text
//! address --(addresses, else longest prefix, else class 0)--> class
//! endpoint, direction, family --> policy ; policy, class --> cell ; cell, protocol, port --> decision
//! ```
//! A *class* is the set of addresses that no rule in use on this node can tell apart. The planner gives classes, policies and rules their kernel
//! numbers and keeps those stable between two compilations; nothing here says which number.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::PolicyRef;

/// Index into [`Tables::classes`].
pub type ClassIx = u32;
/// Index into [`Tables::policies`].
pub type PolicyIx = u32;

/// Class 0: every address that no rule in use mentions.
pub const WORLD: ClassIx = 0;

/// One compilation's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// How many classes there are; class numbers are `0..classes`.
    pub classes: u32,
    /// Exact addresses, sorted: those of endpoints whose class differs from what `prefixes` says of them.
    pub addresses: Arc<Vec<(IpAddr, ClassIx)>>,
    /// Longest prefix wins; canonical prefixes. A prefix whose class is [`WORLD`] may stand here to cut a hole into a wider one.
    pub prefixes: Arc<BTreeMap<IpNet, ClassIx>>,
    /// Distinct policies, shared by all endpoints that they fit. One that says the same as in the compilation before is the same record.
    pub policies: Vec<Arc<PolicyTable>>,
    /// What each local endpoint obeys, by pod uid. Every workload of this node that is neither hostNetwork nor finished is here, addresses or not.
    pub endpoints: BTreeMap<String, EndpointPolicies>,
}

/// The policies of one endpoint; `None` = not isolated in that direction and family, everything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicies {
    /// For IPv4 and IPv6.
    pub ingress: [Option<PolicyIx>; 2],
    /// For IPv4 and IPv6.
    pub egress: [Option<PolicyIx>; 2],
}

/// One direction's verdicts for every class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyTable {
    /// The policies that isolate: the attribution of a default deny. Sorted.
    pub isolated_by: Vec<PolicyRef>,
    /// The cell of every class that has no row.
    pub default: Arc<Cell>,
    /// Classes whose cell differs from `default`, sorted, each with the place of its cell in `cells`.
    pub rows: Vec<(ClassIx, u32)>,
    /// The cells of the rows, in the order in which rows need them.
    pub cells: Vec<Arc<Cell>>,
}

/// The verdict for one class under one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// The same for every protocol and port.
    All(Decision),
    /// By protocol and port.
    ByPort {
        /// Disjoint, sorted by protocol, then port.
        ranges: Vec<PortRange>,
        /// What no range holds, other protocols too.
        otherwise: Decision,
    },
}

/// Destination ports `first..=last` of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// IANA protocol number.
    pub protocol: u8,
    /// First port, host order.
    pub first: u16,
    /// Last port, host order.
    pub last: u16,
    /// What happens to it.
    pub decision: Decision,
}

/// Allow or Deny, and who said so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// Whether it passes.
    pub allow: bool,
    /// The deciding rule; `None` = no rule matched (default deny, or the end of all tiers).
    pub rule: Option<RuleRef>,
}

/// A rule by the name of its object and its place there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: Arc<PolicyRef>,
    /// Counted from 0 in the object's own `ingress` or `egress` list.
    pub index: u32,
    /// Which of the two lists.
    pub direction: Direction,
}

/// As the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Opened to the endpoint.
    Ingress,
    /// Opened by the endpoint.
    Egress,
}
