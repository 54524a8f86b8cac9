//! Open connections when policy changes: each is judged again at its next packet, in the direction in which it was opened.

use std::net::SocketAddr;

use portcullis_tests::scene::traffic::{Conversation, Datagrams, Stream, connects, is_denied};
use portcullis_tests::scene::{NEVER, SOON, Scene, wait_until};

use super::{ONE_WAY, pods};

/// `other` is closed; `web` may open to it, and it takes `web`'s connections.
const OTHER: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-other, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: other}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other, namespace: shop}
spec:
  podSelector: {matchLabels: {app: other}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";

/// Two families of a pod's TCP and UDP ports.
fn targets(scene: &Scene, key: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let addresses = scene.addresses(key).iter();
    addresses
        .map(|address| ((*address, 8080).into(), (*address, 5353).into()))
        .collect()
}

/// Opens connections of `web` that stay and some that go, changes policy in `change`, and looks at both.
fn kept_and_cut(test: &str, change: (&str, &str)) {
    let before = format!("{ONE_WAY}{OTHER}");
    let scene = Scene::up(test, &pods(), &before);
    let web = scene.netns("shop/web");
    let (kept, cut) = (targets(&scene, "shop/db"), targets(&scene, "shop/other"));
    let conversations: Vec<_> = kept
        .iter()
        .map(|(tcp, _)| Conversation::start(Stream::open(web, *tcp)))
        .collect();
    let datagrams: Vec<_> = kept
        .iter()
        .map(|(_, udp)| Datagrams::start(web, *udp))
        .collect();
    let mut ends: Vec<_> = cut.iter().map(|(tcp, _)| Stream::open(web, *tcp)).collect();
    ends.iter_mut().for_each(Stream::works);
    let stopping: Vec<_> = cut
        .iter()
        .map(|(_, udp)| Datagrams::start(web, *udp))
        .collect();

    let after = before.replacen(change.0, change.1, 1);
    assert_ne!(after, before);
    scene.apply("policies", &after);
    ends.iter_mut().for_each(Stream::is_cut);
    for (tcp, _) in &cut {
        assert!(
            is_denied(web, *tcp),
            "{tcp} is closed to new connections too"
        );
    }
    // One TCP and one UDP connection in each family, each noticed at one packet.
    wait_until("every cut connection is noticed", SOON, || {
        scene.cuts() == 4
    });
    for tally in stopping.into_iter().map(Datagrams::stop) {
        let first = *tally.lost.first().expect("denied datagrams get no answer");
        let all: Vec<u32> = (first..tally.sent).collect();
        assert!(first > 0, "the first ones were allowed");
        assert!(tally.lost.into_iter().eq(all), "from one datagram on, all");
    }

    // Permission comes back: a connection that was cut stays so, a new one opens.
    scene.apply("policies", &before);
    ends.iter_mut().for_each(Stream::is_cut);
    for (tcp, _) in &cut {
        assert!(connects(web, *tcp), "{tcp}");
    }
    for (conversation, tally) in conversations.into_iter().zip(datagrams) {
        assert!(conversation.stop() > 0);
        let tally = tally.stop();
        assert!(tally.sent > 0 && tally.lost.is_empty(), "{tally:?}");
    }
    scene.down();
}

#[test]
fn what_the_source_may_no_longer_open_ends_and_the_rest_goes_on() {
    let closed = "egress: [{to: [{podSelector: {matchLabels: {app: nobody}}}]}]";
    let open = "egress: [{to: [{podSelector: {matchLabels: {app: other}}}]}]";
    kept_and_cut("ct-cut-out", (open, closed));
}

#[test]
fn what_the_destination_no_longer_takes_ends_and_the_rest_goes_on() {
    let (head, tail) = (
        "policyTypes: [Ingress, Egress]\n  ingress: ",
        "{app: web}}}]}]\n",
    );
    let open = format!("{{app: other}}}}\n  {head}[{{from: [{{podSelector: {{matchLabels: {tail}");
    let closed = open.replace("{app: web}", "{app: nobody}");
    kept_and_cut("ct-cut-in", (&open, &closed));
}

#[test]
fn a_policy_that_first_isolates_ends_what_it_does_not_allow() {
    let scene = Scene::up("ct-isolate", &pods(), "");
    let (web, other) = (scene.netns("shop/web"), scene.netns("shop/other"));
    let to: Vec<SocketAddr> = scene.ports("shop/db", 8080);
    let mut kept: Vec<_> = to.iter().map(|to| Stream::open(web, *to)).collect();
    let mut cut: Vec<_> = to.iter().map(|to| Stream::open(other, *to)).collect();
    kept.iter_mut().chain(&mut cut).for_each(Stream::works);
    scene.apply("policies", ONE_WAY);
    kept.iter_mut().for_each(Stream::works);
    cut.iter_mut().for_each(Stream::is_cut);
    assert!(scene.cuts() >= 2);
    scene.down();
}

#[test]
fn a_hundred_changes_that_allow_the_same_disturb_nothing() {
    let scene = Scene::up("ct-rounds", &pods(), ONE_WAY);
    let web = scene.netns("shop/web");
    let [(tcp, udp), (tcp_v6, _)] = targets(&scene, "shop/db")[..] else {
        panic!("two families")
    };
    let conversations = [tcp, tcp_v6].map(|to| Conversation::start(Stream::open(web, to)));
    let datagrams = Datagrams::start(web, udp);
    let revisions = scene.status()["revision"].as_u64().expect("a number");
    for round in 0..100 {
        // Another rule each time, so that rows and identities move, and each time one that lets `db` be reached.
        let more = format!(
            "egress: [{{to: [{{podSelector: {{matchLabels: {{app: db}}}}}}, {{ipBlock: {{cidr: 10.0.{}.0/{}}}}}]}}]",
            round % 7,
            16 + round % 9,
        );
        let changed = ONE_WAY.replace(
            "egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]",
            &more,
        );
        assert_ne!(changed, ONE_WAY);
        scene.apply("policies", &changed);
    }
    let after = scene.status()["revision"].as_u64().expect("a number");
    assert!(
        after >= revisions + 50,
        "the tables did change: {revisions}, {after}"
    );
    // Some traffic after the last change.
    std::thread::sleep(NEVER);
    let tally = datagrams.stop();
    assert!(tally.sent > 100 && tally.lost.is_empty(), "{tally:?}");
    let carried = conversations.map(Conversation::stop);
    assert!(carried.iter().all(|count| *count > 100), "{carried:?}");
    println!("datagrams {}, exchanges {carried:?}", tally.sent);
    for direction in ["ingress", "egress"] {
        assert_eq!(scene.drops(direction, "policy-changed"), 0);
        assert_eq!(scene.drops(direction, "default-deny"), 0);
    }
    scene.down();
}
