//! The one executor: carries actions out on the pinned maps, and reads them back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use portcullis_common::abi::{
    Cell, Config, Endpoint, L4Key, L4Set, L4Value, Owner, PolicyKey, ServiceKey, Slot,
};
use portcullis_common::addr::Addr;
use portcullis_common::policy;
use zerocopy::IntoBytes as _;

use super::error::WriteError;
use super::pins::Pins;
use super::state::{Action, PortRange, PortSet, State, service_key};

/// Bits of an `L4Key` before the port.
const PORT_AT: u32 = 48;

/// All maps that the agent writes, opened by their pins.
pub struct Tables {
    owner: Array<MapData, Owner>,
    config: Array<MapData, Config>,
    endpoints: HashMap<MapData, u32, Endpoint>,
    epoch: Array<MapData, u32>,
    peers: HashMap<MapData, Addr, u32>,
    cidrs: LpmTrie<MapData, Addr, u32>,
    defaults: Array<MapData, Cell>,
    rows: HashMap<MapData, PolicyRow, Cell>,
    sets: Array<MapData, L4Set>,
    ranges: LpmTrie<MapData, L4Key, L4Value>,
    services: HashMap<MapData, ServiceKey, u32>,
    nodes: HashMap<MapData, Addr, u32>,
    cgroups: HashMap<MapData, u64, u32>,
    slots: Array<MapData, Slot>,
    drops: Array<MapData, u64>,
}

type PolicyRow = PolicyKey;

