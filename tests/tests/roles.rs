//! Which role each pod has, as the agent tells it: from annotations of pods, service accounts and namespaces as they are now.

use std::process::{Command, Output};

use portcullis_tests::scene::traffic::connects;
use portcullis_tests::scene::{Pod, Scene, host_pod, pod};
use serde_json::{Value, json};

const ROLE: &str = "iam.amazonaws.com/role";
const ALLOWED: &str = "iam.amazonaws.com/allowed-roles";

fn pods() -> Vec<Pod> {
    vec![
        pod("shop/own", "10.0.1.1 fd00:1::1").annotation(ROLE, "web-rw"),
        pod("shop/account", "10.0.1.2 fd00:1::2").account("api"),
        pod("shop/plain", "10.0.1.3 fd00:1::3"),
        pod("shop/greedy", "10.0.1.4 fd00:1::4").annotation(ROLE, "admin"),
        pod("shop/lost", "10.0.1.5 fd00:1::5").account("absent"),
        host_pod("shop/host").annotation(ROLE, "web-host"),
        pod("shop/elsewhere", "10.0.2.1 fd00:2::1")
            .annotation(ROLE, "web-rw")
            .on_node("n2"),
        pod("bare/own", "10.0.1.6 fd00:1::6").annotation(ROLE, "web-rw"),
    ]
}

fn arn(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/{name}")
}

/// A Namespace with these annotations.
fn namespace(scene: &Scene, name: &str, annotations: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}});
    scene
        .manifests
        .write(&format!("namespace-{name}.json"), &object.to_string());
}

/// A `ServiceAccount` of namespace `shop`.
fn account(scene: &Scene, name: &str, annotations: &Value) {
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "annotations": annotations});
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    scene
        .manifests
        .write(&format!("account-{name}.json"), &object.to_string());
}

fn iam(scene: &Scene, words: &[&str]) -> Output {
    let record = scene.agent.record();
    let mut command = Command::new(&record.binary);
    command
        .arg("iam")
        .args(words)
        .args(["-o", "json", "--socket"]);
    command.arg(&record.socket);
    command.output().expect("the command runs")
}

/// What `whoami` says of a pod: its state, where that comes from, its role or the reason why it has none.
fn whoami(scene: &Scene, key: &str) -> (String, String, String) {
    let output = iam(scene, &["whoami", key]);
    assert!(output.status.success(), "{key}: {output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let [one] = said["items"].as_array().expect("a list").as_slice() else {
        panic!("{said:#}");
    };
    assert_eq!(one["pod"], key);
    let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let last = if one["role"].is_null() {
        "reason"
    } else {
        "role"
    };
    (word("state"), word("source"), word(last))
}

fn is(scene: &Scene, key: &str, state: &str, source: &str, last: &str) {
    let expected = (state.to_owned(), source.to_owned(), last.to_owned());
    assert_eq!(whoami(scene, key), expected, "{key}");
}

/// The scene of all tests: `shop` allows `web-*`, and its account `api` has a role; `bare` says nothing.
fn scene(test: &str) -> Scene {
    let scene = Scene::start(test, &pods(), "", |options| {
        options.extra.extend([
            format!("--base-role-arn={}", arn("")).into(),
            "--namespace-restrictions".into(),
        ]);
    });
    namespace(&scene, "shop", &json!({ALLOWED: "[\"web-*\"]"}));
    account(
        &scene,
        "api",
        &json!({"eks.amazonaws.com/role-arn": arn("web-api")}),
    );
    scene.settle();
    scene
}

