//! A large cluster in the agent's own words: pods of a thousand kinds on a thousand nodes, policies for all of them, and single changes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use portcullis::kube::{Change, Entry, Key, Kind, Object};
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, Node, Peer, Peers, PodSelector, Policy, Port, PortMatch,
    Ports, Protocol, Rule, RuleAction,
};

use super::objects::{self, entry, policy_entry, requires};

/// The node that gets tables.
pub const NODE: &str = "node-0";
const NAMESPACES: u32 = 50;
/// Kinds of pods, in labels `app=app0`, `app=app1`, ...
const APPS: u32 = 1_000;
/// Rules in each direction of a policy of this node, and of the others.
const RULES: u32 = 20;
const RULES_ELSEWHERE: u32 = 2;
/// Selectors of a rule.
const SELECTORS: u32 = 5;

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Pods of the cluster.
    pub pods: u32,
    /// Pods of each node.
    pub local: u32,
    /// Policies of the cluster; one of them for each pod of this node, the others for pods elsewhere.
    pub policies: u32,
}

impl Scale {
    /// As large as the agent promises to bear.
    pub const LARGE: Self = Self {
        pods: 100_000,
        local: 110,
        policies: 10_000,
    };
}

/// A kind of change.
pub struct ChangeKind {
    /// Its name in the report.
    pub title: &'static str,
    /// The change of a round.
    pub make: fn(&Scale, u32) -> Vec<Change>,
}

/// Every kind that is measured.
pub const CHANGES: [ChangeKind; 11] = [
    ChangeKind {
        title: "a pod elsewhere is relabelled",
        make: |scale, round| apply(pod(scale, far(scale, round, 0), 17)),
    },
    ChangeKind {
        title: "a pod elsewhere ends",
        make: |scale, round| vec![gone(far(scale, round, 1))],
    },
    ChangeKind {
        title: "a pod elsewhere starts",
        make: |scale, round| {
            let number = far(scale, round, 1);
            apply(pod(scale, number, number % APPS))
        },
    },
    ChangeKind {
        title: "a pod elsewhere of no kind in use",
        make: |scale, round| apply(pod(scale, far(scale, round, 2), APPS + round)),
    },
    ChangeKind {
        title: "a pod of this node is relabelled",
        make: |scale, round| apply(pod(scale, near(scale, round), 17)),
    },
    ChangeKind {
        title: "a pod of this node ends",
        make: |scale, round| vec![gone(near(scale, round + 1))],
    },
    ChangeKind {
        title: "a pod of this node starts",
        make: |scale, round| {
            let number = near(scale, round + 1);
            apply(pod(scale, number, number))
        },
    },
    ChangeKind {
        title: "a policy of pods elsewhere",
        make: |scale, round| {
            let number = scale.local + round;
            apply(policy(number, "app", scale.local + round, 3))
        },
    },
    ChangeKind {
        title: "a policy of a pod of this node",
        make: |scale, round| {
            let number = near(scale, round + 40);
            apply(policy(number, "subject", number, 3))
        },
    },
    ChangeKind {
        title: "a namespace is relabelled",
        make: |_, round| {
            let team = if (round / NAMESPACES).is_multiple_of(2) {
                "green"
            } else {
                "blue"
            };
            apply(namespace(round % NAMESPACES, team))
        },
    },
    ChangeKind {
        title: "a node",
        make: |scale, round| apply(node(scale, round, round)),
    },
];

/// What the feeds say first.
#[must_use]
pub fn lists(scale: &Scale) -> Vec<Change> {
    let namespaces = (0..NAMESPACES).map(|number| namespace(number, "blue"));
    let nodes = (0..=scale.pods / scale.local).map(|number| node(scale, number, 0));
    let pods = (0..scale.pods).map(|number| pod(scale, number, number % APPS));
    let policies = (0..scale.policies).map(|number| {
        if number < scale.local {
            policy(number, "subject", number, 0)
        } else {
            let elsewhere = number % (APPS - scale.local);
            policy(number, "app", scale.local + elsewhere, 0)
        }
    });
    let reset = |kind, live| Change::Reset { kind, live };
    vec![
        reset(Kind::Namespace, namespaces.collect()),
        reset(Kind::Node, nodes.collect()),
        reset(Kind::Pod, pods.collect()),
        reset(Kind::NetworkPolicy, policies.collect()),
        reset(Kind::Service, Vec::new()),
        reset(Kind::EndpointSlice, Vec::new()),
    ]
}

