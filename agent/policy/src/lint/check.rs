//! The closed list of what a lint can find. `docs/policy-lint.md` has a row for each.
//!
//! Some are found by whoever reads the objects: what the model no longer shows (a missing list and an empty one are one thing in it), and what could not
//! be read at all. They stand here so that there is one list of names.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is refused, or not enforced: what was written is not in force.
    Error,
    /// It is in force and hardly what was meant.
    Warning,
    /// It may well be meant.
    Note,
}

impl Severity {
    /// Its spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A document that cannot be parsed.
    Syntax,
    /// A value of another type than its field's.
    UnexpectedType,
    /// A field that has to be there.
    MissingField,
    /// A field that nobody knows.
    UnknownField,
    /// A CIDR that is none.
    InvalidCidr,
    /// An exception that does not lie inside its block.
    ExceptOutside,
    /// A port number outside of 1 to 65535.
    InvalidPort,
    /// A port name without a letter.
    InvalidPortName,
    /// `endPort` without a number in `port`, or below it.
    InvalidEndPort,
    /// A protocol other than TCP, UDP and SCTP.
    UnknownProtocol,
    /// A peer with no field, or with fields that exclude each other.
    InvalidPeer,
    /// An operator that is none, or the wrong number of values for it.
    InvalidSelector,
    /// A policy type other than Ingress and Egress.
    UnknownPolicyType,
    /// An address that no pod, node or Service can have.
    InvalidAddress,
    /// A time that cannot be read.
    InvalidTime,
    /// Rules that are not applied because the policy's frame cannot be read.
    RulesWithheld,
    /// A policy of a kind or version that is not enforced.
    UnreadPolicy,
    /// An object of another kind that is not read.
    UnreadKind,
    /// An object that stands in two documents.
    DuplicateObject,
    /// A uid that two pods have.
    DuplicateUid,
    /// More problems in one object than are listed.
    MoreProblems,
    /// `from` or `to` that is there and empty: everyone.
    EmptyPeers,
    /// `ports` that is there and empty: every port of every protocol.
    EmptyPorts,
    /// An empty entry of `ports`: every TCP port.
    EmptyPort,
    /// Rules of a direction that `policyTypes` leaves out.
    IgnoredRules,
    /// An empty list of rules for a direction that the policy does not govern: it denies nothing.
    NotIsolated,
    /// Egress rules without `policyTypes`, which isolate ingress too.
    IngressDeniedToo,
    /// A policy without `podSelector`: all pods of its namespace.
    MissingSelector,
    /// A CIDR with host bits.
    HostBits,
    /// A direction that is governed without a rule.
    DeniesAll,
    /// A selector whose requirements exclude each other.
    ContradictorySelector,
    /// A block of which its exceptions leave nothing.
    EmptyBlock,
    /// A rule that decides nothing, whatever pods there are.
    UnreachableRule,
    /// A rule whose connections other policies for the same pods allow as well.
    RepeatedRule,
    /// A peer that another peer of its rule takes in.
    RedundantPeer,
    /// A port that others of its rule take in.
    RedundantPort,
    /// A policy that selects no pod.
    SelectsNothing,
    /// A peer that no pod matches.
    PeerSelectsNothing,
    /// A peer in namespaces of which the objects hold no pod.
    PeerElsewhere,
    /// A port name that no pod in question declares.
    UnknownPortName,
}

impl Check {
    /// All of them, as the page about them lists them.
    pub const ALL: [Self; 40] = [
        Self::Syntax,
        Self::UnexpectedType,
        Self::MissingField,
        Self::UnknownField,
        Self::InvalidCidr,
        Self::ExceptOutside,
        Self::InvalidPort,
        Self::InvalidPortName,
        Self::InvalidEndPort,
        Self::UnknownProtocol,
        Self::InvalidPeer,
        Self::InvalidSelector,
        Self::UnknownPolicyType,
        Self::InvalidAddress,
        Self::InvalidTime,
        Self::RulesWithheld,
        Self::UnreadPolicy,
        Self::UnreadKind,
        Self::DuplicateObject,
        Self::DuplicateUid,
        Self::MoreProblems,
        Self::EmptyPeers,
        Self::EmptyPorts,
        Self::EmptyPort,
        Self::IgnoredRules,
        Self::NotIsolated,
        Self::IngressDeniedToo,
        Self::MissingSelector,
        Self::HostBits,
        Self::DeniesAll,
        Self::ContradictorySelector,
        Self::EmptyBlock,
        Self::UnreachableRule,
        Self::RepeatedRule,
        Self::RedundantPeer,
        Self::RedundantPort,
        Self::SelectsNothing,
        Self::PeerSelectsNothing,
        Self::PeerElsewhere,
        Self::UnknownPortName,
    ];

    /// Those that need to know the pods.
    pub const OF_PODS: [Self; 4] = [
        Self::SelectsNothing,
        Self::PeerSelectsNothing,
        Self::PeerElsewhere,
        Self::UnknownPortName,
    ];

