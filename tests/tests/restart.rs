//! The agent is killed, stopped, started again, started twice, finds a table full: what is pinned decides on, nothing denied passes, nothing allowed is lost.

#[path = "restart/beside.rs"]
mod beside;
#[path = "restart/busy.rs"]
mod busy;
#[path = "restart/changes.rs"]
mod changes;
#[path = "restart/foreign.rs"]
mod foreign;
#[path = "restart/full.rs"]
mod full;
#[path = "restart/load.rs"]
mod load;
#[path = "restart/others.rs"]
mod others;
#[path = "restart/upgrade.rs"]
mod upgrade;

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use portcullis_tests::scene::traffic::{Stream, answers, connects, is_denied, is_unanswered};
use portcullis_tests::scene::{NEVER, Pod, Scene, kernel, pod};

use self::load::Load;

fn pods() -> [Pod; 3] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").label("app", "web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").label("app", "db"),
        pod("shop/other", "10.0.1.3 fd00:1::3").label("app", "other"),
    ]
}

/// Everybody is closed, but `web` may open to `db`.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";

/// A pod's TCP port in each family.
fn tcp(scene: &Scene, key: &str) -> Vec<SocketAddr> {
    scene.ports(key, 8080)
}

/// Demands that `from` can open to `to`, or that it cannot, in both families and protocols.
fn verdict(scene: &Scene, from: &str, to: &str, open: bool) {
    verdicts(scene, &[(from, to, open)]);
}

/// Verdicts under [`POLICIES`].
fn all_verdicts(scene: &Scene) {
    let all = [
        ("shop/web", "shop/db", true),
        ("shop/db", "shop/web", false),
        ("shop/web", "shop/other", false),
        ("shop/other", "shop/db", false),
    ];
    verdicts(scene, &all);
}

/// All at once: what is denied shows by nothing coming for a while.
fn verdicts(scene: &Scene, wanted: &[(&str, &str, bool)]) {
    thread::scope(|scope| {
        for (from, to, open) in wanted {
            let netns = scene.netns(from);
            for at in tcp(scene, to) {
                scope.spawn(move || {
                    let as_wanted = if *open {
                        connects(netns, at)
                    } else {
                        is_denied(netns, at)
                    };
                    assert!(as_wanted, "{from} to {at} should be open: {open}");
                });
            }
            for at in scene.ports(to, 5353) {
                scope.spawn(move || {
                    let as_wanted = if *open {
                        answers(netns, at)
                    } else {
                        is_unanswered(netns, at)
                    };
                    assert!(as_wanted, "{from} to {at} by UDP should be open: {open}");
                });
            }
        }
    });
}

/// Maps and links by id, which a restart has to leave alone; programs are loaded anew.
fn objects(scene: &Scene, directory: &str) -> Vec<(String, u64, (kernel::Kind, u32))> {
    let pins = kernel::pins(&scene.pins().join(directory));
    assert!(!pins.is_empty(), "nothing is pinned");
    let object = |(path, inode): (String, u64)| {
        let id = kernel::id_of(Path::new(&path));
        (path, inode, id)
    };
    pins.into_iter().map(object).collect()
}

#[test]
fn killed_again_and_again_under_load_it_leaks_nothing_and_loses_nothing() {
    const ROUNDS: u32 = 12;
    let mut scene = Scene::up("re-kill", &pods(), POLICIES);
    let (maps, links) = (objects(&scene, "maps"), objects(&scene, "links"));
    let load = Load::start(&scene);
    let mut adopted = 0;
    for round in 0..ROUNDS {
        scene.kill();
        if round % 4 == 0 {
            // For a while there is no agent at all.
            thread::sleep(NEVER);
        }
        scene.restart();
        if round % 2 == 0 {
            scene.settle();
            assert_eq!(scene.status()["adopted"], true);
            assert_eq!(scene.status()["mapWrites"], 0, "nothing differs");
            adopted += 1;
        } else {
            // In the middle of its start, each time somewhere else.
            thread::sleep(Duration::from_millis(u64::from(round) * 40));
        }
    }
    scene.settle();
    // Some traffic after the last one.
    thread::sleep(NEVER);
    let counts = load.stop();
    println!("{ROUNDS} kills, {adopted} starts to the end: {counts:?}");
    assert_eq!(objects(&scene, "maps"), maps, "maps are taken over");
    assert_eq!(
        objects(&scene, "links"),
        links,
        "links are updated in place"
    );
    all_verdicts(&scene);
    scene.down();
}

#[test]
fn asked_to_end_it_leaves_guard_and_policy_on() {
    let mut scene = Scene::up("re-term", &pods(), POLICIES);
    let (maps, links) = (objects(&scene, "maps"), objects(&scene, "links"));
    let mut streams: Vec<_> = tcp(&scene, "shop/db")
        .into_iter()
        .map(|to| Stream::open(scene.netns("shop/web"), to))
        .collect();
    let load = Load::start(&scene);
    scene.agent.stop().expect("it ends when asked");
    // Nobody is there, and everything is as it was.
    assert_eq!(objects(&scene, "maps"), maps);
    assert_eq!(objects(&scene, "links"), links);
    all_verdicts(&scene);
    streams.iter_mut().for_each(Stream::works);
    let metadata = "169.254.169.254:80".parse().expect("an address");
    assert!(is_denied(scene.netns("shop/web"), metadata));
    scene.restart();
    scene.settle();
    assert_eq!(scene.status()["adopted"], true);
    streams.iter_mut().for_each(Stream::works);
    let counts = load.stop();
    println!("{counts:?}");
    scene.down();
}
