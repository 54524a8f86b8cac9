//! Explanations in words. Rules are counted from 1 here, as people do.

use std::fmt;

use super::{Explanation, Missed, Reason, Side, Verdict};
use crate::model::{
    LabelSelector, NamespaceScope, Peer, Peers, PodSelector, Port, PortMatch, Ports, Protocol,
    Requirement, Rule, RuleAction,
};
use crate::probe::{End, Owner, ResolvedProbe};
use crate::tables::Direction;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [("egress", &self.egress), ("ingress", &self.ingress)];
        let denying = sides.iter().find(|(_, side)| side.verdict == Verdict::Deny);
        match denying {
            Some((direction, side)) => {
                let reason = side.reason.map_or("", Reason::as_str);
                writeln!(f, "VERDICT  DENY ({direction}, {reason})")?;
            }
            None => writeln!(f, "VERDICT  ALLOW")?,
        }
        let ends = sides
            .iter()
            .map(|(_, side)| side.end.len())
            .max()
            .unwrap_or(0);
        let sentences = sides.map(|(direction, side)| sentence(direction, side));
        let width = sentences.iter().map(String::len).max().unwrap_or(0);
        for ((direction, side), sentence) in sides.iter().zip(sentences) {
            let verdict = verdict(side.verdict);
            let line = format!(
                " {direction:<7}  {:<ends$}  {sentence:<width$}  {verdict}",
                side.end
            );
            writeln!(f, "{}", line.trim_end())?;
            steps(f, side)?;
        }
        Ok(())
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::None => "-",
    }
}

/// Rules that matched and near misses; the rest is only counted.
fn steps(f: &mut fmt::Formatter<'_>, side: &Side) -> fmt::Result {
    let shown: Vec<_> = side
        .steps
        .iter()
        .filter(|step| step.missed.len() < 2)
        .collect();
    let says = shown.iter().map(|step| step.says.len()).max().unwrap_or(0);
    let mut policy = "";
    for step in &shown {
        if policy != step.policy {
            policy = &step.policy;
            writeln!(f, "   {policy}")?;
        }
        let outcome = if step.missed.is_empty() {
            "match".to_owned()
        } else {
            format!("no match: {}", step.why_not)
        };
        writeln!(
            f,
            "     rule {}  {:<says$}  {outcome}",
            step.rule + 1,
            step.says
        )?;
    }
    match side.steps.len() - shown.len() {
        0 => Ok(()),
        1 => writeln!(f, "   1 other rule matches neither peer nor port"),
        others => writeln!(f, "   {others} other rules match neither peer nor port"),
    }
}

fn sentence(direction: &str, side: &Side) -> String {
    let Some(reason) = side.reason else {
        return "no endpoint, so no policy here".to_owned();
    };
    let rule = || {
        let policy = side.policy.as_deref().unwrap_or_default();
        format!("{policy}, rule {}", side.rule.map_or(0, |rule| rule + 1))
    };
    match reason {
        Reason::AllowRule => format!("allowed by {}", rule()),
        Reason::DenyRule => format!("denied by {}", rule()),
        Reason::NotIsolated if direction == "egress" => {
            "no policy with policyType Egress isolates it".to_owned()
        }
        Reason::NotIsolated => "no policy with policyType Ingress isolates it".to_owned(),
        Reason::DefaultDeny => format!("isolated by {}", side.isolated_by.join(", ")),
        Reason::HostExempt => "comes from its own node".to_owned(),
        Reason::MetadataGuard => "the metadata service is out of reach of pods".to_owned(),
        Reason::Loopback => "a loopback address is not reached over the network".to_owned(),
        Reason::NoFlow => "a reply or error that belongs to no connection".to_owned(),
        Reason::IcmpType => "an ICMP type that is never let through".to_owned(),
        Reason::Tunnel => "tunnels are not let through".to_owned(),
        Reason::Itself => "talks to itself".to_owned(),
        Reason::Neighbour => "neighbour discovery is always let through".to_owned(),
        Reason::RogueServer => "only a router or a DHCP server sends this".to_owned(),
        Reason::NotReady => "not among the objects".to_owned(),
    }
}

/// What a rule says: `from pods app=api in shop, 5432/tcp`.
pub(super) fn rule(rule: &Rule, direction: Direction) -> String {
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

/// What the packet has where a rule wants something else.
pub(super) fn why_not(missed: &[Missed], probe: &ResolvedProbe, other: &End) -> String {
    let parts = missed.iter().map(|missed| match missed {
        Missed::Peer => format!("peer is {}", who(other)),
        Missed::Protocol => format!("protocol is {}", Protocol(probe.protocol)),
        Missed::Port => format!("port is {}", probe.dst_port),
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn who(end: &End) -> String {
    let Owner::Pod(pod) = &end.owner else {
        return end.to_string();
    };
    let labels = pod
        .labels
        .iter()
        .map(|(key, value)| format!(", {key}={value}"));
    let labels: String = labels.collect();
    if labels.is_empty() {
        format!("{}, no labels", pod.namespace)
    } else {
        pod.namespace.clone() + &labels
    }
}

fn peer(peer: &Peer) -> String {
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

fn port(port: &Port) -> String {
    let name = port.protocol;
    match &port.port {
        PortMatch::All => format!("any/{name}"),
        PortMatch::Range(first, last) if first == last => format!("{first}/{name}"),
        PortMatch::Range(first, last) => format!("{first}-{last}/{name}"),
        PortMatch::Named(named) => format!("{named}/{name}"),
    }
}
