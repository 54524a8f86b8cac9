//! Pins that are not this node's: of another boot, another network namespace, another layout. Nothing of them may decide anything.

use portcullis_common::abi::{Cell, Owner};
use portcullis_common::policy::action;
use portcullis_tests::scene::{Scene, kernel};

use super::{POLICIES, all_verdicts, objects, pods, tcp};

fn discarded(test: &str, change: impl Fn(&mut Owner)) {
    let mut scene = Scene::up(test, &pods(), POLICIES);
    let old = [objects(&scene, "maps"), objects(&scene, "links")].concat();
    scene.kill();
    let owners = scene.table("pc_owner");
    let key = 0_u32;
    let mut owner: Owner = owners
        .get(&key.to_ne_bytes())
        .expect("the pins have an owner");
    assert_ne!((owner.netns_cookie, owner.boot_id), (0, [0; 16]));
    change(&mut owner);
    assert!(owners.replace(&key, &owner));
    // Whoever took these tables over would let everything pass.
    let policies = scene.table("pc_policies");
    let mut opened = 0;
    for (key, cell) in policies.entries::<u32, Cell>() {
        if cell.valid == 1 {
            let open = Cell {
                action: action::ALLOW,
                ..cell
            };
            opened += u32::from(policies.replace(&key, &open));
        }
    }
    assert!(opened > 0, "somebody is isolated");
    drop((owners, policies));
    assert!(
        portcullis_tests::scene::traffic::connects(
            scene.netns("shop/other"),
            tcp(&scene, "shop/db")[0]
        ),
        "the forged tables are open"
    );

    scene.restart();
    scene.settle();
    let status = scene.status();
    assert_eq!(status["adopted"], false);
    assert!(scene.log().contains("Discarded pins of another boot"));
    all_verdicts(&scene);
    let new = [objects(&scene, "maps"), objects(&scene, "links")].concat();
    assert_eq!(new.len(), old.len());
    for (path, _, (kind, id)) in old {
        let another = new
            .iter()
            .find(|(pin, ..)| *pin == path)
            .expect("each has a successor");
        assert_ne!(another.2, (kind, id), "{path}");
        assert!(!kernel::lives(kind, id), "{path} still lives");
    }
    scene.down();
}

#[test]
fn state_of_another_boot_is_discarded() {
    discarded("re-boot", |owner| owner.boot_id[15] ^= 1);
}

#[test]
fn state_of_another_network_namespace_is_discarded() {
    discarded("re-netns", |owner| owner.netns_cookie += 1);
}

#[test]
fn state_of_another_layout_is_discarded() {
    discarded("re-layout", |owner| owner.abi += 1);
}
