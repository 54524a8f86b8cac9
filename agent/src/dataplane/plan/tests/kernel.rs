//! A kernel in memory: the maps as the programs read them, written apart from [`State`] so that neither can hide a mistake of the other.
//!
//! It refuses what does not fit, reads back as a fresh agent would, and knows every verdict that a program can reach which runs while the agent
//! writes ([`Readers`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use portcullis_common::abi::{Cell, Config, Endpoint, L4Set, SLOTS, config_flags};
use portcullis_common::addr::{self, Addr};
use portcullis_common::policy::{self, Decision, Lookup, WORLD, decide, match_ranges};

use super::super::super::state::{Action, PortSet, State};

/// A packet that opens a connection of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) ifindex: u32,
    pub(super) ingress: bool,
    pub(super) peer: Addr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Maps that can be full, by how many more entries they take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) peers: usize,
    pub(super) cidrs: usize,
    pub(super) rows: usize,
    pub(super) policies: usize,
    pub(super) sets: usize,
    pub(super) endpoints: usize,
}

impl Room {
    pub(super) const ENOUGH: Self = Self {
        peers: usize::MAX,
        cidrs: usize::MAX,
        rows: usize::MAX,
        policies: usize::MAX,
        sets: usize::MAX,
        endpoints: usize::MAX,
    };
}

/// E2BIG.
#[derive(Debug)]
pub(super) struct Full;

