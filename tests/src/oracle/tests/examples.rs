//! Part 9 of the policy reference as far as it concerns `NetworkPolicy`, and the tables of parts 2 and 8.

use serde_json::json;

use super::{check, check_policy, namespace, pod, pods_of_the_examples, policy};
use crate::oracle::{Oracle, Reason, SideVerdict, Verdict};

#[test]
fn the_worked_examples_come_out_as_written() {
    check_policy(
        &json!({"podSelector": {}}),
        &["a/web > ip:203.0.113.9 TCP 80"],
        &["b/web > a/web TCP 80"],
    );
    check_policy(
        &json!({"podSelector": {}, "egress": []}),
        &["a/web > ip:203.0.113.9 TCP 80"],
        &[],
    );
    check_policy(
        &json!({"podSelector": {}, "policyTypes": ["Egress"]}),
        &["b/web > a/db TCP 80"],
        &["a/web > a/db TCP 80"],
    );
    check_policy(
        &json!({"ingress": [{"from": []}]}),
        &["ip:203.0.113.9 > a/web TCP 80"],
        &[],
    );
    check_policy(
        &json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
        &["b/web > a/web TCP 80"],
        &["ip:203.0.113.9 > a/web TCP 80"],
    );
    check_policy(
        &json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
        &["a/web > a/db TCP 80"],
        &["b/web > a/db TCP 80"],
    );
    check_policy(
        &json!({"ingress": [{"ports": [{}]}]}),
        &["b/web > a/web TCP 53"],
        &["b/web > a/web UDP 53"],
    );
    check_policy(
        &json!({"ingress": [{"ports": [{"port": "http"}]}]}),
        &["b/web > a/web TCP 8080", "b/web > a/db TCP 5432"],
        &["b/web > a/db TCP 8080", "b/web > a/web UDP 8080"],
    );
    check_policy(
        &json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{"ports": [{"port": "http"}]}]}),
        &["a/web > a/db TCP 5432"],
        &["a/web > b/web TCP 8080", "a/web > ip:203.0.113.9 TCP 8080"],
    );
    check_policy(
        &json!({"ingress": [{"from": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "10.1.2.0/24"}}]}]}),
        &["ip:10.1.2.3 > a/web TCP 80", "b/web > a/web TCP 80"],
        &["ip:10.1.3.3 > a/web TCP 80", "ip:11.0.0.1 > a/web TCP 80"],
    );
}

#[test]
fn an_allow_on_one_side_never_helps_the_other() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", &json!({"policyTypes": ["Ingress", "Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]})));
    let answer = Oracle::new(&objects)
        .judge(&super::probe("a/web > a/db TCP 80"))
        .unwrap();
    assert_eq!(
        (answer.egress.verdict, answer.egress.reason),
        (SideVerdict::Allow, Reason::AllowRule)
    );
    assert_eq!(
        (
            answer.egress.rules[0].policy.as_str(),
            answer.egress.rules[0].rule
        ),
        ("NetworkPolicy a/p", 0)
    );
    assert_eq!(
        (answer.ingress.verdict, answer.ingress.reason),
        (SideVerdict::Deny, Reason::DefaultDeny)
    );
    assert_eq!(answer.verdict(), Verdict::Deny);
}

#[test]
fn policy_types_follow_their_table() {
    // columns: does b/web reach a/web (ingress governed or not), does a/web reach b/web (egress governed or not)
    let outgoing = json!([{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]);
    let table = [
        (json!({}), false, true),
        (json!({"policyTypes": []}), false, true),
        (json!({"policyTypes": null, "egress": null}), false, true),
        (json!({"egress": []}), false, true),
        (json!({"egress": outgoing}), false, false),
        (
            json!({"policyTypes": [], "ingress": [{}], "egress": outgoing}),
            true,
            false,
        ),
        (
            json!({"policyTypes": ["Ingress"], "egress": outgoing}),
            false,
            true,
        ),
        (json!({"policyTypes": ["Egress"]}), true, false),
        (
            json!({"policyTypes": ["Egress"], "ingress": [], "egress": null}),
            true,
            false,
        ),
        (json!({"policyTypes": ["Egress", "Ingress"]}), false, false),
    ];
    for (spec, inward, outward) in table {
        let verdict = |passes: bool| {
            if passes {
                Verdict::Allow
            } else {
                Verdict::Deny
            }
        };
        let mut objects = pods_of_the_examples();
        objects.push(policy("a", &spec));
        check(&objects, "b/web > a/web TCP 80", verdict(inward));
        check(&objects, "a/web > b/web TCP 80", verdict(outward));
    }
}

#[test]
fn a_missing_or_empty_spec_denies_all_ingress_of_the_namespace() {
    let bare = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "a", "name": "p"}});
    for object in [bare, policy("a", &json!({})), policy("a", &json!(null))] {
        let mut objects = pods_of_the_examples();
        objects.push(object);
        check(&objects, "b/web > a/web TCP 80", Verdict::Deny);
        check(&objects, "a/web > b/web TCP 80", Verdict::Allow);
    }
}

