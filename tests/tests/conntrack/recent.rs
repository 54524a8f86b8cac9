//! Packets that pass or drop because one like them did a moment ago: what must end that at once, and who must not profit.

use portcullis_tests::scene::wire::{
    Segment, Wire, dropped, flag, handshake, passes, silent, tcp, udp,
};
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

/// More than an endpoint may report in a tick, so that the last ones are dropped by a note.
const MANY: u64 = 200;

/// Sends a packet that is denied, again and again: none arrives, and each is counted.
fn denied_often(scene: &Scene, from: &Wire, to: &Wire, segment: Segment, why: (&str, &str)) {
    let before = scene.drops(why.0, why.1);
    (0..MANY).for_each(|_| from.send(segment));
    assert_eq!(scene.drops(why.0, why.1), before + MANY, "{segment:?}");
    assert_eq!(to.count(segment), 0, "{segment:?}");
}

#[test]
fn what_was_just_denied_passes_as_soon_as_it_is_allowed() {
    let scene = Scene::up("ct-recent-allowed", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db, other] = ["shop/web", "shop/db", "shop/other"].map(|key| Wire::deaf(&scene, key));
    let opening: Vec<_> = addresses
        .iter()
        .flat_map(|[web_ip, db_ip, other_ip]| {
            let out = ((*web_ip, 40_000), (*other_ip, 8080));
            let inward = ((*other_ip, 40_000), (*db_ip, 8080));
            [tcp(out.0, out.1, flag::SYN), udp(out.0, out.1)]
                .map(|segment| (&web, &other, segment, ("egress", "default-deny")))
                .into_iter()
                .chain(
                    [tcp(inward.0, inward.1, flag::SYN), udp(inward.0, inward.1)]
                        .map(|segment| (&other, &db, segment, ("ingress", "default-deny"))),
                )
        })
        .collect();
    for (from, to, segment, why) in &opening {
        denied_often(&scene, from, to, *segment, *why);
    }
    // No policy changes, only who is meant: `web` may open to it, and it to `db`.
    let both = ONE_WAY
        .replace(
            "egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]",
            "egress: [{to: [{podSelector: {matchLabels: {side: right}}}]}]",
        )
        .replace(
            "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]",
            "ingress: [{from: [{podSelector: {matchLabels: {side: right}}}]}]",
        );
    scene.apply("policies", &both);
    for (from, to, segment, why) in &opening {
        denied_often(&scene, from, to, *segment, *why);
    }
    let [_, _, meant] = pods();
    scene.manifests.put(&meant.label("side", "right"));
    scene.settle();
    for (from, to, segment, _) in &opening {
        passes(from, to, *segment);
    }
    scene.down();
}

#[test]
fn a_datagram_that_was_just_denied_passes_as_an_answer() {
    let scene = Scene::up("ct-recent-answer", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 5353));
        denied_often(&scene, &db, &web, udp(to, from), ("egress", "default-deny"));
        passes(&web, &db, udp(from, to));
        passes(&db, &web, udp(to, from));
    }
    scene.down();
}
