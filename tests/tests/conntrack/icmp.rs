//! ICMP: errors that belong to a connection and forged ones, echo and its reply.

use std::io;
use std::net::IpAddr;

use portcullis_tests::scene::traffic::datagram_socket;
use portcullis_tests::scene::wire::{
    Wire, dropped, echo, flag, handshake, passes, tcp, udp, unreachable,
};
use portcullis_tests::scene::{SOON, Scene, ip};

use super::{ONE_WAY, pods};

/// `web` may reach the outside too.
const WITH_OUTSIDE: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: outside, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: 2001:db8::/32}}]}]
";
/// Somebody to talk to outside, and a router on the way, in each family.
const FAR: [(&str, &str); 2] = [
    ("192.0.2.7", "198.51.100.1"),
    ("2001:db8::7", "2001:db9::1"),
];

#[test]
fn a_closed_port_is_reported_although_both_directions_are_closed() {
    let scene = Scene::up("ct-refused", &pods(), ONE_WAY);
    for to in scene.ports("shop/db", 9) {
        let socket = datagram_socket(scene.netns("shop/web"), to);
        socket
            .set_read_timeout(Some(SOON))
            .expect("a socket takes time-outs");
        socket.send(b"?").expect("a datagram is sent");
        let error = socket.recv(&mut [0]).expect_err("nobody listens there");
        assert_eq!(
            error.kind(),
            io::ErrorKind::ConnectionRefused,
            "{to}: {error}"
        );
    }
    assert_eq!(scene.drops("egress", "icmp-error"), 0);
    assert_eq!(scene.drops("ingress", "icmp-error"), 0);
    scene.down();
}

#[test]
fn errors_pass_about_what_the_pod_sent_and_about_nothing_else() {
    let scene = Scene::up("ct-icmp", &pods(), &format!("{ONE_WAY}{WITH_OUTSIDE}"));
    let all: Vec<[IpAddr; 3]> = (0..2)
        .map(|family| ["shop/web", "shop/db", "shop/other"].map(|key| scene.addresses(key)[family]))
        .collect();
    let [web, db, other] = ["shop/web", "shop/db", "shop/other"].map(|key| Wire::deaf(&scene, key));
    let outside = Wire::outside(&scene);
    for ([web_ip, db_ip, other_ip], (far, router)) in all.into_iter().zip(FAR) {
        let (far, router) = (ip(far), ip(router));
        let forged = |from: &Wire, segment, place| {
            dropped(&scene, from, &web, segment, (place, "icmp-error"));
        };
        let question = udp((web_ip, 40_000), (far, 5353));
        // Before the question there is nothing to complain about.
        forged(&outside, unreachable(router, web_ip, question), "ingress");
        passes(&web, &outside, question);
        // Of the other end, and of any router on the way.
        passes(&outside, &web, unreachable(far, web_ip, question));
        passes(&outside, &web, unreachable(router, web_ip, question));
        for wrong in [
            udp((web_ip, 40_001), (far, 5353)),
            udp((web_ip, 40_000), (far, 5354)),
            udp((web_ip, 40_000), (router, 5353)),
            udp((far, 5353), (web_ip, 40_000)),
            udp((db_ip, 40_000), (far, 5353)),
            tcp((web_ip, 40_000), (far, 5353), flag::ACK),
        ] {
            forged(&outside, unreachable(router, web_ip, wrong), "ingress");
        }
        // A connection within the node; TCP is no different.
        let (from, to) = ((web_ip, 40_000), (db_ip, 8080));
        handshake(&web, &db, from, to);
        passes(
            &db,
            &web,
            unreachable(db_ip, web_ip, tcp(from, to, flag::ACK)),
        );
        // A bystander knows the ports and still may not complain.
        let meddling = unreachable(other_ip, web_ip, tcp(from, to, flag::ACK));
        dropped(&scene, &other, &web, meddling, ("egress", "icmp-error"));
        // An error makes nothing: the pod that it went to has not become reachable.
        let back = udp((far, 5353), (web_ip, 40_001));
        dropped(&scene, &outside, &web, back, ("ingress", "default-deny"));
        passes(&web, &db, tcp(from, to, flag::ACK));
    }
    scene.down();
}

#[test]
fn an_echo_reply_needs_its_request() {
    let scene = Scene::up("ct-echo", &pods(), ONE_WAY);
    let all: Vec<[IpAddr; 2]> = (0..2)
        .map(|family| ["shop/web", "shop/db"].map(|key| scene.addresses(key)[family]))
        .collect();
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip] in all {
        let reply = echo(db_ip, web_ip, 77, true);
        dropped(&scene, &db, &web, reply, ("egress", "no-flow"));
        passes(&web, &db, echo(web_ip, db_ip, 77, false));
        passes(&db, &web, reply);
        let other_number = echo(db_ip, web_ip, 78, true);
        dropped(&scene, &db, &web, other_number, ("egress", "no-flow"));
        // The one who was asked may not ask, not even by the same number.
        let question = echo(db_ip, web_ip, 77, false);
        dropped(&scene, &db, &web, question, ("egress", "default-deny"));
    }
    scene.down();
}
