//! What is known of the pod at the other end of a connection: its role, whether it may do without session tokens, what it may read.
//!
//! Whose connection it is was decided when it was accepted, by interface or cgroup; nothing that a client sends has a part in it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::facts::Facts;
use crate::role::RoleArn;

/// The number of an interface, or of a cgroup in a boot: as long as it is there the same for every agent, and never given again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Attachment(pub [u8; 16]);

impl fmt::Debug for Attachment {
    /// The first eight digits tell attachments of a node apart, as in the audit log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(formatter, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

impl From<Attachment> for String {
    /// All 32 hexadecimal digits.
    fn from(attachment: Attachment) -> Self {
        format!("{:032x}", u128::from_be_bytes(attachment.0))
    }
}

/// Not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an attachment has 32 hexadecimal digits")]
pub struct NotAnAttachment;

impl TryFrom<String> for Attachment {
    type Error = NotAnAttachment;

    fn try_from(text: String) -> Result<Self, NotAnAttachment> {
        let is_plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_plain
            .then(|| u128::from_str_radix(&text, 16).ok())
            .flatten();
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or(NotAnAttachment)
    }
}

/// What is known of an attachment's pod.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Not known yet, or the caches are not in sync. Never answered as if it had no role.
    Undecided,
    /// Known.
    Known(Arc<Pod>),
}

/// A pod, as far as answers depend on it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its role.
    pub role: Assigned,
    /// Whether it may do without session tokens. Looked at only where the responder's rules leave it to the pod.
    pub imds_v1: bool,
    /// What it may read besides its role.
    pub facts: Arc<Facts>,
}

/// The outcome of the role decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assigned {
    /// This one.
    Role(RoleArn),
    /// None, and why. The text is shown to the pod: nothing of other pods in it.
    None(String),
    /// One was asked for and may not be had, and why. Shown to the pod too.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_32_digits_on_the_wire_and_nothing_else() {
        let attachment = Attachment([0xab; 16]);
        let text = serde_json::to_string(&attachment).expect("it is a string");
        assert_eq!(text, format!("\"{}\"", "ab".repeat(16)));
        let back: Attachment = serde_json::from_str(&text).expect("it is read back");
        assert_eq!(back, attachment);
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
    fn an_attachment_prints_eight_digits() {
        let mut number = [0xff; 16];
        number[..4].copy_from_slice(&[0, 1, 0xab, 2]);
        assert_eq!(format!("{:?}", Attachment(number)), "0001ab02");
    }
}
