//! The lab without an agent: what is built answers, packets arrive, nothing is left. Needs root and namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_lab::client::{banner, http, udp_exchange, until_connected};
use portcullis_lab::metadata::{NODE_ACCESS_KEY, NODE_ROLE, ROLES_PATH};
use portcullis_lab::packet::{ICMP, ICMPV6, SCTP, TCP, UDP};
use portcullis_lab::{
    Flight, Lab, LabOptions, LabPod, LabSpec, Listen, Prober, Site, TestBench, Verdict, pods,
    teardown,
};
use portcullis_policy::probe::ProbeId;
use socket2::{Domain, Protocol, Socket, Type};

const SHORT: Duration = Duration::from_secs(2);

fn pod(name: &str, addresses: &[&str]) -> LabPod {
    LabPod {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("00000000-0000-0000-0000-{name:0>12}"),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: vec![Listen::Tcp(8080), Listen::Udp(5353)],
        host_network: false,
    }
}

fn spec(pods: Vec<LabPod>) -> LabSpec {
    LabSpec {
        node: "node-a".into(),
        node_addresses: vec!["10.0.0.10".parse().unwrap(), "fd00:10::10".parse().unwrap()],
        pods,
        outside: vec![Listen::Tcp(80), Listen::Tcp(443), Listen::Udp(53)],
    }
}

fn name(test: &str) -> LabOptions {
    LabOptions::named(format!("t-{test}-{}", std::process::id()))
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn flight(
    id: &str,
    from: Site,
    to: Site,
    ends: (&str, &str),
    protocol: u8,
    dst_port: u16,
) -> Flight {
    let (src, dst): (IpAddr, IpAddr) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
    Flight {
        id: ProbeId::Text(id.into()),
        from,
        to,
        src,
        dst,
        protocol,
        src_port: None,
        dst_port,
        icmp: None,
    }
}

fn shop(name: &str) -> Site {
    Site::Pod(format!("shop/{name}"))
}

#[test]
fn pods_of_one_and_two_families_reach_each_other_and_the_world() {
    let pods = vec![
        pod("both", &["10.0.1.1", "fd00:1::1"]),
        pod("four", &["10.0.1.2"]),
        pod("six", &["fd00:1::3"]),
    ];
    let mut lab = Lab::up(spec(pods), name("reach")).unwrap();
    lab.start_services().unwrap();
    let both = lab.namespace_of("shop/both").unwrap();
    let six = lab.namespace_of("shop/six").unwrap();
    assert_eq!(
        banner(both, at("10.0.1.2", 8080), SHORT).unwrap(),
        "shop/four"
    );
    assert_eq!(
        banner(both, at("fd00:1::3", 8080), SHORT).unwrap(),
        "shop/six"
    );
    assert_eq!(
        banner(six, at("fd00:1::1", 8080), SHORT).unwrap(),
        "shop/both"
    );
    assert_eq!(
        udp_exchange(both, at("10.0.1.2", 5353), b"x", SHORT).unwrap(),
        b"shop/four\nx"
    );
    for address in ["192.0.2.77", "2001:db8::77"] {
        assert_eq!(
            banner(both, at(address, 443), SHORT).unwrap(),
            format!("outside {address}")
        );
        assert_eq!(
            udp_exchange(both, at(address, 53), b"q", SHORT).unwrap(),
            format!("outside {address}\nq").into_bytes()
        );
    }
    let node = lab.node();
    assert_eq!(
        banner(node, at("fd00:1::3", 8080), SHORT).unwrap(),
        "shop/six"
    );
    for address in ["169.254.169.254", "fd00:ec2::254"] {
        let roles = http(both, at(address, 80), "GET", ROLES_PATH, &[], SHORT).unwrap();
        assert_eq!((roles.status, roles.body.as_str()), (200, NODE_ROLE));
        let path = format!("{ROLES_PATH}{NODE_ROLE}");
        assert!(
            http(both, at(address, 80), "GET", &path, &[], SHORT)
                .unwrap()
                .body
                .contains(NODE_ACCESS_KEY)
        );
    }
    for address in ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"] {
        assert_eq!(
            http(both, at(address, 80), "GET", "/v1/credentials", &[], SHORT)
                .unwrap()
                .status,
            200
        );
    }
    let seen = lab.services().unwrap().metadata().seen();
    assert_eq!(seen.len(), 7);
    assert!(
        seen.iter()
            .any(|seen| seen.from == "fd00:1::1".parse::<IpAddr>().unwrap()),
        "the pod's own address is seen: there is no NAT"
    );
    lab.down().unwrap();
}

