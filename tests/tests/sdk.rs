//! The table of SDKs: real clients in pods, at the true addresses, in each situation that a pod can be in.
//!
//! | client | from |
//! |---|---|
//! | boto3, awscli | `PyPI`, `tests/python/requirements.txt` |
//! | `@aws-sdk/credential-providers` | npm, `tests/node/package.json` |
//! | aws-config | `tests/src/bin/find-keys.rs` |
//! | curl | Debian |
//!
//! Keys count only if STS says that they are the pod's own.

use std::thread;
use std::time::Duration;

use portcullis_tests::cloud::sdk::{Client, Found};
use portcullis_tests::cloud::{Cloud, ROLE, session};
use portcullis_tests::scene::{Pod, SOON, pod, wait_until};

/// How long after a client has connected the decision about its pod comes: within the time for which requests are held.
const DECIDED_AFTER: Duration = Duration::from_millis(150);
/// As a distant STS on a bad day.
const SLOW: Duration = Duration::from_millis(300);

fn pods() -> Vec<Pod> {
    vec![
        pod("shop/web", "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").annotation(ROLE, "app-db"),
        pod("shop/plain", "10.0.1.3 fd00:1::3"),
        pod("shop/empty", "10.0.1.4 fd00:1::4").annotation(ROLE, ""),
        pod("shop/greedy", "10.0.1.5 fd00:1::5").annotation(ROLE, "admin"),
        pod("shop/late", "10.0.1.6 fd00:1::6")
            .annotation(ROLE, "app-late")
            .account("late"),
    ]
}

fn all() -> impl Iterator<Item = Client> {
    Client::IMDS.into_iter().chain(Client::CONTAINER)
}

/// The pod's own keys, and nobody else's.
fn is_own(cloud: &Cloud, client: Client, name: &str, found: &Found) {
    let whose = match (&found.whose, &found.keys) {
        (Some(whose), _) => whose.clone(),
        (None, Some(keys)) => cloud.sts.whose(keys),
        (None, None) => panic!("{client:?} in {name}: {}", found.error),
    };
    assert_eq!(whose, session(&format!("app-{name}"), name), "{client:?}");
}

/// No keys, and the words with which this client ends when there are none: not a crash, not a riddle.
fn ends_cleanly(client: Client, key: &str, found: &Found) {
    let nothing = found.keys.is_none() && found.whose.is_none();
    assert!(nothing, "{client:?} in {key}: {found:?}");
    let error = found.error.as_str();
    let said = match client {
        Client::Boto3 => error.is_empty(),
        Client::Awscli => error.contains("Unable to locate credentials"),
        Client::Boto3Container => {
            error.starts_with("CredentialRetrievalError") && error.contains("404")
        }
        Client::JsImds => error.contains("ProviderError, next: "),
        Client::JsChain => error.contains("Could not load credentials from any providers"),
        Client::JsHttp => error.starts_with("CredentialsProviderError") && error.contains("404"),
        // "Not loaded": the next provider is asked, and no attempt was repeated.
        Client::RustImds | Client::RustChain => error.starts_with("CredentialsNotLoaded"),
        Client::RustContainer => error.contains("404"),
        Client::Curl | Client::CurlContainer => {
            error.contains("404") && error.contains("portcullis: ") | error.contains("Message")
        }
    };
    assert!(said, "{client:?} in {key}: {error}");
}

#[test]
fn i5_each_sdk_gets_the_keys_of_its_pod_at_the_true_addresses() {
    let cloud = Cloud::up("sdk-own", &pods());
    for client in all() {
        for name in ["web", "db"] {
            let found = client.find(&cloud.scene, &format!("shop/{name}"));
            is_own(&cloud, client, name, &found);
        }
    }
    cloud.down();
}

#[test]
fn k5_each_sdk_ends_cleanly_where_a_pod_has_no_role_or_may_not_have_it() {
    let cloud = Cloud::up("sdk-none", &pods());
    for client in all() {
        for key in ["shop/plain", "shop/empty", "shop/greedy"] {
            ends_cleanly(client, key, &client.find(&cloud.scene, key));
        }
    }
    assert_eq!(cloud.road.requests(), 2, "of web and db alone");
    cloud.down();
}

/// Says that the account of `shop/late` is there, or takes it away: the pod is undecided until it comes.
fn account(cloud: &Cloud, is_there: bool) {
    const ACCOUNT: &str = r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "late", "namespace": "shop", "uid": "sa-late"}}"#;
    let text = if is_there { ACCOUNT } else { "" };
    cloud.scene.manifests.write("account.json", text);
}

/// Whether a pod has a connection to a metadata service.
fn has_asked(cloud: &Cloud, key: &str) -> bool {
    // As /proc/net/tcp writes them: 169.254.169.254:80 and 169.254.170.2:80, established.
    const OPEN: [&str; 2] = [" FEA9FEA9:0050 01 ", " 02AAFEA9:0050 01 "];
    let table = cloud.scene.netns(key).run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        Ok(text)
    });
    let table = table.expect("a pod's sockets can be listed");
    OPEN.iter().any(|open| table.contains(open))
}

/// A client that asks before its pod is decided, and STS that takes its time: at the first try.
fn decided_meanwhile(test: &str, delay: Duration) {
    let late = pods().pop().expect("the last of them");
    let cloud = Cloud::up_with(test, &[late], &["--default-role=app-default"]);
    cloud.road.delay(delay);
    for client in all() {
        account(&cloud, false);
        cloud.scene.settle();
        let before = cloud.road.requests();
        let found = thread::scope(|scope| {
            let scene = &cloud.scene;
            let asking = scope.spawn(move || client.find(scene, "shop/late"));
            wait_until("the client has connected", SOON, || {
                has_asked(&cloud, "shop/late")
            });
            thread::sleep(DECIDED_AFTER);
            account(&cloud, true);
            asking.join().expect("the client has ended")
        });
        is_own(&cloud, client, "late", &found);
        assert_eq!(cloud.road.requests(), before + 1, "{client:?}: one call");
    }
    cloud.down();
}

#[test]
fn each_sdk_waits_for_a_decision_that_comes_while_it_asks() {
    decided_meanwhile("sdk-late", Duration::ZERO);
}

#[test]
fn i4_each_sdk_has_keys_at_the_first_try_though_sts_takes_300_ms() {
    decided_meanwhile("sdk-slow", SLOW);
}

#[test]
fn an_undecided_pod_gets_no_keys_not_even_those_of_the_default_role() {
    let cloud = Cloud::up_with("sdk-wait", &pods(), &["--default-role=app-default"]);
    for client in all() {
        let found = client.find(&cloud.scene, "shop/late");
        let nothing = found.keys.is_none() && found.whose.is_none();
        assert!(nothing, "{client:?}: {found:?}");
        match client {
            Client::Boto3 => assert_eq!(found.error, ""),
            Client::Awscli => assert!(found.error.contains("Unable to locate")),
            // Tried again, and not taken for a refusal.
            Client::RustImds | Client::RustContainer => {
                assert!(
                    !found.error.starts_with("CredentialsNotLoaded"),
                    "{found:?}"
                );
            }
            Client::Curl | Client::CurlContainer => {
                assert!(found.error.contains("503"), "{found:?}");
            }
            _ => {}
        }
    }
    // The default role is for pods that are decided to have none of their own.
    let found = Client::Boto3.find(&cloud.scene, "shop/plain");
    let keys = found.keys.expect("it has the default role");
    assert_eq!(cloud.sts.whose(&keys), session("app-default", "plain"));
    cloud.down();
}
