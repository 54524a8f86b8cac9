//! Service: every address and port at which the node's proxy may translate. What is not listed here is judged by policy at the pod's own interface,
//! so an entry too many only moves the verdict behind the translation, and one too few would judge an untranslated address (policy-spec S2).

use std::net::IpAddr;

use serde_json::Value;

use super::field::{self, Fields, Path};
use crate::kube::object::{Service, ServicePort, Way};
use crate::kube::problem::{Problem, Problems};

pub(super) fn convert(fields: &Fields, problems: &mut Problems) -> Service {
    let mut service = Service::default();
    let result = spec(fields, problems, &mut service);
    problems.note(result);
    let result = load_balancer(fields, problems, &mut service);
    problems.note(result);
    service.addresses.sort_unstable();
    service.addresses.dedup();
    service
}

fn spec(fields: &Fields, problems: &mut Problems, service: &mut Service) -> Result<(), Problem> {
    let path = Path::Root.field("spec");
    let Some(spec) = field::object(fields, "spec", &Path::Root)? else {
        return Ok(());
    };
    // ExternalName is a DNS answer: nothing is translated.
    if field::string(spec, "type", &path)? == Some("ExternalName") {
        service.way = Way::External;
        return Ok(());
    }
    let cluster = field::list(spec, "clusterIPs", &path)?;
    let first = cluster.first().or_else(|| field::value(spec, "clusterIP"));
    if first.is_some_and(|address| address == "None") {
        service.way = Way::Headless;
    }
    if cluster.is_empty() {
        if let Some(value) = field::value(spec, "clusterIP") {
            service.addresses.extend(
                problems
                    .note(address(value, &path.field("clusterIP")))
                    .flatten(),
            );
        }
    } else {
        addresses(cluster, &path.field("clusterIPs"), problems, service);
    }
    addresses(
        field::list(spec, "externalIPs", &path)?,
        &path.field("externalIPs"),
        problems,
        service,
    );

    let list_path = path.field("ports");
    for (index, item) in field::list(spec, "ports", &path)?.iter().enumerate() {
        let path = list_path.item(index);
        let mut read = || {
            let item = field::as_object(item, &path)?;
            let protocol = field::protocol(item, &path)?;
            if let Some(value) = field::value(item, "port") {
                service.ports.push(ServicePort {
                    // For people only: whatever it is, the port is translated.
                    name: field::value(item, "name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .into(),
                    number: field::port(value, &path.field("port"))?,
                    protocol,
                });
            }
            // 0 asks the API server for a number; a file shows it as written.
            if let Some(value) =
                field::value(item, "nodePort").filter(|value| value.as_u64() != Some(0))
            {
                service
                    .node_ports
                    .push((field::port(value, &path.field("nodePort"))?, protocol));
            }
            Ok(())
        };
        let result = read();
        problems.note(result);
    }
    Ok(())
}

fn load_balancer(
    fields: &Fields,
    problems: &mut Problems,
    service: &mut Service,
) -> Result<(), Problem> {
    let status_path = Path::Root.field("status");
    let Some(status) = field::object(fields, "status", &Path::Root)? else {
        return Ok(());
    };
    let Some(balancer) = field::object(status, "loadBalancer", &status_path)? else {
        return Ok(());
    };
    let path = status_path.field("loadBalancer");
    let list_path = path.field("ingress");
    for (index, item) in field::list(balancer, "ingress", &path)?.iter().enumerate() {
        let path = list_path.item(index);
        let read = || {
            let item = field::as_object(item, &path)?;
            field::value(item, "ip")
                .map(|value| address(value, &path.field("ip")))
                .transpose()
        };
        service
            .addresses
            .extend(problems.note(read()).flatten().flatten());
    }
    Ok(())
}

fn addresses(items: &[Value], path: &Path<'_>, problems: &mut Problems, service: &mut Service) {
    for (index, item) in items.iter().enumerate() {
        service
            .addresses
            .extend(problems.note(address(item, &path.item(index))).flatten());
    }
}

/// An address; `None` for a headless Service and for one that has none yet.
fn address(value: &Value, path: &Path<'_>) -> Result<Option<IpAddr>, Problem> {
    match field::as_string(value, path)? {
        "" | "None" => Ok(None),
        text => field::address(text, path).map(Some),
    }
}
