//! Whose a connection is, and who may have one: what other agents got wrong, from inside pods, with real sockets and single packets.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client::{self, connect_tcp};
use portcullis_lab::link;
use portcullis_tests::cloud::talk::Talk;
use portcullis_tests::cloud::{Cloud, LISTING, ROLE, TOKEN, moto, session, starter};
use portcullis_tests::scene::wire::{Wire, dropped, flag, tcp};
use portcullis_tests::scene::{NEVER, NODE_V4, NODE_V6, Pod, SOON, ip, pod, wait_until};

const IMDS: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

fn pods() -> Vec<Pod> {
    vec![
        pod("shop/web", "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").annotation(ROLE, "app-db"),
        pod("shop/plain", "10.0.1.3 fd00:1::3"),
    ]
}

fn talk(cloud: &Cloud, key: &str, to: IpAddr) -> Talk {
    Talk::open(cloud.scene.netns(key), to, SOON).unwrap_or_else(|error| panic!("{key}: {error}"))
}

/// A dance that ends with the pod's own keys. The first one of a pod may be told "not yet" where the machine is busy.
fn gets_own(cloud: &Cloud, name: &str, to: IpAddr) {
    let deadline = Instant::now() + SOON;
    let danced = loop {
        let danced = talk(cloud, &format!("shop/{name}"), to).dance();
        let danced = danced.unwrap_or_else(|error| panic!("{name} at {to}: {error}"));
        if danced.answer.status != 503 || Instant::now() > deadline {
            break danced;
        }
    };
    let keys = starter::keys(&danced).unwrap_or_else(|| panic!("{name} at {to}: {danced:?}"));
    let own = session(&format!("app-{name}"), name);
    assert_eq!(cloud.sts.whose(&keys), own, "{to}");
}

/// Nothing that the stand-in for the node's real service was asked by a pod.
fn node_saw_no_pod(cloud: &Cloud) {
    let services = cloud.scene.lab.services().expect("services run");
    let node = [NODE_V4, NODE_V6].map(ip);
    let seen = services.metadata().seen();
    let visitors: Vec<_> = seen
        .iter()
        .filter(|seen| !node.contains(&seen.from))
        .collect();
    assert!(visitors.is_empty(), "{visitors:?}");
}

/// Sockets of a namespace in a state, as the kernel lists them: own address, the other's.
fn sockets(namespace: &NetNs, state: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let tables = namespace.run(|| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        // Without IPv6 there is no table of it.
        Ok(read("tcp")? + &read("tcp6").unwrap_or_default())
    });
    let tables = tables.expect("sockets can be listed");
    let rows = tables
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&state))
        .map(|row| (socket_address(row[1]), socket_address(row[2])))
        .collect()
}

/// `0100007F:0050`: words of 32 bits, each as this machine has them in memory.
fn socket_address(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').expect("an address and a port");
    let port = u16::from_str_radix(port, 16).expect("a port");
    let bytes: Vec<u8> = (0..address.len() / 8)
        .flat_map(|word| {
            let word = u32::from_str_radix(&address[word * 8..][..8], 16);
            word.expect("hexadecimal digits").to_ne_bytes()
        })
        .collect();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).expect("16 bytes")),
    };
    (address, port).into()
}

const LISTENING: &str = "0A";
const ESTABLISHED: &str = "01";

#[test]
fn k7_who_sends_from_anothers_address_is_nobody_and_both_families_are_one_pod() {
    let cloud = Cloud::up("id-source", &pods());
    for to in IMDS {
        gets_own(&cloud, "web", ip(to));
        gets_own(&cloud, "db", ip(to));
    }
    for (own, to) in [("10.0.1.2/32", IMDS[0]), ("fd00:1::2/128", IMDS[1])] {
        let added = cloud.scene.run(
            "shop/web",
            &["ip", "addr", "add", own, "dev", "eth0", "nodad"],
        );
        assert!(added.status.success(), "{added:?}");
        let before = cloud.scene.drops("egress", "spoofed-source");
        let (source, _) = own.split_once('/').expect("an address and a length");
        let host = if to.contains(':') {
            format!("[{to}]")
        } else {
            to.to_owned()
        };
        let url = format!("http://{host}/latest/api/token");
        let put = [
            "curl",
            "-sS",
            "-m",
            "1",
            "-X",
            "PUT",
            "--interface",
            source,
            &url,
        ];
        let said = cloud.scene.run("shop/web", &put);
        assert_eq!(
            said.status.code(),
            Some(28),
            "a time-out, and nothing else: {said:?}"
        );
        assert!(cloud.scene.drops("egress", "spoofed-source") > before);
    }
    node_saw_no_pod(&cloud);
    cloud.down();
}

