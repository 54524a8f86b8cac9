//! What `cargo xtask bench packet` measures: the cost of a packet, as a ratio to an empty program of the same run.
//!
//! ```text
//! node (lab, real agent, so many peers) -> case (a packet and what it must meet) -> rounds (BPF_PROG_TEST_RUN, interleaved) -> report
//! live (two pods that talk, kernel statistics; a second lab with empty programs) ------------------------------/
//! ```
//! The tables are the agent's own: objects go in, what is pinned is run. Nanoseconds of two runs are never compared: machines are shared and change
//! their mind. What a run left in counters and connections is checked, so that no wrong path is timed.

pub mod case;
pub mod credentials;
pub mod live;
pub mod node;
pub mod objects;
pub mod program;
pub mod report;
pub mod rounds;
mod sys;

pub(crate) use sys::pinned;

use std::collections::BTreeSet;

use anyhow::Result;

use self::case::{Hook, PEERS};
use self::node::{Node, Rights};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// JSON instead of a table.
    pub json: bool,
    /// Interleaved rounds.
    pub rounds: u32,
    /// Leaves out cases with more peers.
    pub peers_at_most: u32,
    /// Leaves out programs loaded without `CAP_PERFMON`.
    pub perfmon_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            json: false,
            rounds: 21,
            peers_at_most: PEERS[PEERS.len() - 1],
            perfmon_only: false,
        }
    }
}

/// Measures and reports.
pub fn run(options: &Options) -> Result<String> {
    let mut cases = case::all();
    cases.retain(|case| case.size.peers <= options.peers_at_most);
    let sizes: BTreeSet<_> = cases.iter().map(|case| case.size).collect();
    let mut nodes = Vec::new();
    let rights_in_use = if options.perfmon_only {
        &Rights::ALL[..1]
    } else {
        &Rights::ALL[..]
    };
    for size in sizes {
        for rights in rights_in_use.iter().copied() {
            let mut node = Node::up(rights, size)?;
            let of_node: Vec<_> = cases
                .iter()
                .copied()
                .filter(|case| case.size == size)
                .collect();
            node.prepare(&of_node)?;
            nodes.push((rights, node));
        }
    }
    let results = rounds::run(&nodes, &cases, options.rounds)?;
    let mut verified = Vec::new();
    // All nodes have the same programs.
    for (rights, node) in nodes.iter().take(rights_in_use.len()) {
        for hook in Hook::ALL {
            verified.push((*rights, hook, node.verified(hook)?));
        }
    }
    for (_, node) in nodes {
        node.down()?;
    }
    let live = live::run(rights_in_use, options.rounds)?;
    if options.json {
        return Ok(format!("{:#}\n", report::json(&results, &verified, &live)));
    }
    Ok(report::table(&results, &verified) + &report::live_table(&live))
}
