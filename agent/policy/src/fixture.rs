//! Builders for worlds of tests, so that a case fits on one screen. Uids are `namespace/name`, nodes are `n1`, `n2`, ...

pub(crate) mod random;

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    AtEnd, LabelSelector, Labels, NamedPort, NamespaceScope, Node, Peer, Peers, PodSelector,
    Policy, PolicyKind, PolicyRef, Port, PortMatch, Ports, Protocol, Requirement, Rule, RuleAction,
    Tier, Workload, World,
};

use crate::tables::{Decision, Direction, Tables};

/// `k=v k2=v2`.
pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text
        .split_whitespace()
        .map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// `k=v` is In, `k!=v` NotIn, `k` Exists, `!k` DoesNotExist; empty matches everything.
pub(crate) fn selector(text: &str) -> LabelSelector {
    let requirement = |word: &str| {
        if let Some((key, value)) = word.split_once("!=") {
            Requirement::NotIn(key.into(), value.split(',').map(str::to_owned).collect())
        } else if let Some((key, value)) = word.split_once('=') {
            Requirement::In(key.into(), value.split(',').map(str::to_owned).collect())
        } else if let Some(key) = word.strip_prefix('!') {
            Requirement::DoesNotExist(key.into())
        } else {
            Requirement::Exists(word.into())
        }
    };
    LabelSelector(text.split_whitespace().map(requirement).collect())
}

pub(crate) fn pods_in(namespace: &str, pods: &str) -> Peer {
    let namespaces = NamespaceScope::Named(namespace.to_owned());
    Peer::Pods(PodSelector {
        namespaces,
        pods: selector(pods),
    })
}

pub(crate) fn pods_where(namespaces: &str, pods: &str) -> Peer {
    let namespaces = NamespaceScope::Selected(selector(namespaces));
    Peer::Pods(PodSelector {
        namespaces,
        pods: selector(pods),
    })
}

/// `cidr!except!except`.
pub(crate) fn block(text: &str) -> Peer {
    let mut nets = text.split('!').map(|net| net.parse().unwrap());
    Peer::Cidr {
        cidr: nets.next().unwrap(),
        except: nets.collect(),
    }
}

pub(crate) fn rule_any() -> Rule {
    Rule {
        action: RuleAction::Allow,
        peers: Peers::Any,
        ports: Ports::Any,
    }
}

pub(crate) fn rule_from(peers: impl IntoIterator<Item = Peer>) -> Rule {
    Rule {
        peers: Peers::OneOf(peers.into_iter().collect()),
        ..rule_any()
    }
}

impl Rule {
    pub(crate) fn on(self, ports: impl IntoIterator<Item = Port>) -> Self {
        Self {
            ports: Ports::OneOf(ports.into_iter().collect()),
            ..self
        }
    }

    pub(crate) fn deny(self) -> Self {
        Self {
            action: RuleAction::Deny,
            ..self
        }
    }

    pub(crate) fn pass(self) -> Self {
        Self {
            action: RuleAction::Pass,
            ..self
        }
    }
}

pub(crate) fn tcp(port: u16) -> Port {
    range(Protocol::TCP, port, port)
}

pub(crate) fn udp(port: u16) -> Port {
    range(Protocol::UDP, port, port)
}

pub(crate) fn range(protocol: Protocol, first: u16, last: u16) -> Port {
    Port {
        protocol,
        port: PortMatch::Range(first, last),
    }
}

pub(crate) fn all(protocol: Protocol) -> Port {
    Port {
        protocol,
        port: PortMatch::All,
    }
}

pub(crate) fn named(protocol: Protocol, name: &str) -> Port {
    Port {
        protocol,
        port: PortMatch::Named(name.to_owned()),
    }
}

/// A pod `namespace/name` on node `n2`, without labels and addresses.
pub(crate) fn pod(name: &str) -> Workload {
    let (namespace, short) = name.split_once('/').unwrap();
    Workload {
        uid: name.to_owned(),
        namespace: namespace.to_owned(),
        name: short.to_owned(),
        labels: Arc::default(),
        service_account: "default".into(),
        node: Some("n2".into()),
        addresses: Vec::new(),
        host_network: false,
        finished: false,
        ports: Arc::default(),
    }
}

impl Workload {
    pub(crate) fn on(self, node: &str) -> Self {
        Self {
            node: Some(node.into()),
            ..self
        }
    }

