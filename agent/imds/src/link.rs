//! What agent and responder say to each other: a JSON object on each line of a Unix socket.
//!
//! ```text
//! agent -> responder   listeners (with the sockets themselves), once, first
//! agent -> responder   pod: what is known of the pod behind an attachment, whenever it changes; gone: nothing will be again
//! responder -> agent   origin: whose is the connection from this address and port to that service?
//! agent -> responder   origin: a pod's, or nobody's
//! responder -> agent   token: of this pod's service account, for that audience
//! agent -> responder   token: here it is, or why there is none
//! ```
//! Each looks at the other's credentials (`SO_PEERCRED`) before it says anything.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::cache::{Owner, SourceKind};
use crate::caller::Attachment;
use crate::role::Grant;
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
    /// The answer to [`FromResponder::Token`].
    Token {
        /// Of the question.
        id: u64,
        /// The token, or why there is none.
        token: Result<Secret, String>,
    },
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
    },
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
}

/// The role decision in the words that the responder needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Assigned {
    /// It is waited for.
    Undecided,
    /// A role, and the way to its credentials.
    Role {
        /// The way.
        source: SourceKind,
        /// The role, and what STS is told with it.
        grant: Box<Grant>,
    },
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
    /// The node's interface.
    pub ifindex: u32,
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
