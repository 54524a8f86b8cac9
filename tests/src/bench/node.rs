//! One node: stand-in devices, the real agent on real objects, and its pinned programs, ready to be run on packets.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portcullis_common::abi::{Endpoint, Flow, FlowKey, SLOTS, Slot, drop_index};
use portcullis_common::{ABI_VERSION, reason};
use portcullis_lab::{AgentOptions, AgentProcess, LabOptions, LabSpec, NetNs, TestBench};

use super::case::{self, Case, Hook, OWN_PORT, PORT, Size};
use super::{objects, program, sys};
use crate::binary;
use crate::scene::{self, Manifests, NODE, Pod, admin, pod};

/// Capabilities that programs are loaded with (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`.
    WithPerfmon,
    /// Without `CAP_PERFMON` the kernel puts barriers against speculation into programs.
    WithoutPerfmon,
}

impl Rights {
    /// Both.
    pub const ALL: [Self; 2] = [Self::WithPerfmon, Self::WithoutPerfmon];

    /// What an agent needs besides: `CAP_NET_ADMIN` 12, `CAP_BPF` 39; `CAP_PERFMON` is 38.
    pub(super) fn capabilities(self) -> Vec<u8> {
        match self {
            Self::WithPerfmon => vec![12, 38, 39],
            Self::WithoutPerfmon => vec![12, 39],
        }
    }
}

/// How long a debug build may take for 100,000 objects.
const SETTLED: Duration = Duration::from_mins(5);
/// Nobody isolates it.
const OPEN: &str = "bench/open";
/// The policy selects it.
const ISOLATED: &str = "bench/isolated";

/// A node of the benchmark.
pub struct Node {
    bench: TestBench,
    agent: AgentProcess,
    _manifests: Manifests,
    programs: BTreeMap<Hook, OwnedFd>,
    empty: OwnedFd,
    /// Programs that change a port and go on, by its offset and what comes behind: a hook, or the empty program.
    next: BTreeMap<(u16, Option<Hook>), OwnedFd>,
    endpoints: OwnedFd,
    conntrack: OwnedFd,
    slots: OwnedFd,
    pool: OwnedFd,
    drops: OwnedFd,
    size: Size,
}

/// What programs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections of both endpoints.
    pub flows: u64,
    /// Packets dropped for want of a rule.
    pub denied: u64,
    /// Packets dropped for any other reason.
    pub otherwise: u64,
}

impl Node {
    /// Builds it; everything is in force when it returns.
    pub fn up(rights: Rights, size: Size) -> Result<Self> {
        let pods = [OPEN, ISOLATED].map(|key| {
            let isolated = key == ISOLATED;
            let addresses =
                [false, true].map(|v6| case::endpoint_address(isolated, v6).to_string());
            pod(key, &addresses.join(" ")).label("app", if isolated { "isolated" } else { "open" })
        });
        let manifests = Manifests::new(&pods, &objects::policy());
        manifests.write("peers.json", &objects::peers(size.peers).to_string());
        manifests.write("services.json", &objects::services().to_string());
        let spec = LabSpec {
            node: NODE.to_owned(),
            node_addresses: [scene::NODE_V4, scene::NODE_V6].map(scene::ip).to_vec(),
            pods: pods.iter().map(Pod::in_lab).collect(),
            outside: Vec::new(),
        };
        let perfmon = u8::from(rights == Rights::WithPerfmon);
        let name = format!(
            "bench-{}-{perfmon}-{}-{}",
            process::id(),
            size.peers,
            size.flows
        );
        let mut bench = TestBench::up(spec, LabOptions::named(name))?;
        let mut options = AgentOptions::new(binary::portcullis(), manifests.path());
        options.capabilities = Some(rights.capabilities());
        let agent = AgentProcess::start(bench.lab(), options)?;
        let socket = agent.record().socket.clone();
        scene::wait_until("the agent takes requests", Duration::from_secs(30), || {
            admin::get(&socket, "/healthz").is_ok()
        });
        let answer = admin::request(&socket, "POST", "/v1/synced", SETTLED)
            .context("waiting for the agent")?;
        ensure!(
            answer.status == 204,
            "the agent is not in sync: {}\n{}",
            answer.body,
            agent.log_tail(20)
        );
        let pins = agent.record().bpffs.join(format!("v{ABI_VERSION}"));
        let pinned = |kind: &str, name: &str| {
            let path = pins.join(kind).join(name);
            sys::pinned(&path).with_context(|| format!("opening {}", path.display()))
        };
        let mut programs = BTreeMap::new();
        for hook in Hook::ALL {
            programs.insert(hook, pinned("programs", hook.program())?);
        }
        let map = |name| pinned("maps", name);
        let node = Self {
            bench,
            agent,
            _manifests: manifests,
            programs,
            empty: program::empty()?,
            next: BTreeMap::new(),
            endpoints: map("pc_endpoints")?,
            conntrack: map("pc_conntrack")?,
            slots: map("pc_slots")?,
            pool: map("pc_pool")?,
            drops: map("pc_drops")?,
            size,
        };
        node.open_connections()?;
        Ok(node)
    }

