//! What pods find of their node, on a node whose metadata service has everything: the table, and nothing that makes them the node.
//!
//! ```text
//! pod -> guard -> responder -> facts, fetched beforehand <- instance (every path of AWS' mock, each value marked)
//! ```

#[path = "../../agent/imds/src/server/tests/corpus.rs"]
mod corpus;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use portcullis_lab::client::{HttpAnswer, connect_tcp};
use portcullis_tests::cloud::instance::{Instance, MARK, NODE_KEY, NODE_ROLE, PATHS, value};
use portcullis_tests::cloud::{BASE, Cloud, LISTING, ROLE, session};
use portcullis_tests::scene::{Pod, SOON, admin, ip, pod, wait_until};
use serde_json::Value;

use corpus::{CORPUS, SMUGGLED};

const WEB: &str = "shop/web";
const OPS: &str = "ops/agent";
const VPC: &str = "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-id";
const DOCUMENT: &str = "dynamic/instance-identity/document";
const NODE_KEYS: &str = "meta-data/iam/security-credentials/node-only-role";
/// Every pod reads these.
const COMMON: [&str; 7] = [
    "meta-data/instance-id",
    "meta-data/instance-type",
    "meta-data/placement/availability-zone",
    "meta-data/placement/availability-zone-id",
    "meta-data/placement/region",
    "meta-data/services/domain",
    "meta-data/services/partition",
];
/// What the namespace `ops` asked for, at the paths where it lies here.
const ASKED: [&str; 8] = [
    "meta-data/ami-id",
    "meta-data/mac",
    "meta-data/spot/instance-action",
    "meta-data/tags/instance/Name",
    "meta-data/tags/instance/Test",
    VPC,
    "dynamic/instance-identity/pkcs7",
    DOCUMENT,
];
const OPS_OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: ops
  annotations:
    portcullis.dev/metadata-paths: '["ami-id", "mac", "spot/instance-action", "network/interfaces/macs/*/vpc-id", "tags/instance/*", "dynamic/instance-identity/pkcs7"]'
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: ops, uid: sa-ops}
"#;

fn pods() -> [Pod; 2] {
    [
        pod(WEB, "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web"),
        pod(OPS, "10.0.1.2 fd00:1::2"),
    ]
}

/// A node whose pods are decided and whose facts are known.
fn up(test: &str) -> Cloud {
    let mut cloud = Cloud::up_on_instance(test, &pods(), &["--auto-discover-base-arn"]);
    cloud.start_instance();
    cloud.scene.apply("ops", OPS_OBJECTS);
    for (key, path) in [
        (WEB, "meta-data/iam/info"),
        (WEB, DOCUMENT),
        (OPS, "dynamic/instance-identity/pkcs7"),
    ] {
        let path = format!("/latest/{path}");
        wait_until("the node and its pods are known", SOON * 2, || {
            let token = cloud.token(key);
            cloud.get(key, &token, &path).status == 200
        });
    }
    cloud
}

fn instance(cloud: &Cloud) -> &Instance {
    cloud.instance.as_ref().expect("the node has one")
}

/// Everything that the service has, and the folders above it, as a pod asks for it.
fn everything() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for path in PATHS {
        let plain = path.trim_end_matches('/');
        let folders = plain.match_indices('/').map(|(at, _)| &plain[..at]);
        all.extend(folders.chain([plain]).map(str::to_owned));
    }
    all
}

/// An answer at a path whose value the pod may not read.
fn judge(key: &str, path: &str, answer: &HttpAnswer) {
    let body = &answer.body;
    assert!(
        !body.contains(MARK) && !body.contains(NODE_KEY) && !body.contains(NODE_ROLE),
        "{key} {path}: {answer:?}"
    );
    match (answer.status, path) {
        (403 | 404, _) => {}
        (200, DOCUMENT) => {
            let document: Value = serde_json::from_str(body).expect("it is JSON");
            let fields = document.as_object().expect("it is an object");
            assert_eq!(fields.len(), 6, "{document}");
        }
        // Those of the pod.
        (200, "meta-data/iam/info") => assert!(body.contains("instance-profile/app-web"), "{body}"),
        (200, "meta-data/iam/security-credentials") => assert_eq!(body, "app-web"),
        (200, folder) if !PATHS.contains(&folder) => {}
        _ => panic!("{key} {path}: {answer:?}"),
    }
}

