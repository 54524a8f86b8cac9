//! Rules, peers, selectors and ports in the words in which people read them: `from pods app=api in shop, 5432/tcp`.

use crate::model::{
    LabelSelector, NamespaceScope, Peer, Peers, PodSelector, Port, PortMatch, Ports, Requirement,
    Rule, RuleAction,
};
use crate::tables::Direction;

/// What a rule says: `from pods app=api in shop, 5432/tcp`.
pub(crate) fn rule(rule: &Rule, direction: Direction) -> String {
    let action = match rule.action {
        RuleAction::Allow => "",
        RuleAction::Deny => "deny ",
        RuleAction::Pass => "pass ",
    };
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = match &rule.peers {
        Peers::Any => "anyone".to_owned(),
        Peers::OneOf(peers) if peers.is_empty() => "nobody".to_owned(),
        Peers::OneOf(peers) => peers.iter().map(peer).collect::<Vec<_>>().join(" or "),
    };
    let ports = match &rule.ports {
        Ports::Any => "every port".to_owned(),
        Ports::OneOf(ports) if ports.is_empty() => "no port".to_owned(),
        Ports::OneOf(ports) => ports.iter().map(port).collect::<Vec<_>>().join(" "),
    };
    format!("{action}{way} {peers}, {ports}")
}

/// One entry of `from` or `to`.
pub(crate) fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(PodSelector { namespaces, pods }) => {
            let pods = if pods.0.is_empty() {
                "all pods".to_owned()
            } else {
                format!("pods {}", labels(pods))
            };
            match namespaces {
                NamespaceScope::Named(name) => format!("{pods} in {name}"),
                NamespaceScope::Selected(selector) if selector.0.is_empty() => {
                    format!("{pods} in all namespaces")
                }
                NamespaceScope::Selected(selector) => {
                    format!("{pods} in namespaces {}", labels(selector))
                }
            }
        }
        Peer::Cidr { cidr, except } => {
            let mut parts = vec![cidr.to_string()];
            parts.extend(except.iter().map(ToString::to_string));
            parts.join(" except ")
        }
    }
}

/// `app=api tier in (a,b) !legacy`.
fn labels(selector: &LabelSelector) -> String {
    let requirements = selector.0.iter().map(|requirement| match requirement {
        Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} not in ({})", values.join(",")),
        Requirement::Exists(key) => key.clone(),
        Requirement::DoesNotExist(key) => format!("!{key}"),
    });
    requirements.collect::<Vec<_>>().join(" ")
}

/// `5432/tcp`, `any/udp`, `http/tcp`.
pub(crate) fn port(port: &Port) -> String {
    let name = port.protocol;
    match &port.port {
        PortMatch::All => format!("any/{name}"),
        PortMatch::Range(first, last) if first == last => format!("{first}/{name}"),
        PortMatch::Range(first, last) => format!("{first}-{last}/{name}"),
        PortMatch::Named(named) => format!("{named}/{name}"),
    }
}
