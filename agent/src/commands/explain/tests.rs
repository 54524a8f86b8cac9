use std::path::PathBuf;

use super::*;

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: a}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: a}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: a}
status: {phase: Running, podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: v9
kind: Marvel
metadata: {name: x}
";

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("portcullis-explain-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        std::fs::write(path.join("objects.yaml"), OBJECTS).expect("a file in it");
        Self(path)
    }

    fn objects(&self) -> Objects<'_> {
        Objects {
            manifests: &self.0,
            node: None,
            metadata_allow: BTreeSet::new(),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_probe_file_is_answered_in_its_order_as_one_bare_list() {
    let directory = Directory::new("probes");
    let file = directory.0.join("probes.txt");
    let probes = r#"[
        {"id": "b", "src": "shop/web", "dst": "shop/db", "protocol": "TCP", "dstPort": 5432},
        {"id": 7, "src": "shop/db", "dst": "ip:169.254.169.254", "protocol": "TCP", "dstPort": 80},
        {"id": "a", "src": "node:a", "dst": "shop/db", "protocol": "UDP", "dstPort": 1}
    ]"#;
    std::fs::write(&file, probes).expect("a probe file");
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let code = explain_probes(&directory.objects(), &file, &mut out, &mut notes)
        .expect("every probe is answered");
    assert_eq!(code, exit::DONE);
    let answer: serde_json::Value = serde_json::from_slice(&out).expect("one JSON list");
    let list = answer.as_array().expect("a list");
    assert_eq!(list[0]["id"], "b");
    assert_eq!(list[0]["ingress"]["policy"], "NetworkPolicy shop/db");
    assert_eq!(list[0]["ingress"]["rule"], 0);
    assert_eq!(list[1]["id"], 7);
    assert_eq!(list[1]["egress"]["reason"], "metadata-guard");
    assert_eq!(list[2]["ingress"]["reason"], "host-exempt");
    assert!(
        String::from_utf8_lossy(&notes).contains("Marvel"),
        "the refused object is named"
    );
}

#[test]
fn a_probe_that_cannot_be_asked_is_named_and_the_others_are_answered() {
    let directory = Directory::new("unasked");
    let file = directory.0.join("probes.txt");
    let probes = r#"[
        {"id": "x", "src": "shop/nobody", "dst": "shop/db", "protocol": "TCP", "dstPort": 1},
        {"id": "y", "src": "shop/web", "dst": "shop/db", "protocol": "TCP", "dstPort": 1}
    ]"#;
    std::fs::write(&file, probes).expect("a probe file");
    let mut out = Vec::new();
    let error = explain_probes(&directory.objects(), &file, &mut out, &mut Vec::new())
        .expect_err("one cannot be asked");
    let failure = Failure::from(error);
    assert_eq!((failure.code, failure.exit_code()), ("PC5004", exit::USAGE));
    assert!(failure.why.contains("probe x: src"), "{}", failure.why);
    let answer: serde_json::Value = serde_json::from_slice(&out).expect("one JSON list");
    assert_eq!(answer[0]["id"], "y");
}

#[test]
fn an_expectation_that_is_not_met_is_a_negative_answer() {
    let directory = Directory::new("expect");
    let ask = |destination, expect| {
        let question = Question {
            source: "shop/web",
            destination,
            expect: Some(expect),
        };
        let mut out = Vec::new();
        let code = explain(
            &question,
            &directory.objects(),
            true,
            &mut out,
            &mut Vec::new(),
        )
        .expect("can be asked");
        (
            code,
            serde_json::from_slice::<serde_json::Value>(&out).expect("an object"),
        )
    };
    let (code, answer) = ask("shop/db:5432", Verdict::Allow);
    assert_eq!(
        (code, &answer["kind"]),
        (exit::DONE, &serde_json::json!("Explanation"))
    );
    let (code, answer) = ask("shop/db:80", Verdict::Allow);
    assert_eq!(
        (code, &answer["reason"]),
        (exit::NEGATIVE, &serde_json::json!("default-deny"))
    );
    assert_eq!(answer["ingress"]["steps"][0]["missed"][0], "port");
    assert_eq!(ask("metadata", Verdict::Deny).0, exit::DONE);
}

#[test]
fn people_read_a_verdict_first() {
    let directory = Directory::new("words");
    let question = Question {
        source: "10.0.0.2",
        destination: "shop/db:80",
        expect: None,
    };
    let mut out = Vec::new();
    explain(
        &question,
        &directory.objects(),
        false,
        &mut out,
        &mut Vec::new(),
    )
    .expect("can be asked");
    assert!(
        out.starts_with(b"VERDICT  DENY (ingress, default-deny)"),
        "{}",
        String::from_utf8_lossy(&out)
    );
}