#[test]
fn the_length_of_the_outer_list_decides() {
    check_policy(
        &json!({"ingress": [{}]}),
        &["b/web > a/web TCP 80", "ip:203.0.113.9 > a/web ICMP 8"],
        &[],
    );
    check_policy(
        &json!({"ingress": []}),
        &[],
        &["b/web > a/web TCP 80", "ip:203.0.113.9 > a/web ICMP 8"],
    );
    check_policy(
        &json!({"ingress": [{"from": null, "ports": []}]}),
        &["b/web > a/web SCTP 80"],
        &[],
    );
}

#[test]
fn two_entries_are_alternatives_and_one_entry_is_a_conjunction() {
    let pods = json!({"matchLabels": {"app": "db"}});
    let namespaces = json!({"matchLabels": {"team": "red"}});
    check_policy(
        &json!({"ingress": [{"from": [{"podSelector": pods}, {"namespaceSelector": namespaces}]}]}),
        &["a/db > a/web TCP 80", "b/web > a/web TCP 80"],
        &["ip:203.0.113.9 > a/web TCP 80"],
    );
    check_policy(
        &json!({"ingress": [{"from": [{"podSelector": pods, "namespaceSelector": namespaces}]}]}),
        &[],
        &["a/db > a/web TCP 80", "b/web > a/web TCP 80"],
    );
    check_policy(
        &json!({"ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]}),
        &["a/db > a/web TCP 80", "b/web > a/web TCP 80"],
        &["ip:203.0.113.9 > a/web TCP 80"],
    );
}

#[test]
fn peers_and_ports_of_one_rule_multiply_and_those_of_two_do_not_mix() {
    let from = |cidr: &str| json!([{"ipBlock": {"cidr": cidr}}]);
    check_policy(
        &json!({"ingress": [
            {"from": from("203.0.113.0/24"), "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
            {"from": from("198.51.100.0/24"), "ports": [{"port": 443}]}]}),
        &[
            "ip:203.0.113.9 > a/web TCP 80",
            "ip:203.0.113.9 > a/web UDP 53",
            "ip:198.51.100.1 > a/web TCP 443",
        ],
        &[
            "ip:203.0.113.9 > a/web TCP 443",
            "ip:198.51.100.1 > a/web TCP 80",
            "ip:203.0.113.9 > a/web TCP 53",
        ],
    );
}

#[test]
fn port_ranges_end_where_they_say() {
    check_policy(
        &json!({"ingress": [{"ports": [{"port": 8080, "endPort": 8090}, {"port": 65535, "endPort": 65535, "protocol": "SCTP"}]}]}),
        &[
            "b/web > a/web TCP 8080",
            "b/web > a/web TCP 8090",
            "b/web > a/web SCTP 65535",
        ],
        &[
            "b/web > a/web TCP 8079",
            "b/web > a/web TCP 8091",
            "b/web > a/web SCTP 65534",
            "b/web > a/web UDP 8080",
        ],
    );
}

#[test]
fn a_rule_with_ports_never_matches_icmp_and_one_without_does() {
    check_policy(
        &json!({"ingress": [{"ports": [{}]}]}),
        &[],
        &["b/web > a/web ICMP 8"],
    );
    check_policy(
        &json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
        &["b/web > a/web ICMP 8"],
        &["ip:203.0.113.9 > a/web ICMP 8"],
    );
}

#[test]
fn what_answers_something_is_never_a_first_packet() {
    check_policy(
        &json!({"podSelector": {"matchLabels": {"app": "nobody"}}}),
        &["b/web > a/web ICMP 8"],
        &[
            "b/web > a/web ICMP 0",
            "b/web > a/web ICMP 3",
            "ip:203.0.113.9 > a/web ICMP 11",
            "a/web > ip:203.0.113.9 ICMP 0",
        ],
    );
}

#[test]
fn a_policy_reaches_its_own_namespace_only() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("b", &json!({"podSelector": {}})));
    check(&objects, "b/web > a/web TCP 80", Verdict::Allow);
    check(&objects, "a/web > b/web TCP 80", Verdict::Deny);
    objects.push(namespace("c", &json!({})));
    objects.push(pod(
        "c",
        "web",
        "10.2.0.9",
        &json!({"app": "web"}),
        &json!([]),
    ));
    check(&objects, "a/web > c/web TCP 80", Verdict::Allow);
}

#[test]
fn the_name_of_a_namespace_is_a_label_nobody_has_to_write() {
    check_policy(
        &json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}]}]}),
        &["b/web > a/web TCP 80"],
        &["a/db > a/web TCP 80"],
    );
}

#[test]
fn policies_add_up_and_an_exception_takes_from_its_own_block_only() {
    let mut objects = pods_of_the_examples();
    objects.push(policy("a", &json!({"ingress": []})));
    objects.push(policy("a", &json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.3/32"]}}]}]})));
    check(&objects, "b/web > a/web TCP 80", Verdict::Deny);
    check(&objects, "a/db > a/web TCP 80", Verdict::Allow);
    objects.push(policy(
        "a",
        &json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
    ));
    check(&objects, "b/web > a/web TCP 80", Verdict::Allow);
}
