use std::collections::BTreeSet;

use super::*;
use crate::endpoint::scratch::Scratch;

const GOLDEN: &str = include_str!("tests/golden.txt");
const OBJECTS: &str = include_str!("tests/objects.yaml");
const PAGE: &str = include_str!("../../../../docs/policy-lint.md");

/// What is printed about a file of these objects, and the exit code.
fn printed(objects: &str, strict: bool, json: bool) -> (String, u8) {
    let scratch = Scratch::new("lint");
    let file = scratch.path().join("objects.yaml");
    std::fs::write(&file, objects).expect("a file can be written");
    let mut out = Vec::new();
    let code = lint(std::slice::from_ref(&file), strict, json, &mut out).expect("it can be read");
    let text = String::from_utf8(out).expect("it is text");
    (text.replace(&*file.to_string_lossy(), "objects.yaml"), code)
}

/// The names of what is found in a policy `shop/p` with this `spec`, with pods `app=web` (port `http`) and `app=db` beside it.
fn found(spec: &str) -> Vec<&'static str> {
    const PODS: &str = "apiVersion: v1\nkind: PodList\nitems:\n\
        - {metadata: {name: w, namespace: shop, labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}}\n\
        - {metadata: {name: d, namespace: shop, labels: {app: db}}}\n---\n";
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    );
    names(&format!("{PODS}{policy}"))
}

fn names(objects: &str) -> Vec<&'static str> {
    let report: serde_json::Value =
        serde_json::from_str(&printed(objects, false, true).0).expect("a report is JSON");
    let findings = report["findings"].as_array().expect("findings are a list");
    let of = |finding: &serde_json::Value| {
        let name = finding["check"].as_str();
        let check = Check::ALL
            .into_iter()
            .find(|check| Some(check.name()) == name);
        check.expect("a name of the list").name()
    };
    findings.iter().map(of).collect()
}

#[test]
fn the_text_for_people_is_this() {
    let (text, code) = printed(OBJECTS, false, false);
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/commands/lint/tests/golden.txt"
        );
        std::fs::write(path, &text).expect("the golden file can be written");
    } else {
        assert_eq!(text, GOLDEN, "BLESS=1 writes it anew");
    }
    assert_eq!(code, exit::NEGATIVE);
}

#[test]
fn every_mistake_that_is_refused_has_a_name_and_is_an_error() {
    let ingress = |rule: &str| format!("{{podSelector: {{}}, ingress: [{{}}, {rule}]}}");
    let cases = [
        ("{form: []}", "unknown-field"),
        ("{from: {}}", "unexpected-type"),
        ("~", "unexpected-type"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}", "invalid-cidr"),
        (
            "{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}",
            "invalid-cidr",
        ),
        ("{from: [{ipBlock: {except: []}}]}", "missing-field"),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}",
            "except-outside",
        ),
        ("{ports: [{port: 0}]}", "invalid-port"),
        ("{ports: [{port: 65536}]}", "invalid-port"),
        ("{ports: [{port: '80'}]}", "invalid-port-name"),
        ("{ports: [{endPort: 80}]}", "invalid-end-port"),
        ("{ports: [{port: 90, endPort: 80}]}", "invalid-end-port"),
        ("{ports: [{protocol: ICMP}]}", "unknown-protocol"),
        ("{from: [{}]}", "invalid-peer"),
        (
            "{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
            "invalid-peer",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}]}",
            "invalid-selector",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}",
            "invalid-selector",
        ),
    ];
    for (rule, name) in cases {
        assert_eq!(found(&ingress(rule)), [name], "{rule}");
    }
    let frames: [(&str, &[&str]); 4] = [
        (
            "{podSelector: {}, policyTypes: [ingress], ingress: [{}]}",
            &["unknown-policy-type"],
        ),
        (
            "{podSelectr: {}, ingress: [{}]}",
            &["rules-withheld", "unknown-field"],
        ),
        (
            "{podSelector: {matchLabels: {app: [web]}}}",
            &["rules-withheld", "unexpected-type"],
        ),
        ("{podSelector: {}, ingress: {}}", &["unexpected-type"]),
    ];
    for (spec, names) in frames {
        assert_eq!(found(spec), names, "{spec}");
    }
    assert_eq!(
        names(
            "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: {name: x}\n"
        ),
        ["unread-policy"]
    );
    assert_eq!(
        names("apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: x}\n"),
        ["unread-policy"]
    );
    assert_eq!(
        names("apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: x}\n"),
        ["unread-kind"]
    );
    assert_eq!(
        names("apiVersion: v1\nkind: Pod\nmetadata: {name: x, creationTimestamp: noon}\n"),
        ["invalid-time"]
    );
    assert_eq!(
        names("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {podIP: 127.0.0.1}\n"),
        ["invalid-address"]
    );
    assert_eq!(
        names("kind: NetworkPolicy\nmetadata: {name: x\n"),
        ["syntax", "syntax"],
        "the document, and the policy that it seems to hold"
    );
}