    /// Its spelling in output and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.row().1
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, Severity, &'static str) {
        use Severity::{Error, Note, Warning};
        match self {
            Self::Syntax => ("syntax", Error, "mend the document"),
            Self::UnexpectedType => (
                "unexpected-type",
                Error,
                "write a value of the expected type; look at the indentation and for a missing dash",
            ),
            Self::MissingField => ("missing-field", Error, "add the field"),
            Self::UnknownField => (
                "unknown-field",
                Error,
                "check spelling and indentation: a field that is not known may have narrowed the rule, so the rule matches nothing",
            ),
            Self::InvalidCidr => (
                "invalid-cidr",
                Error,
                "write ADDRESS/LENGTH, IPv4 not in the form of IPv6",
            ),
            Self::ExceptOutside => (
                "except-outside",
                Error,
                "write exceptions that are smaller than the block and lie inside it",
            ),
            Self::InvalidPort => ("invalid-port", Error, "write a number from 1 to 65535"),
            Self::InvalidPortName => (
                "invalid-port-name",
                Error,
                "write a number without quotes, or a name with at least one letter",
            ),
            Self::InvalidEndPort => (
                "invalid-end-port",
                Error,
                "write the last port of the range beside a number in port",
            ),
            Self::UnknownProtocol => (
                "unknown-protocol",
                Error,
                "write TCP, UDP or SCTP; a rule without ports matches every protocol",
            ),
            Self::InvalidPeer => (
                "invalid-peer",
                Error,
                "give each peer selectors or an ipBlock; to mean everyone leave the whole list out",
            ),
            Self::InvalidSelector => (
                "invalid-selector",
                Error,
                "use In and NotIn with values, Exists and DoesNotExist without",
            ),
            Self::UnknownPolicyType => ("unknown-policy-type", Error, "write Ingress or Egress"),
            Self::InvalidAddress => ("invalid-address", Error, "write the address of a host"),
            Self::InvalidTime => (
                "invalid-time",
                Error,
                "write RFC 3339, as 2026-01-31T12:00:00Z",
            ),
            Self::RulesWithheld => (
                "rules-withheld",
                Error,
                "mend what cannot be read; until then the policy allows nothing",
            ),
            Self::UnreadPolicy => (
                "unread-policy",
                Error,
                "write it as networking.k8s.io/v1 NetworkPolicy: as it stands nothing enforces it",
            ),
            Self::UnreadKind => (
                "unread-kind",
                Note,
                "nothing, if it has no say in network policy",
            ),
            Self::DuplicateObject => (
                "duplicate-object",
                Warning,
                "keep one of them: the last one counts",
            ),
            Self::DuplicateUid => ("duplicate-uid", Error, "give each pod its own uid, or none"),
            Self::MoreProblems => ("more-problems", Error, "mend the others first"),
            Self::EmptyPeers => (
                "empty-peers",
                Warning,
                "to mean everyone leave the list out; to mean nobody leave the whole rule out",
            ),
            Self::EmptyPorts => (
                "empty-ports",
                Warning,
                "to mean every port leave the list out; to mean none leave the whole rule out",
            ),
            Self::EmptyPort => (
                "empty-port",
                Note,
                "to mean every port of every protocol leave ports out; else write protocol: TCP",
            ),
            Self::IgnoredRules => (
                "ignored-rules",
                Warning,
                "add the direction to policyTypes, or take the rules out",
            ),
            Self::NotIsolated => (
                "not-isolated",
                Warning,
                "to deny the direction name it in policyTypes; else take the list out",
            ),
            Self::IngressDeniedToo => (
                "ingress-denied-too",
                Warning,
                "write policyTypes: [Egress], or [Ingress, Egress] if that is meant",
            ),
            Self::MissingSelector => (
                "missing-selector",
                Warning,
                "write podSelector: {} if all pods of the namespace are meant",
            ),
            Self::HostBits => ("host-bits", Note, "write the block as it is read"),
            Self::DeniesAll => (
                "denies-all",
                Note,
                "nothing, if that is meant; [{}] in place of the list allows everything",
            ),
            Self::ContradictorySelector => (
                "contradictory-selector",
                Warning,
                "take out one of the requirements; values of one In are alternatives",
            ),
            Self::EmptyBlock => (
                "empty-block",
                Warning,
                "take out an exception, or the whole block",
            ),
            Self::UnreachableRule => (
                "unreachable-rule",
                Warning,
                "take it out, or correct what was meant to set it apart",
            ),
            Self::RepeatedRule => (
                "repeated-rule",
                Note,
                "nothing, or take it out: no verdict depends on it while the other one stands",
            ),
            Self::RedundantPeer => ("redundant-peer", Note, "take it out"),
            Self::RedundantPort => ("redundant-port", Note, "take it out"),
            Self::SelectsNothing => (
                "selects-nothing",
                Warning,
                "correct labels or namespace, or add the objects that hold its pods",
            ),
            Self::PeerSelectsNothing => (
                "peer-selects-nothing",
                Warning,
                "correct labels or namespace, or add the objects that hold these pods",
            ),
            Self::PeerElsewhere => (
                "peer-elsewhere",
                Note,
                "add the objects of these namespaces to have the peer checked",
            ),
            Self::UnknownPortName => (
                "unknown-port-name",
                Warning,
                "name a containerPort of these pods so, with this protocol, or write the number",
            ),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_spelled_alike() {
        let names: BTreeSet<&str> = Check::ALL.into_iter().map(Check::name).collect();
        assert_eq!(names.len(), Check::ALL.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{name}"
            );
        }
        assert!(
            Check::ALL.is_sorted(),
            "ALL lists them as they are declared"
        );
        assert_eq!(
            Check::ALL.last(),
            Some(&Check::UnknownPortName),
            "the last one"
        );
    }
}
