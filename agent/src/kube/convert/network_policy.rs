//! NetworkPolicy: the compiler's policy, or as much of it as can be understood without opening anything (policy-spec 6.1).
//!
//! | unreadable | then |
//! |---|---|
//! | a rule, or an unknown field anywhere in it | the rule keeps its number and matches nothing |
//! | `ingress`, `egress` | governs that direction if `policyTypes` does not say otherwise; allows nothing |
//! | `policyTypes` | governs both directions; only those that were readably listed keep their rules |
//! | `podSelector` | all pods of the namespace, in the directions it governs; no rule is applied, for it would open pods it was not written for |
//! | `spec`, or an unknown field in it or beside it | as above, and it governs both directions |
//!
//! What can be read and means something else than it seems to is for lints (`traps`).
//!
//! Null is missing, but a null entry of a list is unreadable: the API server's decoder would take it for the empty rule, which allows everything.

mod traps;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use portcullis_policy::model::{
    LabelSelector, NamespaceScope, Peer, Peers, PodSelector, Policy, PolicyKind, PolicyRef, Port,
    PortMatch, Ports, Rule, RuleAction,
};
use serde_json::Value;

use super::field::{self, Fields, Path, only};
use super::selector::optional_selector;
use crate::kube::object::Key;
use crate::kube::problem::{Problem, Problems, Reason, excerpt};

pub use traps::Trap;
pub(in crate::kube) use traps::traps;

/// The tier of every NetworkPolicy, and its order there (policy-spec 5.1).
const TIER: &str = "default";
const ORDER: f64 = 1000.0;

/// The policy of this name when nothing of it can be read: all pods of its namespace, both directions, nothing allowed.
pub(in crate::kube) fn closed(key: &Key) -> Policy {
    let namespace = key.namespace.clone().unwrap_or_default();
    Policy {
        name: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.clone()),
            name: key.name.clone(),
        },
        tier: TIER.to_owned(),
        order: ORDER,
        subject: PodSelector {
            namespaces: NamespaceScope::Named(namespace),
            pods: LabelSelector::default(),
        },
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
    }
}

pub(super) fn convert(key: &Key, fields: &Fields, problems: &mut Problems) -> Policy {
    let mut policy = closed(key);
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let root = Path::Root;
    let path = root.field("spec");
    let mut withheld = problems
        .note(only(
            fields,
            &["apiVersion", "kind", "metadata", "spec", "status"],
            &root,
        ))
        .is_none();
    let no_spec = Fields::new();
    let spec = match problems.note(field::object(fields, "spec", &root)) {
        Some(spec) => spec.unwrap_or(&no_spec),
        None => return policy,
    };
    withheld |= problems
        .note(only(
            spec,
            &["podSelector", "policyTypes", "ingress", "egress"],
            &path,
        ))
        .is_none();
    let governed = if withheld {
        Governed::Both
    } else {
        governed(spec, &path, problems)
    };

    match problems.note(optional_selector(spec, "podSelector", &path)) {
        // What stands beside it and is not known may have widened it.
        Some(_) if withheld => {}
        Some(selector) => policy.subject.pods = selector.unwrap_or_default(),
        None => withheld = true,
    }
    let ingress = rules(spec, Side::Ingress, namespace, &path, problems);
    let egress = rules(spec, Side::Egress, namespace, &path, problems);
    let (ingress, egress) = match governed {
        Governed::Both => (Some(ingress), Some(egress)),
        Governed::Ingress => (Some(ingress), None),
        Governed::Egress => (None, Some(egress)),
        Governed::BothUnread {
            ingress: keep_ingress,
            egress: keep_egress,
        } => (
            Some(if keep_ingress { ingress } else { Vec::new() }),
            Some(if keep_egress { egress } else { Vec::new() }),
        ),
    };
    if withheld {
        problems.push(path.problem(Reason::RulesWithheld));
        policy.ingress = ingress.map(|_| Vec::new());
        policy.egress = egress.map(|_| Vec::new());
    } else {
        policy.ingress = ingress;
        policy.egress = egress;
    }
    policy
}

#[derive(Clone, Copy)]
enum Governed {
    Ingress,
    Egress,
    Both,
    /// `policyTypes` is unreadable; what it readably lists keeps its rules.
    BothUnread {
        ingress: bool,
        egress: bool,
    },
}

/// Which directions the policy governs (N2).
fn governed(spec: &Fields, path: &Path<'_>, problems: &mut Problems) -> Governed {
    let Some(types) = problems.note(field::list(spec, "policyTypes", path)) else {
        return Governed::BothUnread {
            ingress: false,
            egress: false,
        };
    };
    if types.is_empty() {
        // An unreadable list may have held a rule.
        return match field::list(spec, "egress", path) {
            Ok([]) => Governed::Ingress,
            _ => Governed::Both,
        };
    }
    let (mut ingress, mut egress, mut unread) = (false, false, false);
    let list_path = path.field("policyTypes");
    for (index, item) in types.iter().enumerate() {
        let path = list_path.item(index);
        match item {
            Value::String(name) if name == "Ingress" => ingress = true,
            Value::String(name) if name == "Egress" => egress = true,
            other => {
                unread = true;
                problems.push(match other {
                    Value::String(name) => path.problem(Reason::PolicyType(excerpt(name))),
                    other => path.unexpected("Ingress or Egress", other),
                });
            }
        }
    }
    match (unread, ingress, egress) {
        (true, ingress, egress) => Governed::BothUnread { ingress, egress },
        (false, true, false) => Governed::Ingress,
        (false, false, true) => Governed::Egress,
        (false, _, _) => Governed::Both,
    }
}

