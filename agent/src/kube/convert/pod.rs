//! Pod: who it is, what it is called, which addresses it owns now.
//!
//! Refused as a whole: a pod whose labels, node, account, network mode or phase cannot be read; its interface is then an unknown pod's, closed.
//! Reported and left out: a single address or port that cannot be read; the pod stands without it.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_policy::model::{NamedPort, Workload};
use serde_json::Value;

use super::field::{self, Fields, Path};
use super::metadata::Metadata;
use crate::kube::object::{HostPort, Key, Pod};
use crate::kube::problem::{Problem, Problems, Reason, excerpt};

/// With a deletionTimestamp and an empty value: the CNI took the addresses back (policy-spec A5).
const WITHDRAWN: [&str; 2] = ["cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips"];

/// On the mirror of a static pod: the uid under which the kubelet runs it. Only nodes may set it (admission plugin `NodeRestriction`).
const STATIC_UID: &str = "kubernetes.io/config.mirror";

pub(super) fn convert(
    key: &Key,
    metadata: Metadata,
    fields: &Fields,
    problems: &mut Problems,
) -> Option<Pod> {
    let core = problems.note(Core::read(fields))?;
    let mut named = Vec::new();
    let mut host_ports = Vec::new();
    if let Some(spec) = core.spec {
        let path = Path::Root.field("spec");
        for (list, sidecars_only) in [("containers", false), ("initContainers", true)] {
            let result = containers(
                spec,
                list,
                sidecars_only,
                &path,
                problems,
                &mut named,
                &mut host_ports,
            );
            problems.note(result);
        }
    }
    named.sort_unstable();
    named.dedup();
    host_ports.sort_unstable();
    host_ports.dedup();

    let withdrawn = metadata.terminating
        && WITHDRAWN.iter().any(|name| {
            metadata
                .annotations
                .get(*name)
                .is_some_and(String::is_empty)
        });
    let owns_addresses = !(core.host_network || core.finished || withdrawn);
    let mut addresses = match core.status {
        Some(status) if owns_addresses => addresses(status, problems),
        _ => Vec::new(),
    };
    // There are records by the hundred thousand.
    addresses.shrink_to_fit();
    if core.host_network || core.finished {
        host_ports.clear();
    }
    Some(Pod {
        created_secs: metadata.created_secs,
        terminating: metadata.terminating,
        withdrawn,
        static_uid: metadata
            .annotations
            .get(STATIC_UID)
            .map(|uid| uid.as_str().into()),
        host_ports: host_ports.into(),
        tokens: core.spec.map(tokens).unwrap_or_default(),
        workload: Arc::new(Workload {
            uid: metadata.uid,
            namespace: key.namespace.clone().unwrap_or_default(),
            name: metadata.name,
            labels: metadata.labels.into(),
            service_account: core.service_account.into(),
            node: core.node.map(Into::into),
            addresses,
            host_network: core.host_network,
            finished: core.finished,
            ports: named.into(),
        }),
    })
}

/// What cannot be read is no token: the pod is asked for none, and gets credentials in another way.
fn tokens(spec: &Fields) -> Box<[Box<str>]> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
    let mut audiences: Vec<Box<str>> = list(spec.get("volumes"))
        .unwrap_or_default()
        .iter()
        .filter_map(|volume| list(volume.pointer("/projected/sources")))
        .flatten()
        .filter_map(|source| {
            let audience = source.pointer("/serviceAccountToken/audience")?.as_str()?;
            (!audience.is_empty()).then(|| audience.into())
        })
        .collect();
    audiences.sort_unstable();
    audiences.dedup();
    audiences.into()
}

/// `spec.nodeName`, without a look at anything else.
pub(in crate::kube) fn node_name(fields: &Fields) -> Option<&str> {
    fields.get("spec")?.get("nodeName")?.as_str()
}

/// What a pod cannot do without.
struct Core<'v> {
    spec: Option<&'v Fields>,
    status: Option<&'v Fields>,
    node: Option<String>,
    service_account: String,
    host_network: bool,
    finished: bool,
}

