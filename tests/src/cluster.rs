//! The real cluster that `cargo xtask test cluster` brought up, with Portcullis installed: its API, its nodes, its pods.
//!
//! ```text
//! kubectl -> API server -> agents (watch) -> programs
//! sockets of the test, opened in real pods' network namespaces -> packets -> verdicts
//! ```
//! | module | is |
//! |---|---|
//! | `pod` | a running pod and its network namespace |
//! | `ground` | a namespace of the API with pods, made for one test, and listeners in those pods |
//! | `node` | a node: its namespaces, its processes |
//! | `agent` | the agents: their pods, their status, what they may do |
//! | `sts` | an STS behind the nodes, and agents whose pods get credentials from it |
//!
//! Objects are written by kubectl as a person would write them. Packets come from sockets of the test itself, because a program started in a
//! pod takes longer than a verdict; the pods, their interfaces and their programs are real.

pub mod agent;
pub mod ground;
pub mod node;
pub mod pod;
pub mod sts;

use std::env;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client::{banner, udp_exchange};
use serde_json::Value;

pub use ground::Ground;
pub use node::Node;
pub use pod::Pod;

/// How long a change through the API may take until every node's packets feel it: three times what is promised (5 s), for machines with other work.
/// What it did take is printed.
pub const CONVERGED: Duration = Duration::from_secs(15);
/// What an allowed exchange needs by far less than.
const ANSWER: Duration = Duration::from_millis(600);
/// How long a change is waited for before it is tried anew.
const GLANCE: Duration = Duration::from_millis(100);

/// Runs kubectl; it has to succeed.
pub fn kubectl(words: &[&str]) {
    let _ = answer(words);
}

/// The same. What it prints.
#[must_use]
pub fn answer(words: &[&str]) -> String {
    let output = try_kubectl(words, "");
    assert!(
        output.status.success(),
        "kubectl {words:?}: {}",
        said(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs kubectl with `input`, whatever comes of it.
#[must_use]
pub fn try_kubectl(words: &[&str], input: &str) -> Output {
    let mut command = Command::new("kubectl");
    command.args(words);
    feed(&mut command, input)
}

/// An object, or a list of them, as JSON.
#[must_use]
pub fn object(words: &[&str]) -> Value {
    let mut all = vec!["get", "-o", "json"];
    all.extend(words);
    serde_json::from_str(&answer(&all)).expect("kubectl prints JSON")
}

/// Applies YAML.
pub fn apply(yaml: &str) {
    let output = try_kubectl(&["apply", "-f", "-"], yaml);
    assert!(output.status.success(), "{}\n{yaml}", said(&output));
}

/// What a program said, both ways.
#[must_use]
pub fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Whether the tests are to take their time.
#[must_use]
pub fn is_long() -> bool {
    env::var_os("PORTCULLIS_LONG").is_some()
}

/// A way for packets, tried anew each time: a connection, or an exchange of datagrams.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// TCP, until the listener has said its name.
    Tcp(SocketAddr),
    /// UDP, there and back.
    Udp(SocketAddr),
}

impl Way {
    /// Whether packets from this namespace pass it and come back.
    #[must_use]
    pub fn is_open(self, from: &NetNs) -> bool {
        self.answer(from, ANSWER).is_some()
    }

    /// Who answered within `limit`.
    #[must_use]
    pub fn answer(self, from: &NetNs, limit: Duration) -> Option<String> {
        match self {
            Self::Tcp(to) => banner(from, to, limit).ok(),
            Self::Udp(to) => {
                let answer = udp_exchange(from, to, b"?", limit).ok()?;
                let text = String::from_utf8_lossy(&answer);
                text.lines().next().map(ToOwned::to_owned)
            }
        }
    }

    /// Waits until it is as wanted, and demands that it stays so. How long it took until the first packet that was judged so.
    #[must_use]
    pub fn becomes(self, from: &NetNs, open: bool, what: &str) -> Duration {
        let started = Instant::now();
        let took = loop {
            let asked = started.elapsed();
            if self.answer(from, GLANCE).is_some() == open {
                break if open { started.elapsed() } else { asked };
            }
            assert!(
                asked < CONVERGED,
                "{what}: {self:?} is not {} after {asked:?}",
                word(open)
            );
            thread::sleep(Duration::from_millis(5));
        };
        self.stays(from, open, what);
        took
    }

    /// Demands that it is so.
    pub fn stays(self, from: &NetNs, open: bool, what: &str) {
        // Whatever is closed is so for as long as an answer could take.
        for _ in 0..if open { 3 } else { 1 } {
            assert_eq!(
                self.is_open(from),
                open,
                "{what}: {self:?} should be {}",
                word(open)
            );
        }
    }
}

fn word(open: bool) -> &'static str {
    if open { "open" } else { "closed" }
}

fn feed(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!(
            "{} cannot be run: {error}; run `cargo xtask test cluster`",
            command.get_program().display()
        )
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    // Who reads nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for")
}
