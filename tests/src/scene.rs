//! A lab with the real agent on a directory of objects, for tests that let things happen and look at what the node does about it.
//!
//! ```text
//! pod(...) and policies (YAML) -> files -> agent -> programs
//!              \-> lab: namespaces and listeners
//! ```
//! | module | is |
//! |---|---|
//! | `objects` | pods for both sides, and the directory that the agent follows |
//! | `admin` | the agent's socket, spoken by hand |
//! | `wire` | single segments and datagrams, built and seen below the kernel's sockets |
//! | `traffic` | numbered datagrams and streams that count what is lost |
//! | `frame` | packets as bytes, to be spoilt, and what becomes of them |
//! | `kernel` | BPF objects of the machine, counted |
//! | `nat` | Service addresses, translated as kube-proxy does |
//! | `table` | pinned maps, read and written |
//!
//! A scene that is dropped by a panic first shows the agent's state; what `down` takes away is checked to be gone.

pub mod admin;
pub mod frame;
pub mod kernel;
pub mod nat;
pub mod objects;
pub mod table;
pub mod traffic;
pub mod wire;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_lab::{
    AgentOptions, AgentProcess, Lab, LabOptions, LabSpec, Listen, NetNs, pods, teardown,
};
use serde_json::Value;

use crate::binary;

pub use objects::{Manifests, Pod, host_pod, pod};

/// The node of every scene.
pub const NODE: &str = "node-a";
/// Its addresses.
pub const NODE_V4: &str = "10.0.0.10";
/// As [`NODE_V4`].
pub const NODE_V6: &str = "fd00:10::10";
/// How long anything may take that should happen at once: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(10);
/// How long a test waits for what must not come.
pub const NEVER: Duration = Duration::from_millis(300);

/// A node with its agent. Fields are dropped in this order: first the state is shown, at last the objects go.
#[derive(Debug)]
pub struct Scene {
    dump: DumpOnFailure,
    /// The real agent.
    pub agent: AgentProcess,
    /// The node, its pods, the outside.
    pub lab: Lab,
    /// What the agent reads.
    pub manifests: Manifests,
}

impl Scene {
    /// A node with `pods` and `policies` (YAML), everything in force, every port served.
    #[must_use]
    pub fn up(test: &str, pods: &[Pod], policies: &str) -> Self {
        Self::up_with(test, pods, policies, |_| {})
    }

    /// The same with other options of the agent.
    #[must_use]
    pub fn up_with(
        test: &str,
        pods: &[Pod],
        policies: &str,
        options: impl FnOnce(&mut AgentOptions),
    ) -> Self {
        let mut scene = Self::start(test, pods, policies, options);
        scene.lab.start_services().expect("every port is served");
        scene.settle();
        scene
    }

    /// The same without waiting for anything, and without listeners.
    #[must_use]
    pub fn start(
        test: &str,
        pods: &[Pod],
        policies: &str,
        options: impl FnOnce(&mut AgentOptions),
    ) -> Self {
        need_root();
        let manifests = Manifests::new(pods, policies);
        let spec = LabSpec {
            node: NODE.to_owned(),
            node_addresses: [NODE_V4, NODE_V6].map(ip).to_vec(),
            pods: pods.iter().map(Pod::in_lab).collect(),
            outside: vec![Listen::Tcp(8080), Listen::Udp(5353), Listen::Tcp(80)],
        };
        let mut lab =
            Lab::up(spec, LabOptions::named(Self::lab_name(test))).expect("the lab stands");
        let mut agent = AgentOptions::new(binary::portcullis(), manifests.path());
        options(&mut agent);
        let agent = AgentProcess::start(&mut lab, agent).expect("the agent starts");
        let dump = DumpOnFailure {
            socket: agent.record().socket.clone(),
            log: agent.record().log.clone(),
        };
        Self {
            dump,
            agent,
            lab,
            manifests,
        }
    }

    /// The name of a test's lab.
    #[must_use]
    pub fn lab_name(test: &str) -> String {
        format!("t-{test}-{}", process::id())
    }

    /// Waits until everything that the files say now is in force.
    pub fn settle(&self) {
        // The socket is there once the agent has loaded its programs.
        wait_until("the agent takes requests", SOON * 2, || {
            admin::get(self.socket(), "/healthz").is_ok()
        });
        let answer = admin::request(self.socket(), "POST", "/v1/synced", SOON * 3);
        assert_eq!(answer.expect("the agent answers").status, 204);
    }

    /// Writes policies into a file of that name, and waits until they are in force.
    pub fn apply(&self, file: &str, policies: &str) {
        self.manifests.write(&format!("{file}.yaml"), policies);
        self.settle();
    }

    /// A pod more, known to the agent first, as the API server would say.
    pub fn add(&mut self, pod: &Pod) {
        self.manifests.put(pod);
        self.lab.add_pod(pod.in_lab()).expect("the pod is joined");
    }

    /// A pod less: its interface first, then its object.
    pub fn remove(&mut self, key: &str) {
        self.lab.remove_pod(key).expect("the pod is taken away");
        self.manifests.remove(key);
    }

