//! The ARN of an IAM role, checked once and then carried as a value that cannot be anything else.
//!
//! ```text
//! arn:<partition>:iam::<account>:role/<path/><name>
//! ```
//! Grammar: IAM API reference, data type Role (`RoleName`, `Path`, `Arn`) and `AssumeRole` (`RoleArn`, at most 2048). Narrower than IAM in three points,
//! because patterns and SDKs have to read these names: no `*` or `?` (wildcards), no `:` (the ARN's own separator) and no empty segment in a path.
//! Nothing is trimmed, folded or decoded: what differs by one byte is another role.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most characters of an ARN that STS takes.
const MOST_ARN: usize = 2048;
/// Most characters of a path, with both of its slashes.
const MOST_PATH: usize = 512;
/// Most characters of a role's name.
pub(super) const MOST_NAME: usize = 64;

/// A role's ARN. Two are equal when their texts are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleArn {
    text: Arc<str>,
    /// Where the slash behind `role` stands; everything before it is ASCII of a fixed shape.
    path: usize,
    /// Where the name begins.
    name: usize,
}

/// Why a text is no ARN of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArnError {
    /// Write `arn:<partition>:iam::<account>:role/<name>`; `arn` is in small letters.
    #[error("not the ARN of a role: six parts behind a lower-case arn: are needed")]
    Shape,
    /// STS takes at most 2048 characters.
    #[error("longer than {MOST_ARN} characters")]
    Length,
    /// `aws`, `aws-cn`, `aws-us-gov` and the like.
    #[error("the partition is not aws or aws-...")]
    Partition,
    /// Roles belong to `iam`; an ARN of `sts` names a session.
    #[error("the service is not iam")]
    Service,
    /// IAM is global: the fourth part of the ARN is empty.
    #[error("the region is not empty")]
    Region,
    /// Write the twelve digits of the account.
    #[error("the account is not 12 digits")]
    Account,
    /// Users, groups, policies, instance profiles and sessions cannot be assumed.
    #[error("the resource is not role/...")]
    Resource,
    /// Segments of `!` to `~` without wildcards and colons, none of them empty.
    #[error("the path has an empty segment or a character that is not allowed")]
    Path,
    /// IAM takes at most 512 characters.
    #[error("the path is longer than {MOST_PATH} characters")]
    PathLength,
    /// 1 to 64 of `A-Z a-z 0-9 _ + = , . @ -`.
    #[error("the name is not 1 to {MOST_NAME} of A-Z a-z 0-9 _ + = , . @ -")]
    Name,
}

impl RoleArn {
    /// Takes a full ARN as it stands, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        let head = Head::parse(text, "role")?;
        let rest = head.resource.strip_prefix('/').ok_or(ArnError::Resource)?;
        let name = check_path_and_name(rest, MOST_NAME)?;
        Ok(Self {
            path: text.len() - rest.len() - 1,
            name: text.len() - name.len(),
            text: text.into(),
        })
    }

    /// The whole ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `aws`, `aws-cn`, ...
    #[must_use]
    pub fn partition(&self) -> &str {
        self.text.split(':').nth(1).unwrap_or_default()
    }

    /// The twelve digits.
    #[must_use]
    pub fn account(&self) -> &str {
        self.text.split(':').nth(4).unwrap_or_default()
    }

    /// `/`, or `/team/` with a slash on both sides, as IAM writes it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..self.name]
    }

    /// What stands behind the path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.name..]
    }

    /// The one name that a listing of `iam/security-credentials` shows: without path and account. Equality of roles is judged on the ARN and never on
    /// this.
    #[must_use]
    pub fn listing_name(&self) -> &str {
        self.name()
    }

    /// The path without its first slash, and the name.
    #[must_use]
    pub fn path_and_name(&self) -> &str {
        &self.text[self.path + 1..]
    }

    /// Whether a client that asks for `name` asks for this role.
    #[must_use]
    pub fn is_asked_for_by(&self, name: &str) -> bool {
        name == self.name() || name == self.path_and_name() || name == self.as_str()
    }

    /// The ARN of an instance profile of the same name. There is none: clients want to see one.
    #[must_use]
    pub fn instance_profile_arn(&self) -> String {
        let account = &self.text[..self.path - "role".len()];
        format!("{account}instance-profile/{}", self.path_and_name())
    }

    /// An id as instance profiles have them, the same for the same role and nobody's real one.
    #[must_use]
    pub fn instance_profile_id(&self) -> String {
        let digest = Sha256::digest(self.text.as_bytes());
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

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl FromStr for RoleArn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RoleArn {
    type Error = ArnError;

    fn try_from(text: String) -> Result<Self, ArnError> {
        Self::parse(&text)
    }
}

impl From<RoleArn> for String {
    fn from(arn: RoleArn) -> Self {
        arn.as_str().to_owned()
    }
}

/// An ARN of IAM up to and with the word that says what it names.
pub(super) struct Head<'a> {
    pub(super) partition: &'a str,
    pub(super) account: &'a str,
    /// What follows the word: empty, or from its slash on.
    pub(super) resource: &'a str,
}

impl<'a> Head<'a> {
    /// Splits `arn:<partition>:iam::<account>:<word>...` and checks all of it but what follows the word. The account is twelve digits.
    pub(super) fn parse(text: &'a str, word: &str) -> Result<Self, ArnError> {
        let head = Self::parse_any_account(text, word)?;
        if head.account.len() == 12 && head.account.bytes().all(|byte| byte.is_ascii_digit()) {
            Ok(head)
        } else {
            Err(ArnError::Account)
        }
    }

    /// The same without a check of the account.
    pub(super) fn parse_any_account(text: &'a str, word: &str) -> Result<Self, ArnError> {
        if text.len() > MOST_ARN {
            return Err(ArnError::Length);
        }
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or(ArnError::Shape);
        let (scheme, partition, service, region, account, resource) =
            (part()?, part()?, part()?, part()?, part()?, part()?);
        if scheme != "arn" || parts.next().is_some() {
            return Err(ArnError::Shape);
        }
        if !is_partition(partition) {
            return Err(ArnError::Partition);
        }
        if service != "iam" {
            return Err(ArnError::Service);
        }
        if !region.is_empty() {
            return Err(ArnError::Region);
        }
        let resource = resource.strip_prefix(word).ok_or(ArnError::Resource)?;
        Ok(Self {
            partition,
            account,
            resource,
        })
    }
}

/// Checks `<path/><name>` and gives the name.
pub(super) fn check_path_and_name(rest: &str, most_name: usize) -> Result<&str, ArnError> {
    let name = match rest.rsplit_once('/') {
        None => rest,
        Some((path, name)) => {
            check_path(path)?;
            name
        }
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    if (1..=most_name).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name)
    } else {
        Err(ArnError::Name)
    }
}

/// Checks the segments of a path, given without its first and last slash.
pub(super) fn check_path(path: &str) -> Result<(), ArnError> {
    if path.len() + 2 > MOST_PATH {
        return Err(ArnError::PathLength);
    }
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"*?:".contains(&byte);
    if path
        .split('/')
        .all(|segment| !segment.is_empty() && segment.bytes().all(allowed))
    {
        Ok(())
    } else {
        Err(ArnError::Path)
    }
}

/// `aws(-[a-z0-9]+)*`
fn is_partition(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut pieces = text.split('-');
    pieces.next() == Some("aws")
        && pieces.all(|piece| !piece.is_empty() && piece.bytes().all(allowed))
}

#[cfg(test)]
pub(super) mod tests;