#[derive(Clone, Copy)]
enum Side {
    Ingress,
    Egress,
}

impl Side {
    fn list(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn peers(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

fn rules(
    spec: &Fields,
    side: Side,
    namespace: &str,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Vec<Rule> {
    let Some(items) = problems.note(field::list(spec, side.list(), path)) else {
        return Vec::new();
    };
    let list_path = path.field(side.list());
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            problems
                .note(rule(item, side, namespace, &list_path.item(index)))
                .unwrap_or(Rule::unread())
        })
        .collect()
}

fn rule(item: &Value, side: Side, namespace: &str, path: &Path<'_>) -> Result<Rule, Problem> {
    let item = field::as_object(item, path)?;
    only(item, &[side.peers(), "ports"], path)?;
    let peers_path = path.field(side.peers());
    let peers = field::list(item, side.peers(), path)?
        .iter()
        .enumerate()
        .map(|(index, item)| peer(item, namespace, &peers_path.item(index)))
        .collect::<Result<Vec<_>, _>>()?;
    let ports_path = path.field("ports");
    let ports = field::list(item, "ports", path)?
        .iter()
        .enumerate()
        .map(|(index, item)| port(item, &ports_path.item(index)))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Rule {
        action: RuleAction::Allow,
        peers: if peers.is_empty() {
            Peers::Any
        } else {
            Peers::OneOf(peers)
        },
        ports: if ports.is_empty() {
            Ports::Any
        } else {
            Ports::OneOf(ports)
        },
    })
}

fn peer(item: &Value, namespace: &str, path: &Path<'_>) -> Result<Peer, Problem> {
    let item = field::as_object(item, path)?;
    only(item, &["podSelector", "namespaceSelector", "ipBlock"], path)?;
    let pods = optional_selector(item, "podSelector", path)?;
    let namespaces = optional_selector(item, "namespaceSelector", path)?;
    let block = field::object(item, "ipBlock", path)?;
    match (pods, namespaces, block) {
        (None, None, None) => Err(path.problem(Reason::EmptyPeer)),
        (None, None, Some(block)) => ip_block(block, &path.field("ipBlock")),
        (_, _, Some(_)) => Err(path.problem(Reason::MixedPeer)),
        (pods, namespaces, None) => Ok(Peer::Pods(PodSelector {
            namespaces: namespaces.map_or_else(
                || NamespaceScope::Named(namespace.to_owned()),
                NamespaceScope::Selected,
            ),
            pods: pods.unwrap_or_default(),
        })),
    }
}

fn ip_block(block: &Fields, path: &Path<'_>) -> Result<Peer, Problem> {
    only(block, &["cidr", "except"], path)?;
    let cidr = network(field::required(block, "cidr", path)?, &path.field("cidr"))?;
    let list_path = path.field("except");
    let except = field::list(block, "except", path)?
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let path = list_path.item(index);
            let except = network(field::as_string(item, &path)?, &path)?;
            if except != cidr && cidr.contains(&except) {
                Ok(except)
            } else {
                Err(path.problem(Reason::ExceptOutside {
                    except: except.to_string(),
                    cidr: cidr.to_string(),
                }))
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Peer::Cidr { cidr, except })
}

/// A prefix, host bits masked (A9).
fn network(text: &str, path: &Path<'_>) -> Result<IpNet, Problem> {
    const MAPPED: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    let Some(network) = strict_network(text) else {
        return Err(path.problem(Reason::Cidr(excerpt(text))));
    };
    let network = network.trunc();
    if network.prefix_len() >= 96
        && let IpNet::V6(v6) = network
        && Ipv6Net::new(MAPPED, 96).is_ok_and(|mapped| mapped.contains(&v6))
    {
        return Err(path.problem(Reason::MappedCidr(excerpt(text))));
    }
    Ok(network)
}

/// std's parser and not ipnet's: an octet with a leading zero has two readings (CVE-2021-29921 and its kin).
fn strict_network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit())
        && !(length.len() > 1 && length.starts_with('0'));
    if !digits {
        return None;
    }
    IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()
}

fn port(item: &Value, path: &Path<'_>) -> Result<Port, Problem> {
    let item = field::as_object(item, path)?;
    only(item, &["protocol", "port", "endPort"], path)?;
    let protocol = field::protocol(item, path)?;
    let end_path = path.field("endPort");
    let end = field::value(item, "endPort")
        .map(|value| field::port(value, &end_path))
        .transpose()?;
    let path = path.field("port");
    let port = match (field::value(item, "port"), end) {
        (None, None) => PortMatch::All,
        (None | Some(Value::String(_)), Some(_)) => {
            return Err(end_path.problem(Reason::EndPortWithoutPort));
        }
        (Some(Value::String(name)), None) => {
            // "80" as text is neither a number nor a name (N19).
            if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
                return Err(path.problem(Reason::PortName(excerpt(name))));
            }
            PortMatch::Named(name.clone())
        }
        (Some(value), end) => {
            let first = field::port(value, &path)?;
            let last = end.unwrap_or(first);
            if last < first {
                return Err(end_path.problem(Reason::EndPortBelowPort {
                    end: last,
                    port: first,
                }));
            }
            PortMatch::Range(first, last)
        }
    };
    Ok(Port { protocol, port })
}

#[cfg(test)]
mod tests;