impl<'v> Core<'v> {
    fn read(fields: &'v Fields) -> Result<Self, Problem> {
        let spec = field::object(fields, "spec", &Path::Root)?;
        let status = field::object(fields, "status", &Path::Root)?;
        let mut core = Core {
            spec,
            status,
            node: None,
            service_account: "default".to_owned(),
            host_network: false,
            finished: false,
        };
        if let Some(spec) = spec {
            let path = Path::Root.field("spec");
            let filled =
                |name| Ok(field::string(spec, name, &path)?.filter(|text| !text.is_empty()));
            core.node = filled("nodeName")?.map(str::to_owned);
            // `serviceAccount` is the deprecated alias; the API server keeps both equal, a file may have either.
            if let Some(account) = filled("serviceAccountName")?.or(filled("serviceAccount")?) {
                account.clone_into(&mut core.service_account);
            }
            core.host_network = field::boolean(spec, "hostNetwork", &path)?.unwrap_or(false);
        }
        if let Some(status) = status {
            let phase = field::string(status, "phase", &Path::Root.field("status"))?;
            core.finished = matches!(phase, Some("Succeeded" | "Failed"));
        }
        Ok(core)
    }
}

/// `podIPs`, else `podIP` (A2).
fn addresses(status: &Fields, problems: &mut Problems) -> Vec<IpAddr> {
    let path = Path::Root.field("status");
    // In the object's order: the first one's family is the pod's own.
    let mut addresses = Vec::new();
    let mut add = |text: &str, path: &Path<'_>, problems: &mut Problems| {
        // The kubelet writes an empty one while there is none.
        if !text.is_empty()
            && let Some(address) = problems.note(field::address(text, path))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    };
    let list = problems
        .note(field::list(status, "podIPs", &path))
        .unwrap_or_default();
    let list_path = path.field("podIPs");
    for (index, item) in list.iter().enumerate() {
        let path = list_path.item(index);
        let read = || field::string(field::as_object(item, &path)?, "ip", &path);
        if let Some(text) = problems.note(read()).flatten() {
            add(text, &path.field("ip"), problems);
        }
    }
    if list.is_empty()
        && let Some(text) = problems
            .note(field::string(status, "podIP", &path))
            .flatten()
    {
        add(text, &path.field("podIP"), problems);
    }
    addresses
}

fn containers(
    spec: &Fields,
    list: &str,
    sidecars_only: bool,
    path: &Path<'_>,
    problems: &mut Problems,
    named: &mut Vec<NamedPort>,
    host_ports: &mut Vec<HostPort>,
) -> Result<(), Problem> {
    let list_path = path.field(list);
    for (index, item) in field::list(spec, list, path)?.iter().enumerate() {
        let path = list_path.item(index);
        let ports = || {
            let container = field::as_object(item, &path)?;
            let sidecar = field::string(container, "restartPolicy", &path)? == Some("Always");
            if sidecars_only && !sidecar {
                return Ok(&[][..]);
            }
            field::list(container, "ports", &path)
        };
        let ports_path = path.field("ports");
        for (index, item) in problems
            .note(ports())
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let result = container_port(item, &ports_path.item(index));
            if let Some((name, host_port)) = problems.note(result) {
                named.extend(name);
                host_ports.extend(host_port);
            }
        }
    }
    Ok(())
}

fn container_port(
    item: &Value,
    path: &Path<'_>,
) -> Result<(Option<NamedPort>, Option<HostPort>), Problem> {
    let item = field::as_object(item, path)?;
    let protocol = field::protocol(item, path)?;
    let number = field::value(item, "containerPort")
        .map(|value| field::port(value, &path.field("containerPort")))
        .transpose()?;
    let name = field::string(item, "name", path)?.filter(|name| !name.is_empty());
    let name = match (name, number) {
        (Some(name), Some(number)) => Some(NamedPort {
            name: name.to_owned(),
            protocol,
            number,
        }),
        (Some(_), None) => return Err(path.field("containerPort").problem(Reason::Missing)),
        (None, _) => None,
    };
    let host_port = match field::value(item, "hostPort").filter(|value| value.as_u64() != Some(0)) {
        Some(value) => Some(HostPort {
            address: host_address(item, path)?,
            port: field::port(value, &path.field("hostPort"))?,
            protocol,
        }),
        None => None,
    };
    Ok((name, host_port))
}

/// `hostIP`; missing, empty and unspecified ones are every address of the node.
fn host_address(item: &Fields, path: &Path<'_>) -> Result<Option<IpAddr>, Problem> {
    match field::string(item, "hostIP", path)? {
        None | Some("") => Ok(None),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(address) => Ok((!address.is_unspecified()).then_some(address)),
            Err(_) => Err(path.field("hostIP").problem(Reason::Address(excerpt(text)))),
        },
    }
}
