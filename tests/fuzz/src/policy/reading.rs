//! What an input says, read once more and in the simplest way: documents, the objects in them, and which policies nobody can follow.
//!
//! Shares the YAML library with the agent and nothing else.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use portcullis::kube::{Key, Kind};
use portcullis_policy::tables::Direction;
use serde_json::{Map, Value};

const API_VERSION: &str = "networking.k8s.io/v1";

/// A document of a YAML file.
pub(super) struct Document<'t> {
    pub(super) text: &'t [u8],
    /// `None`: it cannot be parsed.
    pub(super) value: Option<Value>,
}

/// A policy that is refused as a whole: these directions of all pods of its namespace have to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) namespace: String,
    /// Another object of this name may stand behind it and count instead.
    pub(super) name: Option<String>,
    ingress: bool,
    egress: bool,
}

impl Claim {
    fn both(namespace: String, name: Option<String>) -> Self {
        Self {
            namespace,
            name,
            ingress: true,
            egress: true,
        }
    }

    pub(super) fn holds(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Cuts a file at its lines of three dashes.
pub(super) fn documents(file: &[u8]) -> Vec<Document<'_>> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let marks = line.starts_with(b"---") && line.get(3).is_none_or(u8::is_ascii_whitespace);
        if marks && at > 0 {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([file.len()]);
    let texts = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &file[*start..end]);
    texts.map(Document::read).collect()
}

impl<'t> Document<'t> {
    fn read(text: &'t [u8]) -> Self {
        // More than the agent takes, so that what it reads is read here too, and not so much that a bomb of aliases costs seconds.
        let replayed = (8 * text.len()).max(2_000);
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { enforce_alias_anchor_ratio: false },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: replayed },
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            with_snippet: false,
        };
        let value = std::str::from_utf8(text)
            .ok()
            .and_then(|text| serde_saphyr::from_str_with_options(text, options).ok());
        Self { text, value }
    }

    /// Its objects, lists taken apart.
    pub(super) fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        if let Some(value) = &self.value {
            unfold(value, None, &mut objects);
        }
        objects
    }

    /// The policies in it that are refused as a whole.
    pub(super) fn claims(&self) -> Vec<Claim> {
        if self.value.is_some() {
            return self.objects().iter().filter_map(Object::claim).collect();
        }
        // Lines that nobody can misread, in a text that cannot be parsed.
        let text = String::from_utf8_lossy(self.text);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let kinds = ["kind: NetworkPolicy", "kind: NetworkPolicyList"];
        if !lines.iter().any(|line| kinds.contains(line)) {
            return Vec::new();
        }
        let plain = |name: &&str| {
            let known =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !name.is_empty() && name.len() < 64 && name.bytes().all(known)
        };
        let named = lines
            .iter()
            .filter_map(|line| line.strip_prefix("namespace: "));
        named
            .filter(plain)
            .map(|name| Claim::both(name.to_owned(), None))
            .collect()
    }
}

fn unfold(value: &Value, implied: Option<(&str, &str)>, objects: &mut Vec<Object>) {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let api_version = text("apiVersion").or(implied.map(|(version, _)| version));
    let kind = text("kind").or(implied.map(|(_, kind)| kind));
    if let (Some(version), Some(item)) =
        (api_version, kind.and_then(|kind| kind.strip_suffix("List")))
        && let Some(Value::Array(items)) = value.get("items")
    {
        let implied = Some((version, item)).filter(|_| !item.is_empty());
        for item in items {
            unfold(item, implied, objects);
        }
    } else if value.is_object() {
        objects.push(Object {
            api_version: api_version.map(str::to_owned),
            kind: kind.map(str::to_owned),
            value: value.clone(),
        });
    }
}

/// An object with its type, which its list may have said.
#[derive(Clone, Debug)]
pub(super) struct Object {
    api_version: Option<String>,
    kind: Option<String>,
    value: Value,
}

impl Object {
    pub(super) fn is_policy(&self) -> bool {
        self.kind.as_deref() == Some("NetworkPolicy")
            && self
                .api_version
                .as_deref()
                .is_none_or(|version| version == API_VERSION)
    }

    /// With its type written out.
    pub(super) fn typed(&self) -> Value {
        let mut value = self.value.clone();
        for (name, text) in [("apiVersion", &self.api_version), ("kind", &self.kind)] {
            if let Some(text) = text {
                value[name] = Value::String(text.clone());
            }
        }
        value
    }

    /// Whether the oracle, which reads JSON as Kubernetes does, would take a value for another one: a boolean that is written as a word of YAML 1.1,
    /// a namespace that is no text.
    pub(super) fn is_spelled_oddly(&self) -> bool {
        let is_word = self
            .value
            .pointer("/spec/hostNetwork")
            .is_some_and(Value::is_string);
        let namespace = self.value.pointer("/metadata/namespace");
        is_word || namespace.is_some_and(|namespace| !namespace.is_string() && !namespace.is_null())
    }

