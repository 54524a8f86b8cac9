//! What can be read of the node besides a role: the paths that every pod may read, and those that a namespace may ask for. Nothing else exists.
//!
//! `portcullis.dev/metadata-paths` names them as they stand below `meta-data/`, those of the identity document with `dynamic/`. Interfaces and tags differ by
//! node, so `*` stands for all of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::metrics::PathClass::{Changing, Identity, List, Static};
use crate::route;
use crate::upstream::{Path, node};

/// Every pod may read these.
pub(super) static DEFAULTS: [Path; 7] = [
    node::REGION,
    Path::fixed("meta-data/placement/availability-zone", Static),
    Path::fixed("meta-data/placement/availability-zone-id", Static),
    Path::fixed("meta-data/instance-id", Static),
    Path::fixed("meta-data/instance-type", Static),
    Path::fixed("meta-data/services/domain", Static),
    Path::fixed("meta-data/services/partition", Static),
];

/// And this, rewritten.
pub(super) static DOCUMENT: Path = Path::fixed("dynamic/instance-identity/document", Identity);

/// A namespace may ask for these.
static FIXED: [Path; 13] = [
    Path::fixed("meta-data/ami-id", Static),
    Path::fixed("meta-data/hostname", Static),
    Path::fixed("meta-data/local-hostname", Static),
    Path::fixed("meta-data/local-ipv4", Static),
    Path::fixed("meta-data/mac", Static),
    Path::fixed("meta-data/public-ipv4", Static),
    Path::fixed("meta-data/spot/instance-action", Changing),
    Path::fixed("meta-data/spot/termination-time", Changing),
    Path::fixed("meta-data/events/recommendations/rebalance", Changing),
    Path::fixed("meta-data/autoscaling/target-lifecycle-state", Changing),
    Path::fixed("dynamic/instance-identity/pkcs7", Identity),
    Path::fixed("dynamic/instance-identity/signature", Identity),
    Path::fixed("dynamic/instance-identity/rsa2048", Identity),
];

/// The addresses of the node's interfaces.
pub(super) const INTERFACES: Path = Path::fixed("meta-data/network/interfaces/macs/", List);
/// The keys of the node's tags, if it may see them.
pub(super) const TAGS: Path = Path::fixed("meta-data/tags/instance/", List);

const INTERFACES_FOLDER: &str = "meta-data/network/interfaces/macs/";
const TAGS_FOLDER: &str = "meta-data/tags/instance/";

/// Of each interface.
const LEAVES: [&str; 5] = [
    "/device-number",
    "/subnet-id",
    "/vpc-id",
    "/vpc-ipv4-cidr-block",
    "/security-group-ids",
];

/// The longest key of a tag.
const LONGEST_KEY: usize = 128;
const ALL: &str = "*";
const ROOT: &str = "meta-data/";

/// Something that a namespace asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OptIn(Asked);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Asked {
    /// Its place in [`FIXED`].
    Fixed(usize),
    /// Of one interface or of all; the place in [`LEAVES`].
    Interface(String, usize),
    /// One tag or all.
    Tag(String),
}

/// No such path: take one of the list in docs/imds.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no pod can be shown this path")]
pub struct NotAnOptIn;

/// Where what was asked for is to be found.
pub(super) enum Place {
    /// There.
    At(Path),
    /// At every entry of this list that it names.
    In(Path),
}

impl OptIn {
    /// Whether it proves to others that its reader is this node.
    #[must_use]
    pub fn is_signature(&self) -> bool {
        matches!(self.0, Asked::Fixed(at) if FIXED[at].as_str().starts_with("dynamic/"))
    }

    pub(super) fn place(&self) -> Place {
        match &self.0 {
            Asked::Fixed(at) => Place::At(FIXED[*at].clone()),
            Asked::Interface(..) => Place::In(INTERFACES),
            Asked::Tag(_) => Place::In(TAGS),
        }
    }

    /// The path of what it asks for at an entry of its list; none if it does not ask for this one.
    pub(super) fn at(&self, entry: &crate::upstream::Entry) -> Option<Path> {
        let named = |name: &str| name == ALL || name == entry.as_str();
        match &self.0 {
            Asked::Interface(name, leaf) if named(name) => {
                Some(Path::below(INTERFACES_FOLDER, entry, LEAVES[*leaf], Static))
            }
            Asked::Tag(name) if named(name) => Some(Path::below(TAGS_FOLDER, entry, "", Static)),
            _ => None,
        }
    }
}

impl FromStr for OptIn {
    type Err = NotAnOptIn;

