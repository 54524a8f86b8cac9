//! `ServiceAccount`: that it exists, and which one it is. What it says of roles stands in its annotations.

use super::metadata::Metadata;
use crate::kube::object::ServiceAccount;

pub(super) fn convert(metadata: Metadata) -> ServiceAccount {
    ServiceAccount {
        uid: metadata.uid.into(),
    }
}
