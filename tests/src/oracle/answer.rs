//! What the oracle answers with: the verdict of each side and why, and what one node alone may say.

use std::fmt;

use crate::probe::End;

/// What the oracle says about one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The probe's.
    pub id: String,
    /// The source endpoint's decision.
    pub egress: Side,
    /// The destination endpoint's decision.
    pub ingress: Side,
    /// Where the egress side is enforced (G3); `None` where there is no such side.
    pub egress_node: Option<String>,
    /// Where the ingress side is enforced.
    pub ingress_node: Option<String>,
}

impl Answer {
    /// G1: no side denies.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let denied =
            self.egress.verdict == SideVerdict::Deny || self.ingress.verdict == SideVerdict::Deny;
        if denied {
            Verdict::Deny
        } else {
            Verdict::Allow
        }
    }
}

/// The decision of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What it is.
    pub verdict: SideVerdict,
    /// Why.
    pub reason: Reason,
    /// Every rule that allows it, in case of [`Reason::AllowRule`].
    pub rules: Vec<RuleName>,
    /// Every policy that isolates it, in case of [`Reason::DefaultDeny`]; sorted.
    pub isolating: Vec<String>,
}

impl Side {
    pub(crate) fn none() -> Self {
        Self {
            verdict: SideVerdict::None,
            reason: Reason::NoEndpoint,
            rules: Vec::new(),
            isolating: Vec::new(),
        }
    }

    pub(crate) fn allow(reason: Reason) -> Self {
        Self {
            verdict: SideVerdict::Allow,
            reason,
            rules: Vec::new(),
            isolating: Vec::new(),
        }
    }

    pub(crate) fn deny(reason: Reason) -> Self {
        Self {
            verdict: SideVerdict::Deny,
            reason,
            rules: Vec::new(),
            isolating: Vec::new(),
        }
    }
}

/// A rule of a policy, as `explain` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// `Kind namespace/name`.
    pub policy: String,
    /// Counted from 0 in the policy's own list of the direction.
    pub rule: usize,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes through.
    Allow,
    /// It does not.
    Deny,
}

/// What one side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideVerdict {
    /// Let through.
    Allow,
    /// Not let through.
    Deny,
    /// This end is no endpoint.
    None,
}

/// Why a side says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No side: the end is outside, a node or a hostNetwork pod.
    NoEndpoint,
    /// To itself (G6).
    OwnAddress,
    /// One of [`super::METADATA_ADDRESSES`].
    MetadataGuard,
    /// From the stack of the own node (G7).
    HostExempt,
    /// An echo reply or ICMP error without a flow (N20).
    NoFlow,
    /// No policy governs it (G5).
    NotIsolated,
    /// A rule matches.
    AllowRule,
    /// Isolated, and no rule matches.
    DefaultDeny,
}

/// What the programs of one node may answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every side there is belongs to the node, and none denies.
    Allow,
    /// Every side there is belongs to the node, and one denies.
    Deny,
    /// Another node decides, and no side of this node denies.
    Skipped,
    /// Another node decides too, but a side of this node denies already.
    DenyOrSkipped,
}

impl Expected {
    /// Whether `allow`, `deny` or `skipped` is a right answer.
    #[must_use]
    pub fn accepts(self, verdict: &str) -> bool {
        matches!(
            (self, verdict),
            (Self::Allow, "allow")
                | (Self::Deny | Self::DenyOrSkipped, "deny")
                | (Self::Skipped | Self::DenyOrSkipped, "skipped")
        )
    }
}

/// A probe that asks about nothing there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// No pod of this name.
    UnknownPod(End),
    /// The end has no address now, or none of the probe's family.
    NoAddress(End),
    /// TCP, UDP or SCTP without `dstPort`.
    NoPort,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPod(end) => write!(f, "no pod {end}"),
            Self::NoAddress(end) => write!(f, "{end} has no address of the probe's family"),
            Self::NoPort => write!(f, "no destination port"),
        }
    }
}

impl std::error::Error for ProbeError {}
