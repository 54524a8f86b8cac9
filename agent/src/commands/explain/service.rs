//! Connections to a Service: one explanation for each backend that may be chosen, from objects or from agents, put together and printed.
//!
//! The verdict of the whole is that of all backends, or `mixed`: then it depends on which one a node's proxy chooses. Backends that are spoken of in the
//! same words are printed once, with all their names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use portcullis_policy::explain::{Explainer, Explanation, Reason, Side, Verdict};
use portcullis_policy::probe::{ProbeId, ResolvedProbe};
use serde::Serialize;

use super::meant::ServicePort;
use super::online::{Backend, End, ServiceAnswer};
use super::told::{Witness, Witnesses, named};
use super::{API_VERSION, Question, deciding};
use crate::failure::{Failure, exit};

/// Backends that are named where several are spoken of at once.
const NAMED: usize = 5;

/// What is known of every backend.
#[derive(Clone, Debug)]
pub struct ServiceTold {
    service: ServicePort,
    backends: Vec<Explained>,
    witnesses: Witnesses,
    silent: Vec<(String, Failure)>,
}

/// One backend's explanation.
#[derive(Clone, Debug)]
struct Explained {
    end: End,
    address: SocketAddr,
    explanation: Explanation,
}

/// `ServiceExplanation`, as `-o json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    source: &'a str,
    destination: &'a str,
    service: &'a ServicePort,
    /// `allow` or `deny` if that is the verdict for every backend, else `mixed`.
    verdict: &'static str,
    backends: Vec<BackendDocument<'a>>,
    /// Who says so; empty where no agent was asked.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    agents: &'a [Witness],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendDocument<'a> {
    #[serde(flatten)]
    end: &'a End,
    address: SocketAddr,
    verdict: Verdict,
    reason: Option<Reason>,
    egress: &'a Side,
    ingress: &'a Side,
}

/// Words of agents on one Service, until there is one for every side.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    /// Who named the backends.
    first: ServiceAnswer,
    /// What is known of each of them.
    sides: Vec<Sides>,
    witnesses: Witnesses,
}

#[derive(Clone, Debug, Default)]
struct Sides {
    egress: Option<Side>,
    ingress: Option<Side>,
}

impl Gathered {
    /// Begins with the word of any agent; sides that are in it count.
    pub(super) fn new(first: &ServiceAnswer) -> Self {
        let mut gathered = Self {
            first: first.clone(),
            sides: vec![Sides::default(); first.backends.len()],
            witnesses: Witnesses::default(),
        };
        gathered.take(first);
        gathered
    }

    /// Takes in what one more agent says; what is known stays. Where it sees an end somewhere else, it speaks of another connection.
    pub(super) fn take(&mut self, answer: &ServiceAnswer) {
        for (sides, backend) in self.sides.iter_mut().zip(&self.first.backends) {
            let same = |other: &&Backend| other.address == backend.address;
            let Some(said) = answer.backends.iter().find(same) else {
                continue;
            };
            if let (None, Some(side)) = (&sides.egress, &said.egress)
                && answer.source == self.first.source
            {
                sides.egress = Some(named(side, &answer.source));
                self.witnesses.add("egress", &answer.by);
            }
            if let (None, Some(side)) = (&sides.ingress, &said.ingress)
                && said.end == backend.end
            {
                sides.ingress = Some(named(side, &said.end));
                self.witnesses.add("ingress", &answer.by);
            }
        }
    }

    /// Nodes of ends of which nobody has spoken yet.
    pub(super) fn lacking(&self) -> BTreeSet<String> {
        let sides = self.sides.iter().zip(&self.first.backends);
        let nodes = sides.flat_map(|(sides, backend)| {
            let egress = sides.egress.is_none().then_some(&self.first.source);
            let ingress = sides.ingress.is_none().then_some(&backend.end);
            [egress, ingress]
        });
        let nodes = nodes.flatten().filter_map(|end| end.node.clone());
        nodes.collect()
    }

    /// All that was said, if that is a word for every side.
    pub(super) fn told(self, silent: Vec<(String, Failure)>) -> Result<ServiceTold, Failure> {
        let backends: Option<Vec<Explained>> = self
            .sides
            .into_iter()
            .zip(&self.first.backends)
            .map(|(sides, backend)| {
                let id = ProbeId::Text(backend.address.to_string());
                Some(Explained {
                    end: backend.end.clone(),
                    address: backend.address,
                    explanation: Explanation::of(id, sides.egress?, sides.ingress?),
                })
            })
            .collect();
        let Some(backends) = backends else {
            return Err(Failure::new(
                "PC4004",
                "the agents do not agree on what is behind the Service",
                "pods come or go just now",
                "ask again",
            ));
        };
        Ok(ServiceTold {
            service: self.first.service,
            backends,
            witnesses: self.witnesses,
            silent,
        })
    }
}