#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) room: Room,
    peers: HashMap<Addr, u32>,
    cidrs: Vec<(u32, Addr, u32)>,
    rows: HashMap<(u32, u32), Cell>,
    defaults: HashMap<u32, Cell>,
    sets: HashMap<u32, (L4Set, Arc<PortSet>)>,
    pub(super) endpoints: HashMap<u32, Endpoint>,
    slots: HashMap<u16, u32>,
    services: HashSet<(Addr, u16, u8)>,
    nodes: HashMap<Addr, u32>,
    cgroups: HashSet<u64>,
    config: Config,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self {
            room: Room::ENOUGH,
            peers: HashMap::new(),
            cidrs: Vec::new(),
            rows: HashMap::new(),
            defaults: HashMap::new(),
            sets: HashMap::new(),
            endpoints: HashMap::new(),
            // Most slots are worn out, so that the others come back soon.
            slots: (5..SLOTS as u16).map(|slot| (slot, 60_000)).collect(),
            services: HashSet::new(),
            nodes: HashMap::new(),
            cgroups: HashSet::new(),
            config: Config::default(),
        }
    }

    pub(super) fn write(&mut self, action: &Action) -> Result<(), Full> {
        let room = self.room;
        match action {
            Action::PutSet { id, set } => {
                put(
                    &mut self.sets,
                    *id,
                    (set.record(), Arc::clone(set)),
                    room.sets,
                )?;
            }
            Action::DropSet { id, set } => {
                let known = self.sets.remove(id);
                assert!(
                    known.is_none_or(|(_, known)| known == *set),
                    "{id} is another set"
                );
            }
            Action::PutRow {
                policy,
                identity,
                cell,
            } => put(
                &mut self.rows,
                (*policy, *identity),
                Cell::from(*cell),
                room.rows,
            )?,
            Action::DropRow { policy, identity } => drop(self.rows.remove(&(*policy, *identity))),
            Action::PutDefault { policy, cell } => {
                put(
                    &mut self.defaults,
                    *policy,
                    Cell::from(*cell),
                    room.policies,
                )?;
            }
            Action::DropDefault { policy } => drop(self.defaults.remove(policy)),
            Action::PutPeer { addr, identity } => {
                put(&mut self.peers, *addr, *identity, room.peers)?;
            }
            Action::DropPeer { addr } => drop(self.peers.remove(addr)),
            Action::PutCidr {
                prefix: (length, addr),
                identity,
            } => {
                let known = self
                    .cidrs
                    .iter_mut()
                    .find(|known| (known.0, known.1) == (*length, *addr));
                if let Some(known) = known {
                    known.2 = *identity;
                } else if self.cidrs.len() < room.cidrs {
                    self.cidrs.push((*length, *addr, *identity));
                } else {
                    return Err(Full);
                }
            }
            Action::DropCidr { prefix } => self.cidrs.retain(|known| (known.0, known.1) != *prefix),
            Action::PutSlot { slot, generation } => drop(self.slots.insert(*slot, *generation)),
            Action::PutEndpoint { ifindex, endpoint } => {
                put(&mut self.endpoints, *ifindex, *endpoint, room.endpoints)?;
            }
            Action::DropEndpoint { ifindex } => drop(self.endpoints.remove(ifindex)),
            Action::PutService { service } => drop(self.services.insert(*service)),
            Action::DropService { service } => drop(self.services.remove(service)),
            Action::PutNode { addr, own } => drop(self.nodes.insert(*addr, 2 - u32::from(*own))),
            Action::DropNode { addr } => drop(self.nodes.remove(addr)),
            Action::PutCgroup { id } => drop(self.cgroups.insert(*id)),
            Action::DropCgroup { id } => drop(self.cgroups.remove(id)),
            Action::PutConfig { config } => self.config = *config,
            Action::Barrier => {}
        }
        Ok(())
    }

    /// What a fresh agent reads from the pins.
    pub(super) fn read(&self) -> State {
        // `Lookup` has a `default` too.
        let mut state = <State as Default>::default();
        let mut note = |action: Action| state.apply(&action);
        for (addr, identity) in &self.peers {
            let (addr, identity) = (*addr, *identity);
            note(Action::PutPeer { addr, identity });
        }
        for (length, addr, identity) in &self.cidrs {
            let (prefix, identity) = ((*length, *addr), *identity);
            note(Action::PutCidr { prefix, identity });
        }
        for ((policy, identity), cell) in &self.rows {
            note(Action::PutRow {
                policy: *policy,
                identity: *identity,
                cell: (*cell).into(),
            });
        }
        for (policy, cell) in &self.defaults {
            let (policy, cell) = (*policy, (*cell).into());
            note(Action::PutDefault { policy, cell });
        }
        for (id, (_, set)) in &self.sets {
            let (id, set) = (*id, Arc::new(PortSet::clone(set)));
            note(Action::PutSet { id, set });
        }
        state.services.extend(&self.services);
        state.nodes.extend(&self.nodes);
        state.endpoints = self.endpoints.clone().into_iter().collect();
        state.slots = self.slots.clone().into_iter().collect();
        state.cgroups = self.cgroups.clone().into_iter().collect();
        state.config = self.config;
        state
    }

    /// Room for `more` entries in one of the maps, and enough in the others.
    pub(super) fn room_for(&self, which: usize, more: usize) -> Room {
        let mut room = Room::ENOUGH;
        match which {
            0 => room.peers = self.peers.len() + more,
            1 => room.cidrs = self.cidrs.len() + more,
            2 => room.rows = self.rows.len() + more,
            3 => room.policies = self.defaults.len() + more,
            4 => room.sets = self.sets.len() + more,
            _ => room.endpoints = self.endpoints.len() + more.min(1),
        }
        room
    }

    /// How many entries there are in all maps together.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
            + self.cidrs.len()
            + self.rows.len()
            + self.defaults.len()
            + self.sets.len()
    }

    /// What the programs say of a packet now.
    pub(super) fn verdict(&self, key: &Key) -> Decision {
        self.endpoints
            .get(&key.ifindex)
            .map_or(Decision::NOT_READY, |endpoint| {
                let id = policy_id(endpoint, key);
                decide(self, id, &key.peer, key.protocol, key.port)
            })
    }

    fn by_prefix(&self, addr: &Addr) -> u32 {
        if self.config.flags & config_flags::CIDRS == 0 {
            return WORLD;
        }
        let holds = |length: u32, net: &Addr| {
            (0..length as usize).all(|bit| {
                let mask = 0x80 >> (bit % 8);
                addr[bit / 8] & mask == net[bit / 8] & mask
            })
        };
        self.cidrs
            .iter()
            .filter(|(length, net, _)| holds(*length, net))
            .max_by_key(|(length, ..)| *length)
            .map_or(WORLD, |(.., identity)| *identity)
    }
}

fn put<K: std::hash::Hash + Eq, V>(
    map: &mut HashMap<K, V>,
    key: K,
    value: V,
    room: usize,
) -> Result<(), Full> {
    if map.len() >= room && !map.contains_key(&key) {
        return Err(Full);
    }
    map.insert(key, value);
    Ok(())
}

fn policy_id(endpoint: &Endpoint, key: &Key) -> u32 {
    let family = if addr::is_v4(&key.peer) {
        addr::V4
    } else {
        addr::V6
    };
    if key.ingress {
        endpoint.ingress[family]
    } else {
        endpoint.egress[family]
    }
}

