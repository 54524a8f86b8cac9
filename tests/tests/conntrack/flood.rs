//! Floods: what one pod opens, or what is opened to it, takes nothing from another pod, and it recovers.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_common::abi::Config;
use portcullis_common::conntrack::TCP;
use portcullis_tests::scene::table::expire;
use portcullis_tests::scene::traffic::{
    Conversation, Stream, answers, connects, datagram_socket, is_denied,
};
use portcullis_tests::scene::wire::{Wire, flag, passes, tcp, udp};
use portcullis_tests::scene::{SOON, Scene, ip, pod, run_in, wait_until};

use super::pods;

/// More than half-open connections may be.
const SYNS: u16 = 20_000;

/// The agent's settings as the programs see them.
fn config(scene: &Scene) -> Config {
    let table = scene.table("pc_config");
    table
        .get(&0_u32.to_ne_bytes())
        .expect("the agent has written its settings")
}

/// Connections of one kind together with those that were refused for a reason.
fn opened_and_refused(scene: &Scene, key: &str, kind: usize, drops: (&str, &str)) -> (u64, u64) {
    (scene.flows(key)[kind], scene.drops(drops.0, drops.1))
}

#[test]
fn a_flooding_pod_takes_nothing_from_others() {
    let [web, db, other] = pods();
    let hole = pod("shop/hole", "10.0.1.4 fd00:1::4");
    let scene = Scene::up("ct-flood-out", &[web, db, other, hole], "");
    let limits = config(&scene);
    let client = scene.netns("shop/web");
    let targets = scene.ports("shop/db", 8080);
    let mut idle: Vec<_> = targets
        .iter()
        .flat_map(|to| (0..20).map(|_| Stream::open(client, *to)))
        .collect();
    let sockets: Vec<_> = scene
        .ports("shop/db", 5353)
        .into_iter()
        .map(|to| datagram_socket(client, to))
        .collect();
    let ask = || {
        for socket in &sockets {
            socket
                .set_read_timeout(Some(SOON))
                .expect("a socket takes time-outs");
            socket.send(b"?").expect("a datagram is sent");
            socket
                .recv(&mut [0; 64])
                .expect("and answered on the same connection");
        }
    };
    ask();
    let busy = Conversation::start(Stream::open(client, targets[0]));
    let (from, to): (IpAddr, IpAddr) = (scene.address("shop/other"), scene.address("shop/hole"));
    let [flood, hole] = ["shop/other", "shop/hole"].map(|key| Wire::deaf(&scene, key));

    // SYNs without an answer: the small quota.
    for port in 1000..1000 + SYNS {
        flood.send(tcp((from, port), (to, 80), flag::SYN));
    }
    let half_open = ("egress", "half-open-quota");
    let (opened, refused) = opened_and_refused(&scene, "shop/other", 2, half_open);
    assert_eq!(opened + refused, u64::from(SYNS), "each is counted once");
    let limit = u64::from(limits.quota[2]);
    assert!((limit..limit + 16).contains(&opened), "{opened} half-open");
    connections_live(&scene, &mut idle, &ask);

    // Their time is up, and the small quota is free again.
    let out_of_time = expire(&scene, |key, _| {
        key.protocol == TCP && key.remote_port == 80
    });
    assert_eq!(out_of_time as u64, opened);
    expire(&scene, |key, _| key.protocol == TCP && key.local_port == 80);
    wait_until("half-open connections are collected", SOON, || {
        scene.flows("shop/other")[2] + scene.flows("shop/hole")[3] == 0
    });

    // Datagrams that are answered: the large one, and with both ends of it on this node the shared pool.
    let mut answered = 0_u32;
    while scene.drops("egress", "quota") == 0 {
        assert!(
            answered < 200_000,
            "no quota holds: {:?}",
            scene.flows("shop/other")
        );
        for _ in 0..1000 {
            answered += 1;
            let port = (answered % 60_000 + 1) as u16;
            let remote = 5000 + (answered / 60_000) as u16;
            flood.send(udp((from, port), (to, remote)));
            hole.send(udp((to, remote), (from, port)));
        }
    }
    let pool: u64 = scene
        .table("pc_pool")
        .get(&0_u32.to_ne_bytes())
        .expect("the pool has its counter");
    println!("answered {answered}, pool {pool} of {}", limits.pool);
    connections_live(&scene, &mut idle, &ask);
    // Every pod keeps a share of its own, even of an empty pool.
    for to in &targets {
        for _ in 0..20 {
            assert!(connects(client, *to));
        }
    }
    assert!(busy.stop() > 0, "and nothing of it was lost");

    // The flood ages; every counter comes back to what is really there.
    let of_flood = scene.flows("shop/other").iter().sum::<u64>();
    assert!(of_flood > u64::from(limits.quota[2]), "{of_flood}");
    drop(idle);
    drop(sockets);
    expire(&scene, |_, _| true);
    wait_until("all of it is collected", Duration::from_mins(1), || {
        expire(&scene, |_, _| true);
        ["shop/other", "shop/hole", "shop/web", "shop/db"]
            .iter()
            .all(|key| scene.flows(key) == [0; 4])
    });
    let pool: Option<u64> = scene.table("pc_pool").get(&0_u32.to_ne_bytes());
    assert_eq!(pool, Some(0), "what was borrowed is given back");
    passes(&flood, &hole, tcp((from, 1), (to, 80), flag::SYN));
    scene.down();
}

