//! Pods ask for credentials as SDKs do, at the true addresses; whose keys they get is what STS says of them.
//!
//! ```text
//! pod -> guard -> responder (uid 65532, no capability) -> STS (moto, in the node)
//! keys of the answer -> GetCallerIdentity at the same STS -> whose they are
//! ```

#[path = "imds/aws.rs"]
mod aws;
#[path = "imds/responder.rs"]
mod responder;

use std::net::SocketAddr;

use portcullis_lab::client::{self, HttpAnswer};
use portcullis_tests::scene::{Pod, SOON, Scene, ip, pod};
use serde_json::Value;

use aws::Sts;
use responder::Responder;

const ROLE: &str = "iam.amazonaws.com/role";
const BASE: &str = "arn:aws:iam::123456789012:role/";
/// Any role below the base may be had, but for those of the administrators.
const NAMESPACE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/allowed-roles: '["app-*"]'}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop, uid: sa-default}
"#;

/// A node whose pods get credentials.
struct Cloud {
    // Ended in this order.
    responder: Responder,
    sts: Sts,
    scene: Scene,
}

impl Cloud {
    fn up(test: &str, pods: &[Pod]) -> Self {
        let directory = responder::directory(test);
        let socket = directory.join("agent.sock");
        let scene = Scene::up_with(test, pods, NAMESPACE, |options| {
            let words = ["--source", "assume-role", "--base-role-arn", BASE];
            options.extra.extend(words.map(Into::into));
            options.extra.extend(["--responder".into(), socket.into()]);
        });
        let sts = Sts::start(&scene);
        let responder = Responder::start(&scene, directory, aws::URL);
        Self {
            responder,
            sts,
            scene,
        }
    }

    /// One request of a pod to EC2's address.
    fn ask(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpAnswer {
        let to: SocketAddr = (ip("169.254.169.254"), 80).into();
        client::http(self.scene.netns(key), to, method, path, headers, SOON)
            .unwrap_or_else(|error| panic!("{key}: {method} {path}: {error:#}"))
    }

    fn token(&self, key: &str) -> String {
        let headers = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
        let answer = self.ask(key, "PUT", "/latest/api/token", &headers);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    fn get(&self, key: &str, token: &str, path: &str) -> HttpAnswer {
        self.ask(key, "GET", path, &[("X-aws-ec2-metadata-token", token)])
    }

    fn down(self) {
        drop(self.responder);
        drop(self.sts);
        self.scene.down();
    }
}

const LISTING: &str = "/latest/meta-data/iam/security-credentials/";

fn pods() -> [Pod; 4] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").annotation(ROLE, "app-db"),
        pod("shop/plain", "10.0.1.3 fd00:1::3"),
        pod("shop/greedy", "10.0.1.4 fd00:1::4").annotation(ROLE, "admin"),
    ]
}

#[test]
fn a_pod_gets_the_keys_of_its_own_role_and_of_no_other() {
    let cloud = Cloud::up("im-own", &pods());
    let mut identities = Vec::new();
    for (key, role) in [("shop/web", "app-web"), ("shop/db", "app-db")] {
        let token = cloud.token(key);
        assert_eq!(cloud.get(key, &token, LISTING).body, role);
        let answer = cloud.get(key, &token, &format!("{LISTING}{role}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let document: Value = serde_json::from_str(&answer.body).expect("it is JSON");
        assert_eq!(document["Code"], "Success");
        identities.push(cloud.sts.whose(&document));
    }
    let session = |role: &str, name: &str| {
        format!("arn:aws:sts::123456789012:assumed-role/{role}/shop.{name}")
    };
    assert_eq!(
        identities,
        [session("app-web", "web"), session("app-db", "db")]
    );
    // Another's role, another's token, no token, no role, a role that may not be had.
    let (web, db) = (cloud.token("shop/web"), cloud.token("shop/db"));
    assert_eq!(
        cloud
            .get("shop/web", &web, &format!("{LISTING}app-db"))
            .status,
        403
    );
    assert_eq!(cloud.get("shop/web", &db, LISTING).status, 401);
    assert_eq!(cloud.ask("shop/web", "GET", LISTING, &[]).status, 401);
    for key in ["shop/plain", "shop/greedy"] {
        let token = cloud.token(key);
        for path in [
            LISTING.to_owned(),
            format!("{LISTING}app-web"),
            format!("{LISTING}admin"),
        ] {
            let answer = cloud.get(key, &token, &path);
            assert!(
                [403, 404].contains(&answer.status),
                "{key} {path}: {answer:?}"
            );
            assert!(!answer.body.contains("SecretAccessKey"));
        }
        assert_eq!(cloud.get(key, &token, LISTING).status, 404);
    }
    cloud.down();
}

#[test]
fn sdks_get_credentials_at_the_true_addresses() {
    let cloud = Cloud::up("im-sdk", &pods());
    for key in ["shop/web", "shop/db"] {
        let role = key.replace("shop/", "app-");
        let keys = aws::boto3(&cloud.scene, key);
        let identity = cloud.sts.whose(&keys);
        assert!(
            identity.contains(&format!(":assumed-role/{role}/")),
            "{identity}"
        );
    }
    let nothing = aws::boto3(&cloud.scene, "shop/plain");
    assert_eq!(nothing, Value::Null);
    cloud.down();
}

#[test]
fn whoever_has_the_address_next_gets_nothing_of_its_predecessor_i2() {
    let mut cloud = Cloud::up("im-reuse", &[]);
    for round in 0..12 {
        let name = format!("shop/p{round}");
        let role = format!("app-{round}");
        let next = pod(&name, "10.0.1.9 fd00:1::9").annotation(ROLE, &role);
        cloud.scene.add(&next);
        // A fast starter: it asks at once, and waits no longer than an SDK does.
        let token = cloud.token(&name);
        let answer = cloud.get(&name, &token, LISTING);
        assert_eq!((answer.status, answer.body.as_str()), (200, role.as_str()));
        let answer = cloud.get(&name, &token, &format!("{LISTING}{role}"));
        let document: Value = serde_json::from_str(&answer.body).expect("it is JSON");
        let identity = cloud.sts.whose(&document);
        assert!(
            identity.ends_with(&format!("/{role}/shop.p{round}")),
            "{identity}"
        );
        cloud.scene.remove(&name);
    }
    cloud.down();
}
