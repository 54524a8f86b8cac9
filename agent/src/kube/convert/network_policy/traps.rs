//! What a NetworkPolicy that can be read says and people read otherwise. The compiler's model no longer shows it: there, a missing list and an empty one
//! are one thing, and rules of a direction that is not governed are gone.
//!
//! For lints of files only: the agent never asks. Nothing is said of what could not be read, for that matches nothing.

use portcullis_policy::lint::Check;
use portcullis_policy::model::Policy;
use serde_json::Value;

use super::{Side, strict_network};
use crate::kube::convert::field::{self, Fields, Path};
use crate::kube::problem::{Problem, Reason};

/// A field that means something else than it seems to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Which trap.
    pub check: Check,
    /// Path within the object.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What it means.
    pub problem: String,
}

impl Trap {
    fn new(
        check: Check,
        path: &Path<'_>,
        value: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            check,
            field: path.to_string(),
            value: value.into(),
            problem: problem.into(),
        }
    }
}

/// The traps in the object behind `policy`, which was read with these problems.
pub(in crate::kube) fn traps(value: &Value, policy: &Policy, problems: &[Problem]) -> Vec<Trap> {
    let withheld = |problem: &Problem| problem.reason == Reason::RulesWithheld;
    let nothing = Value::Object(Fields::new());
    let spec = match value.get("spec") {
        None | Some(Value::Null) => &nothing,
        Some(spec) => spec,
    };
    let Some(spec) = spec.as_object() else {
        return Vec::new();
    };
    if problems.iter().any(withheld) {
        return Vec::new();
    }
    let mut traps = Vec::new();
    let root = Path::Root;
    let path = root.field("spec");
    if let Some(written) = nothing_at(spec, "podSelector", true) {
        traps.push(Trap::new(
            Check::MissingSelector,
            &path.field("podSelector"),
            written,
            "not given, so it selects all pods of its namespace",
        ));
    }
    directions(spec, &path, policy, &mut traps);
    for (side, rules) in [
        (Side::Ingress, &policy.ingress),
        (Side::Egress, &policy.egress),
    ] {
        let (Some(rules), Ok(items)) = (rules, field::list(spec, side.list(), &path)) else {
            continue;
        };
        let list_path = path.field(side.list());
        for (index, (rule, item)) in rules.iter().zip(items).enumerate() {
            if let (false, Some(item)) = (rule.is_unread(), item.as_object()) {
                in_rule(item, side, &list_path.item(index), &mut traps);
            }
        }
    }
    traps
}

/// Lists of rules against what the policy governs (policy-spec N2).
fn directions(spec: &Fields, path: &Path<'_>, policy: &Policy, traps: &mut Vec<Trap>) {
    let Ok(types) = field::list(spec, "policyTypes", path) else {
        return;
    };
    for (side, name, governed) in [
        (Side::Ingress, "Ingress", policy.ingress.is_some()),
        (Side::Egress, "Egress", policy.egress.is_some()),
    ] {
        let (list, path) = (side.list(), path.field(side.list()));
        let why = if types.is_empty() {
            format!("without policyTypes the policy does not govern {list}")
        } else {
            format!("policyTypes leaves {name} out")
        };
        match spec.get(list) {
            Some(Value::Array(rules)) if !governed && !rules.is_empty() => {
                let (value, problem) =
                    (count(rules.len()), format!("{why}, so they have no effect"));
                traps.push(Trap::new(Check::IgnoredRules, &path, value, problem));
            }
            Some(Value::Array(_) | Value::Null) if !governed => {
                let value = nothing_at(spec, list, false).unwrap_or_default();
                let problem = format!("{why}, so this denies nothing");
                traps.push(Trap::new(Check::NotIsolated, &path, value, problem));
            }
            _ => {}
        }
    }
    let missing = |name: &str| field::value(spec, name).is_none();
    let has_egress = policy
        .egress
        .as_ref()
        .is_some_and(|rules| !rules.is_empty());
    if types.is_empty() && has_egress && missing("ingress") {
        traps.push(Trap::new(
            Check::IngressDeniedToo,
            &path.field("policyTypes"),
            nothing_at(spec, "policyTypes", true).unwrap_or_default(),
            "without policyTypes the policy governs ingress too: having no rule for it, it denies all ingress of the pods it selects",
        ));
    }
}