    /// Ends the agent at once.
    pub fn kill(&mut self) {
        self.agent.kill().expect("the agent can be killed");
    }

    /// Starts it again with the same arguments, without waiting for anything.
    pub fn restart(&mut self) {
        let started = self.agent.restart(&mut self.lab);
        started.expect("the agent starts again");
    }

    /// The agent's status.
    #[must_use]
    pub fn status(&self) -> Value {
        admin::status(self.socket()).expect("the agent says how it is")
    }

    /// Packets dropped in `ingress` or `egress` for a reason.
    #[must_use]
    pub fn drops(&self, direction: &str, reason: &str) -> u64 {
        let status = self.status();
        let counts = status["drops"].as_array().expect("drops are a list");
        let count = counts
            .iter()
            .find(|count| count["direction"] == direction && count["reason"] == reason)
            .expect("every reason is there");
        count["packets"].as_u64().expect("a number")
    }

    /// Packets that were the first of a connection to meet the policy that ended it: a request or an answer, whichever came first.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        ["ingress", "egress"]
            .iter()
            .map(|direction| self.drops(direction, "policy-changed"))
            .sum()
    }

    /// The endpoint of a pod in the agent's status.
    #[must_use]
    pub fn endpoint(&self, key: &str) -> Value {
        let status = self.status();
        let endpoints = status["endpoints"]
            .as_array()
            .expect("endpoints are a list");
        let found = endpoints.iter().find(|endpoint| endpoint["pod"] == key);
        found
            .unwrap_or_else(|| panic!("no endpoint {key}: {status:#}"))
            .clone()
    }

    /// A pod's connections: opened by it, opened to it, half-open ones of both.
    #[must_use]
    pub fn flows(&self, key: &str) -> [u64; 4] {
        serde_json::from_value(self.endpoint(key)["flows"].clone()).expect("four numbers")
    }

    /// A pod's network namespace.
    #[must_use]
    pub fn netns(&self, key: &str) -> &NetNs {
        self.lab.namespace_of(key).expect("the pod has a namespace")
    }

    /// A pod's first address.
    #[must_use]
    pub fn address(&self, key: &str) -> IpAddr {
        self.addresses(key)[0]
    }

    /// A pod's addresses in the order in which they were given.
    #[must_use]
    pub fn addresses(&self, key: &str) -> &[IpAddr] {
        &self
            .lab
            .pod(key)
            .expect("the lab has the pod")
            .pod
            .addresses
    }

    /// One of the agent's pinned maps.
    #[must_use]
    pub fn table(&self, name: &str) -> table::Table {
        table::Table::open(&self.pins().join("maps").join(name))
    }

    /// Where the agent's pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        let version = format!("v{}", portcullis_common::ABI_VERSION);
        self.agent.record().bpffs.join(version)
    }

    /// Runs a program in the node's network namespace with `input`; it has to succeed. What it says.
    #[must_use]
    pub fn on_node(&self, argv: &[&str], input: &str) -> String {
        run_in(self.lab.node(), argv, input)
    }

    /// A port of a pod at each of its addresses.
    #[must_use]
    pub fn ports(&self, key: &str, port: u16) -> Vec<SocketAddr> {
        let addresses = self.addresses(key).iter();
        addresses.map(|address| (*address, port).into()).collect()
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.dump.socket
    }

    /// What the agent logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.dump.log).expect("the agent's log can be read")
    }

    /// Runs a program in a pod.
    #[must_use]
    pub fn run(&self, key: &str, argv: &[&str]) -> Output {
        let mut command = pods::command(&self.lab, key, argv[0]).expect("the pod can be entered");
        let output = command.args(&argv[1..]).output();
        output.unwrap_or_else(|error| panic!("{} cannot be run: {error}", argv[0]))
    }

    /// Takes the whole scene down; nothing of it may be left.
    pub fn down(self) {
        let name = self.lab.state().name.clone();
        self.lab.down().expect("the lab goes down");
        let left = teardown::residue(&name);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// Shows the agent's state when a test fails, while there is still one to show.
#[derive(Debug)]
struct DumpOnFailure {
    socket: PathBuf,
    log: PathBuf,
}

impl Drop for DumpOnFailure {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        match admin::status(&self.socket) {
            Ok(mut status) => {
                if let Some(drops) = status["drops"].as_array_mut() {
                    drops.retain(|drop| drop["packets"] != 0);
                }
                println!("status: {status:#}");
            }
            Err(error) => println!("no status: {error}"),
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!(
            "log:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
}

/// Looks again and again until `done`, panics after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program in a network namespace with `input`; it has to succeed. What it says.
#[must_use]
pub fn run_in(namespace: &NetNs, argv: &[&str], input: &str) -> String {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    namespace
        .enter(&mut command)
        .expect("a namespace can be entered");
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", argv[0]));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "{argv:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Stops the test with the one reason why it cannot run.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the lab needs root: run `cargo xtask test` as root"
    );
}

/// An address from text.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}
