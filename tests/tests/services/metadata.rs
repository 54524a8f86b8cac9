//! Destinations that the node translates to a guarded address: the uplink guard sees where they lead.

use portcullis_lab::client::connect_tcp;
use portcullis_tests::scene::nat::{self, translate};
use portcullis_tests::scene::traffic::connects;
use portcullis_tests::scene::{NEVER, Scene, ip, pod};

#[test]
fn a_destination_that_the_node_translates_to_a_guarded_one_is_blocked_behind_the_translation() {
    let scene = Scene::up("sv-guard", &[pod("shop/web", "10.0.1.1 fd00:1::1")], "");
    let doors = [
        ("10.96.0.9", "169.254.169.254", "192.0.2.7"),
        ("fd00:96::9", "fd00:ec2::254", "2001:db8::7"),
    ];
    for (door, _, far) in doors {
        translate(&scene, &[nat::tcp((ip(door), 80), (ip(far), 8080))]);
        assert!(connects(scene.netns("shop/web"), (ip(door), 80).into()));
    }
    for (door, metadata, _) in doors {
        for masqueraded in [false, true] {
            let way = nat::tcp((ip(door), 81), (ip(metadata), 80));
            let way = if masqueraded { way.masqueraded() } else { way };
            translate(&scene, &[way]);
            let before = scene.drops("egress", "metadata-guard");
            let error = connect_tcp(scene.netns("shop/web"), (ip(door), 81).into(), NEVER);
            error.expect_err("metadata is out of reach");
            assert!(scene.drops("egress", "metadata-guard") > before, "{door}");
        }
    }
    let services = scene.lab.services().expect("services run");
    let seen = services.metadata().seen();
    assert!(seen.is_empty(), "{seen:?}");
    scene.down();
}