impl ServiceTold {
    /// What the objects say, without an agent.
    pub(super) fn explained(
        explainer: &mut Explainer<'_>,
        service: ServicePort,
        packets: &[ResolvedProbe],
    ) -> Self {
        let backends = packets.iter().map(|packet| Explained {
            end: End::of(&packet.dst),
            address: SocketAddr::new(packet.dst.address, packet.dst_port),
            explanation: explainer.explain_in_steps(packet),
        });
        Self {
            service,
            backends: backends.collect(),
            witnesses: Witnesses::default(),
            silent: Vec::new(),
        }
    }

    /// Prints it. Exit code 4 where somebody had to stand in for an agent, 1 where a backend's verdict is not the expected one.
    pub fn print(&self, question: &Question<'_>, json: bool, out: &mut dyn Write) -> Result<u8> {
        let text = if json {
            serde_json::to_string_pretty(&self.document(question))? + "\n"
        } else {
            self.text()
        };
        out.write_all(text.as_bytes())?;
        if !self.silent.is_empty() {
            return Ok(exit::UNREACHABLE);
        }
        let codes = self.verdicts().map(|verdict| question.exit_code(verdict));
        Ok(codes.max().unwrap_or(exit::DONE))
    }

    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        let backends = self.backends.iter();
        backends.map(|backend| backend.explanation.verdict)
    }

    fn verdict(&self) -> &'static str {
        let denied = self.denied();
        match denied {
            0 => "allow",
            all if all == self.backends.len() => "deny",
            _ => "mixed",
        }
    }

    fn denied(&self) -> usize {
        self.verdicts()
            .filter(|verdict| *verdict == Verdict::Deny)
            .count()
    }

    fn document<'a>(&'a self, question: &Question<'a>) -> Document<'a> {
        let backends = self.backends.iter().map(|backend| BackendDocument {
            end: &backend.end,
            address: backend.address,
            verdict: backend.explanation.verdict,
            reason: deciding(&backend.explanation).reason,
            egress: &backend.explanation.egress,
            ingress: &backend.explanation.ingress,
        });
        Document {
            api_version: API_VERSION,
            kind: "ServiceExplanation",
            source: question.source,
            destination: question.destination,
            service: &self.service,
            verdict: self.verdict(),
            backends: backends.collect(),
            agents: &self.witnesses.0,
        }
    }

    fn text(&self) -> String {
        let ServicePort {
            namespace,
            name,
            port,
            protocol,
        } = &self.service;
        let count = self.backends.len();
        let of = match (count, self.verdict()) {
            (1, _) => "its one backend".to_owned(),
            (_, "mixed") => format!("{} of {count} backends denied", self.denied()),
            _ => format!("all {count} backends"),
        };
        let mut text = format!(
            "VERDICT  {} (Service {namespace}/{name}, {port}/{protocol}: {of})\n",
            self.verdict().to_uppercase()
        );
        for alike in self.alike() {
            let _ = write!(text, "BACKEND  {}\n{}", names(&alike), alike[0].explanation);
        }
        if !self.witnesses.0.is_empty() {
            text += &self.witnesses.text(&self.silent);
        }
        text
    }

    /// Backends by what is said of them.
    fn alike(&self) -> Vec<Vec<&Explained>> {
        let mut groups: Vec<Vec<&Explained>> = Vec::new();
        for backend in &self.backends {
            let group = groups.iter_mut().find(|group| group[0].is_like(backend));
            match group {
                Some(group) => group.push(backend),
                None => groups.push(vec![backend]),
            }
        }
        groups
    }
}

impl Explained {
    /// Whether the same is said of both, but for the name.
    fn is_like(&self, other: &Self) -> bool {
        let nameless = |side: &Side| Side {
            end: String::new(),
            ..side.clone()
        };
        let (one, two) = (&self.explanation, &other.explanation);
        one.egress == two.egress && nameless(&one.ingress) == nameless(&two.ingress)
    }

    fn name(&self) -> String {
        // The name of what is no pod is its address.
        match self.end.name.parse::<IpAddr>() {
            Ok(_) => self.address.to_string(),
            Err(_) => format!("{}:{}", self.end.name, self.address.port()),
        }
    }
}

fn names(backends: &[&Explained]) -> String {
    let named = backends.iter().take(NAMED).map(|backend| backend.name());
    let names = named.collect::<Vec<_>>().join(", ");
    match backends.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
