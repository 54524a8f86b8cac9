//! Pods ask for credentials as SDKs do, at the true addresses; whose keys they get is what STS says of them.
//!
//! ```text
//! pod -> guard -> responder (uid 65532, no capability) -> STS (moto, in the node)
//! keys of the answer -> GetCallerIdentity at the same STS -> whose they are
//! ```

use portcullis_tests::cloud::{Cloud, LISTING, ROLE, session};
use portcullis_tests::scene::{Pod, pod};
use serde_json::Value;

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
