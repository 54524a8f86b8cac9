//! From what an annotation says to the ARN of a role.
//!
//! kube2iam and kiam put a base (`--base-role-arn`) before values that are no ARN; kube2iam does so byte by byte, kiam removes one leading slash
//! first. Here the base always ends in a slash and the result has to be the ARN of a role, whatever the value was.

use std::fmt;
use std::str::FromStr;

use super::arn::{self, ArnError, Head, RoleArn};

/// What stands before bare role names: `arn:aws:iam::123456789012:role/` or with a path behind it. Always ends in a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseArn(String);

/// Why a value names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Give `--base-role-arn`, or write the full ARN.
    #[error("not a full ARN, and no base ARN is known")]
    NoBase,
    /// Correct the value.
    #[error("{0}")]
    Malformed(ArnError),
}

impl BaseArn {
    /// Takes `arn:<partition>:iam::<account>:role` with or without a path; adds the final slash if it is missing.
    pub fn parse(text: &str) -> Result<Self, ArnError> {
        let resource = Head::parse(text, "role")?.resource;
        let missing = match resource.strip_prefix('/') {
            None if resource.is_empty() => "/",
            None => return Err(ArnError::Resource),
            Some("") => "",
            Some(path) => {
                let bare = path.strip_suffix('/');
                arn::check_path(bare.unwrap_or(path))?;
                if bare.is_some() { "" } else { "/" }
            }
        };
        Ok(Self(format!("{text}{missing}")))
    }

    /// The base of the node's own account, from the `InstanceProfileArn` of `iam/info`. Partition and account are taken, the profile's path is not: where
    /// the node's profile lies says nothing about where pods' roles lie.
    pub fn from_instance_profile(text: &str) -> Result<Self, ArnError> {
        let head = Head::parse(text, "instance-profile")?;
        Self::parse(&format!(
            "arn:{}:iam::{}:role/",
            head.partition, head.account
        ))
    }

    /// The base, with its final slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What of a role's ARN follows the base: `path/name` or `name`. `None` for roles of other accounts, partitions and paths.
    #[must_use]
    pub fn remainder<'a>(&self, role: &'a RoleArn) -> Option<&'a str> {
        role.as_str().strip_prefix(self.as_str())
    }
}

impl fmt::Display for BaseArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BaseArn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        Self::parse(text)
    }
}

/// The role that a value names.
///
/// 1. What starts with `arn:` is a full ARN or malformed.
/// 2. Any other value with a colon is malformed: it is an ARN with a mistake in its beginning, such as `ARN:`, and not a path below the base.
/// 3. `name`, `path/name` and both with one leading slash are put behind the base; without one they name nothing.
///
/// The result of 3 is checked like any other ARN, so `//name`, `path/`, `/` and values that make the path too long are malformed. Dots are
/// ordinary characters of IAM: `../name` is a role whose path has a segment `..`, and it is still below the base.
pub fn resolve(value: &str, base: Option<&BaseArn>) -> Result<RoleArn, ResolveError> {
    if value.starts_with("arn:") {
        return RoleArn::parse(value).map_err(ResolveError::Malformed);
    }
    if value.contains(':') {
        return Err(ResolveError::Malformed(ArnError::Shape));
    }
    let bare = value.strip_prefix('/').unwrap_or(value);
    // The grammar first: a value that no base could make a role is malformed, not a lack of a base.
    arn::check_path_and_name(bare, arn::MOST_NAME).map_err(ResolveError::Malformed)?;
    let base = base.ok_or(ResolveError::NoBase)?;
    RoleArn::parse(&format!("{base}{bare}")).map_err(ResolveError::Malformed)
}

#[cfg(test)]
mod tests;
