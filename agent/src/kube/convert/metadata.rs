//! `metadata`, as far as any kind reads it.

use std::fmt::Write as _;

use portcullis_policy::model::Labels;

use super::field::{self, Fields, Path};
use crate::kube::object::Key;
use crate::kube::problem::{Problem, Reason, excerpt};

/// What every object says about itself.
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) created_secs: Option<i64>,
    pub(super) terminating: bool,
}

impl Metadata {
    /// Unreadable labels refuse the object: without them a negative selector would match what it was written to leave out.
    pub(super) fn read(key: &Key, fields: &Fields) -> Result<Self, Problem> {
        let path = Path::Root.field("metadata");
        let Some(metadata) = field::object(fields, "metadata", &Path::Root)? else {
            return Err(path.problem(Reason::Missing));
        };
        let uid = field::string(metadata, "uid", &path)?.filter(|uid| !uid.is_empty());
        let created = field::string(metadata, "creationTimestamp", &path)?;
        Ok(Self {
            name: key.name.clone(),
            uid: uid.map_or_else(|| derived_uid(key), str::to_owned),
            labels: field::strings(metadata, "labels", &path)?,
            annotations: field::strings(metadata, "annotations", &path)?,
            created_secs: created
                .map(|text| seconds(text, &path.field("creationTimestamp")))
                .transpose()?,
            terminating: field::string(metadata, "deletionTimestamp", &path)?.is_some(),
        })
    }
}

fn seconds(text: &str, path: &Path<'_>) -> Result<i64, Problem> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_second()),
        Err(_) => Err(path.problem(Reason::Time(excerpt(text)))),
    }
}

/// A uid for an object that has none: the same for the same kind, namespace and name, on every machine and in every version.
///
/// FNV-1a over 128 bits in the shape of an RFC 9562 version 8 UUID. It is no defence against chosen collisions; only files have such objects, and
/// the feed refuses a second pod with the same uid.
pub(in crate::kube) fn derived_uid(key: &Key) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let mut hash = OFFSET;
    for part in [key.kind.name(), namespace, &key.name] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    let mut bytes = hash.to_be_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut uid = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            uid.push('-');
        }
        write!(uid, "{byte:02x}").expect("writing into a String never fails");
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Kind;

    fn key(namespace: &str, name: &str) -> Key {
        Key {
            kind: Kind::Pod,
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    #[test]
    fn derived_uids_are_stable_and_tell_names_apart() {
        let uid = derived_uid(&key("shop", "web"));
        assert_eq!(uid, derived_uid(&key("shop", "web")));
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'8');
        assert_ne!(derived_uid(&key("ab", "c")), derived_uid(&key("a", "bc")));
    }
}
