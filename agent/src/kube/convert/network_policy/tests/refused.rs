use super::*;

#[test]
fn an_unreadable_rule_matches_nothing_and_the_others_stand() {
    let cases = [
        (
            "{form: [{podSelector: {}}]}",
            "spec.ingress[1].form: unknown field",
        ),
        (
            "{to: [{podSelector: {}}]}",
            "spec.ingress[1].to: unknown field",
        ),
        ("~", "spec.ingress[1]: expected an object, found null"),
        (
            "{from: {podSelector: {}}}",
            "spec.ingress[1].from: expected a list, found an object",
        ),
        (
            "{from: [{}]}",
            "spec.ingress[1].from[0]: a peer without podSelector, namespaceSelector and ipBlock",
        ),
        (
            "{from: [~]}",
            "spec.ingress[1].from[0]: expected an object, found null",
        ),
        (
            "{from: [{podSelectr: {}}]}",
            "spec.ingress[1].from[0].podSelectr: unknown field",
        ),
        (
            "{from: [{podSelector: {}}, {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
            "spec.ingress[1].from[1]: ipBlock together with a selector",
        ),
        (
            "{from: [{podSelector: {matchLabel: {a: b}}}]}",
            "spec.ingress[1].from[0].podSelector.matchLabel: unknown field",
        ),
        (
            "{from: [{podSelector: {matchLabels: {a: 1}}}]}",
            "spec.ingress[1].from[0].podSelector.matchLabels.a: expected a string, found 1",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}]}",
            "spec.ingress[1].from[0].podSelector.matchExpressions[0].operator: \"Gt\" is no operator",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}",
            "spec.ingress[1].from[0].podSelector.matchExpressions[0].values: at least one value is needed",
        ),
        (
            "{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}",
            "spec.ingress[1].from[0].namespaceSelector.matchExpressions[0].values: this operator takes no values",
        ),
        (
            "{from: [{ipBlock: {}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: required, but missing",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.1}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"10.0.0.1\" is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"10.0.0.0/33\" is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/08}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"10.0.0.0/08\" is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/+8}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"10.0.0.0/+8\" is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"010.0.0.0/8\" is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}",
            "spec.ingress[1].from[0].ipBlock.cidr: \"::ffff:10.0.0.0/104\" is IPv4 written as IPv6",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, expect: []}}]}",
            "spec.ingress[1].from[0].ipBlock.expect: unknown field",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}",
            "spec.ingress[1].from[0].ipBlock.except[0]: 11.0.0.0/16 does not lie strictly inside 10.0.0.0/8",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.3.2.1/8]}}]}",
            "spec.ingress[1].from[0].ipBlock.except[0]: 10.0.0.0/8 does not lie strictly inside 10.0.0.0/8",
        ),
        (
            "{from: [{ipBlock: {cidr: '::/0', except: [10.0.0.0/8]}}]}",
            "spec.ingress[1].from[0].ipBlock.except[0]: 10.0.0.0/8 does not lie strictly inside ::/0",
        ),
        (
            "{ports: [{port: 0}]}",
            "spec.ingress[1].ports[0].port: 0 is no port number",
        ),
        (
            "{ports: [{port: 65536}]}",
            "spec.ingress[1].ports[0].port: 65536 is no port number",
        ),
        (
            "{ports: [{port: -1}]}",
            "spec.ingress[1].ports[0].port: -1 is no port number",
        ),
        (
            "{ports: [{port: 80.5}]}",
            "spec.ingress[1].ports[0].port: 80.5 is no port number",
        ),
        (
            "{ports: [{port: '80'}]}",
            "spec.ingress[1].ports[0].port: \"80\" is no port name",
        ),
        (
            "{ports: [{port: ''}]}",
            "spec.ingress[1].ports[0].port: \"\" is no port name",
        ),
        (
            "{ports: [{port: [80]}]}",
            "spec.ingress[1].ports[0].port: expected a port number, found a list",
        ),
        (
            "{ports: [{port: 80, endPort: 79}]}",
            "spec.ingress[1].ports[0].endPort: 79 is below port 80",
        ),
        (
            "{ports: [{endPort: 80}]}",
            "spec.ingress[1].ports[0].endPort: only allowed with a numeric port",
        ),
        (
            "{ports: [{port: http, endPort: 80}]}",
            "spec.ingress[1].ports[0].endPort: only allowed with a numeric port",
        ),
        (
            "{ports: [{port: 80, endPort: '90'}]}",
            "spec.ingress[1].ports[0].endPort: expected a port number, found \"90\"",
        ),
        (
            "{ports: [{protocol: tcp}]}",
            "spec.ingress[1].ports[0].protocol: \"tcp\" is none of TCP, UDP, SCTP",
        ),
        (
            "{ports: [{protocol: ''}]}",
            "spec.ingress[1].ports[0].protocol: \"\" is none of TCP, UDP, SCTP",
        ),
        (
            "{ports: [{protocol: ICMP}]}",
            "spec.ingress[1].ports[0].protocol: \"ICMP\" is none of TCP, UDP, SCTP",
        ),
        (
            "{ports: [{prt: 80}]}",
            "spec.ingress[1].ports[0].prt: unknown field",
        ),
        (
            "{ports: [~]}",
            "spec.ingress[1].ports[0]: expected an object, found null",
        ),
    ];
    for (rule, expected) in cases {
        let (policy, problems) = policy(&format!("{{ingress: [{{}}, {rule}, {{}}]}}"));
        assert_eq!(
            policy.ingress,
            Some(vec![anybody(), nobody(), anybody()]),
            "{rule}"
        );
        assert_eq!(problems, [expected], "{rule}");
        assert_eq!(policy.egress, None, "{rule}");
    }
}