#[test]
fn the_outside_answers_pings_of_both_families() {
    let lab = Lab::up(
        spec(vec![pod("a", &["10.0.1.1", "fd00:1::1"])]),
        name("ping"),
    )
    .unwrap();
    let from = lab.namespace_of("shop/a").unwrap();
    for (address, domain, protocol, request, answer) in [
        ("192.0.2.7", Domain::IPV4, Protocol::ICMPV4, 8, 0),
        ("2001:db8::7", Domain::IPV6, Protocol::ICMPV6, 128, 129),
    ] {
        let socket = from
            .run(|| Ok(Socket::new(domain, Type::RAW, Some(protocol))?))
            .unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket.connect(&at(address, 0).into()).unwrap();
        let mut echo = [request, 0, 0, 0, 0x12, 0x34, 0, 1];
        if request == 8 {
            // The kernel fills in the checksum of ICMPv6 only.
            echo[2..4].copy_from_slice(&(!(0x0800u16 + 0x1234 + 1)).to_be_bytes());
        }
        socket.send(&echo).unwrap();
        let mut buffer = [0; 128];
        let length = (&socket)
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        let icmp = if request == 8 {
            &buffer[20..length]
        } else {
            &buffer[..length]
        };
        assert_eq!(
            (icmp[0], &icmp[4..8]),
            (answer, &[0x12, 0x34, 0, 1][..]),
            "{address}"
        );
    }
}

#[test]
fn an_echo_connection_stays_open() {
    let mut lab = Lab::up(
        spec(vec![pod("a", &["10.0.1.1"]), pod("b", &["10.0.1.2"])]),
        name("echo"),
    )
    .unwrap();
    lab.start_services().unwrap();
    let from = lab.namespace_of("shop/a").unwrap();
    let mut stream =
        portcullis_lab::client::connect_tcp(from, at("10.0.1.2", 8080), SHORT).unwrap();
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).unwrap();
    for _ in 0..3 {
        stream.write_all(b"ping").unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"ping");
    }
}

