//! Every program loads, is attached and guards: with all privileges, and with exactly those that the agent asks for. Runs on every kernel.

use std::fs;

use portcullis_lab::client::{connect_tcp, http};
use portcullis_tests::scene::kernel::{self, CLASSIFIER, Program};
use portcullis_tests::scene::{NEVER, NODE_V4, NODE_V6, Pod, SOON, Scene, ip, pod};

/// Every program of the object.
const PROGRAMS: [&str; 12] = [
    "pc_adopt",
    "pc_connect4",
    "pc_connect6",
    "pc_from_pod",
    "pc_sendmsg4",
    "pc_sendmsg6",
    "pc_setsockopt",
    "pc_sweep",
    "pc_to_host",
    "pc_to_pod",
    "pc_uplink",
    "pc_uplink_l3",
];
/// Programs on sockets of pods in the host network; all others read packets. `pc_connect6` is seen once for each form of a guarded address.
const SOCKET_BUDGET: u32 = 6_000;
/// Instructions that the verifier may follow in a program that reads packets.
const PACKET_BUDGET: u32 = 60_000;

const CAP_NET_ADMIN: u8 = 12;
const CAP_BPF: u8 = 39;

#[test]
fn every_program_loads_within_its_budget_and_guards() {
    let scene = node("all", None);
    check(scene, "all capabilities");
}

#[test]
fn every_program_loads_within_its_budget_and_guards_with_the_capabilities_that_it_asks_for() {
    let asked = vec![CAP_NET_ADMIN, CAP_BPF];
    let held = asked.iter().fold(0_u64, |bits, number| bits | 1 << number);
    let scene = node("few", Some(asked));
    let pid = scene.agent.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    for (set, expected) in [
        ("CapPrm", held),
        ("CapEff", held),
        ("CapBnd", held),
        ("CapInh", 0),
        ("CapAmb", 0),
    ] {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
        let got = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        assert_eq!(got, Some(expected), "{set} of the agent");
    }
    check(scene, "few capabilities");
}

fn pods() -> [Pod; 2] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1"),
        pod("shop/db", "10.0.1.2 fd00:1::2"),
    ]
}

fn node(name: &str, capabilities: Option<Vec<u8>>) -> Scene {
    Scene::up_with(name, &pods(), "", |options| {
        options.capabilities = capabilities;
    })
}

fn check(scene: Scene, privileges: &str) {
    let (major, minor) = release();
    let tcx = (major, minor) >= (6, 6);
    let status = scene.status();
    assert_eq!(
        status["attachment"],
        if tcx { "tcx" } else { "clsact" },
        "on kernel {major}.{minor}"
    );
    let programs = kernel::programs(&scene.pins().join("programs"));
    demand_budgets(&programs, privileges);
    demand_hooks(&scene);
    demand_guard(&scene);
    scene.down();
}

fn demand_budgets(programs: &[Program], privileges: &str) {
    println!("instructions verified with {privileges}:");
    let mut over = Vec::new();
    for program in programs {
        let packets = program.kind == CLASSIFIER || program.name == "pc_to_host";
        let budget = if packets {
            PACKET_BUDGET
        } else {
            SOCKET_BUDGET
        };
        println!("  {:14} {:7} of {budget}", program.name, program.verified);
        if program.verified == 0 || program.verified > budget {
            over.push(format!("{}: {}", program.name, program.verified));
        }
    }
    assert!(over.is_empty(), "outside of their budgets: {over:?}");
    let names: Vec<&str> = programs
        .iter()
        .map(|program| program.name.as_str())
        .collect();
    assert_eq!(names, PROGRAMS);
}

/// Everything that there is to attach to is attached to.
fn demand_hooks(scene: &Scene) {
    let status = scene.status();
    assert_eq!(status["uplinks"], serde_json::json!(["eth0"]), "{status}");
    let hooks = status["cgroupHooks"].as_array().map(Vec::len);
    let expected = if scene.lab.cgroups().is_some() { 6 } else { 0 };
    assert_eq!(hooks, Some(expected), "{status}");
    assert_eq!(status["endpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["problems"], serde_json::json!([]));
}

/// The programs do their work: a pod reaches another pod, but not the metadata service; the node does.
fn demand_guard(scene: &Scene) {
    let web = scene.netns("shop/web");
    for peer in ["10.0.1.2:8080", "[fd00:1::2]:8080"] {
        connect_tcp(web, peer.parse().expect("an address"), SOON).expect("nothing denies it");
    }
    let before = scene.drops("egress", "metadata-guard");
    for metadata in ["169.254.169.254:80", "[fd00:ec2::254]:80"] {
        let metadata = metadata.parse().expect("an address");
        connect_tcp(web, metadata, NEVER).expect_err("metadata is out of reach");
        let answer = http(scene.lab.node(), metadata, "GET", "/", &[], SOON);
        answer.expect("the node's own processes keep access");
    }
    assert!(scene.drops("egress", "metadata-guard") >= before + 2);
    let services = scene.lab.services().expect("services were started");
    let mut seen = services.metadata().seen();
    seen.retain(|seen| ![NODE_V4, NODE_V6].map(ip).contains(&seen.from));
    assert!(seen.is_empty(), "the service saw {seen:?}");
}

/// Major and minor number of the running kernel.
fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (
        numbers.next().expect("a release has a number"),
        numbers.next().unwrap_or(0),
    )
}
