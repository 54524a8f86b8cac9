//! What a pod may read besides its role: paths and values. A table, not a proxy: what is not in it does not exist.
//!
//! ```text
//! metadata service -> keeper (one task) -> known -> a table for each namespace -> answers
//! ```
//! Whoever fills it has left out what the pod's namespace did not ask for. What no pod may ever read cannot be put in.

mod keeper;
mod known;
mod opt_in;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::route;

pub use keeper::{CHANGING, NEGATIVE, STATIC, keep};
pub use known::{Known, Tables, Wanted};
pub use opt_in::{NotAnOptIn, OptIn};

const DOCUMENT: &str = "dynamic/instance-identity/document";

/// Below these nothing can be put in: the node's own credentials, keys and scripts.
const NEVER: [&str; 6] = [
    "user-data",
    "api",
    "meta-data/iam",
    "meta-data/identity-credentials",
    "meta-data/managed-ssh-keys",
    "meta-data/public-keys",
];

/// Why a value is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FactError {
    /// No pod may read what lies there. The list of paths that was asked for has to be mended.
    #[error("no pod may read this path")]
    Forbidden,
    /// No client could ask for it: percent-encoding and empty segments are refused.
    #[error("not a plain path below `meta-data/` or `dynamic/`")]
    Malformed,
}

/// The identity document, with as much as SDKs look for their region in. The real one names instance, image and addresses too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDocument {
    /// The account that owns the node.
    pub account_id: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// As `eu-west-1a`.
    pub availability_zone: String,
    /// As `m7g.large`.
    pub instance_type: String,
    /// As `eu-west-1`.
    pub region: String,
    /// The version of the document's form.
    pub version: String,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) text: String,
    pub(crate) is_json: bool,
}

/// Paths below the version and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    values: BTreeMap<String, Fact>,
    /// What may have a value that is not known yet. A slash at the end: all that lies below.
    expected: BTreeSet<String>,
}

impl Facts {
    /// Puts a value in, at a path such as `meta-data/placement/region`. Line ends at its end are left out.
    pub fn insert(&mut self, path: &str, text: &str) -> Result<(), FactError> {
        let lies_below = |folder: &str| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if NEVER.into_iter().any(lies_below) {
            return Err(FactError::Forbidden);
        }
        let is_plain = path.len() < route::LONGEST_TARGET / 2
            && path.bytes().all(route::is_path)
            && path.split('/').all(route::is_segment);
        let is_below = ["meta-data/", "dynamic/"]
            .iter()
            .any(|root| path.starts_with(root));
        if !is_plain || !is_below || path == DOCUMENT {
            return Err(FactError::Malformed);
        }
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        let fact = Fact {
            text,
            is_json: false,
        };
        self.values.insert(path.to_owned(), fact);
        Ok(())
    }

    /// Puts the reduced identity document in.
    pub fn set_document(&mut self, document: &IdentityDocument) {
        let text = serde_json::to_string(document).expect("a struct of strings is JSON");
        self.set_original_document(text);
    }

    /// Puts the identity document in as it was received: where its signatures are served they have to fit.
    pub fn set_original_document(&mut self, text: String) {
        let fact = Fact {
            text,
            is_json: true,
        };
        self.values.insert(DOCUMENT.to_owned(), fact);
    }

    /// There may be a value here, or below if the path ends in a slash: not known yet is not nothing.
    pub fn expect(&mut self, path: &str) {
        self.expected.insert(path.to_owned());
    }

    /// Whether a value at `path`, or one below it, may become known.
    pub(crate) fn is_expected(&self, path: &str) -> bool {
        let is_below = |folder: &str, path: &str| {
            folder.is_empty()
                || path
                    .strip_prefix(folder)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.expected.iter().any(|expected| {
            let is_of_folder = expected.ends_with('/') && path.starts_with(expected.as_str());
            is_of_folder || is_below(path, expected)
        })
    }

    pub(crate) fn value(&self, path: &str) -> Option<&Fact> {
        self.values.get(path)
    }

    /// All paths, sorted.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// What lies directly in `folder` of all `paths`, one a line, folders with a slash; nothing if it is no folder.
pub(crate) fn listing<'a>(folder: &str, paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let below = |path: &'a str| match folder {
        "" => Some(path),
        _ => path.strip_prefix(folder)?.strip_prefix('/'),
    };
    let names: BTreeSet<&str> = paths
        .filter_map(below)
        .map(|path| path.split_inclusive('/').next().unwrap_or(path))
        .collect();
    let lines: Vec<&str> = names.into_iter().collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_pod_may_read_cannot_be_put_in() {
        let mut facts = Facts::default();
        for path in [
            "user-data",
            "user-data/x",
            "meta-data/iam",
            "meta-data/iam/security-credentials/node",
            "meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
            "meta-data/managed-ssh-keys/signer-ca",
            "meta-data/public-keys/0/openssh-key",
            "api/token",
        ] {
            assert_eq!(facts.insert(path, "x"), Err(FactError::Forbidden), "{path}");
        }
        for path in [
            "",
            "instance-id",
            "/meta-data/instance-id",
            "meta-data/",
            "meta-data//a",
            "meta-data/../user-data",
            "meta-data/tags/instance/a b",
            "meta-data/a%20b",
            DOCUMENT,
        ] {
            assert_eq!(facts.insert(path, "x"), Err(FactError::Malformed), "{path}");
        }
        assert_eq!(facts, Facts::default());
    }

    #[test]
    fn a_listing_names_what_lies_in_a_folder_once() {
        let paths = [
            "meta-data/instance-id",
            "meta-data/placement/region",
            "meta-data/placement/zone",
        ];
        let list = |folder| listing(folder, paths.into_iter());
        assert_eq!(list("").as_deref(), Some("meta-data/"));
        assert_eq!(
            list("meta-data").as_deref(),
            Some("instance-id\nplacement/")
        );
        assert_eq!(list("meta-data/placement").as_deref(), Some("region\nzone"));
        assert_eq!(
            (list("meta-data/place"), list("meta-data/instance-id")),
            (None, None)
        );
    }

    #[test]
    fn what_is_not_known_yet_is_expected_with_all_folders_above_it() {
        let mut facts = Facts::default();
        facts.expect("meta-data/placement/region");
        facts.expect("meta-data/tags/instance/");
        for path in [
            "",
            "meta-data",
            "meta-data/placement",
            "meta-data/placement/region",
            "meta-data/tags",
            "meta-data/tags/instance",
            "meta-data/tags/instance/Name",
        ] {
            assert!(facts.is_expected(path), "{path}");
        }
        for path in [
            "user-data",
            "meta-data/place",
            "meta-data/placement/region/x",
            "meta-data/placement/zone",
            "meta-data/tags/instances",
        ] {
            assert!(!facts.is_expected(path), "{path}");
        }
    }

    #[test]
    fn a_value_ends_without_a_line_end() {
        let mut facts = Facts::default();
        facts
            .insert("meta-data/security-groups", "a\nb\n")
            .expect("a plain path");
        let value = facts
            .value("meta-data/security-groups")
            .expect("it was put in");
        assert_eq!(value.text, "a\nb");
    }
}
