//! Connections that end by time: out of force at their last tick, out of the table soon after, and no live one with them.
//!
//! Entries are made older by hand where waiting would take minutes: what the programs see is the same.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_common::abi::{Flow, FlowKey};
use portcullis_common::conntrack::flags;
use portcullis_tests::scene::table::expire;
use portcullis_tests::scene::traffic::{Conversation, Stream};
use portcullis_tests::scene::wire::{Wire, dropped, flag, handshake, passes, tcp, udp};
use portcullis_tests::scene::{SOON, Scene, wait_until};

use super::{ONE_WAY, pods};

#[test]
fn a_connection_out_of_time_is_gone_and_the_others_are_not() {
    let scene = Scene::up("ct-age", &pods(), ONE_WAY);
    let all: Vec<[IpAddr; 2]> = (0..2)
        .map(|family| ["shop/web", "shop/db"].map(|key| scene.addresses(key)[family]))
        .collect();
    let [web, db] = ["shop/web", "shop/db"].map(|key| Wire::deaf(&scene, key));
    for [web_ip, db_ip] in all {
        for port in [40_000, 40_001] {
            handshake(&web, &db, (web_ip, port), (db_ip, 8080));
            passes(&web, &db, udp((web_ip, port), (db_ip, 5353)));
            passes(&db, &web, udp((db_ip, 5353), (web_ip, port)));
        }
        let old = |key: &FlowKey, _: &Flow| [key.local_port, key.remote_port].contains(&40_000);
        assert_eq!(
            expire(&scene, old),
            4,
            "two connections, seen from both ends"
        );
        let segment = tcp((db_ip, 8080), (web_ip, 40_000), flag::ACK);
        dropped(&scene, &db, &web, segment, ("egress", "no-flow"));
        let datagram = udp((db_ip, 5353), (web_ip, 40_000));
        dropped(&scene, &db, &web, datagram, ("egress", "default-deny"));
        wait_until(
            "what is over is collected, and its quota is free",
            SOON,
            || scene.flows("shop/web") == [2, 0, 0, 0] && scene.flows("shop/db") == [0, 2, 0, 0],
        );
        passes(&db, &web, tcp((db_ip, 8080), (web_ip, 40_001), flag::ACK));
        passes(&db, &web, udp((db_ip, 5353), (web_ip, 40_001)));
        // The next family counts from nothing.
        assert_eq!(expire(&scene, |_, _| true), 4);
        wait_until("all are collected", SOON, || {
            scene.flows("shop/web") == [0; 4]
        });
    }
    scene.down();
}

#[test]
fn closed_connections_leave_by_themselves_and_idle_ones_stay() {
    let scene = Scene::up("ct-tail", &pods(), ONE_WAY);
    let web = scene.netns("shop/web");
    let to = scene.ports("shop/db", 8080);
    let mut idle: Vec<_> = to.iter().map(|to| Stream::open(web, *to)).collect();
    idle.iter_mut().for_each(Stream::works);
    let busy = Conversation::start(Stream::open(web, to[0]));
    for _ in 0..10 {
        for to in &to {
            Stream::open(web, *to).works();
        }
    }
    // Both sides have said FIN: ten ticks of tail, then the sweep.
    let table = scene.table("pc_conntrack");
    let closed = || {
        let entries = table.entries::<FlowKey, Flow>();
        let over = flags::FIN_LOCAL | flags::FIN_REMOTE;
        let all = entries.iter().filter(|(_, flow)| flow.flags & over == over);
        all.count()
    };
    wait_until("both ends have closed", SOON, || closed() == 40);
    wait_until(
        "closed connections are collected",
        Duration::from_secs(40),
        || closed() == 0,
    );
    assert_eq!(scene.flows("shop/web"), [3, 0, 0, 0]);
    assert_eq!(scene.flows("shop/db"), [0, 3, 0, 0]);
    idle.iter_mut().for_each(Stream::works);
    assert!(busy.stop() > 0);
    scene.down();
}
