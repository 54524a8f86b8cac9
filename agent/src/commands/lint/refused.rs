//! What the reader of objects refuses, as findings.

use portcullis_policy::lint::Check;

use crate::kube::Reason;

/// The name of what is wrong.
pub(super) fn check(reason: &Reason) -> Check {
    match reason {
        Reason::UnexpectedType { .. } => Check::UnexpectedType,
        Reason::Missing => Check::MissingField,
        Reason::UnknownField => Check::UnknownField,
        Reason::Cidr(_) | Reason::MappedCidr(_) => Check::InvalidCidr,
        Reason::ExceptOutside { .. } => Check::ExceptOutside,
        Reason::PortNumber(_) => Check::InvalidPort,
        Reason::PortName(_) => Check::InvalidPortName,
        Reason::EndPortWithoutPort | Reason::EndPortBelowPort { .. } => Check::InvalidEndPort,
        Reason::Protocol(_) => Check::UnknownProtocol,
        Reason::EmptyPeer | Reason::MixedPeer => Check::InvalidPeer,
        Reason::Operator(_) | Reason::ValuesMissing | Reason::ValuesForbidden => {
            Check::InvalidSelector
        }
        Reason::PolicyType(_) => Check::UnknownPolicyType,
        Reason::Address(_) => Check::InvalidAddress,
        Reason::Time(_) => Check::InvalidTime,
        Reason::RulesWithheld => Check::RulesWithheld,
        // Whatever API it is of, whoever wrote it takes it to be in force.
        Reason::UnknownKind(kind) if kind.contains("NetworkPolicy") => Check::UnreadPolicy,
        Reason::UnknownKind(_) => Check::UnreadKind,
        Reason::Syntax { .. } => Check::Syntax,
        Reason::Duplicate(_) => Check::DuplicateObject,
        Reason::DuplicateUid(_) => Check::DuplicateUid,
        Reason::More(_) => Check::MoreProblems,
    }
}

/// What stands at `field`, as it may be printed; empty where nothing does, or nothing single.
pub(super) fn value(field: &str, reason: &Reason) -> String {
    match reason {
        Reason::UnexpectedType { found: value, .. }
        | Reason::Cidr(value)
        | Reason::MappedCidr(value)
        | Reason::ExceptOutside { except: value, .. }
        | Reason::PortNumber(value)
        | Reason::PortName(value)
        | Reason::Protocol(value)
        | Reason::Operator(value)
        | Reason::PolicyType(value)
        | Reason::Address(value)
        | Reason::Time(value)
        | Reason::UnknownKind(value)
        | Reason::Duplicate(value)
        | Reason::DuplicateUid(value) => value.trim_matches('"').to_owned(),
        Reason::EndPortBelowPort { end, .. } => end.to_string(),
        Reason::UnknownField => field.rsplit('.').next().unwrap_or_default().to_owned(),
        Reason::EmptyPeer => "{}".to_owned(),
        Reason::Missing
        | Reason::EndPortWithoutPort
        | Reason::MixedPeer
        | Reason::ValuesMissing
        | Reason::ValuesForbidden
        | Reason::RulesWithheld
        | Reason::Syntax { .. }
        | Reason::More(_) => String::new(),
    }
}
