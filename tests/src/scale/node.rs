//! The agent's path from a change to the kernel, stage by stage, each with the time that the calling thread spent in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use portcullis::dataplane::Dataplane;
use portcullis::dataplane::kernel;
use portcullis::dataplane::names::uid_digest;
use portcullis::dataplane::pins::Pins;
use portcullis::dataplane::plan::{Desired, Memory, Want, WantPolicies, plan};
use portcullis::dataplane::state::{Action, State};
use portcullis::kube::Change;
use portcullis::world::World;
use portcullis_common::addr;
use portcullis_policy::tables::Tables;
use portcullis_policy::{Compiler, compile, model};

use super::cluster::NODE;

const BPFFS: &str = "/sys/fs/bpf";

/// The agent's state, and maps of its own. Nothing is attached.
pub struct Node {
    world: World,
    compiler: Compiler,
    tables: Arc<Tables>,
    memory: Memory,
    state: State,
    maps: kernel::Tables,
    /// Holds the pins of the maps.
    dataplane: Option<Dataplane>,
    root: PathBuf,
}

/// One way from a change to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Taking it in.
    pub world: Duration,
    /// Compiling.
    pub compile: Duration,
    /// Planning.
    pub plan: Duration,
    /// Writing.
    pub write: Duration,
    /// Map writes.
    pub writes: usize,
}

impl Times {
    /// From the change to the plan.
    #[must_use]
    pub fn thinking(&self) -> Duration {
        self.world + self.compile + self.plan
    }
}

impl Node {
    /// An agent that knows nothing yet. `name` tells its pins from those of others.
    pub fn open(name: &str) -> Result<Self> {
        let root = PathBuf::from(BPFFS).join(format!("portcullis-bench-{name}-{}", process::id()));
        let dataplane = Dataplane::open(&root).context("loading the programs for their maps")?;
        let mut maps = kernel::Tables::open(&Pins::new(&root))?;
        Ok(Self {
            world: World::new(NODE),
            compiler: Compiler::default(),
            tables: Arc::default(),
            memory: Memory::default(),
            state: maps.read()?,
            maps,
            dataplane: Some(dataplane),
            root,
        })
    }

    /// Takes changes in and brings the kernel to them.
    pub fn take_in(&mut self, changes: Vec<Change>) -> Result<Times> {
        let mut clock = Clock::start()?;
        self.world.apply_batch(changes, SystemTime::now());
        let model = self.world.snapshot();
        let world = clock.lap()?;
        self.tables = self.compiler.compile(&model);
        let compile = clock.lap()?;
        let actions = plan(&self.state, &mut self.memory, &desired(&self.tables));
        let plan = clock.lap()?;
        for action in &actions {
            self.maps.write(action)?;
            self.state.apply(action);
        }
        Ok(Times {
            world,
            compile,
            plan,
            write: clock.lap()?,
            writes: actions.iter().map(writes).sum(),
        })
    }

    /// What the same world costs whoever has seen nothing, with the same tables in force.
    pub fn anew(&self) -> Result<Times> {
        let model = self.world.snapshot();
        let mut clock = Clock::start()?;
        let tables = Arc::new(compile(&model));
        let compile = clock.lap()?;
        let actions = plan(&self.state, &mut Memory::default(), &desired(&tables));
        Ok(Times {
            compile,
            plan: clock.lap()?,
            writes: actions.iter().map(writes).sum(),
            ..Times::default()
        })
    }

    /// The tables of the last change.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The world as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<model::World> {
        self.world.snapshot()
    }

    /// Bytes of kernel memory of each map.
    pub fn map_memory(&self) -> Result<BTreeMap<String, u64>> {
        let pins = Pins::new(&self.root);
        pins.maps()
            .into_iter()
            .map(|name| {
                let memory = map_memory(&pins.map(&name))?;
                Ok((name, memory))
            })
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.dataplane = None;
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

/// Every endpoint has an interface.
fn desired(tables: &Arc<Tables>) -> Desired {
    let endpoints = tables.endpoints.iter().zip(10..);
    let endpoints = endpoints.map(|((uid, policies), ifindex)| {
        let want = Want {
            uid: uid_digest(uid),
            addresses: [addr::NONE; 2],
            flags: 0,
            policies: WantPolicies::Compiled(*policies),
        };
        (ifindex, want)
    });
    Desired {
        endpoints: endpoints.collect(),
        tables: Arc::clone(tables),
        ..Desired::default()
    }
}

/// Map writes of an action: an endpoint's comes with one of the epoch.
fn writes(action: &Action) -> usize {
    match action {
        Action::Barrier => 0,
        Action::PutSet { set, .. } | Action::DropSet { set, .. } => 1 + set.spilled(),
        Action::PutEndpoint { .. } | Action::DropEndpoint { .. } => 2,
        _ => 1,
    }
}

fn map_memory(path: &std::path::Path) -> Result<u64> {
    use std::os::fd::AsRawFd as _;
    let map = crate::bench::pinned(path).with_context(|| format!("opening {}", path.display()))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    let memory = memory.context("the kernel does not tell the memory of maps")?;
    Ok(memory.trim().parse()?)
}

/// Bytes of this process in memory.
pub fn resident() -> Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages = pages
        .split(' ')
        .nth(1)
        .context("statm has no second field")?;
    Ok(pages.parse::<u64>()? * 4096)
}

/// Time that this thread has spent: other work on the machine does not count.
struct Clock(Duration);

impl Clock {
    fn start() -> Result<Self> {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok(Self(Duration::from(time)))
    }

    /// Since the last lap.
    fn lap(&mut self) -> Result<Duration> {
        let now = Self::start()?;
        let lap = now.0.saturating_sub(self.0);
        *self = now;
        Ok(lap)
    }
}
