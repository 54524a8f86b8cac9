//! What is known of the pod at the other end of a connection: its role, whether it may do without session tokens, what it may read.
//!
//! Whose connection it is was decided when it was accepted, by interface or cgroup; nothing that a client sends has a part in it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::facts::Facts;
use crate::route;

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
    Role(Role),
    /// None, and why. The text is shown to the pod: nothing of other pods in it.
    None(String),
    /// One was asked for and may not be had, and why. Shown to the pod too.
    Refused(String),
}

/// The ARN of a role, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    arn: String,
    /// Where the path behind `:role/` begins.
    path: usize,
    /// Where the name begins.
    name: usize,
}

/// A text that is no ARN of a role. The annotation that holds it has to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the ARN of a role")]
pub struct NotARole;

impl Role {
    /// Reads `arn:PARTITION:iam::ACCOUNT:role/[PATH/]NAME`.
    pub fn new(arn: &str) -> Result<Self, NotARole> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", partition, "iam", "", account, resource] = parts[..] else {
            return Err(NotARole);
        };
        let named = resource.strip_prefix("role/").ok_or(NotARole)?;
        let name = named.rsplit('/').next().unwrap_or(named);
        let front = &named[..named.len() - name.len()];
        let is_partition = partition.starts_with("aws")
            && partition
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let is_front = front.len() <= 512
            && front.bytes().all(route::is_path)
            && front
                .strip_suffix('/')
                .is_none_or(|front| front.split('/').all(route::is_segment));
        if is_partition && is_account && is_front && route::is_role_name(name) {
            Ok(Self {
                arn: arn.to_owned(),
                path: arn.len() - named.len(),
                name: arn.len() - name.len(),
            })
        } else {
            Err(NotARole)
        }
    }

    /// The whole ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The last segment: what the listing shows, without path and account.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.arn[self.name..]
    }

    /// The path, if it has one, and the name.
    #[must_use]
    pub fn path_and_name(&self) -> &str {
        &self.arn[self.path..]
    }

    /// Whether a client that asks for `name` asks for this role.
    #[must_use]
    pub fn is_asked_for_by(&self, name: &str) -> bool {
        name == self.name() || name == self.path_and_name() || name == self.arn
    }

    /// The ARN of an instance profile of the same name. There is none: clients want to see one.
    #[must_use]
    pub fn instance_profile_arn(&self) -> String {
        let account = &self.arn[..self.path - "role/".len()];
        format!("{account}instance-profile/{}", self.path_and_name())
    }

    /// An id as instance profiles have them, the same for the same role and nobody's real one.
    #[must_use]
    pub fn instance_profile_id(&self) -> String {
        let digest = Sha256::digest(self.arn.as_bytes());
        let bits = digest
            .iter()
            .take(11)
            .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let letter = |at: usize| {
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(bits >> (5 * at)) as usize & 31])
        };
        std::iter::once("AIPA".to_owned())
            .chain((0..17).map(|at| letter(at).to_string()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_taken_apart() {
        let role =
            Role::new("arn:aws-us-gov:iam::123456789012:role/team/blue/app").expect("an ARN");
        assert_eq!(
            (role.name(), role.path_and_name()),
            ("app", "team/blue/app")
        );
        assert_eq!(
            role.instance_profile_arn(),
            "arn:aws-us-gov:iam::123456789012:instance-profile/team/blue/app"
        );
        for name in ["app", "team/blue/app", role.arn()] {
            assert!(role.is_asked_for_by(name));
        }
        for name in [
            "",
            "blue/app",
            "/app",
            "App",
            "app-admin",
            "arn:aws:iam::123456789012:role/team/blue/app",
        ] {
            assert!(!role.is_asked_for_by(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_role_is_refused() {
        for text in [
            "",
            "app",
            "arn:aws:iam::123456789012:user/app",
            "arn:aws:sts::123456789012:assumed-role/app/x",
            "arn:aws:iam::12345678901:role/app",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a//b",
            "arn:aws:iam::123456789012:role//b",
            "arn:aws:iam::123456789012:role/../b",
            "arn:aws:iam:eu:123456789012:role/b",
            " arn:aws:iam::123456789012:role/b",
            "arn:aws:iam::123456789012:role/b\n",
            "ARN:aws:iam::123456789012:role/b",
            "arn:aws:iam::123456789012:role/*",
        ] {
            assert_eq!(Role::new(text), Err(NotARole), "{text:?}");
        }
    }

    #[test]
    fn an_instance_profile_id_looks_real_and_is_stable() {
        let id = |name: &str| {
            let arn = format!("arn:aws:iam::123456789012:role/{name}");
            Role::new(&arn).expect("an ARN").instance_profile_id()
        };
        assert_eq!(id("app"), id("app"));
        assert_ne!(id("app"), id("apq"));
        let id = id("app");
        assert!(id.len() == 21 && id.starts_with("AIPA"));
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte))
        );
    }

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
