//! The rules that were asked on the way to a verdict, and what kept each from matching. For people only: the verdict is the tables'.

use serde::{Deserialize, Serialize};

use super::near;
use crate::cell::{point, spans};
use crate::compile::Compilation;
use crate::govern::rules;
use crate::model::{Port, PortMatch, Ports, Protocol, Rule, World};
use crate::probe::{End, ResolvedProbe};
use crate::tables::{ClassIx, Decision, Direction};
use crate::words;

/// One rule of a policy that governs the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `Kind namespace/name`.
    pub policy: String,
    /// The policy's tier.
    pub tier: String,
    /// Counted from 0 in the object's own list.
    pub rule: u32,
    /// What the rule says, in short.
    pub says: String,
    /// What did not match; empty for a rule that matched.
    pub missed: Vec<Missed>,
    /// The same for people, with what the packet has instead: `would match but for the port, 5433/tcp`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why_not: String,
}

/// A part of a rule that kept it from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// The other side is not among its peers.
    Peer,
    /// It has the port, for other protocols.
    Protocol,
    /// Its ports are others.
    Port,
    /// Its ports of this protocol have names, which mean other numbers on the destination, or nothing there.
    NamedPort,
    /// It could not be read, so it matches nothing.
    Unread,
}

impl Step {
    /// Whether it would have matched but for one thing.
    #[must_use]
    pub fn is_near_miss(&self) -> bool {
        self.missed.len() == 1 && self.missed != [Missed::Unread]
    }
}

/// What the rules are asked.
pub(super) struct Question<'a> {
    pub(super) world: &'a World,
    pub(super) probe: &'a ResolvedProbe,
    /// The other side.
    pub(super) peer: &'a End,
    pub(super) direction: Direction,
    pub(super) class: ClassIx,
    pub(super) port: u16,
}

/// The rules that govern the endpoint `uid`, in their order, up to the one that decided.
pub(super) fn steps(
    compilation: &Compilation,
    uid: &str,
    question: &Question<'_>,
    decision: &Decision,
) -> Vec<Step> {
    let Some(endpoint) = compilation.governed.endpoints.get(uid) else {
        return Vec::new();
    };
    let names = match question.direction {
        Direction::Ingress => compilation.governed.subject_names(endpoint),
        Direction::Egress => compilation.class_names(question.class),
    };
    let wanted = point(question.probe.protocol, question.port);
    let mut steps = Vec::new();
    for &rank in endpoint.governing(question.direction) {
        let policy = &compilation.governed.policies[rank].policy;
        for (index, rule) in (0..).zip(rules(policy, question.direction).unwrap_or_default()) {
            let spans = spans(&rule.ports, &names);
            let port_fits = spans
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&wanted));
            let missed = if rule.is_unread() {
                vec![Missed::Unread]
            } else {
                let peer = !compilation.peers_match(&rule.peers, question.class);
                let port = (!port_fits).then(|| missed_port(rule, question));
                peer.then_some(Missed::Peer)
                    .into_iter()
                    .chain(port)
                    .collect()
            };
            steps.push(Step {
                policy: policy.name.to_string(),
                tier: policy.tier.clone(),
                rule: index,
                says: words::rule(rule, question.direction),
                why_not: near::why_not(&missed, rule, question, &names),
                missed,
            });
            let decided = decision.rule.as_ref();
            if decided
                .is_some_and(|decided| decided.index == index && *decided.policy == policy.name)
            {
                return steps;
            }
        }
    }
    steps
}

/// What of a rule's ports missed.
fn missed_port(rule: &Rule, question: &Question<'_>) -> Missed {
    let Ports::OneOf(ports) = &rule.ports else {
        return Missed::Port;
    };
    let protocol = Protocol(question.probe.protocol);
    let (own, others): (Vec<&Port>, Vec<&Port>) =
        ports.iter().partition(|port| port.protocol == protocol);
    if question.probe.icmp.is_some()
        || own.is_empty() && others.iter().any(|port| has_number(port, question))
    {
        return Missed::Protocol;
    }
    let named = |port: &&Port| matches!(port.port, PortMatch::Named(_));
    if !own.is_empty() && own.iter().all(named) {
        Missed::NamedPort
    } else {
        Missed::Port
    }
}

/// Whether an entry would match the packet if that were of its protocol.
fn has_number(port: &Port, question: &Question<'_>) -> bool {
    let number = question.port;
    match &port.port {
        PortMatch::All => true,
        PortMatch::Range(first, last) => (*first..=*last).contains(&number),
        PortMatch::Named(name) => near::declared(&question.probe.dst, name)
            .any(|declared| declared.protocol == port.protocol && declared.number == number),
    }
}
