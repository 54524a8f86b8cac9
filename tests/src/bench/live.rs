//! Real traffic between two pods of one node, one of them isolated: run time of both pods' programs as the kernel counts it, beside a second lab with
//! empty programs on the same hooks and the same traffic.
//!
//! The kernel's own clock reads are in both figures, so ratios are smaller than those of test runs, and comparable among programs measured so.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;
use std::{process, thread};

use anyhow::{Context as _, Result, ensure};
use aya_obj::generated::bpf_attach_type;
use portcullis_common::ABI_VERSION;
use portcullis_lab::{AgentOptions, AgentProcess, Lab, LabOptions, LabSpec, NetNs};

use super::node::Rights;
use super::rounds::median;
use super::{program, sys};
use crate::binary;
use crate::scene::{self, Manifests, NODE, Pod, admin, pod};

const CLIENT: &str = "bench/client";
const SERVER: &str = "bench/server";
const ADDRESSES: [&str; 2] = ["10.0.1.2", "10.0.1.3"];
const PORT: u16 = 5432;
const DATAGRAMS: u32 = 20_000;
const ROUND_TRIPS: u32 = 5_000;
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// At most this many times empty programs.
pub const GOAL: f64 = 4.0;

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: bench}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{protocol: TCP, port: 5432}, {protocol: UDP, port: 5432}]
";

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A stream of datagrams of 64 bytes, never answered.
    Datagrams,
    /// 64 bytes there, 64 bytes back.
    RoundTrips,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Live {
    /// What the programs were loaded with.
    pub rights: Rights,
    /// The traffic.
    pub traffic: Traffic,
    /// Median over rounds of our time for each run, to that of empty programs.
    pub ratio: f64,
    /// Median of our nanoseconds for each run, for orientation.
    pub ns: f64,
}

/// Measures both kinds of traffic.
pub fn run(rights: &[Rights], rounds: u32) -> Result<Vec<Live>> {
    let _statistics = sys::statistics().context("having the kernel count run time")?;
    let empty = Side::empty()?;
    let mut results = Vec::new();
    for rights in rights {
        let ours = Side::ours(*rights)?;
        for traffic in [Traffic::Datagrams, Traffic::RoundTrips] {
            let (mut ratios, mut ns) = (Vec::new(), Vec::new());
            // The first round warms everything up and does not count.
            for round in 0..=rounds {
                let (own, base) = (ours.round(traffic)?, empty.round(traffic)?);
                if round > 0 {
                    ns.push(own);
                    ratios.push(own / base);
                }
            }
            results.push(Live {
                rights: *rights,
                traffic,
                ratio: median(&ratios),
                ns: median(&ns),
            });
        }
        ours.lab.down()?;
    }
    empty.lab.down()?;
    Ok(results)
}

/// A lab and the programs on its pods' interfaces.
struct Side {
    lab: Lab,
    programs: Vec<OwnedFd>,
    _links: Vec<OwnedFd>,
    _manifests: Option<Manifests>,
}

impl Side {
    fn ours(rights: Rights) -> Result<Self> {
        let pods = pods();
        let manifests = Manifests::new(&pods, POLICY);
        let mut lab = lab(&pods, &format!("{rights:?}").to_lowercase())?;
        let mut options = AgentOptions::new(binary::portcullis(), manifests.path());
        options.capabilities = Some(rights.capabilities());
        let agent = AgentProcess::start(&mut lab, options)?;
        let socket = agent.record().socket.clone();
        scene::wait_until("the agent takes requests", Duration::from_secs(30), || {
            admin::get(&socket, "/healthz").is_ok()
        });
        let answer = admin::request(&socket, "POST", "/v1/synced", Duration::from_mins(1))?;
        ensure!(
            answer.status == 204,
            "the agent is not in sync: {}",
            answer.body
        );
        let pins = agent
            .record()
            .bpffs
            .join(format!("v{ABI_VERSION}/programs"));
        let programs = ["pc_from_pod", "pc_to_pod"].map(|name| sys::pinned(&pins.join(name)));
        Ok(Self {
            lab,
            programs: programs.into_iter().collect::<Result<_, _>>()?,
            _links: Vec::new(),
            _manifests: Some(manifests),
        })
    }