impl Lookup for Kernel {
    fn identity(&self, addr: &Addr) -> u32 {
        self.peers
            .get(addr)
            .copied()
            .unwrap_or_else(|| self.by_prefix(addr))
    }

    fn row(&self, policy: u32, identity: u32) -> Option<Cell> {
        self.rows.get(&(policy, identity)).copied()
    }

    fn default(&self, policy: u32) -> Option<Cell> {
        // An array: what was never written is zero.
        Some(self.defaults.get(&policy).copied().unwrap_or_default())
    }

    fn ports(&self, set: u32, protocol: u8, port: u16) -> Decision {
        let Some((record, whole)) = self.sets.get(&set) else {
            return match_ranges(&L4Set::default(), protocol, port);
        };
        if record.spilled == 0 {
            return match_ranges(record, protocol, port);
        }
        let longest = whole
            .prefixes()
            .filter(|(of, base, bits, ..)| {
                *of == protocol && u32::from(base ^ port) >> (16 - bits) == 0
            })
            .max_by_key(|(_, _, bits, ..)| *bits);
        longest.map_or_else(
            || Decision::of(record.otherwise, record.otherwise_rule),
            |(.., action, rule)| Decision::of(action, rule),
        )
    }
}

/// Where a program stands in its look-ups: any number of writes may happen before the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Policy(u32),
    NoPeer(u32),
    Identity(u32, u32),
    NoRow(u32),
    Set(u32),
    Done(bool, u32, u8),
}

/// All programs that may be running for a packet, by the endpoint's record that they began with.
#[derive(Clone, Default)]
pub(super) struct Readers {
    at: BTreeSet<(Seen, At)>,
}

/// Which endpoint record a program saw: slot, generation, revision. What it opens is remembered with these.
pub(super) type Seen = (u16, u8, u32);

pub(super) fn seen(endpoint: &Endpoint) -> Seen {
    (endpoint.slot, endpoint.generation, endpoint.revision)
}

impl Readers {
    /// Each program takes any number of steps over the tables as they are now. Returns the verdicts that are reached.
    pub(super) fn step(&mut self, kernel: &Kernel, key: &Key) -> Vec<(Seen, Decision)> {
        let mut todo: Vec<(Seen, At)> = self.at.iter().copied().collect();
        match kernel.endpoints.get(&key.ifindex) {
            None => todo.push((Seen::default(), done(Decision::NOT_READY))),
            Some(endpoint) => {
                todo.push((seen(endpoint), At::Policy(policy_id(endpoint, key))));
            }
        }
        let mut verdicts = Vec::new();
        while let Some((seen, at)) = todo.pop() {
            let next = match at {
                At::Policy(policy::id::NONE) => done(Decision::NOT_ISOLATED),
                At::Policy(policy::id::CLOSED) => done(Decision::NOT_READY),
                At::Policy(id) => match kernel.peers.get(&key.peer) {
                    Some(identity) => At::Identity(id, *identity),
                    None => At::NoPeer(id),
                },
                At::NoPeer(id) => At::Identity(id, kernel.by_prefix(&key.peer)),
                At::Identity(id, identity) => match kernel.row(id, identity) {
                    Some(cell) => of(cell),
                    None => At::NoRow(id),
                },
                At::NoRow(id) => of(kernel.default(id).unwrap_or_default()),
                At::Set(set) => done(kernel.ports(set, key.protocol, key.port)),
                At::Done(allow, rule, reason) => {
                    let decision = Decision {
                        allow,
                        rule,
                        reason,
                    };
                    verdicts.push((seen, decision));
                    continue;
                }
            };
            if !matches!(at, At::Done(..)) {
                self.at.insert((seen, at));
            }
            todo.push((seen, next));
        }
        verdicts
    }

    /// All programs that began before have ended.
    pub(super) fn barrier(&mut self) {
        self.at.clear();
    }
}

fn done(decision: Decision) -> At {
    At::Done(decision.allow, decision.rule, decision.reason)
}

fn of(cell: Cell) -> At {
    if cell.valid == 0 {
        done(Decision::NOT_READY)
    } else if cell.action == policy::action::BY_PORT {
        At::Set(cell.rule_or_set)
    } else {
        done(Decision::of(cell.action, cell.rule_or_set))
    }
}