fn in_rule(rule: &Fields, side: Side, path: &Path<'_>, traps: &mut Vec<Trap>) {
    if let Some(value) = nothing_at(rule, side.peers(), false) {
        traps.push(Trap::new(
            Check::EmptyPeers,
            &path.field(side.peers()),
            value,
            "an empty list means everyone: all pods, nodes and the outside",
        ));
    }
    if let Some(value) = nothing_at(rule, "ports", false) {
        traps.push(Trap::new(
            Check::EmptyPorts,
            &path.field("ports"),
            value,
            "an empty list means every port of every protocol",
        ));
    }
    let ports_path = path.field("ports");
    let ports = field::list(rule, "ports", path).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let Some(port) = port.as_object() else {
            continue;
        };
        let path = ports_path.item(index);
        if port.values().all(Value::is_null) {
            let problem = "an empty entry means every TCP port, and no other protocol";
            traps.push(Trap::new(Check::EmptyPort, &path, "{}", problem));
        }
        if let Some(end) = field::value(port, "endPort")
            && field::value(port, "port") == Some(end)
        {
            let path = path.field("endPort");
            let problem = "the same as port, so this is one port without it too";
            traps.push(Trap::new(
                Check::RedundantPort,
                &path,
                end.to_string(),
                problem,
            ));
        }
    }
    let peers_path = path.field(side.peers());
    let peers = field::list(rule, side.peers(), path).unwrap_or_default();
    for (index, peer) in peers.iter().enumerate() {
        let path = peers_path.item(index);
        let path = path.field("ipBlock");
        let Some(block) = peer.get("ipBlock").and_then(Value::as_object) else {
            continue;
        };
        host_bits(block.get("cidr"), &path.field("cidr"), traps);
        let except_path = path.field("except");
        let except = field::list(block, "except", &path).unwrap_or_default();
        for (index, except) in except.iter().enumerate() {
            host_bits(Some(except), &except_path.item(index), traps);
        }
    }
}

fn host_bits(cidr: Option<&Value>, path: &Path<'_>, traps: &mut Vec<Trap>) {
    let Some(text) = cidr.and_then(Value::as_str) else {
        return;
    };
    if let Some(network) = strict_network(text)
        && network != network.trunc()
    {
        let problem = format!(
            "bits behind the length do not count: it is read as {}",
            network.trunc()
        );
        traps.push(Trap::new(Check::HostBits, path, text, problem));
    }
}

/// What is written where nothing stands: an empty list, null, or `missing` if a missing field counts too.
fn nothing_at(fields: &Fields, name: &str, missing: bool) -> Option<&'static str> {
    match fields.get(name) {
        None if missing => Some("missing"),
        Some(Value::Null) => Some("null"),
        Some(Value::Array(items)) if items.is_empty() => Some("[]"),
        _ => None,
    }
}