#[test]
fn a_policy_that_means_what_it_says_has_no_findings() {
    for spec in [
        "{podSelector: {}, ingress: [{}]}",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]}",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}, {ports: [{port: 53, protocol: UDP}]}]}",
        "{podSelector: {matchExpressions: [{key: statefulset.kubernetes.io/pod-name, operator: In, values: [db-0]}]}, ingress: [{}]}",
    ] {
        assert_eq!(found(spec), [""; 0], "{spec}");
    }
}

#[test]
fn pods_of_templates_count_whoever_makes_them() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
        spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}\n";
    let pod = "{metadata: {labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}}";
    let made = [
        ("apps/v1", "Deployment", format!("{{template: {pod}}}")),
        (
            "batch/v1",
            "CronJob",
            format!("{{jobTemplate: {{spec: {{template: {pod}}}}}}}"),
        ),
        (
            "argoproj.io/v1alpha1",
            "Rollout",
            format!("{{template: {pod}}}"),
        ),
    ];
    let other = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\n";
    for (version, kind, spec) in made {
        let maker = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
        );
        let with = names(&format!("{policy}---\n{other}---\n{maker}"));
        let unread: &[&str] = if kind == "Rollout" {
            &["unread-kind"]
        } else {
            &[]
        };
        assert_eq!(with, unread, "{kind}");
    }
    assert_eq!(
        names(&format!("{policy}---\n{other}")),
        ["selects-nothing"],
        "without them it selects nothing"
    );
    let (text, code) = printed(policy, false, false);
    let expected = "nothing found in 1 policy\n! there are no pods among the objects: not looked for: \
        selects-nothing, peer-selects-nothing, peer-elsewhere, unknown-port-name\n";
    assert_eq!((text.as_str(), code), (expected, exit::DONE));
}

#[test]
fn notes_count_only_if_it_is_to_be_strict() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
        spec: {podSelector: {}, policyTypes: [Ingress]}\n";
    assert_eq!(names(policy), ["denies-all"]);
    assert_eq!(printed(policy, false, false).1, exit::DONE);
    assert_eq!(printed(policy, true, false).1, exit::NEGATIVE);
}

#[test]
fn programs_read_object_field_value_and_remedy() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
        spec: {podSelector: {}, ingress: [{ports: [{port: 70000}]}]}\n";
    let (text, code) = printed(policy, false, true);
    let report: serde_json::Value = serde_json::from_str(&text).expect("a report is JSON");
    let expected = serde_json::json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "LintReport",
        "policies": 1,
        "pods": 0,
        "summary": {"errors": 1, "warnings": 0, "notes": 0},
        "unchecked": ["selects-nothing", "peer-selects-nothing", "peer-elsewhere", "unknown-port-name"],
        "findings": [{
            "check": "invalid-port",
            "severity": "error",
            "object": {"kind": "NetworkPolicy", "namespace": "shop", "name": "p"},
            "origin": "objects.yaml#0",
            "field": "spec.ingress[0].ports[0].port",
            "value": "70000",
            "problem": "70000 is no port number",
            "do": "write a number from 1 to 65535",
        }],
    });
    assert_eq!((report, code), (expected, exit::NEGATIVE));
}

#[test]
fn findings_stand_in_the_order_of_fields_with_numbers_by_value() {
    let rules: Vec<&str> = std::iter::repeat_n("{ports: [{port: 0}]}", 12).collect();
    let spec = format!("{{podSelector: {{}}, ingress: [{}]}}", rules.join(", "));
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
    );
    let (text, _) = printed(&policy, false, true);
    let report: serde_json::Value = serde_json::from_str(&text).expect("a report is JSON");
    let fields = report["findings"].as_array().expect("a list").iter();
    let fields: Vec<&str> = fields
        .filter_map(|finding| finding["field"].as_str())
        .collect();
    let expected: Vec<String> = (0..12)
        .map(|index| format!("spec.ingress[{index}].ports[0].port"))
        .collect();
    assert_eq!(fields, expected);
}

#[test]
fn the_page_has_a_row_for_every_check_and_no_other() {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<(&str, &str)> = rows
        .filter_map(|row| {
            let (name, rest) = row.split_once("` | ")?;
            Some((name, rest.split_once(" | ")?.0))
        })
        .collect();
    let expected: BTreeSet<(&str, &str)> = Check::ALL
        .iter()
        .map(|check| (check.name(), check.severity().name()))
        .collect();
    assert_eq!(rows.len(), expected.len(), "a row twice, or one too many");
    assert_eq!(BTreeSet::from_iter(rows), expected);
}