#[test]
fn every_pod_of_the_node_has_the_role_that_its_objects_say() {
    let scene = scene("roles-say");
    is(&scene, "shop/own", "role", "pod", &arn("web-rw"));
    is(&scene, "shop/host", "role", "pod", &arn("web-host"));
    is(
        &scene,
        "shop/account",
        "role",
        "service-account-arn",
        &arn("web-api"),
    );
    is(&scene, "shop/plain", "none", "nothing", "");
    is(&scene, "shop/greedy", "refused", "pod", "role-not-allowed");
    is(
        &scene,
        "shop/lost",
        "undecided",
        "unknown",
        "service-account",
    );
    is(&scene, "bare/own", "refused", "pod", "restriction-missing");

    let all = iam(&scene, &["whoami", "-A"]);
    let all: Value = serde_json::from_slice(&all.stdout).expect("it is JSON");
    let items = all["items"].as_array().expect("a list");
    let of_account = items.iter().find(|item| item["pod"] == "shop/account");
    assert_eq!(
        of_account.expect("it is there")["serviceAccountUid"],
        "uid-api"
    );
    assert_eq!(items.len(), 7, "none of another node: {all:#}");

    let elsewhere = iam(&scene, &["whoami", "shop/elsewhere"]);
    assert_eq!(elsewhere.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&elsewhere.stderr).expect("it is JSON");
    assert_eq!(error["code"], "PC3002");

    let check = iam(&scene, &["check"]);
    assert_eq!(check.status.code(), Some(1));
    let check: Value = serde_json::from_slice(&check.stdout).expect("it is JSON");
    let items = check["items"].as_array().expect("a list");
    let wrong: Vec<&Value> = items.iter().map(|item| &item["pod"]).collect();
    assert_eq!(wrong, ["bare/own", "shop/greedy"]);
    scene.down();
}

#[test]
fn a_change_of_annotations_alone_changes_the_role_and_no_table() {
    let scene = scene("roles-change");
    let revision = |scene: &Scene| scene.status()["revision"].clone();
    let writes = |scene: &Scene| scene.status()["mapWrites"].clone();
    let before = (revision(&scene), writes(&scene));

    let plain = pod("shop/plain", "10.0.1.3 fd00:1::3");
    scene
        .manifests
        .put(&plain.clone().annotation(ROLE, "web-new"));
    scene.settle();
    is(&scene, "shop/plain", "role", "pod", &arn("web-new"));

    account(
        &scene,
        "api",
        &json!({"eks.amazonaws.com/role-arn": arn("web-other")}),
    );
    scene.settle();
    is(
        &scene,
        "shop/account",
        "role",
        "service-account-arn",
        &arn("web-other"),
    );

    namespace(
        &scene,
        "shop",
        &json!({ALLOWED: "[\"web-*\"]", "portcullis.dev/role-source": "serviceaccount"}),
    );
    scene.settle();
    is(
        &scene,
        "shop/plain",
        "refused",
        "role-source",
        "role-source",
    );
    is(
        &scene,
        "shop/account",
        "role",
        "service-account-arn",
        &arn("web-other"),
    );

    namespace(&scene, "shop", &json!({ALLOWED: "not a list"}));
    scene.manifests.put(&plain);
    scene.settle();
    is(&scene, "shop/plain", "none", "nothing", "");
    is(
        &scene,
        "shop/account",
        "refused",
        "service-account-arn",
        "restriction-malformed",
    );

    scene.manifests.write("account-api.json", "");
    scene.settle();
    is(
        &scene,
        "shop/account",
        "undecided",
        "unknown",
        "service-account",
    );
    assert_eq!((revision(&scene), writes(&scene)), before);
    // The guard knows nothing of roles yet: nobody gets through to the metadata service.
    assert_eq!(scene.status()["ready"], true);
    let metadata = "169.254.169.254:80".parse().expect("an address");
    assert!(!connects(scene.netns("shop/own"), metadata));
    scene.down();
}

#[test]
fn an_agent_whose_settings_of_roles_are_wrong_does_not_start() {
    let agent = |option: &str| {
        Command::new(portcullis_tests::binary::portcullis())
            .args([
                "agent",
                "--manifests",
                "/nonexistent",
                "--bpffs",
                "/nonexistent",
                option,
            ])
            .output()
            .expect("the command runs")
    };
    for option in [
        "--base-role-arn=arn:aws:iam::1:role/",
        "--default-role=web",
        "--iam-role-key=a b",
    ] {
        let output = agent(option);
        assert_eq!(output.status.code(), Some(2), "{option}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with("error PC3001"), "{option}: {stderr}");
        assert_eq!(stderr.lines().count(), 3, "{option}: {stderr}");
    }
}
