//! Who is who: labels of pods and namespaces that change, addresses that are used again, pods that are finished or share an address.

use portcullis_tests::scene::traffic::Stream;
use portcullis_tests::scene::wire::{Wire, dropped, flag, handshake, passes, tcp, udp};
use portcullis_tests::scene::{Pod, Scene, ip, pod};
use serde_json::json;

use super::{Question, WEB, db, pods};

const ENDS: (&str, &str) = ("shop/web", "shop/db");

/// A Namespace object.
fn namespace(scene: &Scene, name: &str, team: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
    scene
        .manifests
        .write(&format!("namespace-{name}.json"), &object.to_string());
}

#[test]
fn a_pods_labels_decide_as_they_are_now() {
    let scene = Scene::up("feed-labels", &pods(), &db(WEB));
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    let to = (scene.address("shop/db"), 8080).into();
    let mut stream = Stream::open(scene.netns("shop/web"), to);
    let [web, db_pod] = pods();
    for round in 0..10 {
        question.is(&scene, ENDS, true);
        scene
            .manifests
            .put(&web.clone().label("app", &format!("web-{round}")));
        scene.settle();
        question.is(&scene, ENDS, false);
        if round == 0 {
            // What was opened under the old label ends, too.
            stream.is_cut();
            assert!(scene.cuts() > 0);
        }
        scene
            .manifests
            .put(&web.clone().label("round", &round.to_string()));
        scene.settle();
    }
    // The subject's own label.
    scene.manifests.put(&web.clone().label("app", "other"));
    scene.settle();
    question.is(&scene, ENDS, false);
    scene.manifests.put(&db_pod.label("app", "free"));
    scene.settle();
    question.is(&scene, ENDS, true);
    scene.down();
}

#[test]
fn a_namespaces_labels_decide_as_they_are_now() {
    let guest = pod("guests/web", "10.0.1.5 fd00:1::5").label("app", "web");
    let [_, db_pod] = pods();
    let peer =
        "{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: web}}}";
    let scene = Scene::up("feed-namespaces", &[db_pod, guest], &db(peer));
    let ends = ("guests/web", "shop/db");
    let mut question = Question::new(&scene, ends.0, ends.1);
    // No object: a namespace without labels of its own.
    question.is(&scene, ends, false);
    for round in 0..5 {
        namespace(&scene, "guests", "blue");
        scene.settle();
        question.is(&scene, ends, true);
        namespace(&scene, "shop", "blue");
        namespace(&scene, "guests", ["red", "green"][round % 2]);
        scene.settle();
        question.is(&scene, ends, false);
    }
    namespace(&scene, "guests", "blue");
    scene.settle();
    question.is(&scene, ends, true);
    scene.manifests.remove_file("namespace-guests.json");
    scene.settle();
    question.is(&scene, ends, false);
    // Its name is a label that every namespace has.
    let by_name = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: guests}}}";
    scene.apply("policies", &db(by_name));
    question.is(&scene, ends, true);
    scene.down();
}

#[test]
fn an_address_that_is_used_again_brings_nothing_along() {
    let closed = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: stranger}}, policyTypes: [Ingress]}
";
    let [_, db_pod] = pods();
    let mut scene = Scene::up("feed-reuse", &[db_pod], &format!("{}{closed}", db(WEB)));
    let db_ip = scene.address("shop/db");
    let address = ip("10.0.1.9");
    for round in 0..6 {
        let web = round % 2 == 0;
        let key = format!("shop/pod-{round}");
        let label = if web { "web" } else { "stranger" };
        scene.add(&pod(&key, "10.0.1.9").label("app", label));
        scene.settle();
        let (own, db) = (Wire::deaf(&scene, &key), Wire::of(&scene, "shop/db"));
        let (from, to) = ((address, 40_000 + round), (db_ip, 9));
        if web {
            passes(&own, &db, udp(from, to));
            // Left open, for the successor to find.
            handshake(&own, &db_deaf_end(&scene), (address, 41_000), (db_ip, 8081));
        } else {
            let why = ("ingress", "default-deny");
            dropped(&scene, &own, &db, udp(from, to), why);
            // The predecessor's connection: `db` still has its side of it, which is judged by who is there now; that pod has no side at all.
            let old = tcp((db_ip, 8081), (address, 41_000), flag::ACK);
            dropped(&scene, &db, &own, old, ("egress", "policy-changed"));
            dropped(&scene, &db, &own, old, ("ingress", "no-flow"));
            let old = tcp((address, 41_000), (db_ip, 8081), flag::SYN);
            dropped(&scene, &own, &db, old, why);
        }
        drop((own, db));
        scene.remove(&key);
        scene.settle();
    }
    scene.down();
}

/// `db` answers by itself on a port where its kernel keeps quiet.
fn db_deaf_end(scene: &Scene) -> Wire {
    let quiet = "table inet quiet; flush table inet quiet; table inet quiet {
        chain in { type filter hook input priority 0; tcp dport 8081 drop; }
    }";
    let netns = scene.netns("shop/db");
    let _ = portcullis_tests::scene::run_in(netns, &["nft", "-f", "-"], quiet);
    Wire::of(scene, "shop/db")
}

/// The object of a pod that has run to its end.
fn finished(pod: &Pod, phase: &str) -> String {
    let mut object = pod.object();
    object["status"]["phase"] = phase.into();
    object.to_string()
}

#[test]
fn a_finished_pod_owns_no_address() {
    let scene = Scene::up("feed-finished", &pods(), &db(WEB));
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    let [web, _] = pods();
    // A job of another name had the address that `web` has now.
    let job = pod("shop/job", "10.0.1.1 fd00:1::1").label("app", "job");
    scene
        .manifests
        .write("job.json", &finished(&job, "Succeeded"));
    scene.settle();
    question.is(&scene, ENDS, true);
    // The other way round: the one who was allowed is over.
    scene
        .manifests
        .write("job.json", &finished(&job.label("app", "web"), "Failed"));
    scene.manifests.put(&web.label("app", "other"));
    scene.settle();
    question.is(&scene, ENDS, false);
    assert_eq!(scene.endpoint("shop/web")["state"], "enforced");
    scene.down();
}

#[test]
fn of_several_live_pods_on_one_address_any_may_match() {
    let scene = Scene::up("feed-shared", &pods(), &db(WEB));
    let (outside, db_wire) = (Wire::outside(&scene), Wire::of(&scene, "shop/db"));
    let far = |name: &str, app: &str| {
        let pod = pod(name, "10.9.0.1").label("app", app).on_node("node-b");
        scene.manifests.put(&pod);
    };
    let mut port = 30_000;
    let mut is = |open: bool| {
        scene.settle();
        port += 1;
        let segment = udp((ip("10.9.0.1"), port), (scene.address("shop/db"), 9));
        if open {
            passes(&outside, &db_wire, segment);
        } else {
            dropped(
                &scene,
                &outside,
                &db_wire,
                segment,
                ("ingress", "default-deny"),
            );
        }
    };
    is(false);
    far("shop/far-a", "other");
    is(false);
    far("shop/far-b", "web");
    is(true);
    scene.manifests.remove("shop/far-a");
    is(true);
    far("shop/far-a", "other");
    scene.manifests.remove("shop/far-b");
    is(false);
    scene.down();
}