    /// Loads what the cases of this node need besides.
    pub fn prepare(&mut self, cases: &[Case]) -> Result<()> {
        for case in cases.iter().filter(|case| case.changes_port()) {
            for target in [None, Some(case.hook)] {
                let behind = target.map_or(&self.empty, |hook| &self.programs[&hook]);
                let program = program::next_flow(case.port_at(), behind.as_fd())?;
                self.next.insert((case.port_at(), target), program);
            }
        }
        Ok(())
    }

    /// Its namespace: programs are run inside.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        self.bench.node()
    }

    /// Which cases it serves.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Instructions that the verifier followed in a program.
    pub fn verified(&self, hook: Hook) -> Result<u32> {
        let info = sys::info(self.programs[&hook].as_fd()).context("reading about a program")?;
        Ok(info.verified_insns)
    }

    /// Runs `case`, or the empty program in its place: ns of this thread's time for each packet, and the last verdict.
    pub fn time(&self, case: &Case, frame: &[u8], what: What) -> Result<(f64, i32)> {
        let at = case.port_at();
        let program = match what {
            What::Empty => &self.empty,
            What::EmptyBehindChange => &self.next[&(at, None)],
            What::Case if case.changes_port() => &self.next[&(at, Some(case.hook))],
            What::Case => &self.programs[&case.hook],
        };
        let (ifindex, ingress) = self.interfaces(case.hook, case.is_isolated())?;
        let run = |repeat| sys::test_run(program.as_fd(), frame, ifindex, ingress, repeat);
        let repeat = case.repeat();
        let start = thread_time();
        let verdict = run(repeat).context("running a program")?;
        let time = thread_time() - start;
        Ok((time as f64 / f64::from(repeat), verdict))
    }

    /// What the programs counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let (mut flows, mut denied, mut otherwise) = (0_u64, 0, 0);
        for slot in self.slots_in_use()? {
            let state: Slot = sys::lookup(self.slots.as_fd(), &u32::from(slot))?;
            flows = state
                .flows
                .iter()
                .fold(flows, |sum, count| sum.wrapping_add(*count));
            for direction in [0, 1] {
                for reason in 0..reason::COUNT as u8 {
                    let index = drop_index(slot, direction, reason);
                    let count: u64 = sys::lookup(self.drops.as_fd(), &index)?;
                    match reason {
                        // Bare devices announce themselves by addresses that no pod has.
                        reason::SPOOFED_SOURCE => {}
                        reason::DEFAULT_DENY => denied += count,
                        _ => otherwise += count,
                    }
                }
            }
        }
        Ok(Counts {
            flows,
            denied,
            otherwise,
        })
    }

    /// Takes away the connections that a run opened.
    pub fn forget_new_flows(&self) -> Result<()> {
        let mut gone = Vec::new();
        sys::keys(self.conntrack.as_fd(), |key: &FlowKey| {
            if key.local_port == PORT || (key.remote_port == PORT && key.local_port != OWN_PORT) {
                gone.push(*key);
            }
        })?;
        for slot in self.slots_in_use()? {
            let mut state: Slot = sys::lookup(self.slots.as_fd(), &u32::from(slot))?;
            // Half-open ones of both directions: the connections that stay are confirmed.
            (state.flows[2], state.flows[3]) = (0, 0);
            sys::update(self.slots.as_fd(), &u32::from(slot), &state)?;
        }
        // What stays is within the endpoints' own share.
        sys::update(self.pool.as_fd(), &0_u32, &0_u64)?;
        gone.iter()
            .try_for_each(|key| sys::delete(self.conntrack.as_fd(), key))
            .context("forgetting connections")
    }

    /// Takes it down.
    pub fn down(mut self) -> Result<()> {
        self.agent.stop()?;
        self.bench.down()
    }

    /// Opens the connections of the cases by their handshakes; the many ones are copies of the entry that the programs made.
    fn open_connections(&self) -> Result<()> {
        self.netns().run(|| {
            for isolated in [false, true] {
                for v6 in [false, true] {
                    for (hook, frame) in case::handshake(isolated, self.size.peers / 2, v6) {
                        let (ifindex, ingress) = self.interfaces(hook, isolated)?;
                        let verdict = sys::test_run(
                            self.programs[&hook].as_fd(),
                            &frame,
                            ifindex,
                            ingress,
                            1,
                        )?;
                        ensure!(
                            verdict == program::NEXT,
                            "{hook:?} refuses a segment of the handshake: {verdict}"
                        );
                    }
                }
            }
            Ok(())
        })?;
        let counts = self.counts()?;
        ensure!(
            counts
                == Counts {
                    flows: 4,
                    denied: 0,
                    otherwise: 0
                },
            "four handshakes left {counts:?}"
        );
        if self.size.flows > 1 {
            let (ifindex, _) = self.interfaces(Hook::FromPod, true)?;
            let endpoint: Endpoint = sys::lookup(self.endpoints.as_fd(), &ifindex)?;
            let mut templates = Vec::new();
            sys::keys(self.conntrack.as_fd(), |key: &FlowKey| {
                templates.extend((key.slot == endpoint.slot).then_some(*key));
            })?;
            for template in templates {
                let flow: Flow = sys::lookup(self.conntrack.as_fd(), &template)?;
                for local_port in (u16::MAX - case::FLOWS as u16 + 1)..=u16::MAX {
                    sys::update(
                        self.conntrack.as_fd(),
                        &FlowKey {
                            local_port,
                            ..template
                        },
                        &flow,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Interface of the hook, and the one that the node received the packet on.
    fn interfaces(&self, hook: Hook, isolated: bool) -> Result<(u32, u32)> {
        let key = if isolated { ISOLATED } else { OPEN };
        let own = self
            .bench
            .ifindex_of(key)
            .with_context(|| format!("{key} has no interface"))?;
        Ok((
            own,
            if hook == Hook::FromPod {
                own
            } else {
                self.bench.uplink_ifindex()
            },
        ))
    }

    fn slots_in_use(&self) -> Result<Vec<u16>> {
        let mut used = Vec::new();
        // The two endpoints have the first slots.
        for slot in 1..SLOTS.min(8) as u16 {
            let state: Slot = sys::lookup(self.slots.as_fd(), &u32::from(slot))?;
            if state.generation != 0 {
                used.push(slot);
            }
        }
        Ok(used)
    }
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The empty program.
    Empty,
    /// The empty program behind the one that changes a port.
    EmptyBehindChange,
    /// The program of the case, behind the one that changes a port if the case asks for it.
    Case,
}

/// Time that this thread had a processor: others on the machine do not count.
fn thread_time() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every thread has a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Whether a run did what its case says, by what the programs counted before and after.
pub fn check(case: &Case, before: Counts, after: Counts, verdict: i32, packets: u64) -> Result<()> {
    let expected = match case.path {
        case::Path::Denied => (
            Counts {
                denied: before.denied + packets,
                ..before
            },
            program::DROP,
        ),
        case::Path::NewFlow => (
            Counts {
                flows: before.flows + packets,
                ..before
            },
            program::NEXT,
        ),
        _ => (before, program::NEXT),
    };
    ensure!(
        (after, verdict) == expected,
        "{} at {}: {packets} packets came to {after:?} and verdict {verdict}, not {expected:?}",
        case.title(),
        case.hook.program()
    );
    Ok(())
}
