//! One object of an API server or a file becomes one [`Entry`] in our own words.
//!
//! 1. The object's name is read first: without one nothing can be said about it, and it is refused under the name of its document.
//! 2. A kind's own file reads the rest. Optional parts that are wrong are reported and left out where that closes (a pod's unreadable address);
//!    where leaving out would open, the object is refused as a whole (labels), except policies, which always yield something that isolates.
//! 3. Fields that no feature reads are not looked at, but for NetworkPolicy, where an unknown field may narrow a rule.

mod endpoint_slice;
mod field;
mod metadata;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod selector;
mod service;
mod service_account;

use std::sync::Arc;

use portcullis_imds::role::Annotations;
use serde_json::Value;

use self::field::{Fields, Path};
use self::metadata::Metadata;
use super::Keep;
use super::object::{Entry, Key, Kind, Object};
use super::problem::{Problem, Problems};

pub(super) use metadata::derived_uid;
pub(super) use namespace::implied as implied_namespace;
pub use network_policy::Trap;
pub(super) use network_policy::{closed as closed_policy, traps};
pub(super) use pod::node_name;

/// The object's name, or why it has none.
pub(super) fn identify(kind: Kind, value: &Value) -> Result<Key, Problem> {
    let fields = field::as_object(value, &Path::Root)?;
    let metadata = field::object(fields, "metadata", &Path::Root)?;
    let path = Path::Root.field("metadata");
    let Some(metadata) = metadata else {
        return Err(path.problem(super::Reason::Missing));
    };
    let name = field::required(metadata, "name", &path)?.to_owned();
    let namespace = if kind.namespaced() {
        Some(
            field::string(metadata, "namespace", &path)?
                .filter(|namespace| !namespace.is_empty())
                .unwrap_or("default")
                .to_owned(),
        )
    } else {
        None
    };
    Ok(Key {
        kind,
        namespace,
        name,
    })
}

/// What an object of this kind and name says, with those of its annotations that are to be kept.
pub(super) fn convert(key: Key, value: &Value, keep: &Keep) -> Entry {
    let mut problems = Problems::default();
    let mut annotations = None;
    let object = problems
        .note(field::as_object(value, &Path::Root))
        .and_then(|fields| read(&key, fields, keep, &mut annotations, &mut problems));
    Entry {
        key,
        annotations: annotations.filter(|_| object.is_some()),
        object,
        problems: problems.into_vec(),
    }
}

fn read(
    key: &Key,
    fields: &Fields,
    keep: &Keep,
    annotations: &mut Option<Arc<Annotations>>,
    problems: &mut Problems,
) -> Option<Object> {
    // Nothing of a policy's metadata but its name means anything, so that nothing there can make it unreadable.
    if key.kind == Kind::NetworkPolicy {
        let policy = network_policy::convert(key, fields, problems);
        return Some(Object::Policy(Arc::new(policy)));
    }
    let metadata = problems.note(Metadata::read(key, fields))?;
    *annotations = keep.of(key.kind, fields, &metadata.annotations);
    match key.kind {
        Kind::Namespace => Some(Object::Namespace(namespace::convert(metadata))),
        Kind::Node => Some(Object::Node(node::convert(metadata, fields, problems))),
        Kind::Pod => pod::convert(key, metadata, fields, problems).map(Object::Pod),
        Kind::Service => Some(Object::Service(service::convert(fields, problems))),
        Kind::EndpointSlice => Some(Object::EndpointSlice(endpoint_slice::convert(
            &metadata, fields, problems,
        ))),
        Kind::ServiceAccount => Some(Object::ServiceAccount(service_account::convert(metadata))),
        Kind::NetworkPolicy | Kind::Document => None,
    }
}

#[cfg(test)]
mod tests;
