//! What `cargo xtask bench policy` measures: a change in a large cluster, from the feed's word to the last map write, and what tables weigh.
//!
//! ```text
//! cluster (objects of a large one, single changes) -> World -> Compiler -> plan -> map writes      time of the calling thread for each stage
//! weight (10,000 peers of 30 workloads)            -> the same -> memory of each map, as the kernel tells it
//! ```
//! Everything is the agent's own code and the kernel's own maps; nothing is attached. Times are ratios to doing everything anew in the same run, beside
//! the milliseconds of this machine. At the end the tables must be those of a compiler that has seen nothing.

pub mod cluster;
pub mod node;
mod objects;
pub mod report;
pub mod weight;

use anyhow::{Result, ensure};
use portcullis_policy::compile;

use self::cluster::{CHANGES, Scale};
use self::node::{Node, Times};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// JSON instead of a table.
    pub json: bool,
    /// How often each change happens.
    pub rounds: u32,
    /// How large the cluster is.
    pub scale: Scale,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            json: false,
            rounds: 11,
            scale: Scale::LARGE,
        }
    }
}

/// What one kind of change costs.
#[derive(Clone, Debug)]
pub struct Cost {
    /// What happens.
    pub title: &'static str,
    /// Each time that it happened.
    pub times: Vec<Times>,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How large the cluster was.
    pub scale: Scale,
    /// The first tables.
    pub first: Times,
    /// Compiling and planning by whoever has seen nothing, with the same tables in force.
    pub anew: Vec<Times>,
    /// Single changes.
    pub changes: Vec<Cost>,
    /// A policy of 10,000 rules.
    pub giant: Times,
    /// What the agent's process grew by: objects, tables and what it remembers.
    pub resident_mib: u64,
    /// Memory of the maps.
    pub weight: weight::Weight,
}

/// Measures and reports.
pub fn run(options: &Options) -> Result<String> {
    let scale = options.scale;
    let before = node::resident()?;
    let mut node = Node::open("policy")?;
    let first = node.take_in(cluster::lists(&scale))?;
    let resident_mib = node::resident()?.saturating_sub(before) >> 20;
    let mut changes: Vec<Cost> = CHANGES
        .iter()
        .map(|change| Cost {
            title: change.title,
            times: Vec::new(),
        })
        .collect();
    let mut anew = Vec::new();
    for round in 0..options.rounds {
        for (change, cost) in CHANGES.iter().zip(&mut changes) {
            cost.times.push(node.take_in((change.make)(&scale, round))?);
        }
        anew.push(node.anew()?);
    }
    ensure!(
        *node.tables() == compile(&node.snapshot()),
        "the tables are not those of a compiler that has seen nothing"
    );
    let giant = node.take_in(vec![cluster::giant(10_000)])?;
    drop(node);
    let measured = Measured {
        scale,
        first,
        anew,
        changes,
        giant,
        resident_mib,
        weight: weight::weigh()?,
    };
    if options.json {
        return Ok(format!("{:#}\n", report::json(&measured)));
    }
    Ok(report::table(&measured))
}
