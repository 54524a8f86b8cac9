//! What agent and responder say to each other: a JSON object on each line of a Unix socket.
//!
//! ```text
//! agent -> responder   listeners (with the sockets themselves), once, first
//! responder -> agent   origin: whose is the connection from this address and port to that service?
//! agent -> responder   origin: a pod's, or nobody's
//! ```
//! Each looks at the other's credentials (`SO_PEERCRED`) before it says anything.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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

/// An interface of a pod for as long as it is there: never used again, the same for every agent of this boot. 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Attachment(pub [u8; 16]);

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attachment({self})")
    }
}

impl From<Attachment> for String {
    fn from(attachment: Attachment) -> Self {
        attachment.to_string()
    }
}

/// Not 32 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("an attachment has 32 hexadecimal digits")]
pub struct NoAttachment;

impl TryFrom<String> for Attachment {
    type Error = NoAttachment;

    fn try_from(text: String) -> Result<Self, NoAttachment> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoAttachment);
        }
        let number =
            u128::from_str_radix(&text, 16).map_err(|_: std::num::ParseIntError| NoAttachment)?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_32_digits_on_the_wire_and_nothing_else() {
        let attachment = Attachment([0xab; 16]);
        let text = serde_json::to_string(&attachment).expect("it is a string");
        assert_eq!(text, format!("\"{}\"", "ab".repeat(16)));
        assert_eq!(
            serde_json::from_str::<Attachment>(&text).expect("it is read back"),
            attachment
        );
        for wrong in [
            "\"ab\"".to_owned(),
            format!("\"+{}\"", "a".repeat(31)),
            format!("\"{}\"", "g".repeat(32)),
        ] {
            assert!(
                serde_json::from_str::<Attachment>(&wrong).is_err(),
                "{wrong}"
            );
        }
    }

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
