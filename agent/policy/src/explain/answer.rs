//! What an explanation consists of; its JSON is one element of the answer to a probe file.

use portcullis_common::reason;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Step;
use crate::probe::{End, ProbeId};

/// Whether a connection or a side of it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// That end is no endpoint, so it has no say.
    None,
}

/// Why a side says what it says: those of [`reason`]'s reasons that can meet the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A rule allows it.
    AllowRule,
    /// No policy isolates the endpoint in this direction.
    NotIsolated,
    /// It comes from the stack of the endpoint's own node.
    HostExempt,
    /// The endpoint talks to itself.
    Itself,
    /// Neighbour discovery.
    Neighbour,
    /// A rule denies it.
    DenyRule,
    /// The endpoint is isolated and no rule allows it.
    DefaultDeny,
    /// The destination is a guarded metadata address, or carries one.
    MetadataGuard,
    /// The endpoint has no tables: it is not among the objects.
    NotReady,
    /// A reply or an error without the connection that it belongs to.
    NoFlow,
    /// A packet that would carry another one past policy.
    Tunnel,
    /// An ICMP type that is never let through.
    IcmpType,
    /// The destination is a loopback address.
    Loopback,
    /// What only a router or a DHCP server sends.
    RogueServer,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::AllowRule,
        Self::NotIsolated,
        Self::HostExempt,
        Self::Itself,
        Self::Neighbour,
        Self::DenyRule,
        Self::DefaultDeny,
        Self::MetadataGuard,
        Self::NotReady,
        Self::NoFlow,
        Self::Tunnel,
        Self::IcmpType,
        Self::Loopback,
        Self::RogueServer,
    ];

    /// Its number in the kernel's events and counters.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::AllowRule => reason::ALLOW_RULE,
            Self::NotIsolated => reason::NOT_ISOLATED,
            Self::HostExempt => reason::HOST_EXEMPT,
            Self::Itself => reason::SELF,
            Self::Neighbour => reason::NEIGHBOUR,
            Self::DenyRule => reason::DENY_RULE,
            Self::DefaultDeny => reason::DEFAULT_DENY,
            Self::MetadataGuard => reason::METADATA_GUARD,
            Self::NotReady => reason::NOT_READY,
            Self::NoFlow => reason::NO_FLOW,
            Self::Tunnel => reason::TUNNEL,
            Self::IcmpType => reason::ICMP_TYPE,
            Self::Loopback => reason::LOOPBACK,
            Self::RogueServer => reason::ROGUE_SERVER,
        }
    }

    /// Its spelling in JSON, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        reason::name(self.number())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == name);
        known.ok_or_else(|| de::Error::custom(format!("no reason is called {name:?}")))
    }
}

/// The answer to a probe; serialized, it is one element of the answer to a probe file. Printed, it is the form for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The probe's.
    pub id: ProbeId,
    /// Deny if a side denies, else allow.
    pub verdict: Verdict,
    /// What the source's side says.
    pub egress: Side,
    /// What the destination's side says.
    pub ingress: Side,
}

impl Explanation {
    /// What both sides together say.
    #[must_use]
    pub fn of(id: ProbeId, egress: Side, ingress: Side) -> Self {
        let denied = egress.verdict == Verdict::Deny || ingress.verdict == Verdict::Deny;
        Self {
            id,
            verdict: if denied {
                Verdict::Deny
            } else {
                Verdict::Allow
            },
            egress,
            ingress,
        }
    }
}

/// What one side says. Absent fields do not apply. Read again it lacks `end`, which its reader knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Its verdict.
    pub verdict: Verdict,
    /// Why; absent where the verdict is `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The tier that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The deciding rule's policy, `Kind namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The deciding rule, counted from 0 in the object's own list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// For a default deny: the policies that isolate the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<String>,
    /// The rules that were asked, if steps were wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The end, as people write it.
    #[serde(skip)]
    pub end: String,
}

impl Side {
    fn new(end: &End, verdict: Verdict, reason: Option<Reason>) -> Self {
        Self {
            verdict,
            reason,
            tier: None,
            policy: None,
            rule: None,
            isolated_by: Vec::new(),
            steps: Vec::new(),
            end: end.to_string(),
        }
    }

    pub(super) fn none(end: &End) -> Self {
        Self::new(end, Verdict::None, None)
    }

    pub(super) fn allow(end: &End, reason: Reason) -> Self {
        Self::new(end, Verdict::Allow, Some(reason))
    }

    pub(super) fn deny(end: &End, reason: Reason) -> Self {
        Self::new(end, Verdict::Deny, Some(reason))
    }
}
