//! `portcullis uninstall`: afterwards the node is as if there had never been an agent.

use std::process::{Command, Output};

use portcullis_lab::client;
use portcullis_lab::state::LabState;
use portcullis_tests::scene::kernel::{self, Kind};
use portcullis_tests::scene::traffic::{connects, is_denied};
use portcullis_tests::scene::{SOON, Scene, wait_until};

use super::{POLICIES, pods};

fn uninstall(scene: &Scene, confirmed: bool) -> Output {
    let record = scene.agent.record();
    let mut command = Command::new(&record.binary);
    command.arg("uninstall");
    if confirmed {
        command.arg("--yes");
    }
    command.arg("--bpffs").arg(&record.bpffs);
    let node = scene.lab.node();
    node.enter(&mut command).expect("the node can be entered");
    command.output().expect("uninstall runs")
}

/// Nothing that was there lives, nothing is attached, nothing is stopped any more.
fn nothing_is_left(scene: &Scene, objects: &[(Kind, u32)]) {
    assert!(!objects.is_empty());
    for (kind, id) in objects {
        wait_until(&format!("{kind:?} {id} is gone"), SOON, || {
            !kernel::lives(*kind, *id)
        });
    }
    assert!(!scene.agent.record().bpffs.exists());
    let attached = scene.on_node(&["bpftool", "net", "show"], "");
    assert!(!attached.contains("pc_"), "{attached}");
    let interfaces = scene.on_node(&["ip", "-o", "link", "show"], "");
    for line in interfaces.lines() {
        let name = line.split([':', '@', ' ']).nth(2).expect("a name");
        let filters = scene.on_node(&["tc", "filter", "show", "dev", name, "ingress"], "");
        assert_eq!(filters.trim(), "", "{name}");
    }
    let own = scene.on_node(&["ip", "-o", "address", "show", "dev", "lo"], "");
    assert!(!own.contains("169.254.") && !own.contains(" fd"), "{own}");
    let cgroups = scene.lab.cgroups().expect("the lab has cgroups");
    let host = cgroups.host().display().to_string();
    let attached = scene.on_node(&["bpftool", "cgroup", "tree", &host], "");
    assert!(!attached.contains("pc_"), "{attached}");
    let (web, db) = (scene.netns("shop/web"), scene.netns("shop/db"));
    assert!(connects(web, (scene.address("shop/db"), 8080).into()));
    assert!(connects(db, (scene.address("shop/web"), 8080).into()));
    let metadata = "169.254.169.254:80".parse().expect("an address");
    let answer = client::http(db, metadata, "GET", "/latest/meta-data/", &[], SOON);
    answer.expect("the metadata service is open again");
}

#[test]
fn of_a_dead_agent_nothing_is_left_and_only_if_it_is_confirmed() {
    let mut scene = Scene::up(
        "leak-dead",
        &pods(),
        &POLICIES.replace("app: web", "app: nobody"),
    );
    let objects: Vec<_> = kernel::pinned(&scene.pins()).into_iter().collect();
    let kinds = [Kind::Program, Kind::Map, Kind::Link];
    let [programs, maps, links] = kinds.map(|kind| {
        let such = objects.iter().filter(|object| object.0 == kind);
        such.count()
    });
    assert!(programs > 5 && maps > 10 && links > 5, "{objects:?}");
    scene.kill();
    let closed = (scene.address("shop/db"), 8080).into();
    let refused = uninstall(&scene, false);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PC5006"));
    assert!(
        is_denied(scene.netns("shop/web"), closed),
        "nothing was removed"
    );

    let done = uninstall(&scene, true);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let said = String::from_utf8_lossy(&done.stdout);
    let expected = format!("removed {links} links, {programs} programs, {maps} maps from");
    assert!(said.starts_with(&expected), "{said}");
    nothing_is_left(&scene, &objects);
    let again = uninstall(&scene, true);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was removed"));
    scene.down();
}

#[test]
fn of_a_running_agent_nothing_is_left_once_it_ends() {
    let mut scene = Scene::up(
        "leak-alive",
        &pods(),
        &POLICIES.replace("app: web", "app: nobody"),
    );
    let closed = (scene.address("shop/db"), 8080).into();
    assert!(is_denied(scene.netns("shop/web"), closed));
    let mut objects = kernel::pinned(&scene.pins());
    objects.extend(kernel::held(scene.agent.pid()));
    let done = uninstall(&scene, true);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(
        connects(scene.netns("shop/web"), closed),
        "its links are gone at once"
    );
    scene.agent.stop().expect("the agent ends when asked");
    nothing_is_left(&scene, &objects.into_iter().collect::<Vec<_>>());
    scene.down();
}

#[test]
fn i7_of_an_agent_with_a_responder_no_address_is_left() {
    let path = LabState::directory_of(&Scene::lab_name("leak-i7")).join("responder.sock");
    let open = POLICIES.replace("app: web", "app: nobody");
    let mut scene = Scene::up_with("leak-i7", &pods(), &open, |options| {
        options.extra.extend(["--responder".into(), path.into()]);
    });
    let own = scene.on_node(&["ip", "-o", "address", "show", "dev", "lo"], "");
    assert!(own.contains("169.254.") && own.contains(" fd"), "{own}");
    let objects: Vec<_> = kernel::pinned(&scene.pins()).into_iter().collect();
    scene.kill();
    let done = uninstall(&scene, true);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    nothing_is_left(&scene, &objects);
    scene.down();
}
