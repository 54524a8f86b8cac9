//! Single segments: which of them open, belong, close.

use std::net::IpAddr;

use portcullis_tests::scene::Scene;
use portcullis_tests::scene::wire::{
    Wire, chunk, dropped, flag, handshake, passes, sctp, silent, tcp, udp,
};

use super::{ONE_WAY, pods};

const FIN: u8 = flag::FIN;
const SYN: u8 = flag::SYN;
const RST: u8 = flag::RST;
const ACK: u8 = flag::ACK;

/// Addresses of web, db and other in one family.
pub(crate) fn family(scene: &Scene, index: usize) -> [IpAddr; 3] {
    ["shop/web", "shop/db", "shop/other"].map(|key| scene.addresses(key)[index])
}

#[test]
fn only_a_syn_opens_and_what_follows_needs_it() {
    let scene = Scene::up("ct-opens", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db, other] = ["shop/web", "shop/db", "shop/other"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, other_ip] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 8080));
        for flags in [
            ACK,
            SYN | ACK,
            FIN,
            FIN | ACK,
            RST,
            RST | ACK,
            SYN | FIN,
            SYN | RST,
            0,
        ] {
            dropped(
                &scene,
                &web,
                &db,
                tcp(from, to, flags),
                ("egress", "no-flow"),
            );
            // Nothing stops `other` from sending; `db` is closed to it.
            let stray = tcp((other_ip, 40_000), to, flags);
            dropped(&scene, &other, &db, stray, ("ingress", "no-flow"));
        }
        handshake(&web, &db, from, to);
        passes(&db, &web, tcp(to, from, ACK));
        // The same ports of another pod, and the pod's own other ports, are another connection.
        let stray = tcp((other_ip, 40_000), to, ACK);
        dropped(&scene, &other, &db, stray, ("ingress", "no-flow"));
        let beside = tcp((web_ip, 40_001), to, ACK);
        dropped(&scene, &web, &db, beside, ("egress", "no-flow"));
        // A pod that speaks as the other end is stopped at its own interface, and the connection does not notice.
        let forged = tcp(from, to, RST);
        dropped(&scene, &other, &db, forged, ("egress", "spoofed-source"));
        passes(&web, &db, tcp(from, to, ACK));
    }
    assert_eq!(scene.flows("shop/web"), [2, 0, 0, 0]);
    assert_eq!(scene.flows("shop/db"), [0, 2, 0, 0]);
    scene.down();
}

#[test]
fn a_syn_never_rides_on_a_connection_of_the_other_direction() {
    let scene = Scene::up("ct-against", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 8080));
        handshake(&web, &db, from, to);
        let against = tcp(to, from, SYN);
        dropped(&scene, &db, &web, against, ("egress", "default-deny"));
        passes(&db, &web, tcp(to, from, ACK));
        passes(&web, &db, tcp(from, to, ACK));
    }
    scene.down();
}

#[test]
fn ports_are_used_again_after_a_close_if_policy_still_allows_it() {
    let scene = Scene::up("ct-reuse", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 8080));
        handshake(&web, &db, from, to);
        passes(&web, &db, tcp(from, to, FIN | ACK));
        passes(&db, &web, tcp(to, from, FIN | ACK));
        passes(&web, &db, tcp(from, to, ACK));
        // At once, as a client with few ports does.
        handshake(&web, &db, from, to);
        passes(&db, &web, tcp(to, from, RST));
        handshake(&web, &db, from, to);
        passes(&web, &db, tcp(from, to, RST));
    }
    assert_eq!(scene.flows("shop/web"), [2, 0, 0, 0], "one entry for all");
    assert_eq!(scene.flows("shop/db"), [0, 2, 0, 0], "one entry for all");
    // The entries are still there: the tail of a connection opens nothing.
    scene.apply(
        "policies",
        &ONE_WAY.replace("{app: db}}}]}]", "{app: nobody}}}]}]"),
    );
    for [web_ip, db_ip, _] in addresses {
        let again = tcp((web_ip, 40_000), (db_ip, 8080), SYN);
        dropped(&scene, &web, &db, again, ("egress", "default-deny"));
    }
    scene.down();
}

#[test]
fn a_datagram_is_answered_on_its_ports_and_on_no_others() {
    let scene = Scene::up("ct-udp", &pods(), ONE_WAY);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 5353));
        dropped(&scene, &db, &web, udp(to, from), ("egress", "default-deny"));
        passes(&web, &db, udp(from, to));
        passes(&db, &web, udp(to, from));
        passes(&db, &web, udp(to, from));
        passes(&web, &db, udp(from, to));
        for (source, target) in [(5353, 40_001), (5354, 40_000)] {
            let beside = udp((db_ip, source), (web_ip, target));
            dropped(&scene, &db, &web, beside, ("egress", "default-deny"));
        }
        // The same numbers of another protocol are no part of it.
        dropped(&scene, &db, &web, tcp(to, from, ACK), ("egress", "no-flow"));
        let init = sctp(to, from, chunk::INIT);
        dropped(&scene, &db, &web, init, ("egress", "default-deny"));
    }
    scene.down();
}

#[test]
fn sctp_is_followed_like_any_connection() {
    let one_port = ONE_WAY.replace(
        "to: [{podSelector: {matchLabels: {app: db}}}]",
        "to: [{podSelector: {matchLabels: {app: db}}}], ports: [{protocol: SCTP, port: 7777}]",
    );
    let scene = Scene::up("ct-sctp", &pods(), &one_port);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (db_ip, 7777));
        let unasked = sctp(to, from, chunk::INIT_ACK);
        dropped(&scene, &db, &web, unasked, ("egress", "default-deny"));
        passes(&web, &db, sctp(from, to, chunk::INIT));
        passes(&db, &web, unasked);
        passes(&web, &db, sctp(from, to, chunk::DATA));
        passes(&db, &web, sctp(to, from, chunk::DATA));
        let elsewhere = sctp(from, (db_ip, 7778), chunk::INIT);
        dropped(&scene, &web, &db, elsewhere, ("egress", "default-deny"));
        let wrong = udp(from, to);
        dropped(&scene, &web, &db, wrong, ("egress", "default-deny"));
    }
    assert_eq!(
        scene.flows("shop/web"),
        [2, 0, 0, 0],
        "confirmed by the answer"
    );
    scene.down();
}

#[test]
fn a_pod_always_reaches_itself() {
    let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";
    let scene = Scene::up("ct-self", &pods(), closed);
    let addresses = [family(&scene, 0), family(&scene, 1)];
    // Through the node and back: what stays inside of the pod never meets a program.
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip, _] in addresses {
        let (from, to) = ((web_ip, 40_000), (web_ip, 8080));
        for segment in [tcp(from, to, SYN), tcp(from, to, ACK), udp(from, to)] {
            passes(&web, &web, segment);
        }
        silent(&web, &db, tcp(from, (db_ip, 8080), SYN));
    }
    assert_eq!(
        scene.drops("egress", "default-deny"),
        2,
        "to db, and nothing else"
    );
    assert_eq!(scene.drops("ingress", "default-deny"), 0);
    scene.down();
}