    pub(super) fn claims_name(&self, claim: &Claim) -> bool {
        self.namespace().as_ref() == Some(&claim.namespace) && self.name() == claim.name
    }

    pub(super) fn key(&self) -> Option<Key> {
        Some(Key {
            kind: Kind::NetworkPolicy,
            namespace: Some(self.namespace()?),
            name: self.name()?,
        })
    }

    /// What this policy has to close if it cannot be followed at all; `None` if its rules can be looked at one by one.
    pub(super) fn claim(&self) -> Option<Claim> {
        if !self.is_policy() {
            return None;
        }
        let claim = Claim::both(self.namespace()?, self.name());
        let no_fields = Map::new();
        let spec = match self.value.get("spec") {
            None | Some(Value::Null) => &no_fields,
            Some(Value::Object(spec)) => spec,
            Some(_) => return Some(claim),
        };
        let known = only(
            self.value.as_object()?,
            &["apiVersion", "kind", "metadata", "spec", "status"],
        ) && only(spec, &["podSelector", "policyTypes", "ingress", "egress"]);
        if !known || self.api_version.is_none() || self.name().is_none() {
            return Some(claim);
        }
        if spec.get("podSelector").is_none_or(can_select) {
            return None;
        }
        let (ingress, egress) = directions(spec);
        Some(Claim {
            ingress,
            egress,
            ..claim
        })
    }

    fn name(&self) -> Option<String> {
        let name = self.value.get("metadata")?.get("name")?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Missing and empty are `default`, a number is its digits; `None` if it is something else than text.
    fn namespace(&self) -> Option<String> {
        let namespace = match self.value.get("metadata") {
            None | Some(Value::Null) => None,
            Some(Value::Object(metadata)) => metadata.get("namespace"),
            Some(_) => return None,
        };
        match namespace {
            None | Some(Value::Null) => Some("default".to_owned()),
            Some(Value::String(name)) if name.is_empty() => Some("default".to_owned()),
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(_) => None,
        }
    }
}

fn only(fields: &Map<String, Value>, known: &[&str]) -> bool {
    fields.keys().all(|name| known.contains(&name.as_str()))
}

/// Whether a label selector means something; missing ones do.
fn can_select(value: &Value) -> bool {
    if value.is_null() {
        return true;
    }
    let Ok(selector) = serde_json::from_value::<LabelSelector>(value.clone()) else {
        return false;
    };
    let known = value
        .as_object()
        .is_some_and(|fields| only(fields, &["matchLabels", "matchExpressions"]));
    let written = value["matchExpressions"].as_array().into_iter().flatten();
    let known = known
        && written.into_iter().all(|expression| {
            let fields = expression.as_object();
            fields.is_some_and(|fields| only(fields, &["key", "operator", "values"]))
        });
    let expressions = selector.match_expressions.unwrap_or_default();
    known
        && expressions.iter().all(|expression| {
            let has_values = expression
                .values
                .as_ref()
                .is_some_and(|values| !values.is_empty());
            !expression.key.is_empty()
                && match expression.operator.as_str() {
                    "In" | "NotIn" => has_values,
                    "Exists" | "DoesNotExist" => !has_values,
                    _ => false,
                }
        })
}

/// Ingress and egress: whether a policy governs them, both if that cannot be read.
fn directions(spec: &Map<String, Value>) -> (bool, bool) {
    let lists = |types: &[Value], wanted| types.iter().any(|one| one == wanted);
    let may_have_rules = match spec.get("egress") {
        None | Some(Value::Null) => false,
        Some(Value::Array(rules)) => !rules.is_empty(),
        Some(_) => true,
    };
    match spec.get("policyTypes") {
        None | Some(Value::Null) => (true, may_have_rules),
        Some(Value::Array(types)) if types.is_empty() => (true, may_have_rules),
        Some(Value::Array(types))
            if types.iter().all(|one| one == "Ingress" || one == "Egress") =>
        {
            (lists(types, "Ingress"), lists(types, "Egress"))
        }
        Some(_) => (true, true),
    }
}

/// Of objects with one type, namespace and name the last one.
pub(super) fn last_of_each<'o>(objects: impl Iterator<Item = &'o Object>) -> Vec<Value> {
    let mut last = BTreeMap::new();
    for object in objects {
        let cluster_wide = matches!(object.kind.as_deref(), Some("Namespace" | "Node"));
        let namespace = object.namespace().filter(|_| !cluster_wide);
        if let Some(name) = object.name() {
            let kind = (object.api_version.clone(), object.kind.clone());
            last.insert((kind, namespace, name), object.typed());
        }
    }
    last.into_values().collect()
}

/// A JSON file of several objects.
pub(super) fn json_lines(values: &[Value]) -> Vec<u8> {
    let lines = values.iter().map(|value| value.to_string() + "\n");
    lines.collect::<String>().into_bytes()
}
