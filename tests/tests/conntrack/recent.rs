//! Packets that pass because one like them passed a moment ago: what must end that at once, and who must not profit.

use portcullis_tests::scene::wire::{Wire, dropped, flag, handshake, passes, silent, tcp};
use portcullis_tests::scene::{Scene, pod};

use super::segments::family;
use super::{ONE_WAY, pods};

const ACK: u8 = flag::ACK;

#[test]
fn what_just_passed_ends_with_its_permission_at_the_next_packet() {
    let scene = Scene::up("ct-recent", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    let connections = addresses.map(|[web_ip, db_ip, _]| ((web_ip, 40_000), (db_ip, 8080)));
    for (from, to) in connections {
        handshake(&web, &db, from, to);
        for _ in 0..3 {
            passes(&web, &db, tcp(from, to, ACK));
            passes(&db, &web, tcp(to, from, ACK));
        }
    }
    let denied = ONE_WAY.replace("{app: db}}}]}]", "{app: nobody}}}]}]");
    scene.apply("policies", &denied);
    for (from, to) in connections {
        let segment = tcp(from, to, ACK);
        dropped(&scene, &web, &db, segment, ("egress", "policy-changed"));
        dropped(&scene, &web, &db, segment, ("egress", "no-flow"));
    }
    scene.down();
}

#[test]
fn what_just_passed_lets_nothing_else_pass() {
    let scene = Scene::up("ct-recent-else", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db, other] = ["shop/web", "shop/db", "shop/other"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, other_ip] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 8080));
        handshake(&web, &db, from, to);
        passes(&web, &db, tcp(from, to, ACK));
        passes(&web, &db, tcp(from, to, ACK));
        let forged = tcp(from, to, ACK);
        dropped(&scene, &other, &db, forged, ("egress", "spoofed-source"));
        let stray = tcp((other_ip, 40_000), to, ACK);
        dropped(&scene, &other, &db, stray, ("ingress", "no-flow"));
        let beside = tcp((web_ip, 40_001), to, ACK);
        dropped(&scene, &web, &db, beside, ("egress", "no-flow"));
        let against = tcp(to, from, flag::SYN);
        dropped(&scene, &db, &web, against, ("egress", "default-deny"));
        // The end is noticed behind whatever passed, and a new beginning is judged.
        passes(&web, &db, tcp(from, to, flag::RST));
        handshake(&web, &db, from, to);
        passes(&web, &db, tcp(from, to, ACK));
    }
    assert_eq!(scene.flows("shop/web"), [2, 0, 0, 0]);
    scene.down();
}

#[test]
fn an_interface_whose_pod_has_other_addresses_now_sends_from_the_old_ones_no_more() {
    let scene = Scene::up("ct-recent-moved", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    let connections = addresses.map(|[web_ip, db_ip, _]| ((web_ip, 40_000), (db_ip, 8080)));
    for (from, to) in connections {
        handshake(&web, &db, from, to);
        passes(&web, &db, tcp(from, to, ACK));
        passes(&web, &db, tcp(from, to, ACK));
    }
    let moved = pod("shop/web", "10.0.1.9 fd00:1::9").label("app", "web");
    scene.manifests.put(&moved);
    scene.settle();
    for (from, to) in connections {
        silent(&web, &db, tcp(from, to, ACK));
    }
    scene.down();
}
