//! An agent of another version takes a node over: the tables of two versions never meet, the hooks are never empty.
//!
//! What another version left behind is made from what ours did: the same pins, in the directory and under the mark of another number. Its programs and
//! links are real, its tables cannot be found by ours.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use portcullis_common::ABI_VERSION;
use portcullis_common::abi::Owner;
use portcullis_tests::scene::traffic::Stream;
use portcullis_tests::scene::{NEVER, SOON, Scene, ip, kernel, nat, wait_until};

use super::load::Load;
use super::{POLICIES, all_verdicts, objects, pods, tcp};

/// The other version.
const OTHER: u32 = ABI_VERSION + 7;

/// An API server where there is none.
const NOWHERE: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
";

/// Where its pins are.
fn other_pins(scene: &Scene) -> PathBuf {
    scene.pins().with_file_name(format!("v{OTHER}"))
}

/// Makes what the agent, which is not running, left behind that of the other version.
fn become_other(scene: &Scene) {
    let (key, owners) = (0_u32, scene.table("pc_owner"));
    let owner: Owner = owners
        .get(&key.to_ne_bytes())
        .expect("the pins have an owner");
    let other = Owner {
        abi: OTHER,
        ..owner
    };
    assert!(owners.replace(&key, &other));
    fs::rename(scene.pins(), other_pins(scene)).expect("a bpffs renames");
}

/// A node whose kernel tracks connections, as kube-proxy makes it.
fn tracking(test: &str) -> Scene {
    let scene = Scene::up(test, &pods(), POLICIES);
    let to = (ip("10.96.0.1"), 80);
    nat::translate(&scene, &[nat::tcp(to, (scene.address("shop/db"), 8080))]);
    scene
}

#[test]
fn another_version_takes_over_under_load_and_leaks_nothing_and_loses_nothing() {
    let rounds = if std::env::var_os("PORTCULLIS_LONG").is_some() {
        50
    } else {
        6
    };
    let mut scene = tracking("re-upgrade");
    let links = objects(&scene, "links");
    let mut stream = Stream::open(scene.netns("shop/web"), tcp(&scene, "shop/db")[0]);
    let load = Load::start(&scene);
    for round in 0..rounds {
        let maps = objects(&scene, "maps");
        scene.kill();
        become_other(&scene);
        scene.restart();
        if round % 2 == 1 {
            // Killed in the middle, each time somewhere else; the next one goes on from there.
            thread::sleep(Duration::from_millis(60 + round * 37 % 600));
            scene.kill();
            thread::sleep(NEVER);
            scene.restart();
        }
        scene.settle();
        assert!(!other_pins(&scene).exists(), "nothing of it is left");
        // The kernel frees a map a moment after its last name is gone.
        wait_until("the other version's maps are gone", SOON, || {
            maps.iter()
                .all(|(.., (kind, id))| !kernel::lives(*kind, *id))
        });
        stream.works();
    }
    thread::sleep(NEVER);
    let counts = load.stop();
    println!("{rounds} versions, each second one killed in the middle: {counts:?}");
    let names = |links: &[(String, u64, (kernel::Kind, u32))]| -> Vec<_> {
        links
            .iter()
            .map(|(pin, _, object)| (pin.clone(), *object))
            .collect()
    };
    assert_eq!(
        names(&objects(&scene, "links")),
        names(&links),
        "every hook had the same link all the time"
    );
    all_verdicts(&scene);
    scene.down();
}

#[test]
fn until_all_objects_are_known_the_other_version_goes_on() {
    let mut scene = tracking("re-waits");
    scene.kill();
    become_other(&scene);
    let links = kernel::pins(&other_pins(&scene).join("links"));
    // An API server that nobody reaches: its lists never come.
    let config = scene.manifests.path().join("kubeconfig");
    fs::write(&config, NOWHERE).expect("a file can be written");
    let line = scene.agent.command_line();
    let mut words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "--manifests");
    let at = at.expect("the option is there");
    words.drain(at..at + 2);
    let log = fs::File::create(config.with_extension("log")).expect("a log can be written");
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("KUBECONFIG", &config)
        .stderr(log);
    let node = scene.lab.node();
    node.enter(&mut command).expect("the node can be entered");
    let mut agent = command.spawn().expect("it starts");
    wait_until("it says what it waits for", SOON, || {
        let log = fs::read_to_string(config.with_extension("log")).unwrap_or_default();
        log.contains("until the tables stand")
    });
    thread::sleep(NEVER * 3);
    assert_eq!(kernel::pins(&other_pins(&scene).join("links")), links);
    assert!(kernel::pins(&scene.pins().join("links")).is_empty());
    all_verdicts(&scene);
    agent.kill().expect("it runs");
    agent.wait().expect("a child can be waited for");
    scene.restart();
    scene.settle();
    assert!(!other_pins(&scene).exists());
    all_verdicts(&scene);
    scene.down();
}
