use portcullis_policy::model::{Protocol, Requirement};

use super::*;
use crate::kube::convert::{convert as convert_entry, identify};
use crate::kube::{Keep, Kind, Object};

fn value(yaml: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(yaml, options)
        .unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// The policy `shop/p` with this `spec`, and the problems as text.
fn policy(spec: &str) -> (Policy, Vec<String>) {
    whole(&format!(
        "metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    ))
}

fn whole(yaml: &str) -> (Policy, Vec<String>) {
    let value = value(yaml);
    let entry = convert_entry(
        identify(Kind::NetworkPolicy, &value).unwrap(),
        &value,
        &Keep::nothing(),
    );
    let Some(Object::Policy(policy)) = entry.object else {
        panic!("a NetworkPolicy always yields a policy");
    };
    (
        Policy::clone(&policy),
        entry.problems.iter().map(ToString::to_string).collect(),
    )
}

/// Of one direction; `None` = not governed.
type Rules = Option<Vec<Rule>>;

fn everyone() -> LabelSelector {
    LabelSelector::default()
}

fn nobody() -> Rule {
    Rule {
        action: RuleAction::Allow,
        peers: Peers::OneOf(Vec::new()),
        ports: Ports::OneOf(Vec::new()),
    }
}

fn anybody() -> Rule {
    Rule {
        action: RuleAction::Allow,
        peers: Peers::Any,
        ports: Ports::Any,
    }
}

#[test]
fn missing_and_empty_lists_mean_what_the_table_says() {
    // policy-spec 8 and 2.1: spec -> (ingress rules, egress rules)
    let none = || Some(Vec::new());
    let all = || Some(vec![anybody()]);
    let cases: &[(&str, Rules, Rules)] = &[
        ("{}", none(), None),
        ("~", none(), None),
        ("{podSelector: {}}", none(), None),
        ("{podSelector: {}, policyTypes: []}", none(), None),
        ("{ingress: []}", none(), None),
        ("{ingress: ~, egress: ~}", none(), None),
        ("{egress: []}", none(), None),
        ("{ingress: [{}]}", all(), None),
        ("{ingress: [{from: []}]}", all(), None),
        ("{ingress: [{from: ~, ports: ~}]}", all(), None),
        ("{egress: [{}]}", none(), all()),
        ("{policyTypes: [Ingress], egress: [{}]}", none(), None),
        ("{policyTypes: [Egress], ingress: [{}]}", None, none()),
        ("{policyTypes: [Egress]}", None, none()),
        (
            "{policyTypes: [Ingress, Egress], egress: [{to: []}]}",
            none(),
            all(),
        ),
    ];
    for (spec, ingress, egress) in cases {
        let (policy, problems) = policy(spec);
        assert_eq!(
            (&policy.ingress, &policy.egress),
            (ingress, egress),
            "{spec}"
        );
        assert_eq!(problems, [] as [&str; 0], "{spec}");
        assert_eq!(policy.subject.pods, everyone(), "{spec}");
    }
    let (policy, _) = whole("metadata: {name: p}\n");
    assert_eq!(
        policy.subject.namespaces,
        NamespaceScope::Named("default".to_owned())
    );
    assert_eq!((policy.ingress, policy.egress), (none(), None));
    assert_eq!((policy.tier.as_str(), policy.order), ("default", 1000.0));
    assert_eq!(policy.name.to_string(), "NetworkPolicy default/p");
}

#[test]
fn peers_tell_missing_selectors_from_empty_ones() {
    let own = || NamespaceScope::Named("shop".to_owned());
    let pods = |namespaces, pods| Peer::Pods(PodSelector { namespaces, pods });
    let red = || {
        LabelSelector(vec![Requirement::In(
            "team".to_owned(),
            vec!["red".to_owned()],
        )])
    };
    let cases = [
        ("{podSelector: {}}", pods(own(), everyone())),
        (
            "{podSelector: {matchLabels: {team: red}}}",
            pods(own(), red()),
        ),
        (
            "{namespaceSelector: {}}",
            pods(NamespaceScope::Selected(everyone()), everyone()),
        ),
        (
            "{podSelector: ~, namespaceSelector: {matchLabels: {team: red}}}",
            pods(NamespaceScope::Selected(red()), everyone()),
        ),
        (
            "{podSelector: {matchLabels: {team: red}}, namespaceSelector: {}}",
            pods(NamespaceScope::Selected(everyone()), red()),
        ),
        (
            "{ipBlock: {cidr: 10.1.2.3/16, except: []}}",
            Peer::Cidr {
                cidr: "10.1.0.0/16".parse().unwrap(),
                except: vec![],
            },
        ),
        (
            "{ipBlock: {cidr: '::/0', except: ['fd00::1/64']}}",
            Peer::Cidr {
                cidr: "::/0".parse().unwrap(),
                except: vec!["fd00::/64".parse().unwrap()],
            },
        ),
    ];
    for (peer, expected) in cases {
        let (policy, problems) = policy(&format!("{{ingress: [{{from: [{peer}]}}]}}"));
        assert_eq!(problems, [] as [&str; 0], "{peer}");
        assert_eq!(
            policy.ingress.unwrap()[0].peers,
            Peers::OneOf(vec![expected]),
            "{peer}"
        );
    }
}

#[test]
fn ports_are_read_as_written() {
    let cases = [
        ("{}", Protocol::TCP, PortMatch::All),
        ("{protocol: UDP}", Protocol::UDP, PortMatch::All),
        ("{port: 80}", Protocol::TCP, PortMatch::Range(80, 80)),
        (
            "{protocol: SCTP, port: 1, endPort: 65535}",
            Protocol::SCTP,
            PortMatch::Range(1, 65535),
        ),
        (
            "{port: 80, endPort: 80}",
            Protocol::TCP,
            PortMatch::Range(80, 80),
        ),
        (
            "{port: 80, endPort: ~}",
            Protocol::TCP,
            PortMatch::Range(80, 80),
        ),
        (
            "{port: http}",
            Protocol::TCP,
            PortMatch::Named("http".to_owned()),
        ),
        (
            "{port: \"8a\"}",
            Protocol::TCP,
            PortMatch::Named("8a".to_owned()),
        ),
    ];
    for (port, protocol, expected) in cases {
        let (policy, problems) = policy(&format!("{{egress: [{{ports: [{port}]}}]}}"));
        assert_eq!(problems, [] as [&str; 0], "{port}");
        let expected = Ports::OneOf(vec![Port {
            protocol,
            port: expected,
        }]);
        assert_eq!(policy.egress.unwrap()[0].ports, expected, "{port}");
    }
}

#[test]
fn selectors_are_read_as_written() {
    let selector = "{matchLabels: {a: '', b: x}, matchExpressions: [{key: c, operator: In, values: [y, z]}, \
        {key: d, operator: NotIn, values: [w]}, {key: e, operator: Exists}, {key: f, operator: DoesNotExist, values: []}]}";
    let (policy, problems) = policy(&format!("{{podSelector: {selector}}}"));
    assert_eq!(problems, [] as [&str; 0]);
    let text = |text: &str| text.to_owned();
    assert_eq!(
        policy.subject.pods,
        LabelSelector(vec![
            Requirement::In(text("a"), vec![text("")]),
            Requirement::In(text("b"), vec![text("x")]),
            Requirement::In(text("c"), vec![text("y"), text("z")]),
            Requirement::NotIn(text("d"), vec![text("w")]),
            Requirement::Exists(text("e")),
            Requirement::DoesNotExist(text("f")),
        ])
    );
}

mod refused;