#[test]
fn i11_of_all_that_the_node_has_only_the_table_answers() {
    let cloud = up("fa-crawl");
    for (key, asked) in [(WEB, &[][..]), (OPS, &ASKED[..])] {
        for path in everything() {
            let token = cloud.token(key);
            let answer = cloud.get(key, &token, &format!("/latest/{path}"));
            if COMMON.contains(&&*path) || asked.contains(&&*path) {
                let got = (answer.status, answer.body);
                assert_eq!(got, (200, value(&path)), "{key} {path}");
            } else {
                judge(key, &path, &answer);
            }
        }
    }
    let token = cloud.token(WEB);
    for path in [
        "iam/security-credentials/node-only-role",
        "tags/instance/Name",
        "tags",
    ] {
        let answer = cloud.get(WEB, &token, &format!("/latest/meta-data/{path}"));
        assert!([403, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    // One fetch for each value, whoever read it and however often, and none of what nobody may read.
    for path in PATHS {
        let most = match *path {
            // Asked for again every 5 seconds.
            "meta-data/spot/instance-action" => usize::MAX,
            // Once more where STS is asked; the agent, again until there is a service.
            "meta-data/placement/region" | "meta-data/iam/info" => 2,
            // The first two sign AssumeRole.
            "meta-data/iam/security-credentials/"
            | NODE_KEYS
            | "meta-data/network/interfaces/macs/"
            | "meta-data/tags/instance/" => 1,
            path if COMMON.contains(&path) || ASKED.contains(&path) => 1,
            _ => 0,
        };
        assert!(instance(&cloud).asked(path) <= most, "{path}");
    }
    cloud.down();
}

#[test]
fn m7_whatever_a_pod_smuggles_the_node_is_asked_for_the_table_alone() {
    let cloud = up("fa-smuggle");
    let to = (ip("169.254.169.254"), 80).into();
    for (what, text) in CORPUS {
        let token = format!("X-aws-ec2-metadata-token: {}\r\n", cloud.token(WEB));
        let text = text.replace("SMUGGLED", SMUGGLED).replace("TOKEN", &token);
        let mut stream = connect_tcp(cloud.scene.netns(WEB), to, SOON).expect("it connects");
        stream.set_read_timeout(Some(SOON)).expect("a time-out");
        stream.write_all(text.as_bytes()).expect("it sends");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("a refusal");
        assert_eq!(
            said.matches("\r\nServer: EC2ws\r\n").count(),
            1,
            "{what}: {said}"
        );
        assert!(
            ["400", "403", "417"].contains(&&said[9..12]),
            "{what}: {said}"
        );
    }
    let host = "Host: 127.0.0.1:5002\r\n";
    let ends = [
        format!("{host}X-aws-ec2-metadata-token: {MARK}-IMDS-TOKEN\r\nConnection: close\r\n\r\n"),
        format!(
            "{host}X-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
    ];
    let own = [
        "api/token",
        "meta-data/network/interfaces/macs/",
        "meta-data/tags/instance/",
        "meta-data/iam/info",
        "meta-data/iam/security-credentials/",
        NODE_KEYS,
    ];
    let table: BTreeSet<&str> = COMMON.into_iter().chain(ASKED).chain(own).collect();
    let heads = instance(&cloud).heads();
    assert!(heads.len() > COMMON.len() + ASKED.len());
    for head in heads {
        let (first, rest) = head.split_once("\r\n").expect("a line");
        let path = first
            .strip_suffix(" HTTP/1.1")
            .and_then(|line| line.split_once(" /latest/"));
        assert!(path.is_some_and(|(_, path)| table.contains(path)), "{head}");
        assert!(
            ends.iter().any(|end| end == rest),
            "a byte of a pod: {head}"
        );
    }
    cloud.down();
}

#[test]
fn k4_the_nodes_credentials_sign_for_pods_are_fetched_once_and_shown_to_nobody() {
    let cloud = up("fa-keys");
    let ask = || {
        let token = cloud.token(WEB);
        cloud.get(WEB, &token, &format!("{LISTING}app-web"))
    };
    // The first ones may have to wait for STS longer than a request does.
    wait_until("STS has answered", SOON, || ask().status == 200);
    for _ in 0..20 {
        let answer = ask();
        assert_eq!(answer.status, 200, "{answer:?}");
        let document: Value = serde_json::from_str(&answer.body).expect("it is JSON");
        assert_eq!(cloud.sts.whose(&document), session("app-web", "web"));
        assert!(!answer.body.contains(MARK) && document["AccessKeyId"] != NODE_KEY);
    }
    assert_eq!(instance(&cloud).asked(NODE_KEYS), 1);
    assert!(!cloud.responder.log().contains(&format!("{MARK}-")));
    cloud.down();
}

#[test]
fn a_base_and_a_default_role_that_are_to_be_discovered_are_waited_for() {
    let options = ["--auto-discover-base-arn", "--auto-discover-default-role"];
    let mut cloud = Cloud::up_on_instance("fa-discover", &pods(), &options);
    cloud.scene.apply("ops", OPS_OBJECTS);
    let decided = |cloud: &Cloud, key: &str| -> Value {
        let said = admin::get(cloud.scene.socket(), "/v1/roles").expect("the agent answers");
        let roles: Value = serde_json::from_str(&said.body).expect("it is JSON");
        let mut pods = roles["items"].as_array().expect("a list").iter();
        let found = pods.find(|item| item["pod"] == key);
        found.expect("the pod is known").clone()
    };
    // Whoever names a role waits for its base, whoever names none for the default.
    for (key, reason) in [(WEB, "base-arn"), (OPS, "default-role")] {
        let decision = decided(&cloud, key);
        assert_eq!(decision["state"], "undecided", "{decision}");
        assert_eq!(decision["reason"], reason, "{decision}");
    }
    cloud.start_instance();
    for (key, role) in [(WEB, "app-web"), (OPS, NODE_ROLE)] {
        wait_until("the node has said what it is", SOON * 2, || {
            decided(&cloud, key)["state"] == "role"
        });
        assert_eq!(decided(&cloud, key)["role"], format!("{BASE}{role}"));
        let token = cloud.token(key);
        assert_eq!(cloud.get(key, &token, LISTING).body, role);
    }
    cloud.down();
}