fn count(rules: usize) -> String {
    match rules {
        1 => "1 rule".to_owned(),
        rules => format!("{rules} rules"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::convert::{convert, identify};
    use crate::kube::{Kind, Object};

    /// The traps of a policy with this `spec`, as `check field value`.
    fn of(spec: &str) -> Vec<String> {
        let yaml = format!("metadata: {{name: p, namespace: shop}}\nspec: {spec}\n");
        let value: Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}"));
        let entry = convert(
            identify(Kind::NetworkPolicy, &value).expect("it has a name"),
            &value,
            &crate::kube::Keep::nothing(),
        );
        let Some(Object::Policy(policy)) = &entry.object else {
            panic!("a NetworkPolicy always yields a policy");
        };
        let traps = traps(&value, policy, &entry.problems);
        let lines = traps
            .iter()
            .map(|trap| format!("{} {} {}", trap.check, trap.field, trap.value));
        lines.collect()
    }

    #[test]
    fn what_is_empty_and_what_is_missing_are_told_apart() {
        let cases: &[(&str, &[&str])] = &[
            // Plain policies have no traps.
            ("{podSelector: {}, ingress: [{}]}", &[]),
            ("{podSelector: {}, policyTypes: [Ingress, Egress]}", &[]),
            ("{podSelector: {}, policyTypes: [Egress], egress: []}", &[]),
            ("{podSelector: {}, ingress: []}", &[]),
            (
                "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: 90}, {protocol: TCP}]}]}",
                &[],
            ),
            // Subjects.
            ("{}", &["missing-selector spec.podSelector missing"]),
            ("~", &["missing-selector spec.podSelector missing"]),
            (
                "{podSelector: ~, ingress: []}",
                &["missing-selector spec.podSelector null"],
            ),
            // Directions.
            (
                "{podSelector: {}, egress: []}",
                &["not-isolated spec.egress []"],
            ),
            (
                "{podSelector: {}, policyTypes: [], egress: ~}",
                &["not-isolated spec.egress null"],
            ),
            (
                "{podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: []}",
                &["not-isolated spec.egress []"],
            ),
            (
                "{podSelector: {}, policyTypes: [Ingress], egress: [{}, {}]}",
                &["ignored-rules spec.egress 2 rules"],
            ),
            (
                "{podSelector: {}, policyTypes: [Egress], ingress: [{}]}",
                &["ignored-rules spec.ingress 1 rule"],
            ),
            (
                "{podSelector: {}, egress: [{}]}",
                &["ingress-denied-too spec.policyTypes missing"],
            ),
            (
                "{podSelector: {}, policyTypes: [], ingress: ~, egress: [{}]}",
                &["ingress-denied-too spec.policyTypes []"],
            ),
            ("{podSelector: {}, ingress: [], egress: [{}]}", &[]),
            (
                "{podSelector: {}, policyTypes: [Egress], egress: [{}]}",
                &[],
            ),
            // Rules.
            (
                "{podSelector: {}, ingress: [{from: []}, {from: ~, ports: []}]}",
                &[
                    "empty-peers spec.ingress[0].from []",
                    "empty-peers spec.ingress[1].from null",
                    "empty-ports spec.ingress[1].ports []",
                ],
            ),
            (
                "{podSelector: {}, policyTypes: [Egress], egress: [{to: []}]}",
                &["empty-peers spec.egress[0].to []"],
            ),
            (
                "{podSelector: {}, ingress: [{ports: [{}, {port: ~}]}]}",
                &[
                    "empty-port spec.ingress[0].ports[0] {}",
                    "empty-port spec.ingress[0].ports[1] {}",
                ],
            ),
            (
                "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 80}]}]}",
                &["redundant-port spec.ingress[0].ports[0].endPort 80"],
            ),
            (
                "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.2.3/16, 10.2.0.0/16]}}]}]}",
                &[
                    "host-bits spec.ingress[0].from[0].ipBlock.cidr 10.1.2.3/8",
                    "host-bits spec.ingress[0].from[0].ipBlock.except[0] 10.1.2.3/16",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(of(spec), *expected, "{spec}");
        }
    }

    #[test]
    fn what_could_not_be_read_has_no_traps() {
        for spec in [
            "text",
            "{podSelectr: {}, ingress: [{from: []}]}",
            "{podSelector: [], ingress: [{from: []}]}",
            "{podSelector: {}, ingress: [{from: [], form: []}]}",
            "{podSelector: {}, ingress: [{from: [], ports: [{port: 0}]}]}",
            "{podSelector: {}, ingress: {}}",
        ] {
            assert_eq!(of(spec), [] as [&str; 0], "{spec}");
        }
    }
}
