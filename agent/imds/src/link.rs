//! What agent and responder say to each other: a JSON object on each line of a Unix socket.
//!
//! ```text
//! agent -> responder   listeners (with the sockets themselves), once, first
//! agent -> responder   pod: what is known of the pod behind an attachment, whenever it changes; gone: nothing will be again
//! responder -> agent   origin: whose is the connection from this address and port to that service?
//! agent -> responder   origin: a pod's, or nobody's
//! responder -> agent   token: of this pod's service account, for that audience
//! agent -> responder   token: here it is, or why there is none
//! responder -> agent   record: of something that was handed out or refused; nobody answers
//! agent -> responder   ask: what was counted, what the cache has
//! responder -> agent   told: that
//! ```
//! Each looks at the other's credentials (`SO_PEERCRED`) before it says anything.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::Record;
use crate::cache::{Fault, Owner, Summary};
use crate::caller::Attachment;
use crate::facts::Wanted;
use crate::jwt::KeySet;
use crate::metrics::Snapshot;
use crate::role::{Grant, SourceKind};
use crate::secret::Secret;

/// No line is longer: whoever sends one is not the other side.
pub const LINE: usize = 64 * 1024;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub enum FromAgent {
    /// Sockets come with the first byte of this line (`SCM_RIGHTS`), one for each service, in this order.
    Listeners {
        /// Indices of `common::guard::ADDRESSES`.
        services: Vec<u16>,
    },
    /// What is known of an attachment's pod now.
    Pod {
        /// Its end of the wire.
        attachment: Attachment,
        /// Nothing is known yet if absent.
        pod: Option<Box<Pod>>,
    },
    /// The attachment is gone, and its connections with it.
    Gone {
        /// Which.
        attachment: Attachment,
    },
    /// The answer to [`FromResponder::Origin`].
    Origin {
        /// Of the question.
        id: u64,
        /// Whose the connection is; nobody's is to be reset.
        origin: Option<Origin>,
    },
    /// What pods' web-identity tokens are checked with, whenever it changes.
    Keys {
        /// The cluster's keys.
        set: Box<KeySet>,
    },
    /// The answer to [`FromResponder::Token`].
    Token {
        /// Of the question.
        id: u64,
        /// The token, or why there is none.
        token: Result<Secret, String>,
    },
    /// A question about the responder itself.
    Ask {
        /// Comes back with the answer.
        id: u64,
        /// What is asked.
        what: Question,
    },
}

/// What an agent asks its responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// What was counted.
    Metrics,
    /// What the cache has.
    Cache,
}

/// What the responder says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub enum FromResponder {
    /// Whose is this connection? Asked once for each: the agent forgets what it has told.
    Origin {
        /// Comes back with the answer.
        id: u64,
        /// The other end, as accepted.
        peer: SocketAddr,
        /// The listener's service.
        service: u16,
    },
    /// A web-identity token of a pod that has a role. The agent makes none for other pods, nor for audiences that they did not ask for.
    Token {
        /// Comes back with the answer.
        id: u64,
        /// The pod.
        pod_uid: String,
        /// Whom it is for.
        audience: String,
        /// The way that needs it.
        source: SourceKind,
    },
    /// A token names a key that is not among those that were told: are there others by now?
    Keys,
    /// What was handed out or refused.
    Record {
        /// The record.
        record: Box<Record>,
    },
    /// The answer to [`FromAgent::Ask`], or a part of it.
    Told {
        /// Of the question.
        id: u64,
        /// What was asked for.
        told: Told,
    },
}

/// What a responder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Told {
    /// What was counted.
    Metrics {
        /// All of it.
        snapshot: Box<Snapshot>,
    },
    /// What the cache has.
    Cache {
        /// At most [`PART`] entries.
        entries: Vec<CacheEntry>,
        /// Whether another part follows.
        more: bool,
    },
}

/// Entries of the cache in a line.
pub const PART: usize = 16;

/// An entry of the cache, without what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheEntry {
    /// ARN of the role; none if associations say which.
    pub role: Option<String>,
    /// Where its keys are from.
    pub source: Option<SourceKind>,
    /// Who is asked for them.
    pub endpoint: String,
    /// The session's name.
    pub session_name: String,
    /// Whom the web-identity token is for.
    pub audience: Option<String>,
    /// Namespace of the pod that they were fetched for.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub pod: String,
    /// Live pods that use them.
    pub leases: usize,
    /// When the keys end, if there are any.
    pub expiration: Option<Timestamp>,
    /// Their public half.
    pub access_key_id: Option<String>,
    /// The last failure, if nothing has succeeded since.
    pub fault: Option<Fault>,
}

/// The longest text of a failure in an entry.
const LONGEST_MESSAGE: usize = 300;

impl From<Summary> for CacheEntry {
    fn from(summary: Summary) -> Self {
        let Summary {
            key,
            source,
            leases,
            expiration,
            access_key_id,
            mut fault,
        } = summary;
        if let Some(Fault { code, message, .. }) = &mut fault {
            code.truncate(code.floor_char_boundary(LONGEST_MESSAGE));
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        }
        Self {
            role: key.role.as_ref().map(ToString::to_string),
            source,
            endpoint: key.endpoint,
            session_name: key.session_name,
            audience: key.audience,
            namespace: key.owner.namespace,
            service_account: key.owner.service_account,
            pod: key.owner.pod,
            leases,
            expiration,
            access_key_id,
            fault,
        }
    }
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Whose token and whose session it is.
    pub owner: Owner,
    /// Which role, or why none.
    pub assigned: Assigned,
    /// Whether it may do without session tokens.
    pub imds_v1: bool,
    /// What its namespace lets it read of the node beyond the common paths.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub metadata_paths: Wanted,
}

/// The role decision in the words that the responder needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Assigned {
    /// It is waited for.
    Undecided,
    /// A role, and the way to its credentials.
    Role {
        /// The role, the ways to its credentials, and what STS is told with it.
        grant: Box<Grant>,
    },
    /// Nothing names one: the cluster's associations (EKS Pod Identity) are asked.
    Association,
    /// No role, and why. Shown to the pod.
    None {
        /// In a sentence.
        why: String,
    },
    /// No role, because something forbids it or is wrong. Shown to the pod.
    Refused {
        /// In a sentence.
        why: String,
    },
}

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The pod's end of the wire.
    pub attachment: Attachment,
    /// The node's interface; 0 = a pod in the host network.
    pub ifindex: u32,
    /// That pod's cgroup, else 0.
    pub cgroup: u64,
    /// The pod's uid, if its interface is known to be a pod's.
    pub uid: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_has_a_name() {
        let asked = FromResponder::Origin {
            id: 7,
            peer: "10.0.0.2:4000".parse().expect("an address"),
            service: 0,
        };
        assert_eq!(
            serde_json::to_string(&asked).expect("it is an object"),
            r#"{"say":"origin","id":7,"peer":"10.0.0.2:4000","service":0}"#
        );
    }
}
