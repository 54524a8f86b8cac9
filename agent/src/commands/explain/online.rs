//! What an agent answers to `GET /v1/explain`.
//!
//! ```text
//! View, both ends --meant--> packets --Explainer--> Answer, or a ServiceAnswer with a side of each backend
//! ```
//! Any agent can answer for both sides of everything, for it knows all objects. But what is in force on a node only that node's agent can say, and
//! judging costs a compilation for each node: with `nodes`, only sides of endpoints on these are judged. The code that judges is the one behind
//! `explain -f`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use portcullis_policy::explain::{Explainer, Options, Side};
use portcullis_policy::probe::{self, ResolvedProbe};
use portcullis_policy::tables::Direction;
use serde::{Deserialize, Serialize};

use super::meant::{Meant, ServicePort, meant, node};
use super::{API_VERSION, Question, target};
use crate::client::quoted;
use crate::reconcile::View;

/// What an agent says: of one connection, or of one to each backend of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Said {
    /// `NodeServiceExplanation`.
    Service(Box<ServiceAnswer>),
    /// `NodeExplanation`.
    Connection(Box<Answer>),
}

/// Who says it, and from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Speaker {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// The kind of what is said.
    pub kind: String,
    /// The node whose agent answers.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Revision of the tables in force there.
    pub revision: u64,
    /// What keeps the objects that it answers from out of its tables; empty if they are in force.
    pub behind: Vec<String>,
}

/// What one agent says of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Who says it.
    #[serde(flatten)]
    pub by: Speaker,
    /// Who opens the connection.
    pub source: End,
    /// To whom.
    pub destination: End,
    /// What the source's side says.
    pub egress: Side,
    /// What the destination's side says.
    pub ingress: Side,
}

/// What one agent says of connections to a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAnswer {
    /// Who says it.
    #[serde(flatten)]
    pub by: Speaker,
    /// Who opens the connection.
    pub source: End,
    /// To which Service.
    pub service: ServicePort,
    /// The backends that may be chosen.
    pub backends: Vec<Backend>,
}

/// One backend of a Service. A side that was not to be judged is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Who it is.
    #[serde(flatten)]
    pub end: End,
    /// Where the Service leads.
    pub address: SocketAddr,
    /// What the source's side says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Side>,
    /// What the backend's side says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Side>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// As people write it.
    pub name: String,
    /// Where the pod runs; absent for what is no endpoint.
    pub node: Option<String>,
}

/// Where an agent is asked. With `nodes`, sides of a Service's connections are judged for endpoints there only.
#[must_use]
pub fn path(question: &Question<'_>, nodes: Option<&BTreeSet<String>>) -> String {
    let (source, destination) = (quoted(question.source), quoted(question.destination));
    let path = format!("/v1/explain?source={source}&destination={destination}");
    match nodes {
        Some(nodes) => {
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            format!("{path}&nodes={}", quoted(&nodes.join(",")))
        }
        None => path,
    }
}

/// What this agent says.
pub fn answer(
    view: &View,
    source: &str,
    destination: &str,
    nodes: Option<&BTreeSet<String>>,
) -> Result<Said> {
    let target = target::read(source, destination)?;
    let meant = meant(&view.model, &view.services, &target)?;
    let options = Options {
        metadata_allow: view.metadata_allow.clone(),
    };
    let mut explainer = Explainer::new(&view.model, options);
    Ok(match meant {
        Meant::Packet(packet) => {
            let explained = explainer.explain_in_steps(&packet);
            Said::Connection(Box::new(Answer {
                by: speaker(view, "NodeExplanation"),
                source: End::of(&packet.src),
                destination: End::of(&packet.dst),
                egress: explained.egress,
                ingress: explained.ingress,
            }))
        }
        Meant::Service(service, packets) => {
            let source = packets.first().map(|packet| End::of(&packet.src));
            let mut judge = |packet: &ResolvedProbe, direction| {
                let end = match direction {
                    Direction::Egress => &packet.src,
                    Direction::Ingress => &packet.dst,
                };
                let elsewhere = |node: &str| nodes.is_some_and(|nodes| !nodes.contains(node));
                let wanted = !node(&end.owner).is_some_and(elsewhere);
                wanted.then(|| explainer.side_in_steps(packet, direction))
            };
            let backends = packets.iter().map(|packet| Backend {
                end: End::of(&packet.dst),
                address: SocketAddr::new(packet.dst.address, packet.dst_port),
                egress: judge(packet, Direction::Egress),
                ingress: judge(packet, Direction::Ingress),
            });
            let backends = backends.collect();
            Said::Service(Box::new(ServiceAnswer {
                by: speaker(view, "NodeServiceExplanation"),
                source: source.expect("a Service without backends is refused"),
                service,
                backends,
            }))
        }
    })
}

fn speaker(view: &View, kind: &str) -> Speaker {
    Speaker {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        node: view.model.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: view.revision,
        behind: view.behind.clone(),
    }
}

impl End {
    pub(super) fn of(end: &probe::End) -> Self {
        Self {
            name: end.to_string(),
            node: node(&end.owner).map(str::to_owned),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