    fn from_str(text: &str) -> Result<Self, NotAnOptIn> {
        let name = |path: &'static str| path.strip_prefix(ROOT).unwrap_or(path);
        if let Some(at) = FIXED.iter().position(|path| name_of(path) == text) {
            return Ok(Self(Asked::Fixed(at)));
        }
        if let Some(rest) = text.strip_prefix(name(INTERFACES_FOLDER)) {
            let (mac, _) = rest.split_once('/').ok_or(NotAnOptIn)?;
            let leaf = LEAVES.iter().position(|leaf| *leaf == &rest[mac.len()..]);
            return match leaf {
                Some(leaf) if mac == ALL || is_mac(mac) => {
                    Ok(Self(Asked::Interface(mac.to_owned(), leaf)))
                }
                _ => Err(NotAnOptIn),
            };
        }
        let key = text.strip_prefix(name(TAGS_FOLDER)).ok_or(NotAnOptIn)?;
        let is_key = key.len() <= LONGEST_KEY
            && route::is_segment(key)
            && key.bytes().all(|byte| byte != b'/' && route::is_path(byte));
        if is_key {
            Ok(Self(Asked::Tag(key.to_owned())))
        } else {
            Err(NotAnOptIn)
        }
    }
}

impl TryFrom<String> for OptIn {
    type Error = NotAnOptIn;

    fn try_from(text: String) -> Result<Self, NotAnOptIn> {
        text.parse()
    }
}

impl From<OptIn> for String {
    fn from(asked: OptIn) -> Self {
        asked.to_string()
    }
}

impl fmt::Display for OptIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = |path: &'static str| path.strip_prefix(ROOT).unwrap_or(path);
        match &self.0 {
            Asked::Fixed(at) => f.write_str(name_of(&FIXED[*at])),
            Asked::Interface(mac, leaf) => {
                write!(f, "{}{mac}{}", below(INTERFACES_FOLDER), LEAVES[*leaf])
            }
            Asked::Tag(key) => write!(f, "{}{key}", below(TAGS_FOLDER)),
        }
    }
}

/// As a namespace names it.
fn name_of(path: &Path) -> &str {
    path.as_str().strip_prefix(ROOT).unwrap_or(path.as_str())
}

/// Six pairs of hexadecimal digits in small letters, as the service writes them.
fn is_mac(text: &str) -> bool {
    text.len() == 17
        && text.bytes().enumerate().all(|(at, byte)| match at % 3 {
            2 => byte == b':',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::entries;

    const MAC: &str = "0e:49:61:0f:c3:11";

    #[test]
    fn what_a_namespace_may_ask_for_is_written_back_as_it_was() {
        let fixed = FIXED.iter().map(|path| name_of(path).to_owned());
        let named = ["*", MAC]
            .into_iter()
            .flat_map(|mac| LEAVES.map(|leaf| format!("network/interfaces/macs/{mac}{leaf}")));
        let tags = ["*", "Name", "a+b=c", "k8s.io:x"].map(|key| format!("tags/instance/{key}"));
        let mut count = 0;
        for text in fixed.chain(named).chain(tags) {
            let asked: OptIn = text.parse().expect(&text);
            assert_eq!(asked.to_string(), text);
            assert_eq!(
                asked.is_signature(),
                text.starts_with("dynamic/instance-identity/")
            );
            count += 1;
        }
        assert_eq!(count, 13 + 2 * 5 + 4);
    }

    #[test]
    fn nothing_else_can_be_asked_for() {
        for text in [
            "",
            "*",
            "/",
            "user-data",
            "meta-data/ami-id",
            "ami-id/",
            " ami-id",
            "AMI-ID",
            "iam/info",
            "iam/security-credentials/",
            "iam/security-credentials/node",
            "identity-credentials/ec2/security-credentials/ec2-instance",
            "managed-ssh-keys/signer-ca",
            "public-keys/0/openssh-key",
            "dynamic/instance-identity/document",
            "dynamic/instance-identity/*",
            "instance-identity/pkcs7",
            "network/interfaces/macs/",
            "network/interfaces/macs/*",
            "network/interfaces/macs/*/",
            "network/interfaces/macs/*/mac",
            "network/interfaces/macs/*/vpc-id/x",
            "network/interfaces/macs/../vpc-id",
            "network/interfaces/macs/0E:49:61:0F:C3:11/vpc-id",
            "network/interfaces/macs/0e:49:61:0f:c3/vpc-id",
            "network/interfaces/macs//vpc-id",
            "tags/instance",
            "tags/instance/",
            "tags/instance/a/b",
            "tags/instance/..",
            "tags/instance/a b",
            "tags/instance/a\r\nX: y",
            "tags/instance/a%2fb",
            &format!("tags/instance/{}", "a".repeat(LONGEST_KEY + 1)),
            "placement/region",
        ] {
            assert_eq!(text.parse::<OptIn>(), Err(NotAnOptIn), "{text:?}");
        }
    }

    #[test]
    fn of_lists_only_entries_of_the_service_itself_become_paths() {
        let listed = entries("0e:49:61:0f:c3:11/\n0e:49:61:0f:c3:12/\n");
        let paths = |text: &str| {
            let asked: OptIn = text.parse().expect(text);
            let paths = listed.iter().filter_map(|entry| asked.at(entry));
            paths.map(|path| path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("network/interfaces/macs/*/vpc-id"),
            [
                "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-id",
                "meta-data/network/interfaces/macs/0e:49:61:0f:c3:12/vpc-id"
            ]
        );
        assert_eq!(
            paths(&format!("network/interfaces/macs/{MAC}/vpc-id")),
            ["meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-id"]
        );
        assert!(paths("network/interfaces/macs/0e:49:61:0f:c3:99/vpc-id").is_empty());
    }
}
