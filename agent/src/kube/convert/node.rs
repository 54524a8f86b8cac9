//! Node: its labels and the addresses that other nodes know it by.

use portcullis_policy::model::Node;

use super::field::{self, Fields, Path};
use super::metadata::Metadata;
use crate::kube::problem::{Problem, Problems};

pub(super) fn convert(metadata: Metadata, fields: &Fields, problems: &mut Problems) -> Node {
    let mut node = Node {
        labels: metadata.labels,
        addresses: Vec::new(),
    };
    let path = Path::Root.field("status");
    let result = addresses(fields, &path, problems, &mut node);
    problems.note(result);
    node
}

fn addresses(
    fields: &Fields,
    path: &Path<'_>,
    problems: &mut Problems,
    node: &mut Node,
) -> Result<(), Problem> {
    let Some(status) = field::object(fields, "status", &Path::Root)? else {
        return Ok(());
    };
    let list_path = path.field("addresses");
    for (index, item) in field::list(status, "addresses", path)?.iter().enumerate() {
        let path = list_path.item(index);
        let read = || {
            let item = field::as_object(item, &path)?;
            // Host names and DNS names stand in the same list.
            match field::string(item, "type", &path)? {
                Some("InternalIP" | "ExternalIP") => {
                    let text = field::required(item, "address", &path)?;
                    Ok(Some(field::address(text, &path.field("address"))?))
                }
                _ => Ok(None),
            }
        };
        // In the object's order: the first one of a family stands for the node.
        let address = problems.note(read()).flatten();
        node.addresses
            .extend(address.filter(|address| !node.addresses.contains(address)));
    }
    Ok(())
}
