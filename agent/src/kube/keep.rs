//! Which annotations of an object are kept: those that roles are decided from, and of pods only where they run.
//!
//! Annotations are the largest part of many objects, and a cluster has pods by the hundred thousand: what nobody is going to read is dropped where
//! an object is converted.

use std::sync::Arc;

use portcullis_imds::role::{Annotations, Keys};

use super::Kind;
use super::convert::node_name;

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct Keep(Option<Arc<Roles>>);

#[derive(Debug)]
struct Roles {
    node: String,
    keys: Keys,
}

impl Keep {
    /// What roles of this node's pods are decided from.
    #[must_use]
    pub fn for_roles(node: &str, keys: Keys) -> Self {
        let node = node.to_owned();
        Self(Some(Arc::new(Roles { node, keys })))
    }

    /// No annotation: nobody asks about roles.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// What is kept of an object's annotations; `None` if that is nothing.
    pub(super) fn of(
        &self,
        kind: Kind,
        fields: &serde_json::Map<String, serde_json::Value>,
        annotations: &Annotations,
    ) -> Option<Arc<Annotations>> {
        let Roles { node, keys } = self.0.as_deref()?;
        let kept = match kind {
            Kind::Pod if node_name(fields) == Some(node) => select(annotations, &keys.of_pods()),
            Kind::ServiceAccount => select(annotations, &keys.of_service_accounts()),
            Kind::Namespace => select(annotations, &keys.of_namespaces()),
            _ => return None,
        };
        (!kept.is_empty()).then(|| Arc::new(kept))
    }
}

fn select(annotations: &Annotations, keys: &[&str]) -> Annotations {
    keys.iter()
        .filter_map(|key| annotations.get_key_value(*key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
