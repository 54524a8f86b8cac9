//! Namespace: its labels. The API server owns `kubernetes.io/metadata.name`, so its value here is the name whatever the object says (A10).

use portcullis_policy::model::Labels;

use super::metadata::Metadata;

/// The label that names a namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn convert(metadata: Metadata) -> Labels {
    let mut labels = metadata.labels;
    labels.insert(NAME_LABEL.to_owned(), metadata.name);
    labels
}

/// Labels of a namespace that only shows in the names of others.
pub(in crate::kube) fn implied(name: &str) -> Labels {
    Labels::from([(NAME_LABEL.to_owned(), name.to_owned())])
}