    fn empty() -> Result<Self> {
        let lab = lab(&pods(), "empty")?;
        let programs = vec![program::empty()?, program::empty()?];
        let hooks = [
            bpf_attach_type::BPF_TCX_INGRESS,
            bpf_attach_type::BPF_TCX_EGRESS,
        ];
        let mut links = Vec::new();
        for key in [CLIENT, SERVER] {
            let ifindex = lab.pod(key)?.ifindex;
            for (program, hook) in programs.iter().zip(hooks) {
                let link = lab
                    .node()
                    .run(|| Ok(program::attach(program.as_fd(), ifindex, hook, false)?));
                links.push(link.context("attaching an empty program (Linux 6.6)")?);
            }
        }
        Ok(Self {
            lab,
            programs,
            _links: links,
            _manifests: None,
        })
    }

    /// Sends the traffic once: nanoseconds for each run of a program.
    fn round(&self, traffic: Traffic) -> Result<f64> {
        let (client, server) = (
            self.lab.namespace_of(CLIENT)?,
            self.lab.namespace_of(SERVER)?,
        );
        let before = self.counted()?;
        let least = match traffic {
            Traffic::Datagrams => datagrams(client, server)?,
            Traffic::RoundTrips => round_trips(client, server)?,
        };
        let after = self.counted()?;
        let (time, runs) = (after.0 - before.0, after.1 - before.1);
        ensure!(runs >= least, "programs ran {runs} times, not {least}");
        Ok(time as f64 / runs as f64)
    }

    /// Run time and runs of all programs so far.
    fn counted(&self) -> Result<(u64, u64)> {
        let mut sum = (0, 0);
        for program in &self.programs {
            let info = sys::info(program.as_fd()).context("reading about a program")?;
            sum = (sum.0 + info.run_time_ns, sum.1 + info.run_cnt);
        }
        Ok(sum)
    }
}

fn pods() -> [Pod; 2] {
    let [client, server] = ADDRESSES;
    [
        pod(CLIENT, client).label("app", "client"),
        pod(SERVER, server).label("app", "server"),
    ]
}

fn lab(pods: &[Pod], name: &str) -> Result<Lab> {
    let spec = LabSpec {
        node: NODE.to_owned(),
        node_addresses: [scene::NODE_V4, scene::NODE_V6].map(scene::ip).to_vec(),
        pods: pods.iter().map(Pod::in_lab).collect(),
        outside: Vec::new(),
    };
    Lab::up(
        spec,
        LabOptions::named(format!("bench-{}-{name}", process::id())),
    )
}

/// Returns how often programs have run at the least: each datagram passes two.
fn datagrams(client: &NetNs, server: &NetNs) -> Result<u64> {
    let to = SocketAddr::new(scene::ip(ADDRESSES[1]), PORT);
    let receiver = server.run(|| Ok(UdpSocket::bind(to)?))?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let sender = client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    let mut buffer = [0; 128];
    for burst in 0..DATAGRAMS / 100 {
        for _ in 0..100 {
            sender
                .send(&PAYLOAD)
                .with_context(|| format!("sending in burst {burst}"))?;
        }
        // Nothing is lost: a burst fits the buffer.
        for _ in 0..100 {
            let length = receiver
                .recv(&mut buffer)
                .context("a datagram did not arrive")?;
            ensure!(length == PAYLOAD.len(), "a datagram of {length} bytes");
        }
    }
    Ok(u64::from(DATAGRAMS) * 2)
}

fn round_trips(client: &NetNs, server: &NetNs) -> Result<u64> {
    let to = SocketAddr::new(scene::ip(ADDRESSES[1]), PORT);
    let listener = server.run(|| Ok(TcpListener::bind(to)?))?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; PAYLOAD.len()];
        for _ in 0..ROUND_TRIPS {
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = client.run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?))?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; PAYLOAD.len()];
    for _ in 0..ROUND_TRIPS {
        stream.write_all(&PAYLOAD)?;
        stream.read_exact(&mut buffer)?;
    }
    ensure!(
        echo.join().is_ok_and(|result| result.is_ok()),
        "the echo ended early"
    );
    Ok(u64::from(ROUND_TRIPS) * 4)
}
