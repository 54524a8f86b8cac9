//! From a file to its objects: lists are taken apart, types told, names read, each object converted or refused on its own.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::document::{self, Document};
use crate::kube::convert::{closed_policy, convert, identify, traps};
use crate::kube::problem::{excerpt, excerpt_value};
use crate::kube::{Entry, Keep, Key, Kind, Object, Problem, Reason, Trap};

/// Kinds without a say in policy: present in any real directory of manifests, and not worth a report each.
const SILENT_GROUPS: [&str; 12] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "coordination.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];
const SILENT_KINDS: [(&str, &str); 13] = [
    ("", "ConfigMap"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "LimitRange"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("", "ResourceQuota"),
    ("", "Secret"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "ServiceCIDR"),
];

/// What documents are read for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'k> {
    /// To be enforced, with these annotations.
    Enforce(&'k Keep),
    /// To be looked over: with the traps of policies, and the pods that other objects are going to make from templates.
    Lint,
}

/// One object and the document that it stands in.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) origin: String,
    /// A policy whose name is a guess from the text of an unreadable document: no other object may take its place.
    pub(super) guessed: bool,
    /// What it says and people read otherwise; only for [`Purpose::Lint`].
    pub(super) traps: Vec<Trap>,
}

impl Found {
    fn new(entry: Entry, origin: &str) -> Self {
        Self {
            entry,
            origin: origin.to_owned(),
            guessed: false,
            traps: Vec::new(),
        }
    }

    /// The policy under a name that only its document has.
    pub(super) fn by_its_document(&self) -> Entry {
        let key = Key {
            name: unreadable(&self.origin),
            ..self.entry.key.clone()
        };
        Entry {
            object: Some(Object::Policy(Arc::new(closed_policy(&key)))),
            problems: self.entry.problems.clone(),
            annotations: None,
            key,
        }
    }
}

/// All objects of one file.
pub(super) fn objects(file: &str, bytes: &[u8], purpose: Purpose<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    if Path::new(file)
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        for (index, result) in document::parse_json(bytes).into_iter().enumerate() {
            let origin = format!("{file}#{index}");
            document_objects(&origin, bytes, result, purpose, &mut found);
        }
    } else {
        for (index, document) in document::split(bytes).iter().enumerate() {
            let Document { text, .. } = *document;
            document_objects(
                &format!("{file}#{index}"),
                text,
                document::parse(document),
                purpose,
                &mut found,
            );
        }
    }
    found
}

fn document_objects(
    origin: &str,
    text: &[u8],
    result: Result<Value, Reason>,
    purpose: Purpose<'_>,
    found: &mut Vec<Found>,
) {
    match result {
        Ok(Value::Null) => {}
        Ok(mut value) => collect(&mut value, None, origin, purpose, found),
        Err(reason) => {
            for (namespace, name) in document::salvage_policies(text) {
                found.push(Found {
                    guessed: true,
                    ..closing(namespace, name.as_deref(), origin, reason.clone())
                });
            }
            found.push(refused(origin, "", reason));
        }
    }
}

/// A document that is no object of any kind we read.
pub(super) fn refused(origin: &str, field: &str, reason: Reason) -> Found {
    let key = Key {
        kind: Kind::Document,
        namespace: None,
        name: origin.to_owned(),
    };
    let problems = vec![Problem {
        field: field.to_owned(),
        reason,
    }];
    let entry = Entry {
        key,
        object: None,
        problems,
        annotations: None,
    };
    Found::new(entry, origin)
}