/// A policy of many rules for a pod of the node: each has a port, and peers of its own.
#[must_use]
pub fn giant(rules: u32) -> Change {
    let rules = (0..rules).map(|number| {
        let net = Ipv4Addr::from(0xc600_0000 + (number << 4));
        Rule {
            action: RuleAction::Allow,
            peers: Peers::OneOf(vec![
                everywhere("app", number % APPS),
                block(Ipv4Net::new_assert(net, 28)),
            ]),
            // Few enough ports that the port sets of its peers stay few.
            ports: tcp((1000 + number % 1000) as u16),
        }
    });
    let policy = Policy {
        ingress: Some(rules.collect()),
        ..named_policy("giant", "subject", 60)
    };
    Change::Apply(policy_entry(policy))
}

/// A pod of another node, another one for each round and `salt`.
fn far(scale: &Scale, round: u32, salt: u32) -> u32 {
    scale.local + (salt * scale.pods / 3 + 7 * round) % (scale.pods - scale.local)
}

fn near(scale: &Scale, round: u32) -> u32 {
    3 * round % scale.local
}

fn apply(entry: Entry) -> Vec<Change> {
    vec![Change::Apply(entry)]
}

fn gone(number: u32) -> Change {
    let (namespace, name) = pod_name(number);
    let key = Key {
        kind: Kind::Pod,
        namespace: Some(namespace),
        name,
    };
    Change::Delete { key, uid: None }
}

fn namespace(number: u32, team: &str) -> Entry {
    let name = namespace_name(number);
    let labels = Labels::from([
        ("kubernetes.io/metadata.name".to_owned(), name.clone()),
        ("team".to_owned(), team.to_owned()),
    ]);
    entry(Kind::Namespace, None, name, Object::Namespace(labels))
}

fn node(scale: &Scale, number: u32, label: u32) -> Entry {
    let number = number % (scale.pods / scale.local);
    let node = Node {
        labels: Labels::from([("label".to_owned(), label.to_string())]),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number))],
    };
    entry(
        Kind::Node,
        None,
        format!("node-{number}"),
        Object::Node(node),
    )
}

/// Pods have labels that nobody asks about, one of them different for each.
fn pod(scale: &Scale, number: u32, app: u32) -> Entry {
    let unasked = (0..6).map(|label| (format!("unasked-{label}"), "x".to_owned()));
    let mut labels: Labels = unasked.collect();
    labels.insert("app".to_owned(), format!("app{app}"));
    labels.insert("pod-name".to_owned(), format!("pod-{number}"));
    if number < scale.local {
        labels.insert("subject".to_owned(), format!("app{number}"));
    }
    let node = format!("node-{}", number / scale.local);
    objects::pod(number, &namespace_name(number), &node, labels)
}

fn pod_name(number: u32) -> (String, String) {
    (namespace_name(number), format!("pod-{number}"))
}

fn namespace_name(number: u32) -> String {
    format!("namespace-{}", number % NAMESPACES)
}

/// A policy for the pods with `key=appN`. Another `salt`, other peers and ports.
fn policy(number: u32, key: &str, app: u32, salt: u32) -> Entry {
    let count = if key == "subject" {
        RULES
    } else {
        RULES_ELSEWHERE
    };
    let rules = |salt| {
        Some(
            (0..count)
                .map(|rule| self::rule(number, rule + salt))
                .collect(),
        )
    };
    policy_entry(Policy {
        ingress: rules(salt),
        egress: rules(salt + 7),
        ..named_policy(&format!("policy-{number}"), key, app)
    })
}

fn named_policy(name: &str, key: &str, app: u32) -> Policy {
    let subject = requires(key, &format!("app{app}"));
    objects::policy(&namespace_name(app), name, subject)
}

fn rule(policy: u32, rule: u32) -> Rule {
    let salt = policy * 31 + rule * 7;
    let mut peers: Vec<Peer> = (0..SELECTORS)
        .map(|peer| everywhere("app", (salt * 5 + peer * 11) % APPS))
        .collect();
    if rule.is_multiple_of(RULES) {
        let namespaces = NamespaceScope::Selected(requires("team", "blue"));
        let pods = requires("app", &format!("app{}", salt % APPS));
        peers.push(Peer::Pods(PodSelector { namespaces, pods }));
    }
    let net = Ipv4Addr::from(0xac10_0000 + ((salt % 1000) << 8));
    peers.push(block(Ipv4Net::new_assert(net, 24)));
    Rule {
        action: RuleAction::Allow,
        peers: Peers::OneOf(peers),
        ports: tcp((8000 + salt % 50) as u16),
    }
}

fn everywhere(key: &str, app: u32) -> Peer {
    Peer::Pods(PodSelector {
        namespaces: NamespaceScope::Selected(LabelSelector::default()),
        pods: requires(key, &format!("app{app}")),
    })
}

fn block(net: Ipv4Net) -> Peer {
    Peer::Cidr {
        cidr: net.into(),
        except: Vec::new(),
    }
}

fn tcp(first: u16) -> Ports {
    Ports::OneOf(vec![Port {
        protocol: Protocol::TCP,
        port: PortMatch::Range(first, first + 2),
    }])
}
