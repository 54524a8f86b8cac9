//! Stand-in devices for programs run by `BPF_PROG_TEST_RUN`: the agent finds and attaches to them as ever, but no pod has a namespace of its own.
//!
//! A program's test run takes an interface index, and the kernel resolves it in the calling thread's network namespace: run it inside [`NetNs::run`]
//! of [`TestBench::node`].

use std::net::IpAddr;

use anyhow::Result;

use crate::netns::NetNs;
use crate::node::{Lab, LabOptions};
use crate::spec::LabSpec;

/// A node with bare devices.
#[derive(Debug)]
pub struct TestBench {
    lab: Lab,
}

impl TestBench {
    /// Builds the devices of `spec`. Dropping the bench takes them away.
    pub fn up(spec: LabSpec, options: LabOptions) -> Result<Self> {
        let lab = Lab::up(
            spec,
            LabOptions {
                devices: true,
                ..options
            },
        )?;
        Ok(Self { lab })
    }

    /// The lab beneath, for starting the agent in it.
    pub fn lab(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// The node's namespace.
    #[must_use]
    pub fn node(&self) -> &NetNs {
        self.lab.node()
    }

    /// Index of the host interface of the pod `key` (`namespace/name`); `None` for pods of other nodes and of the host network.
    #[must_use]
    pub fn ifindex_of(&self, key: &str) -> Option<u32> {
        let index = self.lab.pods().get(key).map(|site| site.ifindex);
        index.filter(|index| *index != 0)
    }

    /// Index of the uplink.
    #[must_use]
    pub fn uplink_ifindex(&self) -> u32 {
        self.lab.uplink()
    }

    /// The node's own addresses.
    #[must_use]
    pub fn node_addresses(&self) -> &[IpAddr] {
        &self.lab.state().spec.node_addresses
    }

    /// Takes the bench down and reports what went wrong.
    pub fn down(self) -> Result<()> {
        self.lab.down()
    }
}