/// The objects of one document; `implied` is the type of a typed list's items, which do not repeat it. Lists in lists end with the depth to which
/// the parsers follow a document.
fn collect(
    value: &mut Value,
    implied: Option<(&str, &str)>,
    origin: &str,
    purpose: Purpose<'_>,
    found: &mut Vec<Found>,
) {
    let Some(fields) = value.as_object_mut() else {
        let reason = Reason::UnexpectedType {
            expected: "an object",
            found: excerpt_value(value),
        };
        found.push(refused(origin, "", reason));
        return;
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let api_version = text("apiVersion").or_else(|| implied.map(|(version, _)| version.to_owned()));
    let kind = text("kind").or_else(|| implied.map(|(_, kind)| kind.to_owned()));
    let (Some(api_version), Some(kind)) = (api_version.as_deref(), kind.as_deref()) else {
        // Without its type it may have been meant to isolate.
        if kind.as_deref() == Some("NetworkPolicy") {
            found.extend(closed(value, origin, Reason::Missing));
        }
        let field = if kind.is_none() { "kind" } else { "apiVersion" };
        found.push(refused(origin, field, Reason::Missing));
        return;
    };
    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(Value::Array(items)) = fields.get_mut("items")
    {
        let implied = (!item_kind.is_empty()).then_some((api_version, item_kind));
        for (index, item) in items.iter_mut().enumerate() {
            let origin = format!("{origin}[{index}]");
            collect(item, implied, &origin, purpose, found);
        }
        return;
    }
    let known = known_kind(api_version, kind);
    let nothing = Keep::nothing();
    let keep = match purpose {
        Purpose::Enforce(keep) => keep,
        Purpose::Lint => &nothing,
    };
    if known.is_none() && matches!(purpose, Purpose::Lint) {
        found.extend(template(kind, value, origin));
    }
    match known {
        Some(kind) => {
            normalize(kind, value);
            match identify(kind, value) {
                Ok(key) => {
                    let mut one = Found::new(convert(key, value, keep), origin);
                    if let (Purpose::Lint, Some(Object::Policy(policy))) =
                        (purpose, &one.entry.object)
                    {
                        one.traps = traps(value, policy, &one.entry.problems);
                    }
                    found.push(one);
                }
                Err(problem) => {
                    if kind == Kind::NetworkPolicy {
                        found.extend(closed(value, origin, problem.reason.clone()));
                    }
                    found.push(refused(origin, &problem.field, problem.reason));
                }
            }
        }
        None if is_silent(api_version, kind) => {}
        None => {
            let kind = excerpt(&format!("{api_version} {kind}"));
            found.push(refused(origin, "", Reason::UnknownKind(kind)));
        }
    }
}

/// The pod that an object makes from its template, whatever kind it is of; named after both, as no real pod can be.
fn template(kind: &str, value: &Value, origin: &str) -> Option<Found> {
    let templates = [
        "/spec/template",
        "/spec/jobTemplate/spec/template",
        "/template",
    ];
    let template = templates
        .iter()
        .filter_map(|path| value.pointer(path))
        .find(|template| {
            template
                .pointer("/spec/containers")
                .is_some_and(Value::is_array)
        })?;
    let metadata = value.get("metadata");
    let text = |name| metadata?.get(name)?.as_str();
    let name = text("name").or_else(|| text("generateName"));
    let key = Key {
        kind: Kind::Pod,
        namespace: Some(text("namespace").unwrap_or("default").to_owned()),
        name: format!("{} ({kind})", name.unwrap_or(origin)),
    };
    let labels = template.pointer("/metadata/labels");
    let mut pod = json!({"metadata": {"labels": labels}, "spec": template.get("spec")});
    normalize(Kind::Pod, &mut pod);
    Some(Found::new(convert(key, &pod, &Keep::nothing()), origin))
}

/// The policy that a NetworkPolicy without a proper name or type still is; `None` if not even its namespace can be told.
fn closed(value: &Value, origin: &str, reason: Reason) -> Option<Found> {
    let metadata = value.get("metadata");
    let namespace = match metadata.and_then(|metadata| metadata.get("namespace")) {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(namespace)) if namespace.is_empty() => "default".to_owned(),
        Some(Value::String(namespace)) => namespace.clone(),
        // A namespace may be called `5`; whoever writes so without quotes writes a number.
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => return None,
    };
    let name = metadata
        .and_then(|metadata| metadata.get("name"))
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty());
    Some(closing(namespace, name, origin, reason))
}

/// A policy that closes this namespace, as far as its name is known.
fn closing(namespace: String, name: Option<&str>, origin: &str, reason: Reason) -> Found {
    let key = Key {
        kind: Kind::NetworkPolicy,
        namespace: Some(namespace),
        name: name.map_or_else(|| unreadable(origin), str::to_owned),
    };
    let object = Some(Object::Policy(Arc::new(closed_policy(&key))));
    let problems = vec![Problem {
        field: String::new(),
        reason,
    }];
    let entry = Entry {
        key,
        object,
        problems,
        annotations: None,
    };
    Found::new(entry, origin)
}

/// A name for what has none. Kubernetes would not take it, so nothing else is called so.
fn unreadable(origin: &str) -> String {
    format!("unreadable document {origin}")
}

fn known_kind(api_version: &str, kind: &str) -> Option<Kind> {
    match (api_version, kind) {
        ("v1", "Namespace") => Some(Kind::Namespace),
        ("v1", "Node") => Some(Kind::Node),
        ("v1", "Pod") => Some(Kind::Pod),
        ("v1", "Service") => Some(Kind::Service),
        ("v1", "ServiceAccount") => Some(Kind::ServiceAccount),
        ("networking.k8s.io/v1", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        ("discovery.k8s.io/v1", "EndpointSlice") => Some(Kind::EndpointSlice),
        _ => None,
    }
}

fn is_silent(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    SILENT_GROUPS.contains(&group) || SILENT_KINDS.contains(&(group, kind))
}

/// Booleans as YAML 1.1 spells them, which kubectl accepts; everywhere else such words are text.
fn normalize(kind: Kind, value: &mut Value) {
    if kind == Kind::Pod
        && let Some(field) = value.pointer_mut("/spec/hostNetwork")
        && let Some(text) = field.as_str()
    {
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => *field = Value::Bool(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => *field = Value::Bool(false),
            _ => {}
        }
    }
}
