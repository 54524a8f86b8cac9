//! What kept a rule from matching, in one line: the part that missed, and what the packet has instead.
//!
//! Words only. Whether a part missed is the tables' business, and `steps` says which.

use std::collections::BTreeMap;
use std::iter;

use ipnet::IpNet;

use super::steps::{Missed, Question};
use crate::cell::Names;
use crate::model::{
    LabelSelector, Labels, NamedPort, NamespaceScope, Peer, Peers, PodSelector, PortMatch, Ports,
    Protocol, Rule, Workload,
};
use crate::probe::{End, Owner};

/// Why a rule did not match; empty if it did. `names` are what port names mean for this packet.
pub(super) fn why_not(
    missed: &[Missed],
    rule: &Rule,
    question: &Question<'_>,
    names: &Names<'_>,
) -> String {
    let but_for = match missed {
        [] => return String::new(),
        [Missed::Unread] => return "cannot be read, so it matches nothing".to_owned(),
        [Missed::Peer] => format!("peer: {}", peer(rule, question)),
        [Missed::Protocol] if question.probe.icmp.is_some() => {
            let protocol = Protocol(question.probe.protocol);
            format!("protocol: a rule with ports does not match {protocol}")
        }
        [Missed::Protocol] => {
            let protocol = Protocol(question.probe.protocol);
            format!("protocol, {protocol}")
        }
        [Missed::Port] => {
            let number = iter::once(number(question));
            let parts: Vec<String> = number.chain(named(rule, question, names)).collect();
            format!("port, {}", parts.join("; "))
        }
        [Missed::NamedPort] => {
            let named: Vec<String> = named(rule, question, names).collect();
            format!(
                "named port: it is {}, and {}",
                number(question),
                named.join(", ")
            )
        }
        _ => return "matches neither peer nor port".to_owned(),
    };
    format!("would match but for the {but_for}")
}

/// The ports of this name at an end, of any protocol.
pub(super) fn declared<'e>(end: &'e End, name: &'e str) -> impl Iterator<Item = &'e NamedPort> {
    let ports = match &end.owner {
        Owner::Pod(pod) => &pod.ports[..],
        Owner::Node(_) | Owner::Address => &[],
    };
    ports.iter().filter(move |port| port.name == name)
}

fn number(question: &Question<'_>) -> String {
    let protocol = Protocol(question.probe.protocol);
    format!("{}/{protocol}", question.probe.dst_port)
}

/// What each port name of the packet's protocol means at the destination.
fn named(rule: &Rule, question: &Question<'_>, names: &Names<'_>) -> impl Iterator<Item = String> {
    let ports = match &rule.ports {
        Ports::Any => &[],
        Ports::OneOf(ports) => &ports[..],
    };
    let protocol = Protocol(question.probe.protocol);
    ports
        .iter()
        .filter(move |port| port.protocol == protocol)
        .filter_map(move |port| match &port.port {
            PortMatch::Named(name) => Some(meaning(name, protocol, &question.probe.dst, names)),
            PortMatch::All | PortMatch::Range(..) => None,
        })
}

fn meaning(name: &str, protocol: Protocol, at: &End, names: &Names<'_>) -> String {
    let numbers: Vec<String> = names
        .iter()
        .filter(|(of, known, _)| *of == protocol && *known == name)
        .map(|(_, _, number)| number.to_string())
        .collect();
    if !numbers.is_empty() {
        return format!("{name} is {} on {at}", numbers.join(" or "));
    }
    if !matches!(at.owner, Owner::Pod(_)) {
        return format!("{at} is no pod, so {name} is no port of it");
    }
    match declared(at, name).next() {
        Some(other) => {
            let other = other.protocol;
            format!("{name} is {other} and not {protocol} on {at}")
        }
        None => format!("{at} has no {protocol} port named {name}"),
    }
}

/// What the other side is instead of a peer.
fn peer(rule: &Rule, question: &Question<'_>) -> String {
    let end = question.peer;
    let Peers::OneOf(peers) = &rule.peers else {
        return end.to_string();
    };
    match (&peers[..], &end.owner) {
        ([Peer::Pods(selector)], Owner::Pod(pod)) => {
            let facts = facts(selector, pod, &question.world.namespaces);
            format!("{end} {facts}")
        }
        ([Peer::Pods(_)], Owner::Node(_) | Owner::Address) => format!("{end} is no pod"),
        ([Peer::Cidr { cidr, except }], _) => beside(end, cidr, except),
        (_, Owner::Pod(pod)) => {
            let labels = joined(&pod.labels);
            let namespace = question.world.namespaces.get(&pod.namespace);
            let namespace = namespace.map_or_else(String::new, joined);
            format!("{end} ({labels}; namespace {namespace}) is none of them")
        }
        _ => format!("{end} is none of them"),
    }
}

/// What keeps a pod out of a selector: `is in ops and has app=job`.
fn facts(selector: &PodSelector, pod: &Workload, namespaces: &BTreeMap<String, Labels>) -> String {
    let name = &pod.namespace;
    let namespace = match &selector.namespaces {
        NamespaceScope::Named(wanted) => (wanted != name).then(|| format!("is in {name}")),
        NamespaceScope::Selected(wanted) => match namespaces.get(name) {
            Some(labels) => {
                unfit(wanted, labels).map(|facts| format!("is in {name}, which has {facts}"))
            }
            None => Some(format!("is in {name}, whose labels are not known"))
                .filter(|_| !wanted.0.is_empty()),
        },
    };
    let own = unfit(&selector.pods, &pod.labels).map(|facts| format!("has {facts}"));
    let parts: Vec<String> = namespace.into_iter().chain(own).collect();
    parts.join(", and ")
}

/// What the labels are where a requirement does not hold; `None` if all do.
fn unfit(selector: &LabelSelector, labels: &Labels) -> Option<String> {
    let failing = selector
        .0
        .iter()
        .filter(|requirement| !requirement.holds(labels));
    let facts: Vec<String> = failing
        .map(|requirement| {
            let key = requirement.key();
            match labels.get(key) {
                Some(value) => format!("{key}={value}"),
                None => format!("no label {key}"),
            }
        })
        .collect();
    (!facts.is_empty()).then(|| facts.join(" and "))
}

fn joined(labels: &Labels) -> String {
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    let none = || labels.is_empty().then(|| "no labels".to_owned());
    pairs
        .chain(iter::once_with(none).flatten())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where an address lies that is not in a block.
fn beside(end: &End, cidr: &IpNet, except: &[IpNet]) -> String {
    let address = end.address;
    let who = match &end.owner {
        Owner::Address => address.to_string(),
        Owner::Pod(_) | Owner::Node(_) => format!("{end} has {address}, which"),
    };
    match except.iter().find(|hole| hole.contains(&address)) {
        Some(hole) => format!("{who} is in except {hole}"),
        None => format!("{who} is not in {cidr}"),
    }
}
