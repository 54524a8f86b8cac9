//! `portcullis wait --synced`: everything that was there when it was called is in force in the kernel, or it says why not.

use std::process::{Child, Command, Output, Stdio};
use std::thread;

use portcullis_tests::scene::traffic::connects;
use portcullis_tests::scene::{NEVER, Scene, pod};

use super::{NOBODY, Question, WEB, db, pods};

const ENDS: (&str, &str) = ("shop/web", "shop/db");

fn start(scene: &Scene, timeout: &str) -> Child {
    let record = scene.agent.record();
    let mut command = Command::new(&record.binary);
    command.args(["wait", "--synced", "--timeout", timeout, "--socket"]);
    command.arg(&record.socket).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the command starts")
}

fn wait(scene: &Scene, timeout: &str) -> Output {
    let child = start(scene, timeout);
    child.wait_with_output().expect("a child can be waited for")
}

/// Demands an exit code, and the error's code on stderr.
fn ends(output: &Output, code: i32, error: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.is_empty(), error.is_empty(), "{stderr}");
    assert!(stderr.starts_with(error), "{stderr}");
}

#[test]
fn what_stood_in_the_directory_at_the_call_is_in_force_at_its_end() {
    let scene = Scene::up("wait-reread", &pods(), &db(WEB));
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    for round in 0..30 {
        let open = round % 2 == 1;
        scene
            .manifests
            .write("policies.yaml", &db(if open { WEB } else { NOBODY }));
        ends(&wait(&scene, "30s"), 0, "");
        // The very next packet.
        question.is(&scene, ENDS, open);
    }
    scene.down();
}

#[test]
fn it_goes_on_trying_to_connect_and_tells_never_from_too_late() {
    let mut scene = Scene::up("wait-connect", &pods(), &db(WEB));
    scene.kill();
    ends(&wait(&scene, "300ms"), 4, "error PC4002");
    let waiting = start(&scene, "60s");
    thread::sleep(NEVER);
    scene.restart();
    let output = waiting
        .wait_with_output()
        .expect("a child can be waited for");
    ends(&output, 0, "");
    // A live pod of this node whose interface never comes.
    scene
        .manifests
        .put(&pod("shop/late", "10.0.1.7").label("app", "late"));
    ends(&wait(&scene, "500ms"), 5, "error PC4003");
    let problems = scene.status()["problems"].to_string();
    assert!(problems.contains("shop/late"), "{problems}");
    scene.manifests.remove("shop/late");
    ends(&wait(&scene, "30s"), 0, "");
    scene.down();
}

#[test]
fn a_pod_whose_interface_comes_later_is_waited_for() {
    let mut scene = Scene::up("wait-interface", &pods(), &db(WEB));
    for round in 0..5 {
        let late = pod(
            &format!("shop/late-{round}"),
            &format!("10.0.1.{}", 20 + round),
        );
        let late = late.label("app", "web");
        scene.manifests.put(&late);
        let mut waiting = start(&scene, "60s");
        thread::sleep(NEVER);
        assert!(waiting.try_wait().expect("it runs").is_none(), "it waits");
        // From here on nothing but the interface itself tells the agent.
        scene.lab.add_pod(late.in_lab()).expect("the pod is joined");
        let output = waiting
            .wait_with_output()
            .expect("a child can be waited for");
        ends(&output, 0, "");
        let key = format!("shop/late-{round}");
        assert!(connects(
            scene.netns(&key),
            (scene.address("shop/db"), 8080).into()
        ));
    }
    scene.down();
}

#[test]
fn what_can_have_no_interface_or_was_refused_holds_nothing_up() {
    let scene = Scene::up("wait-others", &pods(), &db(WEB));
    let plain = |name: &str| pod(&format!("shop/{name}"), "10.0.1.30");
    let mut no_address = plain("pending").object();
    no_address["status"] = serde_json::json!({"phase": "Pending"});
    let mut host = plain("host").object();
    host["spec"]["hostNetwork"] = true.into();
    host["status"]["podIPs"] = serde_json::json!([{"ip": "10.0.0.10"}]);
    let mut done = plain("done").object();
    done["status"]["phase"] = "Succeeded".into();
    let away = plain("away").on_node("node-b").object();
    let mut broken = plain("broken").object();
    broken["metadata"]["labels"] = 7.into();
    for (name, object) in [no_address, host, done, away, broken].iter().enumerate() {
        scene
            .manifests
            .write(&format!("extra-{name}.json"), &object.to_string());
    }
    scene.manifests.write("broken.yaml", "kind: [");
    ends(&wait(&scene, "30s"), 0, "");
    let status = scene.status();
    assert_eq!(
        status["objects"]["Pod"], 6,
        "all but the refused one are known"
    );
    assert_eq!(status["refused"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["ready"], true);
    scene.down();
}