#[test]
fn k7_a_connection_ends_with_its_pod_and_its_successor_gets_nothing_of_it() {
    let mut cloud = Cloud::up("id-swap", &pods());
    let first = pod("shop/first", "10.0.1.9 fd00:1::9").annotation(ROLE, "app-first");
    let second = pod("shop/second", "10.0.1.9 fd00:1::9").annotation(ROLE, "app-second");
    cloud.scene.add(&first);
    cloud.scene.settle();
    let mut kept = talk(&cloud, "shop/first", ip(IMDS[0]));
    let danced = kept.dance().expect("it is answered");
    assert_eq!(danced.role.as_deref(), Some("app-first"));
    let token = kept.ask(
        "PUT",
        "/latest/api/token",
        &[("X-aws-ec2-metadata-token-ttl-seconds", "600")],
    );
    let token = token.expect("it is answered").body;
    let open = |cloud: &Cloud| {
        let sockets = sockets(cloud.scene.lab.node(), ESTABLISHED);
        sockets
            .iter()
            .filter(|(_, peer)| peer.ip() == ip("10.0.1.9"))
            .count()
    };
    assert_eq!(open(&cloud), 1);
    cloud.scene.remove("shop/first");
    wait_until("the responder has closed the connection", SOON, || {
        open(&cloud) == 0
    });
    cloud.scene.add(&second);
    cloud.scene.settle();
    kept.socket()
        .set_read_timeout(Some(NEVER))
        .expect("a time-out");
    kept.ask("GET", LISTING, &[(TOKEN, &token)])
        .expect_err("nobody is there");
    gets_own(&cloud, "second", ip(IMDS[0]));
    assert_eq!(
        cloud.get("shop/second", &token, LISTING).status,
        401,
        "another's token"
    );
    cloud.down();
}

