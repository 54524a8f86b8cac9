//! The rules that were asked on the way to a verdict, and what kept each from matching. For people only: the verdict is the tables'.

use serde::{Deserialize, Serialize};

use super::text;
use crate::cell::{point, spans};
use crate::compile::Compilation;
use crate::govern::rules;
use crate::model::{Ports, Protocol, Rule};
use crate::probe::{End, ResolvedProbe};
use crate::tables::{ClassIx, Decision, Direction};

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
    /// The same for people, with what the packet has instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why_not: String,
}

/// A part of a rule that kept it from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// The other side is not among its peers.
    Peer,
    /// Its ports are of other protocols.
    Protocol,
    /// Its ports of this protocol are others.
    Port,
}

impl Step {
    /// Whether it would have matched but for one thing.
    #[must_use]
    pub const fn is_near_miss(&self) -> bool {
        self.missed.len() == 1
    }
}

/// What the rules are asked.
pub(super) struct Question<'a> {
    pub(super) probe: &'a ResolvedProbe,
    /// The other side.
    pub(super) peer: &'a End,
    pub(super) direction: Direction,
    pub(super) class: ClassIx,
    pub(super) port: u16,
}

/// The rules that govern the endpoint `uid`, in their order, up to the one that decided.
pub(super) fn steps(
    compilation: &Compilation<'_>,
    uid: &str,
    question: &Question<'_>,
    decision: &Decision,
) -> Vec<Step> {
    let Some(endpoint) = compilation.governed.endpoints.get(uid) else {
        return Vec::new();
    };
    let names = match question.direction {
        Direction::Ingress => compilation.subject_names(endpoint),
        Direction::Egress => compilation.class_names(question.class),
    };
    let wanted = point(question.probe.protocol, question.port);
    let mut steps = Vec::new();
    for &rank in endpoint.governing(question.direction) {
        let policy = compilation.governed.policies[rank].policy;
        for (index, rule) in (0..).zip(rules(policy, question.direction).unwrap_or_default()) {
            let mut missed = Vec::new();
            if !compilation.peers_match(&rule.peers, question.class) {
                missed.push(Missed::Peer);
            }
            let spans = spans(&rule.ports, &names);
            if !spans
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&wanted))
            {
                missed.push(missed_port(rule, question.probe.protocol));
            }
            steps.push(Step {
                policy: policy.name.to_string(),
                tier: policy.tier.clone(),
                rule: index,
                says: text::rule(rule, question.direction),
                why_not: text::why_not(&missed, question.probe, question.peer),
                missed,
            });
            let decided = decision.rule.as_ref();
            if decided
                .is_some_and(|decided| decided.index == index && decided.policy == policy.name)
            {
                return steps;
            }
        }
    }
    steps
}

fn missed_port(rule: &Rule, protocol: u8) -> Missed {
    let Ports::OneOf(ports) = &rule.ports else {
        return Missed::Port;
    };
    if ports.iter().any(|port| port.protocol == Protocol(protocol)) {
        Missed::Port
    } else {
        Missed::Protocol
    }
}