    pub(crate) fn uid(self, uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            ..self
        }
    }

    pub(crate) fn at(mut self, address: &str) -> Self {
        self.addresses.push(address.parse().unwrap());
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.labels).insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn port(mut self, name: &str, protocol: Protocol, number: u16) -> Self {
        let port = NamedPort {
            name: name.to_owned(),
            protocol,
            number,
        };
        self.ports = self.ports.iter().cloned().chain([port]).collect();
        self
    }

    pub(crate) fn finished(self) -> Self {
        Self {
            finished: true,
            ..self
        }
    }

    pub(crate) fn host_network(self) -> Self {
        Self {
            host_network: true,
            ..self
        }
    }
}

impl Policy {
    pub(crate) fn ingress(self, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            ingress: Some(rules.into_iter().collect()),
            ..self
        }
    }

    pub(crate) fn egress(self, rules: impl IntoIterator<Item = Rule>) -> Self {
        Self {
            egress: Some(rules.into_iter().collect()),
            ..self
        }
    }

    pub(crate) fn tier(self, tier: &str) -> Self {
        Self {
            tier: tier.to_owned(),
            ..self
        }
    }

    pub(crate) fn order(self, order: f64) -> Self {
        Self { order, ..self }
    }
}

/// A world under construction.
#[derive(Default)]
pub(crate) struct Fixture(World);

impl Fixture {
    pub(crate) fn on(node: &str) -> Self {
        Self(World {
            node: node.to_owned(),
            ..World::default()
        })
    }

    pub(crate) fn namespace(mut self, name: &str, text: &str) -> Self {
        let entry = self.0.namespaces.entry(name.to_owned()).or_default();
        entry.extend(labels(text));
        entry.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        self
    }

    pub(crate) fn pod(self, pod: Workload) -> Self {
        let mut fixture = self.namespace(&pod.namespace, "");
        fixture.0.workloads.insert(pod.uid.clone(), Arc::new(pod));
        fixture
    }

    pub(crate) fn node(mut self, name: &str, addresses: &[&str]) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.0.nodes.insert(
            name.to_owned(),
            Node {
                labels: Labels::new(),
                addresses,
            },
        );
        self
    }

    pub(crate) fn tier(mut self, name: &str, order: f64, at_end: AtEnd) -> Self {
        self.0.tiers.insert(name.to_owned(), Tier { order, at_end });
        self
    }

    /// A policy `namespace/name` with a pod selector in the form of [`selector`], in tier `default` at order 1000.
    pub(crate) fn policy(
        mut self,
        name: &str,
        subject: &str,
        fill: impl FnOnce(Policy) -> Policy,
    ) -> Self {
        let (namespace, short) = name.split_once('/').unwrap();
        let name = PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.to_owned()),
            name: short.to_owned(),
        };
        let policy = fill(Policy {
            name: name.clone(),
            tier: "default".to_owned(),
            order: 1000.0,
            subject: PodSelector {
                namespaces: NamespaceScope::Named(namespace.to_owned()),
                pods: selector(subject),
            },
            ingress: None,
            egress: None,
        });
        self.0.policies.insert(name, Arc::new(policy));
        self
    }

    pub(crate) fn world(self) -> World {
        self.0
    }
}

/// The decision of the endpoint `uid` about a connection of the other side `address`; `None` = not isolated.
pub(crate) fn decision(
    tables: &Tables,
    direction: Direction,
    uid: &str,
    address: &str,
    (protocol, port): (Protocol, u16),
) -> Option<Decision> {
    let address: IpAddr = address.parse().unwrap();
    let policy = tables.endpoints[uid].policy(direction, address)?;
    let table = tables.policy(policy).unwrap();
    Some(
        table
            .decide(tables.class_of(address), protocol.0, port)
            .clone(),
    )
}

/// Whether it passes, and the deciding rule as `name#index`.
pub(crate) fn verdict(
    tables: &Tables,
    direction: Direction,
    uid: &str,
    address: &str,
    port: (Protocol, u16),
) -> (bool, Option<String>) {
    let decision = decision(tables, direction, uid, address, port);
    decision.map_or((true, None), |decision| {
        let rule = decision
            .rule
            .map(|rule| format!("{}#{}", rule.policy.name, rule.index));
        (decision.allow, rule)
    })
}