#[test]
fn k10_nothing_of_ours_listens_where_anybody_could_connect() {
    let cloud = Cloud::up("id-listen", &pods());
    let node = cloud.scene.lab.node();
    let mut ours: Vec<SocketAddr> = sockets(node, LISTENING)
        .into_iter()
        .map(|(own, _)| own)
        .collect();
    // The test's own: STS, and the road to it.
    ours.retain(|own| ![moto::PORT, 5001].contains(&own.port()));
    assert_eq!(ours.len(), 5, "one for each guarded address: {ours:?}");
    for own in &ours {
        let is_private = match own.ip() {
            IpAddr::V4(v4) => v4.is_link_local() && (32..96).contains(&v4.octets()[2]),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        assert!(is_private && (9480..9485).contains(&own.port()), "{own}");
    }
    let elsewhere = [NODE_V4, NODE_V6, "127.0.0.1", "::1", "10.0.1.1"].map(ip);
    for own in &ours {
        for address in elsewhere {
            let to = (address, own.port()).into();
            connect_tcp(node, to, NEVER).expect_err("nobody listens there");
            connect_tcp(cloud.scene.netns("shop/web"), to, NEVER)
                .expect_err("nobody listens there");
        }
        // Nor do pods, the node's own processes and neighbours reach the listener as it is.
        connect_tcp(cloud.scene.netns("shop/web"), *own, NEVER).expect_err("not past the guard");
        connect_tcp(node, *own, NEVER).expect_err("not past the guard");
        connect_tcp(cloud.scene.lab.outside(), *own, NEVER).expect_err("not past the guard");
    }
    gets_own(&cloud, "web", ip(IMDS[0]));
    cloud.down();
}

#[test]
fn k11_m9_without_a_token_it_is_401_and_with_a_query_400_whatever_it_names() {
    let cloud = Cloud::up("id-query", &pods());
    for path in [
        LISTING,
        "/latest/meta-data/iam/info",
        "/latest/user-data",
        "/nowhere",
    ] {
        assert_eq!(
            cloud.ask("shop/web", "GET", path, &[]).status,
            401,
            "{path}"
        );
    }
    let token = cloud.token("shop/web");
    for path in [
        format!("{LISTING}?ip=10.0.1.2"),
        format!("{LISTING}app-db?ip=10.0.1.2"),
        format!("{LISTING}?"),
    ] {
        let mut talk = talk(&cloud, "shop/web", ip(IMDS[0]));
        let answer = talk
            .ask("GET", &path, &[(TOKEN, &token)])
            .expect("it is answered");
        assert_eq!(answer.status, 400, "{path}");
        talk.ask("GET", LISTING, &[(TOKEN, &token)])
            .expect_err("and the connection closed");
    }
    cloud.down();
}

/// The bytes that TCP carries in these frames from port 80, a frame each.
fn payloads(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let payload = |frame: &Vec<u8>| {
        let packet = frame.get(14..)?;
        let header = usize::from(packet[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let is_answer = packet[0] >> 4 == 4 && packet[9] == 6;
        let segment = is_answer.then(|| packet.get(header..total)).flatten()?;
        let from = u16::from_be_bytes([segment[0], segment[1]]);
        let body = segment.get(usize::from(segment[12] >> 4) * 4..)?;
        (from == 80 && !body.is_empty()).then(|| body.to_vec())
    };
    frames.iter().filter_map(payload).collect()
}

#[test]
fn m6_an_answer_is_one_packet_and_nothing_is_redirected_or_500() {
    let cloud = Cloud::up("id-wire", &pods());
    gets_own(&cloud, "web", ip(IMDS[0]));
    let token = cloud.token("shop/web");
    let wire = Wire::of(&cloud.scene, "shop/web");
    let mut talk = talk(&cloud, "shop/web", ip(IMDS[0]));
    let with = [(TOKEN, token.as_str())];
    let role = format!("{LISTING}app-web");
    let slash = LISTING.trim_end_matches('/');
    for (path, status) in [
        (LISTING, 200),
        (slash, 200),
        (&role, 200),
        ("/latest/meta-data/iam/info", 200),
        ("/nowhere", 404),
    ] {
        let _ = wire.frames();
        let answer = talk.ask("GET", path, &with).expect("it is answered");
        assert_eq!(answer.status, status, "{path}");
        let packets = payloads(&wire.frames());
        let [packet] = packets.as_slice() else {
            panic!("{path}: {} packets", packets.len());
        };
        let text = String::from_utf8_lossy(packet);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(
            text.ends_with(&answer.body) && !text.to_lowercase().contains("location:"),
            "{text}"
        );
    }
    let token = cloud.token("shop/plain");
    for path in [LISTING, slash, &role] {
        assert_eq!(cloud.get("shop/plain", &token, path).status, 404, "{path}");
    }
    cloud.down();
}

#[test]
fn m8_a_pod_of_another_node_gets_nothing_here() {
    let stray = pod("shop/stray", "10.0.1.7 fd00:1::7")
        .annotation(ROLE, "app-stray")
        .on_node("node-b");
    let cloud = Cloud::up("id-stray", &[pods(), vec![stray]].concat());
    for to in IMDS {
        let danced = Talk::open(cloud.scene.netns("shop/stray"), ip(to), NEVER)
            .and_then(|mut talk| talk.dance());
        // Not even a session token if it cannot connect, else nothing but "not yet".
        assert!(
            danced
                .as_ref()
                .map_or(true, |danced| danced.answer.status == 503),
            "{danced:?}"
        );
    }
    gets_own(&cloud, "web", ip(IMDS[0]));
    node_saw_no_pod(&cloud);
    cloud.down();
}

#[test]
fn a1_a_pod_that_floods_does_not_slow_another_down() {
    const LONGEST: Duration = Duration::from_millis(300);
    let cloud = Cloud::up("id-flood", &pods());
    gets_own(&cloud, "db", ip(IMDS[0]));
    let until = Instant::now() + Duration::from_secs(3);
    let flood = |namespace: &NetNs| {
        let (mut good, mut refused) = (0_u32, 0_u32);
        while Instant::now() < until {
            let Ok(mut talk) = Talk::open(namespace, ip(IMDS[0]), SOON) else {
                continue;
            };
            while let Ok(answer) = talk.ask("GET", LISTING, &[]) {
                match answer.status {
                    503 => refused += 1,
                    _ => good += 1,
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        (good, refused)
    };
    let (flooded, slowest) = thread::scope(|scope| {
        let namespace = cloud.scene.netns("shop/web");
        // One more than fit into the queue of a pod that asks too fast.
        let floods: Vec<_> = (0..40).map(|_| scope.spawn(|| flood(namespace))).collect();
        let mut talk = talk(&cloud, "shop/db", ip(IMDS[0]));
        let mut slowest = Duration::ZERO;
        while Instant::now() < until {
            let danced = talk.dance().expect("it is answered");
            assert_eq!(danced.answer.status, 200, "{danced:?}");
            slowest = slowest.max(danced.took);
            // Within its own rate.
            thread::sleep(Duration::from_millis(20));
        }
        let flooded = floods
            .into_iter()
            .map(|flood| flood.join().expect("it has ended"));
        (
            flooded.fold((0, 0), |(a, b), (good, refused)| (a + good, b + refused)),
            slowest,
        )
    });
    println!("flood: {flooded:?} answered and refused; slowest dance of the other: {slowest:.1?}");
    assert!(flooded.1 > 0, "it was no flood: {flooded:?}");
    assert!(slowest < LONGEST, "{slowest:?} while another floods");
    cloud.down();
}

#[test]
fn a7_a_node_without_ipv6_serves_ipv4() {
    let mut cloud = Cloud::up("id-nov6", &pods());
    cloud.responder.kill();
    cloud.scene.kill();
    let off = cloud.scene.lab.node().run(|| {
        link::settings(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/lo/disable_ipv6", "1"),
        ])
    });
    off.expect("IPv6 can be switched off");
    cloud.scene.restart();
    cloud.scene.settle();
    cloud.restart_responder();
    gets_own(&cloud, "web", ip(IMDS[0]));
    let listening = sockets(cloud.scene.lab.node(), LISTENING);
    assert!(
        listening.iter().all(|(own, _)| own.is_ipv4()),
        "{listening:?}"
    );
    connect_tcp(
        cloud.scene.netns("shop/web"),
        (ip(IMDS[1]), 80).into(),
        NEVER,
    )
    .expect_err("there is none");
    cloud.down();
}

#[test]
fn g1_mapped_sockets_are_their_pods_and_packets_by_hand_get_nowhere() {
    let cloud = Cloud::up("id-forms", &pods());
    let mapped: Ipv6Addr = "::ffff:169.254.169.254".parse().expect("an address");
    gets_own(&cloud, "web", mapped.into());
    let (wire, outside) = (
        Wire::of(&cloud.scene, "shop/web"),
        Wire::outside(&cloud.scene),
    );
    let guarded = ip(IMDS[0]);
    let syn = |from: &str, port| tcp((ip(from), 40_000), (guarded, port), flag::SYN);
    let (guard, spoofed) = (("egress", "metadata-guard"), ("egress", "spoofed-source"));
    dropped(&cloud.scene, &wire, &outside, syn("10.0.1.1", 443), guard);
    dropped(&cloud.scene, &wire, &outside, syn("10.0.1.2", 80), spoofed);
    dropped(
        &cloud.scene,
        &wire,
        &outside,
        syn("169.254.169.254", 80),
        spoofed,
    );
    // One that is right in all is a connection of this pod, whichever socket it came from: nobody else's.
    wire.send(syn("10.0.1.1", 80));
    gets_own(&cloud, "db", guarded);
    node_saw_no_pod(&cloud);
    cloud.down();
}

#[test]
fn i6_a_pod_that_was_up_before_the_agent_has_no_metadata_of_the_node() {
    let mut cloud = Cloud::up("id-before", &pods());
    cloud.responder.kill();
    cloud.scene.kill();
    let record = cloud.scene.agent.record();
    let (binary, bpffs) = (
        record.binary.display().to_string(),
        record.bpffs.display().to_string(),
    );
    let uninstall = [&*binary, "uninstall", "--yes", "--bpffs", &bpffs];
    let _ = cloud.scene.on_node(&uninstall, "");
    // As on a node on which nothing was ever installed; the last programs are gone a moment later.
    let to: SocketAddr = (ip(IMDS[0]), 80).into();
    let mut node_role = String::new();
    wait_until("the node's own service answers", SOON, || {
        let answer = client::http(cloud.scene.netns("shop/web"), to, "GET", LISTING, &[], SOON);
        answer.is_ok_and(|answer| {
            node_role = answer.body;
            true
        })
    });
    let mut open = talk(&cloud, "shop/web", ip(IMDS[0]));
    let services = |cloud: &Cloud| {
        cloud
            .scene
            .lab
            .services()
            .expect("services run")
            .metadata()
            .seen()
            .len()
    };
    let before = services(&cloud);
    cloud.scene.restart();
    cloud.scene.settle();
    cloud.restart_responder();
    open.socket()
        .set_read_timeout(Some(NEVER))
        .expect("a time-out");
    open.ask("GET", LISTING, &[])
        .expect_err("a connection from before goes nowhere");
    gets_own(&cloud, "web", ip(IMDS[0]));
    let token = cloud.token("shop/web");
    assert_ne!(cloud.get("shop/web", &token, LISTING).body, node_role);
    assert_eq!(
        services(&cloud),
        before,
        "the node's own service was not asked again"
    );
    cloud.down();
}

#[test]
fn i7_killed_stopped_or_restarted_the_node_stays_closed_and_session_tokens_stay_good() {
    let mut cloud = Cloud::up("id-life", &pods());
    let token = cloud.token("shop/web");
    let closed = |cloud: &Cloud| {
        for to in IMDS {
            let danced = Talk::open(cloud.scene.netns("shop/web"), ip(to), NEVER)
                .and_then(|mut talk| talk.dance());
            assert!(danced.is_err(), "{to}: {danced:?}");
        }
    };
    // The responder alone: connections wait for another, and its tokens are good.
    cloud.restart_responder();
    assert_eq!(cloud.get("shop/web", &token, LISTING).body, "app-web");
    assert_eq!(
        cloud.get("shop/db", &token, LISTING).status,
        401,
        "to nobody else"
    );
    cloud.responder.kill();
    closed(&cloud);
    // SIGKILL of the agent, with and without a responder; SIGTERM.
    for by_force in [true, false] {
        cloud.restart_responder();
        wait_until("the responder answers", SOON * 2, || {
            let to: SocketAddr = (ip(IMDS[0]), 80).into();
            client::http(
                cloud.scene.netns("shop/web"),
                to,
                "GET",
                LISTING,
                &[],
                NEVER,
            )
            .is_ok()
        });
        if by_force {
            cloud.scene.kill();
        } else {
            cloud.scene.agent.stop().expect("it ends");
        }
        wait_until("the responder has let go", SOON, || {
            connect_tcp(
                cloud.scene.netns("shop/web"),
                (ip(IMDS[0]), 80).into(),
                NEVER,
            )
            .is_err()
        });
        closed(&cloud);
        cloud.responder.kill();
        closed(&cloud);
        // The same programs are adopted, as by another version.
        cloud.scene.restart();
        cloud.scene.settle();
    }
    cloud.restart_responder();
    gets_own(&cloud, "web", ip(IMDS[0]));
    assert_eq!(
        cloud.get("shop/web", &token, LISTING).body,
        "app-web",
        "the token outlived all of it"
    );
    node_saw_no_pod(&cloud);
    cloud.down();
}
