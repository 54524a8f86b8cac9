//! The first seconds of a pod: nothing that is allowed is lost from its first process on, nothing that is denied passes from its interface on.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_lab::{Listen, NetNs};
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, Node, apply, is_long, object};
use portcullis_tests::scene::traffic::{Datagrams, Tally};

const PATIENCE: Duration = Duration::from_mins(1);
/// As [`Datagrams`] sends them.
const PACE: Duration = Duration::from_millis(2);
/// A packet of a container that starts may be lost for this long: some milliseconds, and what a busy machine adds.
const AT_MOST: Duration = Duration::from_millis(100);

/// From when on packets are sent.
#[derive(PartialEq, Eq)]
enum From {
    /// Its interface can carry one; that is a second and more before any container of it starts.
    Interface,
    /// The first process of the pod runs, which only keeps its namespaces.
    Process,
}

/// What a pod's start came to.
struct Start {
    /// Between the first packet and the pod's first process.
    before_process: Duration,
    /// Between the first packet and the container's first process.
    before_container: Duration,
    /// What the pod sent, and what was sent to it.
    tallies: [Tally; 2],
}

impl Start {
    /// A pod on the first node that calls `server` and is called by it, until two seconds after its container's start.
    fn of(ground: &mut Ground, name: &str, from: &From) -> Self {
        let node = Node::n1();
        let known = namespaces(&node);
        let callee = SocketAddr::new(ground.pod("server").addresses[0], PORT);
        let (netns, own) = thread::scope(|scope| {
            let waiting = scope.spawn(|| first_packet(&node, &known, callee));
            apply(&pod(&ground.name, name));
            waiting.join().expect("the interface comes")
        });
        ground.listen(&netns, Listen::Udp(PORT), name);
        let start = || {
            [
                Datagrams::start(&netns, callee),
                Datagrams::start(ground.netns("server"), (own, PORT).into()),
            ]
        };
        let early = (*from == From::Interface).then(|| (Instant::now(), start()));
        let pod = object(&["-n", &ground.name, "pod", name]);
        let uid = pod["metadata"]["uid"].as_str().expect("a pod has a uid");
        soon("its first process", || !node.processes_of(uid).is_empty());
        let (started, datagrams) = early.unwrap_or_else(|| (Instant::now(), start()));
        let before_process = started.elapsed();
        soon("its container", || container_runs(&node, uid));
        let before_container = started.elapsed();
        thread::sleep(Duration::from_secs(2));
        let tallies = datagrams.map(Datagrams::stop);
        ground.forget(name);
        Self {
            before_process,
            before_container,
            tallies,
        }
    }
}

/// Looks again and again, and hardly rests: milliseconds count here.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_pod_without_policies_loses_next_to_nothing_at_its_start() {
    let mut ground = Ground::with("start-free", &["n2/server"]);
    for round in 0..if is_long() { 20 } else { 4 } {
        let start = Start::of(&mut ground, &format!("free-{round}"), &From::Process);
        let loss = start.tallies.each_ref().map(|tally| {
            let last = tally.lost.last().map_or(0, |last| last + 1);
            (PACE * last).saturating_sub(start.before_container)
        });
        println!(
            "start without policies: container {:?} after the first packet; lost {} of {} sent, {} of {} to it; lost after the container's start: {loss:?}",
            start.before_container,
            start.tallies[0].lost.len(),
            start.tallies[0].sent,
            start.tallies[1].lost.len(),
            start.tallies[1].sent,
        );
        assert!(loss.iter().all(|loss| *loss <= AT_MOST), "{loss:?}");
    }
}

#[test]
fn a_pod_with_policies_neither_sends_nor_gets_one_packet_too_many() {
    let mut ground = Ground::with("start-closed", &["n2/server"]);
    ground.policy(
        "closed",
        "{podSelector: {matchLabels: {closed: 'yes'}}, policyTypes: [Ingress, Egress]}",
    );
    for round in 0..if is_long() { 20 } else { 4 } {
        let start = Start::of(&mut ground, &format!("closed-{round}"), &From::Interface);
        // Before its programs are on the interface something passes; nobody in the pod is there to send or to get it.
        let passed = start.tallies.each_ref().map(|tally| {
            let passed = (0..tally.sent).filter(|number| !tally.lost.contains(number));
            let (early, late): (Vec<u32>, Vec<u32>) =
                passed.partition(|number| PACE * *number < start.before_process);
            println!(
                "start with policies: of {} datagrams {} passed before the pod's first process, the last of them {:?} before it; {} after it",
                tally.sent,
                early.len(),
                early.last().map(|last| start.before_process.saturating_sub(PACE * *last)),
                late.len()
            );
            late.len()
        });
        assert_eq!(passed, [0, 0]);
    }
}

fn pod(namespace: &str, name: &str) -> String {
    let closed = if name.starts_with("closed") {
        "yes"
    } else {
        "no"
    };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{closed: '{closed}'}}}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 0
  containers: [{{name: box, image: 'cluster.test/box:1', imagePullPolicy: IfNotPresent}}]
"
    )
}

/// Waits for the next pod's network namespace, and until a packet has a way from it. The namespace and its first address.
fn first_packet(node: &Node, known: &[String], to: SocketAddr) -> (NetNs, IpAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no pod's network comes");
        for path in namespaces(node) {
            if known.contains(&path) {
                continue;
            }
            let Ok(netns) = NetNs::open(path.as_ref()) else {
                continue;
            };
            let own = netns.run(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0))?;
                socket.connect(to)?;
                Ok(socket.local_addr()?.ip())
            });
            if let Ok(own) = own {
                return (netns, own);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Where the container runtime keeps the pods' network namespaces, as the machine sees it.
fn namespaces(node: &Node) -> Vec<String> {
    let folder = format!("/proc/{}/root/run/netns", node.holder());
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// Whether the pod's own program runs, not only the one that keeps its namespaces.
fn container_runs(node: &Node, uid: &str) -> bool {
    node.processes_of(uid).into_iter().any(|pid| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|name| name == "busybox")
    })
}
