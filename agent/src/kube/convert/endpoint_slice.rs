//! EndpointSlice: where a Service leads.

use serde_json::Value;

use super::field::{self, Fields, Path};
use super::metadata::Metadata;
use crate::kube::object::{EndpointSlice, SliceEndpoint, SlicePort};
use crate::kube::problem::{Problem, Problems};

/// The label that names the Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn convert(
    metadata: &Metadata,
    fields: &Fields,
    problems: &mut Problems,
) -> EndpointSlice {
    let mut slice = EndpointSlice {
        service: metadata.labels.get(SERVICE_LABEL).cloned(),
        ..EndpointSlice::default()
    };
    let result = read(fields, problems, &mut slice);
    problems.note(result);
    slice
}

fn read(
    fields: &Fields,
    problems: &mut Problems,
    slice: &mut EndpointSlice,
) -> Result<(), Problem> {
    // FQDN slices hold names; nothing on the node translates to a name.
    if !matches!(
        field::string(fields, "addressType", &Path::Root)?,
        Some("IPv4" | "IPv6")
    ) {
        return Ok(());
    }
    let path = Path::Root.field("endpoints");
    for (index, item) in field::list(fields, "endpoints", &Path::Root)?
        .iter()
        .enumerate()
    {
        slice
            .endpoints
            .extend(problems.note(endpoint(item, &path.item(index))));
    }
    let path = Path::Root.field("ports");
    for (index, item) in field::list(fields, "ports", &Path::Root)?
        .iter()
        .enumerate()
    {
        slice
            .ports
            .extend(problems.note(port(item, &path.item(index))));
    }
    Ok(())
}

fn endpoint(item: &Value, path: &Path<'_>) -> Result<SliceEndpoint, Problem> {
    let item = field::as_object(item, path)?;
    let list_path = path.field("addresses");
    let addresses = field::list(item, "addresses", path)?
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let path = list_path.item(index);
            field::address(field::as_string(value, &path)?, &path)
        })
        .collect::<Result<_, _>>()?;
    let ready = match field::object(item, "conditions", path)? {
        Some(conditions) => {
            field::boolean(conditions, "ready", &path.field("conditions"))?.unwrap_or(true)
        }
        None => true,
    };
    Ok(SliceEndpoint { addresses, ready })
}

fn port(item: &Value, path: &Path<'_>) -> Result<SlicePort, Problem> {
    let item = field::as_object(item, path)?;
    Ok(SlicePort {
        name: field::string(item, "name", path)?
            .unwrap_or_default()
            .to_owned(),
        protocol: field::protocol(item, path)?,
        number: field::value(item, "port")
            .map(|value| field::port(value, &path.field("port")))
            .transpose()?,
    })
}