impl Tables {
    /// Opens every map by its pin.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            owner: array(&pins.map("pc_owner"))?,
            config: array(&pins.map("pc_config"))?,
            endpoints: hash(&pins.map("pc_endpoints"))?,
            epoch: array(&pins.map("pc_epoch"))?,
            peers: hash(&pins.map("pc_peers"))?,
            cidrs: trie(&pins.map("pc_cidrs"))?,
            defaults: array(&pins.map("pc_policies"))?,
            rows: hash(&pins.map("pc_policy"))?,
            sets: array(&pins.map("pc_l4sets"))?,
            ranges: trie(&pins.map("pc_l4lpm"))?,
            services: hash(&pins.map("pc_services"))?,
            nodes: hash(&pins.map("pc_nodes"))?,
            cgroups: hash(&pins.map("pc_cgroups"))?,
            slots: array(&pins.map("pc_slots"))?,
            drops: array(&pins.map("pc_drops"))?,
        })
    }

    /// Marks the pins as this agent's.
    pub fn set_owner(&mut self, owner: Owner) -> Result<()> {
        self.owner.set(0, owner, 0).context("marking the pins")
    }

    /// Reads back what an earlier agent wrote. What it left half done of a port set is removed: the set's number may be given out again.
    pub fn read(&mut self) -> Result<State> {
        let mut pieces = self.pieces()?;
        let mut state = State::default();
        let config = self.config.get(&0, 0)?;
        state.apply(&Action::PutConfig { config });
        for entry in &self.peers {
            let (addr, identity) = entry?;
            state.apply(&Action::PutPeer { addr, identity });
        }
        for entry in &self.cidrs {
            let (key, identity) = entry?;
            let prefix = (key.prefix_len(), key.data());
            state.apply(&Action::PutCidr { prefix, identity });
        }
        for entry in &self.rows {
            let (key, cell) = entry?;
            state.apply(&Action::PutRow {
                policy: key.policy,
                identity: key.identity,
                cell: cell.into(),
            });
        }
        for policy in policy::id::FIRST..self.defaults.len() {
            let cell = self.defaults.get(&policy, 0)?;
            if cell.valid != 0 {
                let cell = cell.into();
                state.apply(&Action::PutDefault { policy, cell });
            }
        }
        for id in 1..self.sets.len() {
            let record = self.sets.get(&id, 0)?;
            if record.valid != 0 {
                let pieces = pieces.remove(&id).unwrap_or_default();
                let set = Arc::new(port_set(&record, pieces));
                state.apply(&Action::PutSet { id, set });
            }
        }
        for entry in &self.endpoints {
            let (ifindex, endpoint) = entry?;
            state.endpoints.insert(ifindex, endpoint);
        }
        for slot in 1..self.slots.len() {
            let record = self.slots.get(&slot, 0)?;
            if record.generation != 0 {
                state.slots.insert(slot as u16, record.generation);
            }
        }
        for entry in &self.services {
            let (key, _) = entry?;
            state.services.insert((key.addr, key.port, key.protocol));
        }
        for entry in &self.nodes {
            let (addr, owner) = entry?;
            state.nodes.insert(addr, owner);
        }
        for id in self.cgroups.keys() {
            state.cgroups.insert(id?);
        }
        Ok(state)
    }

    /// The pieces of every spilled port set. Those of sets that do not refer to them are removed.
    fn pieces(&mut self) -> Result<BTreeMap<u32, Vec<PortRange>>> {
        let mut pieces: BTreeMap<u32, Vec<PortRange>> = BTreeMap::new();
        let mut spilled: BTreeMap<u32, bool> = BTreeMap::new();
        let mut stray = Vec::new();
        for entry in &self.ranges {
            let (key, value) = entry?;
            let data = key.data();
            let is_known = *spilled.entry(data.set).or_insert_with(|| {
                let record = self.sets.get(&data.set, 0);
                record.is_ok_and(|record| record.valid != 0 && record.spilled != 0)
            });
            if !is_known {
                stray.push(key);
                continue;
            }
            let first = u16::from_be_bytes(data.port);
            let size = 1_u32 << (16 - (key.prefix_len() - PORT_AT));
            let last = (u32::from(first) + size - 1) as u16;
            let piece = (data.protocol, first, last, value.action, value.rule);
            pieces.entry(data.set).or_default().push(piece);
        }
        for key in stray {
            gone(self.ranges.remove(&key))?;
        }
        Ok(pieces)
    }

    /// Carries one action out.
    pub fn write(&mut self, action: &Action) -> Result<(), WriteError> {
        self.try_write(action).map_err(|source| WriteError {
            action: Box::new(action.clone()),
            source,
        })
    }

    fn try_write(&mut self, action: &Action) -> Result<(), MapError> {
        match action {
            Action::PutSet { id, set } => self.put_set(*id, set),
            Action::DropSet { id, set } => self.drop_set(*id, set),
            Action::PutRow {
                policy,
                identity,
                cell,
            } => self.rows.insert(
                PolicyKey {
                    policy: *policy,
                    identity: *identity,
                },
                Cell::from(*cell),
                0,
            ),
            Action::DropRow { policy, identity } => gone(self.rows.remove(&PolicyKey {
                policy: *policy,
                identity: *identity,
            })),
            Action::PutDefault { policy, cell } => self.defaults.set(*policy, Cell::from(*cell), 0),
            Action::DropDefault { policy } => self.defaults.set(*policy, Cell::default(), 0),
            Action::PutPeer { addr, identity } => self.peers.insert(addr, identity, 0),
            Action::DropPeer { addr } => gone(self.peers.remove(addr)),
            Action::PutCidr { prefix, identity } => {
                self.cidrs
                    .insert(&Key::new(prefix.0, prefix.1), identity, 0)
            }
            Action::DropCidr { prefix } => gone(self.cidrs.remove(&Key::new(prefix.0, prefix.1))),
            Action::PutSlot { slot, generation } => self.slots.set(
                u32::from(*slot),
                Slot {
                    generation: *generation,
                    ..Slot::default()
                },
                0,
            ),
            Action::PutEndpoint { ifindex, endpoint } => {
                self.endpoints.insert(ifindex, endpoint, 0)?;
                self.raise_epoch()
            }
            Action::DropEndpoint { ifindex } => {
                gone(self.endpoints.remove(ifindex))?;
                self.raise_epoch()
            }
            Action::PutService { service } => self.services.insert(service_key(*service), 1, 0),
            Action::DropService { service } => gone(self.services.remove(&service_key(*service))),
            Action::PutNode { addr, own } => self.nodes.insert(addr, if *own { 1 } else { 2 }, 0),
            Action::DropNode { addr } => gone(self.nodes.remove(addr)),
            Action::PutCgroup { id } => self.cgroups.insert(id, 1, 0),
            Action::DropCgroup { id } => gone(self.cgroups.remove(id)),
            Action::PutConfig { config } => self.config.set(0, config, 0),
            Action::Barrier => {
                barrier();
                Ok(())
            }
        }
    }

    /// Makes programs forget what they concluded from tables that were. Behind the write: what they conclude meanwhile is forgotten too.
    pub fn raise_epoch(&mut self) -> Result<(), MapError> {
        // The time and not one more: programs add to it meanwhile, far less often than once in a microsecond.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
        });
        self.epoch.set(0, now as u32, 0)
    }

    /// The ranges before the entry that refers to them. Of a set that does not fit nothing stays.
    fn put_set(&mut self, id: u32, set: &PortSet) -> Result<(), MapError> {
        let result = self.try_put_set(id, set);
        if result.is_err() {
            self.drop_ranges(id, set)?;
        }
        result
    }

    fn try_put_set(&mut self, id: u32, set: &PortSet) -> Result<(), MapError> {
        for (key, value) in ranges(id, set) {
            self.ranges.insert(&key, value, 0)?;
        }
        self.sets.set(id, set.record(), 0)
    }

    fn drop_set(&mut self, id: u32, set: &PortSet) -> Result<(), MapError> {
        self.sets.set(id, L4Set::default(), 0)?;
        self.drop_ranges(id, set)
    }

    fn drop_ranges(&mut self, id: u32, set: &PortSet) -> Result<(), MapError> {
        ranges(id, set).try_for_each(|(key, _)| gone(self.ranges.remove(&key)))
    }

    /// A drop counter by [`portcullis_common::abi::drop_index`].
    #[must_use]
    pub fn drops(&self, index: u32) -> u64 {
        self.drops.get(&index, 0).unwrap_or(0)
    }

    /// Slot of the endpoint behind an interface; 0 = none.
    #[must_use]
    pub fn slot_of(&self, ifindex: u32) -> u16 {
        self.endpoints
            .get(&ifindex, 0)
            .map_or(0, |endpoint| endpoint.slot)
    }

    /// State of the slots from 0 to `last`.
    #[must_use]
    pub fn slots(&self, last: u16) -> Vec<Slot> {
        (0..=u32::from(last))
            .map(|slot| self.slots.get(&slot, 0).unwrap_or_default())
            .collect()
    }
}