#[test]
fn packets_of_every_protocol_and_family_arrive_at_every_kind_of_place() {
    let pods = vec![
        pod("a", &["10.0.1.1", "fd00:1::1"]),
        pod("b", &["10.0.1.2", "fd00:1::2"]),
    ];
    let mut lab = Lab::up(spec(pods), name("probe")).unwrap();
    lab.start_services().unwrap();
    let mut prober = Prober::open(&lab).unwrap();
    let mut flights = Vec::new();
    let elsewhere = || Site::Elsewhere("node-b".into());
    for (v6, protocol) in [
        (false, TCP),
        (false, UDP),
        (false, SCTP),
        (false, ICMP),
        (true, TCP),
        (true, UDP),
        (true, SCTP),
        (true, ICMPV6),
    ] {
        let ends = if v6 {
            ["fd00:1::1", "fd00:1::2", "fd00:10::10", "2001:db8::9"]
        } else {
            ["10.0.1.1", "10.0.1.2", "10.0.0.10", "192.0.2.9"]
        };
        let [a, b, node, world] = ends;
        let mut add = |what: &str, from: Site, to: Site, ends: (&str, &str)| {
            flights.push(flight(
                &format!("{what} {protocol} v6={v6}"),
                from,
                to,
                ends,
                protocol,
                8080,
            ));
        };
        add("pod to pod", shop("a"), shop("b"), (a, b));
        add("pod to node", shop("a"), Site::Node, (a, node));
        add("pod to world", shop("a"), Site::Outside, (a, world));
        add("node to pod", Site::Node, shop("b"), (node, b));
        add("node to world", Site::Node, Site::Outside, (node, world));
        add("world to pod", Site::Outside, shop("b"), (world, b));
        add("world to node", Site::Outside, Site::Node, (world, node));
        add(
            "pod to other node's pod",
            shop("a"),
            elsewhere(),
            (a, world),
        );
        add(
            "other node's pod to pod",
            elsewhere(),
            shop("b"),
            (world, b),
        );
    }
    for result in prober.send(&flights).unwrap() {
        let expected = if result.id.to_string().contains("other node") {
            Verdict::Skipped
        } else {
            Verdict::Allow
        };
        assert_eq!(result.verdict, expected, "{}: {}", result.id, result.reason);
    }
    let itself = prober
        .send(&[flight(
            "self",
            shop("a"),
            shop("a"),
            ("10.0.1.1", "10.0.1.1"),
            TCP,
            80,
        )])
        .unwrap();
    assert_eq!(itself[0].verdict, Verdict::Allow);

    // Without a route nothing arrives, and no time-out is needed to know it.
    lab.remove_pod("shop/b").unwrap();
    lab.add_pod(pod("c", &["10.0.1.3"])).unwrap();
    let mut prober = Prober::open(&lab).unwrap();
    let start = Instant::now();
    let lost = prober
        .send(&[flight(
            "lost",
            shop("a"),
            shop("c"),
            ("10.0.1.1", "10.0.1.2"),
            TCP,
            80,
        )])
        .unwrap();
    assert_eq!(lost[0].verdict, Verdict::Deny);
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[test]
fn thousands_of_probes_take_seconds() {
    let pods: Vec<LabPod> = (1..=20)
        .map(|n| pod(&format!("p{n}"), &[&format!("10.0.1.{n}")]))
        .collect();
    let mut lab = Lab::up(spec(pods), name("many")).unwrap();
    lab.start_services().unwrap();
    let mut prober = Prober::open(&lab).unwrap();
    let flights: Vec<Flight> = (0..5000)
        .map(|n| {
            let (from, to) = (1 + n % 20, 1 + (n / 20) % 20);
            let ends = (format!("10.0.1.{from}"), format!("10.0.1.{to}"));
            let protocol = if n % 2 == 0 { TCP } else { UDP };
            flight(
                &n.to_string(),
                shop(&format!("p{from}")),
                shop(&format!("p{to}")),
                (&ends.0, &ends.1),
                protocol,
                80,
            )
        })
        .collect();
    let start = Instant::now();
    let results = prober.send(&flights).unwrap();
    println!("5000 probes: {:?}", start.elapsed());
    assert!(
        results
            .iter()
            .all(|result| result.verdict == Verdict::Allow),
        "{:?}",
        results.iter().find(|r| r.verdict != Verdict::Allow)
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_address_is_reused_at_once_by_another_pod() {
    let mut lab = Lab::up(
        spec(vec![
            pod("client", &["10.0.1.1"]),
            pod("old", &["10.0.1.2", "fd00:1::2"]),
        ]),
        name("reuse"),
    )
    .unwrap();
    lab.start_services().unwrap();
    assert_eq!(
        banner(
            lab.namespace_of("shop/client").unwrap(),
            at("10.0.1.2", 8080),
            SHORT
        )
        .unwrap(),
        "shop/old"
    );
    let before = lab.pod("shop/old").unwrap().ifindex;
    lab.remove_pod("shop/old").unwrap();
    let after = lab
        .add_pod(pod("new", &["10.0.1.2", "fd00:1::2"]))
        .unwrap()
        .ifindex;
    assert_ne!(before, after);
    let client = lab.namespace_of("shop/client").unwrap();
    assert_eq!(
        banner(client, at("10.0.1.2", 8080), SHORT).unwrap(),
        "shop/new"
    );
    until_connected(client, at("10.0.1.2", 8080), SHORT).unwrap();
    assert!(lab.add_pod(pod("new", &["10.0.1.9"])).is_err());
}

#[test]
fn nothing_is_left_after_down_nor_after_a_builder_that_died() {
    let options = name("residue");
    let mut lab = Lab::up(spec(vec![pod("a", &["10.0.1.1"])]), options.clone()).unwrap();
    assert!(
        Lab::up(spec(vec![]), options.clone()).is_err(),
        "one name, one lab"
    );
    let inodes = [
        lab.node().inode().unwrap(),
        lab.outside().inode().unwrap(),
        lab.namespace_of("shop/a").unwrap().inode().unwrap(),
    ];
    let mut sleeper = pods::command(&lab, "shop/a", "sleep")
        .unwrap()
        .arg("600")
        .spawn()
        .unwrap();
    assert_eq!(teardown::processes_in(&inodes), vec![sleeper.id() as i32]);
    lab.start_services().unwrap();
    assert!(!teardown::residue(&options.name).is_empty());
    assert!(!lab.state().is_abandoned());
    // As if the builder had died here: nobody's destructor runs.
    std::mem::forget(lab);
    let again = Lab::open(&options.name).unwrap();
    assert_eq!(again.pods().len(), 1);
    drop(again);
    teardown::down(&options.name).unwrap();
    assert_eq!(teardown::residue(&options.name), Vec::<String>::new());
    assert_eq!(teardown::processes_in(&inodes), Vec::<i32>::new());
    // Reaped by the teardown already, or reapable now; either way it has ended.
    let _ = sleeper.wait();
    teardown::down(&options.name).unwrap();
}

#[test]
fn the_lab_of_a_dead_builder_gives_way_and_a_removed_pods_processes_end() {
    let options = name("dead");
    let mut lab = Lab::up(spec(vec![pod("a", &["10.0.1.1"])]), options.clone()).unwrap();
    let mut sleeper = pods::command(&lab, "shop/a", "sleep")
        .unwrap()
        .arg("600")
        .spawn()
        .unwrap();
    if lab.cgroups().is_some() {
        lab.remove_pod("shop/a").unwrap();
    } else {
        sleeper.kill().unwrap();
    }
    assert!(!sleeper.wait().unwrap().success());
    lab.state_mut().builder.as_mut().unwrap().start_time += 1;
    lab.state().save().unwrap();
    assert!(lab.state().is_abandoned());
    std::mem::forget(lab);
    let next = Lab::up(spec(vec![pod("b", &["10.0.1.1"])]), options).unwrap();
    assert!(next.pods().contains_key("shop/b"));
}

#[test]
fn a_command_runs_in_the_pods_namespace_and_cgroup() {
    let mut host = pod("agent", &[]);
    host.host_network = true;
    let lab = Lab::up(spec(vec![pod("a", &["10.0.1.1"]), host]), name("exec")).unwrap();
    let output = pods::command(&lab, "shop/a", "cat")
        .unwrap()
        .args(["/proc/self/net/dev", "/proc/self/cgroup"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("eth0:"), "{text}");
    if lab.cgroups().is_some() {
        assert!(text.contains("kubepods/besteffort/pod00000000"), "{text}");
    }
    let output = pods::command(&lab, "shop/agent", "readlink")
        .unwrap()
        .arg("/proc/self/ns/net")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        format!("net:[{}]", lab.node().inode().unwrap())
    );
    assert!(pods::exec(&lab, "shop/a", &["true"]).unwrap().success());
    assert!(pods::exec(&lab, "shop/none", &["true"]).is_err());
}

#[test]
fn a_hundred_pods_and_their_devices_are_up_in_seconds() {
    let pods = |count: u8| {
        (1..=count)
            .map(|n| {
                pod(
                    &format!("p{n}"),
                    &[&format!("10.0.1.{n}"), &format!("fd00:1::{n:x}")],
                )
            })
            .collect::<Vec<_>>()
    };
    for count in [12, 110] {
        let start = Instant::now();
        let lab = Lab::up(spec(pods(count)), name(&format!("speed{count}"))).unwrap();
        println!("{count} pods: {:?}", start.elapsed());
        assert_eq!(lab.pods().len(), usize::from(count));
        let start = Instant::now();
        lab.down().unwrap();
        println!("{count} pods down: {:?}", start.elapsed());
    }
    let start = Instant::now();
    let bench = TestBench::up(spec(pods(110)), name("bench")).unwrap();
    println!("110 devices: {:?}", start.elapsed());
    assert!(bench.ifindex_of(&pod("p7", &[]).key()).is_some());
    assert_ne!(bench.uplink_ifindex(), 0);
    bench.down().unwrap();
}
