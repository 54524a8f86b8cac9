//! The node's dataplane: one value of desired tables in, map writes and attachments out.
//!
//! `plan` decides, `kernel` writes, `attach` puts programs on hooks, `pins` says whose all that is. Only [`Dataplane`] holds them together, and only
//! the world task calls it: there is no lock.

pub mod adopt;
pub mod attach;
pub mod error;
pub mod inspect;
pub mod kernel;
pub mod names;
pub mod pins;
pub mod plan;
pub mod preflight;
pub mod state;
mod sys;

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions};
use nix::fcntl::Flock;
use portcullis_common::abi::{Existing, Owner, Slot, drop_index};
use zerocopy::IntoBytes as _;

use attach::{Hooks, Role};
use error::OpenError;
use kernel::Tables;
use names::Names;
use pins::Pins;
use plan::{Desired, Memory, lock_down, plan};
use state::{Action, State};

use crate::responder::origin::Origins;

/// The BPF object, built with the agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT"));

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Programs, tables and what is in them.
pub struct Dataplane {
    hooks: Hooks,
    pins: Pins,
    tables: Tables,
    state: State,
    memory: Memory,
    /// Whether an earlier agent's tables were taken over.
    pub adopted: bool,
    /// The mark of this boot and network namespace.
    pub owner: Owner,
    _claim: Flock<File>,
}

/// What one application of desired tables did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Map writes.
    pub writes: usize,
}

impl Dataplane {
    /// Opens the pins of this boot and network namespace, or discards what is there and starts anew; loads the programs. Attaches nothing.
    ///
    /// What an agent of another version left in force stays so until [`Dataplane::succeed`].
    pub fn open(bpffs: &Path) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(OpenError::NoObject.into());
        }
        let mut pins = Pins::new(bpffs);
        let claim = pins.claim()?;
        let owner = pins::this_owner()?;
        let discarded = pins
            .find_predecessors(owner)
            .context("discarding pins of another boot or namespace")?;
        if discarded > 0 {
            tracing::warn!(
                count = discarded,
                "Discarded pins of another boot or network namespace"
            );
        }
        // Where there is a predecessor too, these tables may never have been finished.
        let adopted = pins.owner() == Some(owner) && pins.predecessors().is_empty();
        pins.create()?;
        let mut hooks = Hooks::load(OBJECT, &pins)?;
        hooks.pin_programs()?;
        let mut tables = Tables::open(&pins)?;
        let state = tables.read().context("reading the pinned maps")?;
        tables.set_owner(owner)?;
        Ok(Self {
            hooks,
            pins,
            tables,
            state,
            memory: Memory::default(),
            adopted,
            owner,
            _claim: claim,
        })
    }

    /// Brings the tables to `desired`. On an error everything written so far stands, and every endpoint has its last whole version or none; one that
    /// has none gets a closed one.
    pub fn apply(&mut self, desired: &Desired) -> Result<Applied> {
        let actions = plan(&self.state, &mut self.memory, desired);
        for action in &actions {
            if let Err(error) = self.write(action) {
                self.lock_down(desired);
                return Err(error);
            }
        }
        if !actions.is_empty() {
            self.tables.raise_epoch()?;
        }
        Ok(Applied {
            writes: actions
                .iter()
                .filter(|action| **action != Action::Barrier)
                .count(),
        })
    }

    fn write(&mut self, action: &Action) -> Result<()> {
        self.tables.write(action)?;
        self.state.apply(action);
        Ok(())
    }

    /// Endpoints that have no version at all: closed, but for their node.
    fn lock_down(&mut self, desired: &Desired) {
        for action in lock_down(&self.state, desired) {
            if let Err(error) = self.write(&action) {
                tracing::error!(error = %format!("{error:#}"), "Failed to lock an endpoint down");
            }
        }
    }

    /// Puts programs on an interface.
    pub fn attach(&mut self, ifindex: u32, name: &str, role: Role) -> Result<()> {
        self.hooks.attach(ifindex, name, role)
    }

    /// Whether programs of another version are still on the node's hooks.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        !self.pins.predecessors().is_empty()
    }

    /// Removes what is left of a predecessor, whose links have all been inherited or are of nobody any more. How many pins that were.
    pub fn succeed(&mut self) -> Result<usize> {
        self.pins.discard_predecessors()
    }

    /// The hooks, to look at or to attach cgroups.
    pub fn hooks(&mut self) -> &mut Hooks {
        &mut self.hooks
    }

    /// The tables in force.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Names of the numbers in events.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.memory.names
    }

    /// Packets dropped in a direction for a reason, of all endpoints that ever were.
    #[must_use]
    pub fn drops(&self, direction: u8, reason: u8) -> u64 {
        [0].iter()
            .chain(self.state.slots.keys())
            .map(|slot| self.tables.drops(drop_index(*slot, direction, reason)))
            .sum()
    }

    /// Whether an interface has its programs.
    #[must_use]
    pub fn hooks_attached(&self, ifindex: u32) -> bool {
        self.hooks.attached().contains_key(&ifindex)
    }

    /// Whether TCX links are used; else clsact filters.
    #[must_use]
    pub fn uses_tcx(&self) -> bool {
        self.hooks.uses_tcx()
    }

    /// Cgroup programs that are attached.
    #[must_use]
    pub fn cgroup_hooks(&self) -> Vec<String> {
        self.hooks
            .cgroups
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    }

    /// State of every slot up to the highest that was ever used.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        self.tables
            .slots(self.state.slots.keys().max().copied().unwrap_or(0))
    }

    /// The deny events' ring; once.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>> {
        self.hooks.take_events()
    }

    /// The table that says whose a redirected connection is.
    pub fn origins(&self) -> Result<Origins> {
        Origins::open(&self.pins)
    }

    /// Removes connections that are gone.
    pub fn sweep(&mut self) -> Result<()> {
        // The kernel wants a packet to run a classifier on; the program looks at none.
        self.run("pc_sweep", &[0; 64]).map(|_| ())
    }

    /// Remembers connections that were open before; says how many were new.
    pub fn remember(&mut self, existing: &[Existing]) -> Result<usize> {
        let mut remembered = 0;
        for entry in existing {
            let mut frame = [0; ETHERNET + size_of::<Existing>()];
            frame[ETHERNET..].copy_from_slice(entry.as_bytes());
            remembered += self.run("pc_adopt", &frame)? as usize;
        }
        Ok(remembered)
    }

    fn run(&mut self, program: &str, frame: &[u8]) -> Result<u32> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = self
            .hooks
            .classifier(program)?
            .test_run(options)
            .with_context(|| format!("running {program}"))?;
        Ok(result.return_value)
    }
}

/// Removes every pin and filter of an agent: links, programs, maps, directories. Works without the agent, in the network namespace that it ran in.
pub fn uninstall(bpffs: &Path) -> Result<usize> {
    let pins = Pins::new(bpffs);
    for name in interface_names() {
        attach::remove_filters(&name);
    }
    let count = pins.discard()?;
    pins.remove_root()
        .with_context(|| format!("removing {}", bpffs.display()))?;
    Ok(count)
}

/// Interfaces of this network namespace.
fn interface_names() -> Vec<String> {
    nix::net::if_::if_nameindex()
        .map(|list| {
            list.iter()
                .map(|interface| interface.name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}

/// Whether the pins below `bpffs` are this boot's and namespace's.
#[must_use]
pub fn owner(bpffs: &Path) -> Option<Owner> {
    Pins::new(bpffs).owner()
}
