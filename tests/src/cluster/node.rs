//! A node of the cluster, or the control plane: network namespace, processes, commands.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_lab::NetNs;
use portcullis_lab::cgroup::Membership;

use super::{feed, said};
use crate::scene::ip;

/// As docs/cluster.md says.
const ROOT: &str = "/var/lib/portcullis-cluster";
const CGROUP: &str = "portcullis-cluster";

/// Of Kubernetes' own programs, those that follow the API server: where the control plane runs, and on each node.
const FOLLOWERS: [(&str, [&str; 2]); 3] = [
    (CONTROL, ["kube-controller-manager", "kube-scheduler"]),
    ("n1", ["kubelet", "kube-proxy"]),
    ("n2", ["kubelet", "kube-proxy"]),
];
const CONTROL: &str = "control";

/// Joins a cgroup and leaves the program to itself there.
const AGAIN: &str = r#"echo 0 >"$0" && log=$1 && shift && { "$@" </dev/null >>"$log" 2>&1 & }"#;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// n1, n2.
    pub name: &'static str,
    /// Its addresses, IPv4 first.
    pub addresses: [IpAddr; 2],
    /// Its network namespace.
    pub netns: NetNs,
}

impl Node {
    /// The first node.
    #[must_use]
    pub fn n1() -> Self {
        Self::named("n1", ["10.78.0.11", "fd78::11"])
    }

    /// The second one.
    #[must_use]
    pub fn n2() -> Self {
        Self::named("n2", ["10.78.0.12", "fd78::12"])
    }

    fn named(name: &'static str, addresses: [&str; 2]) -> Self {
        Self {
            name,
            addresses: addresses.map(ip),
            netns: pinned(&format!("{name}-net")),
        }
    }

    /// Runs a command there as root, in the cgroup of the node's own processes, whatever comes of it.
    #[must_use]
    pub fn try_run(&self, words: &[&str], input: &str) -> Output {
        let xtask = env::var_os("PORTCULLIS_XTASK")
            .expect("PORTCULLIS_XTASK is not set: run `cargo xtask test cluster`");
        let mut command = Command::new(xtask);
        command.args(["cluster", "run", "--node", self.name, "--"]);
        feed(command.args(words), input)
    }

    /// The same; it has to succeed.
    pub fn run(&self, words: &[&str], input: &str) {
        let _ = self.answer(words, input);
    }

    /// The same. What it prints.
    #[must_use]
    pub fn answer(&self, words: &[&str], input: &str) -> String {
        let output = self.try_run(words, input);
        assert!(
            output.status.success(),
            "{words:?} on {}: {}",
            self.name,
            said(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes this process one of the node's own until the answer is dropped: a socket belongs to the cgroup in which it is opened.
    #[must_use]
    pub fn join(&self) -> Membership {
        let host = cgroup2().join(CGROUP).join(self.name).join("host");
        Membership::enter(&host).expect("a process can be moved")
    }

    /// The process that keeps its mount namespace.
    #[must_use]
    pub fn holder(&self) -> i32 {
        holder(self.name).expect("the node is up")
    }

    /// The processes of a pod, by its uid; none if it has not started.
    #[must_use]
    pub fn processes_of(&self, uid: &str) -> Vec<i32> {
        let mut found = Vec::new();
        let pods = cgroup2().join(CGROUP).join(self.name).join("kubepods");
        collect(&pods, &format!("pod{uid}"), false, &mut found);
        found
    }
}

/// The namespace in which the control plane runs, through which nodes send what is for nobody they know.
#[must_use]
pub fn control() -> NetNs {
    pinned("control-net")
}

/// The process of the control plane that runs this program.
#[must_use]
pub fn control_process(program: &str) -> Process {
    Process::find(CONTROL, program)
}

/// Ends and starts anew what follows the API server, but for Portcullis: after an outage each of them waits up to a minute before it asks again
/// (client-go doubles its pauses up to 30 s, and jitter doubles that), and whatever runs next would wait for them.
pub fn restart_followers() {
    for (place, programs) in FOLLOWERS {
        for program in programs {
            let process = Process::find(place, program);
            let mut again = process.again();
            process.signal(Signal::SIGKILL);
            assert!(again.status().expect("a shell runs").success());
        }
    }
}

/// A running process of the control plane or of a node.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    place: &'static str,
}

impl Process {
    fn find(place: &'static str, program: &str) -> Self {
        let mut all = Vec::new();
        collect(&cgroup2().join(CGROUP), place, false, &mut all);
        let found = all.into_iter().find(|pid| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
        });
        let pid = found.unwrap_or_else(|| panic!("{place} has no {program}"));
        Self { pid, place }
    }

    /// Sends it a signal.
    pub fn signal(self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("the process is there");
    }

    /// How to start it again as it is: same words, same surroundings, same place, same log. The command itself ends at once.
    #[must_use]
    pub fn again(self) -> Command {
        let Self { pid, place } = self;
        let parts = |file: &str| -> Vec<String> {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("it runs");
            let text = String::from_utf8_lossy(&bytes);
            text.split_terminator('\0').map(ToOwned::to_owned).collect()
        };
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
        let cgroup = cgroup2().join(cgroup.expect("it has a cgroup"));
        let log = fs::read_link(format!("/proc/{pid}/fd/1")).expect("it writes a log");
        let mut command = Command::new("setsid");
        command
            .args(["sh", "-c", AGAIN])
            .arg(cgroup.join("cgroup.procs"))
            .arg(log)
            .arg("nsenter")
            .arg(format!("--net={ROOT}/ns/{place}-net"))
            .args(holder(place).map(|holder| format!("--mount=/proc/{holder}/ns/mnt")))
            .arg("--")
            .args(parts("cmdline"))
            .env_clear();
        for line in parts("environ") {
            if let Some((name, value)) = line.split_once('=') {
                command.env(name, value);
            }
        }
        command
    }
}

/// The process that keeps the mount namespace of a place that has its own.
fn holder(place: &str) -> Option<i32> {
    let mut found = Vec::new();
    let cgroup = cgroup2().join(CGROUP).join(place);
    collect(&cgroup, "holder", false, &mut found);
    found.into_iter().next()
}

fn pinned(name: &str) -> NetNs {
    NetNs::open(&Path::new(ROOT).join("ns").join(name)).expect("the cluster is up")
}

/// Where cgroup2 is mounted: alone, or beside hierarchies of version 1.
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("the kernel tells mounts");
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let place = mounts.find_map(|mut words| {
        let place = words.nth(1)?.to_owned();
        (words.next()? == "cgroup2").then_some(place)
    });
    PathBuf::from(place.expect("cgroup2 is mounted"))
}

/// The members of all cgroups below one of this name.
fn collect(cgroup: &Path, name: &str, inside: bool, found: &mut Vec<i32>) {
    let inside = inside || cgroup.file_name().is_some_and(|own| own == name);
    if inside {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), name, inside, found);
        }
    }
}