/// What was open before goes on, and new connections open.
fn connections_live(scene: &Scene, idle: &mut [Stream], ask: &dyn Fn()) {
    idle.iter_mut().for_each(Stream::works);
    ask();
    let client = scene.netns("shop/web");
    for to in scene.ports("shop/db", 8080) {
        assert!(connects(client, to));
    }
    for to in scene.ports("shop/db", 5353) {
        assert!(answers(client, to));
    }
    assert_eq!(scene.drops("ingress", "table-full"), 0);
    assert_eq!(scene.drops("egress", "table-full"), 0);
}

#[test]
fn a_flooded_pod_keeps_its_connections_its_own_calls_and_its_probes() {
    let scene = Scene::up("ct-flood-in", &pods(), "");
    let [web, db] = ["shop/web", "shop/db"].map(|key| scene.netns(key));
    let inbound = scene.ports("shop/db", 8080);
    let outbound = scene.ports("shop/web", 8080);
    let mut idle: Vec<_> = inbound.iter().map(|to| Stream::open(web, *to)).collect();
    // Otherwise the pod answers each SYN and a connection is over at once.
    let silent = "table inet t {
        chain in { type filter hook input priority 0; tcp dport 9 drop; }
    }";
    let _ = run_in(db, &["nft", "-f", "-"], silent);
    let outside = Wire::outside(&scene);
    for port in 1000..1000 + SYNS {
        let from = (ip("192.0.2.9"), port);
        outside.send(tcp(from, (scene.address("shop/db"), 9), flag::SYN));
    }
    let full = ("ingress", "half-open-quota");
    let (opened, refused) = opened_and_refused(&scene, "shop/db", 3, full);
    assert_eq!(opened + refused, u64::from(SYNS), "each is counted once");
    assert!(refused > 0);

    idle.iter_mut().for_each(Stream::works);
    for to in &outbound {
        assert!(connects(db, *to), "its own calls have a quota of their own");
    }
    for to in &inbound {
        assert!(connects(scene.lab.node(), *to), "the node's probes pass");
        assert!(is_denied(web, *to), "nobody else opens anything to it");
    }
    for to in &outbound {
        assert!(
            connects(scene.netns("shop/other"), *to),
            "others notice nothing"
        );
    }
    assert!(expire(&scene, |key, _| key.local_port == 9) > 0);
    wait_until("the flood is collected", SOON, || {
        scene.flows("shop/db")[3] == 0
    });
    for to in &inbound {
        assert!(connects(web, *to));
    }
    scene.down();
}