/// The entries of a port set that does not fit into its record.
fn ranges(id: u32, set: &PortSet) -> impl Iterator<Item = (Key<L4Key>, L4Value)> {
    let prefixes = set.is_spilled().then(|| set.prefixes());
    prefixes
        .into_iter()
        .flatten()
        .map(move |(protocol, port, bits, action, rule)| {
            let data = L4Key {
                set: id,
                protocol,
                reserved: 0,
                port: port.to_be_bytes(),
            };
            (Key::new(PORT_AT + bits, data), L4Value { action, rule })
        })
}

/// A set as it was before it was cut into prefixes: neighbouring pieces of one verdict join.
fn port_set(record: &L4Set, mut pieces: Vec<PortRange>) -> PortSet {
    let mut ranges: Vec<PortRange> = Vec::new();
    if record.spilled == 0 {
        let used = record.ranges.iter().take_while(|range| range.protocol != 0);
        ranges.extend(used.map(|range| {
            let action = u32::from(range.action);
            (range.protocol, range.first, range.last, action, range.rule)
        }));
    }
    pieces.sort_unstable();
    for piece in pieces {
        match ranges.last_mut() {
            Some(last)
                if last.0 == piece.0
                    && u32::from(last.2) + 1 == u32::from(piece.1)
                    && (last.3, last.4) == (piece.3, piece.4) =>
            {
                last.2 = piece.2;
            }
            _ => ranges.push(piece),
        }
    }
    PortSet {
        otherwise: (record.otherwise, record.otherwise_rule),
        ranges,
    }
}

/// A removal of what is not there is done already.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Returns after every program that runs now has ended: programs run inside RCU read sections, and this command waits for those.
fn barrier() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: no memory is passed.
    let failed = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if failed != 0 {
        // A kernel with full dynticks refuses it. No program runs for as long as this.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn map_data(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))
}

fn array<V: Pod>(path: &Path) -> Result<Array<MapData, V>> {
    Array::try_from(Map::Array(map_data(path)?))
        .with_context(|| format!("reading {}", path.display()))
}

fn hash<K: Pod, V: Pod>(path: &Path) -> Result<HashMap<MapData, K, V>> {
    HashMap::try_from(Map::HashMap(map_data(path)?))
        .with_context(|| format!("reading {}", path.display()))
}

fn trie<K: Pod, V: Pod>(path: &Path) -> Result<LpmTrie<MapData, K, V>> {
    LpmTrie::try_from(Map::LpmTrie(map_data(path)?))
        .with_context(|| format!("reading {}", path.display()))
}

/// An event from the ring, if the bytes are one.
#[must_use]
pub fn event(bytes: &[u8]) -> Option<portcullis_common::abi::Event> {
    let mut event = portcullis_common::abi::Event::default();
    let target = event.as_mut_bytes();
    target.copy_from_slice(bytes.get(..target.len())?);
    Some(event)
}
