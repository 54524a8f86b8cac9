//! Mistakes: each is reported by name, closes what it may have been meant to close, and leaves the rest alone.

use portcullis_tests::scene::{Pod, Scene, admin, pod};
use serde_json::Value;

use super::{NOBODY, Question, WEB, db, pods};

const ENDS: (&str, &str) = ("shop/web", "shop/db");

/// A second namespace, with a pod that `web` may reach.
fn with_lab() -> Vec<Pod> {
    let lab = pod("lab/probe", "10.0.1.5 fd00:1::5").label("app", "probe");
    pods().into_iter().chain([lab]).collect()
}

/// The refused objects and whether all of each was refused.
fn refused(scene: &Scene) -> Vec<(String, bool)> {
    let status = scene.status();
    let refused = status["refused"]
        .as_array()
        .expect("refused is a list")
        .clone();
    let entry = |object: &Value| {
        assert!(!object["problems"].as_array().expect("a list").is_empty());
        let name = object["object"].as_str().expect("a name").to_owned();
        (name, object["whole"] == true)
    };
    refused.iter().map(entry).collect()
}

/// A sample of the agent's metrics.
fn metric(scene: &Scene, series: &str) -> String {
    let text = admin::get(scene.socket(), "/metrics")
        .expect("the agent answers")
        .body;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series}: {text}"))
        .trim()
        .to_owned()
}

#[test]
fn a_file_that_cannot_be_parsed_leaves_the_others_in_force() {
    let scene = Scene::up("feed-broken", &with_lab(), &db(WEB));
    let mut shop = Question::new(&scene, ENDS.0, ENDS.1);
    let mut lab = Question::new(&scene, "shop/web", "lab/probe");
    scene.apply("broken", "kind: ConfigMap\nmetadata: {name: [\n");
    assert_eq!(
        refused(&scene),
        [("Document broken.yaml#0".to_owned(), true)]
    );
    let series = "portcullis_policy_errors{kind=\"Document\",reason=\"refused\"}";
    assert_eq!(metric(&scene, series), "1.0");
    assert_eq!(scene.status()["ready"], true, "what can be in force is");
    shop.is(&scene, ENDS, true);
    lab.is(&scene, ("shop/web", "lab/probe"), true);

    // One that was meant to isolate, as far as it can be told: its namespace is closed. The document beside it counts.
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: lab}\nspec: [\n---\n";
    scene.apply("broken", &format!("{text}{}", db(NOBODY)));
    scene.manifests.remove_file("policies.yaml");
    scene.settle();
    lab.is(&scene, ("shop/web", "lab/probe"), false);
    shop.is(&scene, ENDS, false);
    let names: Vec<String> = refused(&scene).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().any(|name| name.contains("lab/x")), "{names:?}");

    scene.apply("broken", &db(WEB));
    assert_eq!(refused(&scene), []);
    assert_eq!(metric(&scene, series), "0.0");
    shop.is(&scene, ENDS, true);
    lab.is(&scene, ("shop/web", "lab/probe"), true);
    scene.down();
}

#[test]
fn a_rule_with_a_mistake_matches_nothing_and_the_others_stand() {
    let scene = Scene::up("feed-rule", &pods(), &db(WEB));
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    let rules = |rules: &str| {
        db(WEB).replace(
            &format!("ingress: [{{from: [{WEB}]}}]"),
            &format!("ingress: {rules}"),
        )
    };
    for mistake in [
        "{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}",
        "{from: [{podSelector: {}, namespaces: {}}]}",
        "{from: [{}]}",
        "{form: []}",
        "{ports: [{port: 70000}]}",
        "{ports: [{port: 9, endPort: 8}]}",
        "{ports: [{port: 9, protocol: ICMP}]}",
        "null",
    ] {
        scene.apply("policies", &rules(&format!("[{mistake}]")));
        let name = "NetworkPolicy shop/db".to_owned();
        assert_eq!(refused(&scene), [(name.clone(), false)], "{mistake}");
        question.is(&scene, ENDS, false);
        scene.apply(
            "policies",
            &rules(&format!("[{mistake}, {{from: [{WEB}]}}]")),
        );
        assert_eq!(refused(&scene), [(name, false)], "{mistake}");
        question.is(&scene, ENDS, true);
    }
    let series = "portcullis_policy_errors{kind=\"NetworkPolicy\",reason=\"partly refused\"}";
    assert_eq!(metric(&scene, series), "1.0");
    scene.down();
}

#[test]
fn a_policy_whose_subject_cannot_be_read_isolates_its_namespace() {
    let scene = Scene::up("feed-subject", &with_lab(), &db(WEB));
    let mut shop = Question::new(&scene, ENDS.0, ENDS.1);
    let mut back = Question::new(&scene, ENDS.1, ENDS.0);
    let mut lab = Question::new(&scene, "shop/web", "lab/probe");
    let subject = "podSelector: {matchLabels: {app: db}}";
    for (mistake, direction) in [
        ("podSelector: {matchLabels: {app: [db]}}", "ingress"),
        (
            "podSelector: {matchExpressions: [{key: app, operator: Is, values: [db]}]}",
            "ingress",
        ),
        // Nobody knows what it was to govern: both directions.
        ("podSelector: {}\n  priority: 7", "egress"),
    ] {
        back.is(&scene, (ENDS.1, ENDS.0), true);
        scene.apply("policies", &db(WEB).replace(subject, mistake));
        // Its rules were not written for all of these pods, so none of them counts.
        let why = (direction, "default-deny");
        back.ask(&scene, (ENDS.1, ENDS.0), Some(why));
        shop.ask(&scene, ENDS, Some(why));
        let elsewhere = (direction == "egress").then_some(why);
        lab.ask(&scene, ("shop/web", "lab/probe"), elsewhere);
        assert_eq!(refused(&scene).len(), 1, "{mistake}");
        scene.apply("policies", &db(WEB));
        shop.is(&scene, ENDS, true);
    }
    scene.down();
}

#[test]
fn a_pod_that_cannot_be_read_is_an_unknown_one_closed_but_for_its_node() {
    let scene = Scene::up("feed-pod", &pods(), "");
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    question.is(&scene, ENDS, true);
    let [_, db] = pods();
    let mut object = db.object();
    object["metadata"]["labels"] = serde_json::json!(["app", "db"]);
    scene
        .manifests
        .write("pod-shop-db.json", &object.to_string());
    scene.settle();
    assert_eq!(refused(&scene), [("Pod shop/db".to_owned(), true)]);
    question.ask(&scene, ENDS, Some(("ingress", "not-ready")));
    let to = (scene.address("shop/db"), 8080).into();
    assert!(portcullis_tests::scene::traffic::connects(
        scene.lab.node(),
        to
    ));
    scene.manifests.put(&db);
    scene.settle();
    question.is(&scene, ENDS, true);
    scene.down();
}
