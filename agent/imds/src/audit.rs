//! Audit records: what was handed out, to whom, what was refused, and why. Nothing in one is secret.
//!
//! ```text
//! answer ---------------------> Book (folds what is alike) -> queue -> link -> agent: seq, node, pod, decision -> ring, file, events
//! renewal or failure of keys --/
//! ```
//! The responder says what it alone knows and whose connection it was; who that is, the agent adds. Nobody waits for a record: one that finds the queue full
//! is counted and gone.

mod book;
mod target;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use book::{Book, QUEUE, Served};
pub use target::{LONGEST_PATH, Target};

use crate::cache::{Fault, Key};
use crate::caller::Attachment;
use crate::credentials::{Credentials, Found};
use crate::listener::Surface;
use crate::metrics::{Class, ImdsVersion};
use crate::reason::Reason;
use crate::role::SourceKind;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A pod was handed keys that it had not been handed before.
    Issued,
    /// It was handed them again: one record a minute, with a count.
    Served,
    /// The source gave newer keys in place of older ones.
    Refreshed,
    /// A role, a token or a request was refused.
    Denied,
    /// It would have been refused if the namespace were not in audit mode.
    WouldDeny,
    /// The source failed, or the answer had to wait for too long.
    Failed,
    /// The path is not one that this pod may read.
    BlockedPath,
    /// The request was not one that is understood here.
    BadRequest,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Issued,
        Self::Served,
        Self::Refreshed,
        Self::Denied,
        Self::WouldDeny,
        Self::Failed,
        Self::BlockedPath,
        Self::BadRequest,
    ];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Served => "served",
            Self::Refreshed => "refreshed",
            Self::Denied => "denied",
            Self::WouldDeny => "would_deny",
            Self::Failed => "failed",
            Self::BlockedPath => "blocked_path",
            Self::BadRequest => "bad_request",
        }
    }

    /// What an answer with this reason is.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::BadHead
            | Reason::BadTarget
            | Reason::BadRoleName
            | Reason::TargetTooLong
            | Reason::HeadTooLarge
            | Reason::Body
            | Reason::Expect
            | Reason::Upgrade
            | Reason::NoHost
            | Reason::TwoHosts
            | Reason::Method
            | Reason::BadTtl
            | Reason::NoWebIdentity
            | Reason::MalformedWebIdentity => Self::BadRequest,
            Reason::Nothing => Self::BlockedPath,
            Reason::ForeignHost
            | Reason::NoToken
            | Reason::BadToken
            | Reason::Forwarded
            | Reason::NoRole
            | Reason::RoleRefused
            | Reason::ForeignRole
            | Reason::RoleDenied
            | Reason::BadWebIdentity
            | Reason::ForeignWebIdentity => Self::Denied,
            Reason::Undecided
            | Reason::SourceFailing
            | Reason::TooFast
            | Reason::KeysUnavailable
            | Reason::FactPending => Self::Failed,
        }
    }
}

/// Whose a record is. The agent knows who that is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    /// The connection's.
    Attachment(Attachment),
    /// The pod's with this uid: of keys, which no connection asked for.
    Pod(String),
}

/// What the responder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// To whom.
    pub whose: Whose,
    /// Where the connection came from. Information only: nothing is decided by it.
    pub src_ip: Option<IpAddr>,
    /// What was asked; of a renewal there is nothing.
    pub request: Option<Asked>,
    /// Why the answer was another one than asked for.
    pub reason: Option<Reason>,
    /// Which keys.
    pub credential: Option<Credential>,
    /// How the source failed.
    pub fault: Option<SourceFault>,
    /// How many answers it stands for.
    pub count: u64,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Where.
    pub endpoint: Surface,
    /// What it is about.
    pub class: Class,
    /// How.
    pub version: ImdsVersion,
    /// What it was answered with.
    pub status: u16,
    /// How long that took; of several there is no one time.
    pub duration_micros: Option<u64>,
    /// The path, escaped, without a query.
    pub path: String,
}