#[test]
fn an_unreadable_frame_closes() {
    let none = || Some(Vec::new());
    let all = || Some(vec![anybody()]);
    // spec -> (ingress, egress); the subject is always the whole namespace
    let cases: &[(&str, Rules, Rules)] = &[
        ("text", none(), none()),
        ("[]", none(), none()),
        // A field that is not known may have narrowed anything.
        (
            "{podSelectr: {matchLabels: {a: b}}, ingress: [{}]}",
            none(),
            none(),
        ),
        ("{ingres: [{}]}", none(), none()),
        (
            "{podSelector: {matchLabels: {a: b}}, policyTypes: [Egress], ingres: [{}]}",
            none(),
            none(),
        ),
        // Rules written for other pods are not given to all of them.
        ("{podSelector: [], ingress: [{}]}", none(), None),
        (
            "{podSelector: {matchLabels: text}, ingress: [{}], egress: [{}]}",
            none(),
            none(),
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}, policyTypes: [Egress], egress: [{}]}",
            None,
            none(),
        ),
        // Directions: what is readably listed keeps its rules.
        (
            "{policyTypes: Egress, egress: [{}], ingress: [{}]}",
            none(),
            none(),
        ),
        ("{policyTypes: [egress], egress: [{}]}", none(), none()),
        (
            "{policyTypes: [Ingress, Egres], ingress: [{}], egress: [{}]}",
            all(),
            none(),
        ),
        (
            "{policyTypes: [~, Egress], ingress: [{}], egress: [{}]}",
            none(),
            all(),
        ),
        // Lists.
        ("{ingress: {}}", none(), None),
        ("{egress: {}}", none(), none()),
        ("{ingress: [{}], egress: text}", all(), none()),
        (
            "{policyTypes: [Ingress], ingress: [{}], egress: text}",
            all(),
            None,
        ),
    ];
    for (spec, ingress, egress) in cases {
        let (policy, problems) = policy(spec);
        assert_eq!(
            (&policy.ingress, &policy.egress),
            (ingress, egress),
            "{spec}"
        );
        assert_eq!(policy.subject, closed_subject(), "{spec}");
        assert_ne!(problems, [] as [&str; 0], "{spec}");
    }
}

fn closed_subject() -> PodSelector {
    PodSelector {
        namespaces: NamespaceScope::Named("shop".to_owned()),
        pods: everyone(),
    }
}

#[test]
fn a_field_beside_spec_closes_and_one_in_metadata_does_not_matter() {
    let (policy, problems) =
        whole("metadata: {name: p, namespace: shop}\nspec: {ingress: [{}]}\negress: [{}]\n");
    assert_eq!(
        (policy.ingress, policy.egress),
        (Some(vec![]), Some(vec![]))
    );
    assert_eq!(problems[0], "egress: unknown field");
    let (policy, problems) = whole(
        "metadata: {name: p, namespace: shop, labels: 5, strange: {}}\nspec: {ingress: [{}]}\nstatus: {}\n",
    );
    assert_eq!(policy.ingress, Some(vec![anybody()]));
    assert_eq!(problems, [] as [&str; 0]);
}

#[test]
fn hostile_objects_are_reported_in_bounded_space() {
    let rules: Vec<_> = (0..5000)
        .map(|_| serde_json::json!({"from": "x".repeat(1000)}))
        .collect();
    let value = serde_json::json!({"metadata": {"name": "p"}, "spec": {"ingress": rules}});
    let entry = convert_entry(
        identify(Kind::NetworkPolicy, &value).unwrap(),
        &value,
        &Keep::nothing(),
    );
    assert!(entry.problems.len() < 50);
    assert!(
        entry
            .problems
            .iter()
            .all(|problem| problem.to_string().len() < 200)
    );
    let value =
        serde_json::json!({"metadata": {"name": "p"}, "spec": {"\u{1b}[2J".repeat(999): 1}});
    let entry = convert_entry(
        identify(Kind::NetworkPolicy, &value).unwrap(),
        &value,
        &Keep::nothing(),
    );
    assert!(
        entry
            .problems
            .iter()
            .all(|problem| !problem.to_string().contains('\u{1b}')
                && problem.to_string().len() < 700)
    );
}

#[test]
fn giant_policies_are_read() {
    let peers: Vec<_> = (0..50_000)
        .map(|n: u32| serde_json::json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", n / 250 % 250, n % 250)}}))
        .collect();
    let value =
        serde_json::json!({"metadata": {"name": "p"}, "spec": {"ingress": [{"from": peers}]}});
    let entry = convert_entry(
        identify(Kind::NetworkPolicy, &value).unwrap(),
        &value,
        &Keep::nothing(),
    );
    assert_eq!(entry.problems, []);
}
