//! What agent and responder say to each other: a JSON object on each line of a Unix socket.
//!
//! ```text
//! agent -> responder   listeners (with the sockets themselves), once, first
//! responder -> agent   origin: whose is the connection from this address and port to that service?
//! agent -> responder   origin: a pod's, or nobody's
//! ```
//! Each looks at the other's credentials (`SO_PEERCRED`) before it says anything.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::caller::Attachment;

/// No line is longer: whoever sends one is not the other side.
pub const LINE: usize = 64 * 1024;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase")]
pub enum FromAgent {
    /// Sockets come with the first byte of this line (`SCM_RIGHTS`), one for each service, in this order.
    Listeners {
        /// Indices of [`portcullis_common::guard::ADDRESSES`].
        services: Vec<u16>,
    },
    /// The answer to [`FromResponder::Origin`].
    Origin {
        /// Of the question.
        id: u64,
        /// Whose the connection is; nobody's is to be reset.
        origin: Option<Origin>,
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
