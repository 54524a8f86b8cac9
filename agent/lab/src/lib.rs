//! A node of network namespaces on any Linux machine: pods, their node, and the world behind the node's uplink.
//!
//! `portcullis lab ...` and `tests/` use the same code. The lab knows nothing of policy verdicts and attaches no program: it builds what the kernel of
//! a real node would look like, starts the real agent's binary in it, sends packets and tells what arrived. It is not Kubernetes: there is no API
//! server, no kubelet and no Service address translation.
//!
//! ```text
//!   pod netns        node netns                          outside netns
//!   eth0 ─────────── eni1a2b3c…  (TC programs)
//!   eth0 ─────────── eni4d5e6f…            eth0 ──────── uplink   answers for every other address,
//!   ...                                                          metadata service included
//! ```

pub mod agent;
pub mod cgroup;
pub mod client;
pub mod cni;
pub mod demo;
pub mod devices;
pub mod link;
pub mod metadata;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod outside;
pub mod packet;
pub mod pods;
pub mod preflight;
pub mod privilege;
pub mod probe;
pub mod serve;
pub mod server;
pub mod spec;
pub mod state;
pub mod sts;
pub mod teardown;
pub mod wire;

pub use agent::{AgentOptions, AgentProcess};
pub use devices::TestBench;
pub use netns::NetNs;
pub use node::{Lab, LabOptions};
pub use probe::{Flight, ProbeResult, Prober, Site, Verdict};
pub use spec::{LabPod, LabSpec, Listen};
pub use state::LabState;