/// Keys, without what is secret of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Who they are in the cloud's logs.
    pub access_key_id: Option<String>,
    /// When they end.
    pub expiration: Option<Timestamp>,
    /// The session's name.
    pub session_name: Option<String>,
    /// Where they are from.
    pub kind: Option<SourceKind>,
    /// How the cache had them.
    pub cache: Option<Found>,
    /// The number under which AWS knows the call.
    pub sts_request_id: Option<String>,
    /// How many other pods have them.
    pub shared_with: Option<u64>,
}

/// How a source failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFault {
    /// The kind of failure.
    pub class: String,
    /// AWS' code, or our word for what never reached AWS.
    pub code: String,
}

/// How a pod gets its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Where they are from; of several ways the one that is tried first.
    pub kind: Option<SourceKind>,
    /// The session's name.
    pub session_name: String,
    /// How many other pods have the same.
    pub shared_with: u64,
}

impl Credential {
    /// Of these keys, got in this way.
    #[must_use]
    pub fn of(keys: &Credentials, way: Option<Way>, cache: Option<Found>) -> Self {
        Self {
            access_key_id: Some(keys.access_key_id.clone()),
            expiration: Some(keys.expiration),
            kind: Some(keys.source),
            sts_request_id: keys.request_id.clone(),
            ..Self::without(way, cache)
        }
    }

    /// Of keys that are not there.
    #[must_use]
    pub fn without(way: Option<Way>, cache: Option<Found>) -> Self {
        Self {
            access_key_id: None,
            expiration: None,
            session_name: way.as_ref().map(|way| way.session_name.clone()),
            kind: way.as_ref().and_then(|way| way.kind),
            cache,
            sts_request_id: None,
            shared_with: way.map(|way| way.shared_with),
        }
    }
}

impl Record {
    /// The source gave newer keys.
    #[must_use]
    pub fn refreshed(
        key: &Key,
        pod_uid: &str,
        keys: &Credentials,
        leases: usize,
        at: Timestamp,
    ) -> Self {
        let way = way_of(key, leases);
        Self {
            credential: Some(Credential::of(keys, Some(way), None)),
            ..Self::of_pod(Event::Refreshed, pod_uid, at)
        }
    }

    /// The source gave none.
    #[must_use]
    pub fn failed(key: &Key, pod_uid: &str, fault: &Fault, leases: usize, at: Timestamp) -> Self {
        let way = way_of(key, leases);
        Self {
            credential: Some(Credential::without(Some(way), None)),
            fault: Some(SourceFault {
                class: fault.class.as_str().to_owned(),
                code: fault.code.clone(),
            }),
            ..Self::of_pod(Event::Failed, pod_uid, at)
        }
    }

    fn of_pod(event: Event, pod_uid: &str, at: Timestamp) -> Self {
        Self {
            at,
            event,
            whose: Whose::Pod(pod_uid.to_owned()),
            src_ip: None,
            request: None,
            reason: None,
            credential: None,
            fault: None,
            count: 1,
        }
    }

    /// What tells it from others of its kind, besides its path.
    fn kind(&self) -> (Event, Option<Reason>, Option<&str>) {
        let code = self.fault.as_ref().map(|fault| fault.code.as_str());
        (self.event, self.reason, code)
    }
}

/// How a key's credentials are got.
#[must_use]
pub fn way_of(key: &Key, leases: usize) -> Way {
    Way {
        kind: key.sources.first().copied(),
        session_name: key.session_name.clone(),
        shared_with: leases.saturating_sub(1) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_records_are_those_of_the_lists() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_value(event).expect("a word"), event.as_str());
        }
        for reason in Reason::ALL {
            assert_eq!(
                serde_json::to_value(reason).expect("a word"),
                reason.label()
            );
            // A refusal is never recorded as something that was handed out.
            assert!(!matches!(
                Event::of(reason),
                Event::Issued | Event::Served | Event::Refreshed
            ));
        }
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).expect("a word"), class.label());
        }
        for version in ImdsVersion::ALL {
            assert_eq!(
                serde_json::to_value(version).expect("a word"),
                version.label()
            );
        }
    }
}
