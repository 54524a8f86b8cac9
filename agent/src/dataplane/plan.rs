//! From the tables in force to the tables wanted: which writes, in which order. Pure; an action is data.
//!
//! An address has an identity, a policy has a cell for each identity. Rows change one by one, so the order makes the change atomic for each endpoint:
//!
//! ```text
//! 0. endpoints that are gone
//! 1. port sets, services, nodes, cgroups          nothing refers to them yet
//! 2. rows for new identities under old policies   each with its parent's cell
//! 3. addresses move to new identities             no verdict changes: step 2
//! 4. new policies, then endpoints                 one write swaps an endpoint from all of the old to all of the new
//!    barrier
//! 5. addresses move to their final identities     no verdict changes: the policies in force treat both alike
//!    barrier
//! 6. rows, policies, port sets without use go
//! ```
//! An identity keeps its number when all its addresses go on together; a part that goes another way gets a new number that starts with the old
//! verdicts (2, 3) and joins others with the same meaning only when every policy in force treats the two alike (5). So every packet meets the old
//! verdict or the new one, and never a mixture that no snapshot of the cluster gives.
//!
//! Where no endpoint's policy changes (pods come, go, change labels), 2-5 shrink to one write for each address: it moves straight to its identity,
//! which is the change itself, and endpoints whose policy tells the two apart get a new revision, so that their open connections are judged again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_common::abi::{Config, Endpoint, SLOTS, config_flags};
use portcullis_common::addr::{self, Addr};
use portcullis_common::policy::{self, WORLD, action};
use portcullis_policy::tables::{
    Cell, ClassIx, Decision, EndpointPolicies, PolicyIx, PolicyTable, Tables,
};

use super::names::Names;
use super::state::{
    Action, CellState, Longest, PolicyState, PortSet, Prefix, State, masked, policies_of,
};

/// What the node should look like.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The compiler's tables.
    pub tables: Tables,
    /// Endpoints by ifindex.
    pub endpoints: BTreeMap<u32, Want>,
    /// Destinations that the node translates.
    pub services: BTreeSet<(Addr, u16, u8)>,
    /// Addresses of nodes; whether it is this one.
    pub nodes: BTreeMap<Addr, bool>,
    /// Cgroups of host-network pods on the allow list.
    pub cgroups: BTreeSet<u64>,
    /// Node-wide settings; the flags for services and CIDRs are the planner's.
    pub config: Config,
}

/// What one endpoint should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// `names::uid_digest` of the pod's uid, or of the interface's name for an unknown one.
    pub uid: [u8; 16],
    /// Its addresses, [`addr::NONE`] where it has none.
    pub addresses: [Addr; 2],
    /// `abi::endpoint_flags`.
    pub flags: u32,
    /// What it obeys.
    pub policies: WantPolicies,
}

/// What an endpoint obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantPolicies {
    /// Compiled policies.
    Compiled(EndpointPolicies),
    /// Nothing passes but its node: no pod is known.
    Closed,
    /// Everything passes but metadata: no pod is known, and `--unknown-pod=open`.
    Open,
}

/// The writes that lead from `state` to `desired`. Numbers that are given out are noted in `names`.
#[must_use]
pub fn plan(state: &State, names: &mut Names, desired: &Desired) -> Vec<Action> {
    let atoms = Atoms::new(state, &desired.tables);
    let mut sets = SetIds::new(state);
    let direct = Numbering::direct(state, &atoms);
    let cells = Cells::new(names, &mut sets, &desired.tables, &direct);
    let (numbering, cells, ids) = match keep_policies(state, names, desired, &direct, &cells) {
        Some(ids) => (direct, cells, ids),
        None => {
            let staged = Numbering::staged(state, &atoms);
            let cells = Cells::new(names, &mut sets, &desired.tables, &staged);
            let ids = match_policies(state, names, desired, &staged, &cells);
            (staged, cells, ids)
        }
    };
    for (index, id) in ids.iter().enumerate() {
        names.set_isolated_by(*id, &desired.tables.policies[index].isolated_by);
    }
    let mut writer = Writer {
        after: state.clone(),
        actions: Vec::new(),
    };
    writer.endpoints_gone(desired);
    writer.leaves(desired, &sets);
    writer.rows_of_fresh_identities(state, &numbering, &cells, &ids);
    writer.addresses(&atoms, &numbering.staged);
    writer.config(desired, true);
    writer.policies(state, &cells, &ids);
    writer.endpoints(state, desired, &atoms, &numbering, &ids);
    writer.settle(desired, &atoms, &numbering);
    writer.actions
}

/// The prefix of all mapped addresses.
const ALL_V4: Prefix = (96, addr::mapped([0; 4]));

/// The smallest sets of addresses on which old and new tables both agree: exact addresses, prefixes (without what is longer), the rest of the world.
struct Atoms {
    /// Address -> (identity in force, wanted class).
    addresses: BTreeMap<Addr, (u32, ClassIx)>,
    /// Prefix likewise.
    prefixes: BTreeMap<Prefix, (u32, ClassIx)>,
    /// Prefixes that the wanted tables have.
    wanted_prefixes: BTreeSet<Prefix>,
    /// Addresses that the wanted tables have.
    wanted_addresses: BTreeSet<Addr>,
}

impl Atoms {
    fn new(state: &State, tables: &Tables) -> Self {
        let mut classes: BTreeMap<Prefix, ClassIx> = tables
            .prefixes
            .iter()
            .map(|(net, class)| (prefix(net), *class))
            .collect();
        // A prefix like ::/0 must not catch IPv4, which the kernel sees mapped into it (policy-spec A8).
        if classes
            .keys()
            .any(|(length, addr)| *length < ALL_V4.0 && masked(&ALL_V4.1, *length) == *addr)
        {
            classes.entry(ALL_V4).or_insert(0);
        }
        let wanted: BTreeMap<Addr, ClassIx> = tables
            .addresses
            .iter()
            .map(|(address, class)| (address_bytes(*address), *class))
            .collect();
        let (old, new) = (Longest::new(&state.cidrs), Longest::new(&classes));
        let pair = |addr: &Addr, length: u32| {
            (
                old.find(addr, length).copied().unwrap_or(WORLD),
                new.find(addr, length).copied().unwrap_or(0),
            )
        };
        let prefixes = state
            .cidrs
            .keys()
            .chain(classes.keys())
            .map(|prefix| (*prefix, pair(&prefix.1, prefix.0)))
            .collect();
        let addresses = state
            .peers
            .keys()
            .chain(wanted.keys())
            .map(|addr| {
                let identity = state
                    .peers
                    .get(addr)
                    .copied()
                    .unwrap_or_else(|| old.find(addr, 128).copied().unwrap_or(WORLD));
                let class = wanted
                    .get(addr)
                    .copied()
                    .unwrap_or_else(|| new.find(addr, 128).copied().unwrap_or(0));
                (*addr, (identity, class))
            })
            .collect();
        Self {
            addresses,
            prefixes,
            wanted_prefixes: classes.into_keys().collect(),
            wanted_addresses: wanted.into_keys().collect(),
        }
    }

    /// How many atoms each pair has. The world's own is always there.
    fn pairs(&self) -> BTreeMap<(u32, ClassIx), usize> {
        let mut pairs = BTreeMap::from([((WORLD, 0), usize::MAX / 2)]);
        for pair in self.addresses.values().chain(self.prefixes.values()) {
            *pairs.entry(*pair).or_default() += 1;
        }
        pairs
    }
}

/// Which number each pair of old identity and new class has on the way, and each class at the end.
struct Numbering {
    staged: BTreeMap<(u32, ClassIx), u32>,
    last: BTreeMap<ClassIx, u32>,
    /// Class of every number in `staged` and `last`.
    classes: BTreeMap<u32, ClassIx>,
    /// Numbers that were not in use, and the old identity whose verdicts they start with; `None` = nobody has them before their rows stand.
    fresh: BTreeMap<u32, Option<u32>>,
}

impl Numbering {
    /// Each class keeps the number of most of its atoms, if no other class has more of that identity.
    fn last(
        state: &State,
        atoms: &Atoms,
    ) -> (BTreeMap<u32, ClassIx>, BTreeMap<ClassIx, u32>, Free) {
        let pairs = atoms.pairs();
        let mut by_size: Vec<_> = pairs
            .iter()
            .map(|((identity, class), size)| (std::cmp::Reverse(*size), *identity, *class))
            .collect();
        by_size.sort_unstable();
        let mut kept = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (_, identity, class) in by_size {
            if !kept.contains_key(&identity) {
                kept.insert(identity, class);
                last.entry(class).or_insert(identity);
            }
        }
        let mut free = Free::new(
            state
                .policies
                .values()
                .flat_map(|policy| policy.rows.keys())
                .chain(state.peers.values())
                .chain(state.cidrs.values()),
            WORLD + 1,
        );
        for (_, class) in pairs.keys() {
            last.entry(*class).or_insert_with(|| free.take());
        }
        (kept, last, free)
    }

    fn direct(state: &State, atoms: &Atoms) -> Self {
        let (_, last, _) = Self::last(state, atoms);
        let used = used_identities(state);
        let fresh = last
            .values()
            .filter(|number| !used.contains(number))
            .map(|number| (*number, None))
            .collect();
        let staged = atoms
            .pairs()
            .into_keys()
            .map(|(identity, class)| ((identity, class), last[&class]))
            .collect();
        Self {
            staged,
            classes: invert(&last),
            last,
            fresh,
        }
    }

    fn staged(state: &State, atoms: &Atoms) -> Self {
        let (kept, last, mut free) = Self::last(state, atoms);
        let used = used_identities(state);
        let mut fresh: BTreeMap<u32, Option<u32>> = last
            .values()
            .filter(|number| !used.contains(number))
            .map(|number| (*number, None))
            .collect();
        let mut staged = BTreeMap::new();
        for (identity, class) in atoms.pairs().into_keys() {
            let number = if kept.get(&identity) == Some(&class) {
                identity
            } else if let Some(None) = fresh.get(&last[&class]) {
                // The class's own number is new: the first part to arrive may use it at once.
                fresh.insert(last[&class], Some(identity));
                last[&class]
            } else {
                let number = free.take();
                fresh.insert(number, Some(identity));
                number
            };
            staged.insert((identity, class), number);
        }
        let mut of_number = invert(&last);
        of_number.extend(staged.iter().map(|((_, class), number)| (*number, *class)));
        Self {
            staged,
            last,
            classes: of_number,
            fresh,
        }
    }
}

fn invert(last: &BTreeMap<ClassIx, u32>) -> BTreeMap<u32, ClassIx> {
    last.iter()
        .map(|(class, number)| (*number, *class))
        .collect()
}

fn used_identities(state: &State) -> BTreeSet<u32> {
    state
        .peers
        .values()
        .chain(state.cidrs.values())
        .copied()
        .chain([WORLD])
        .collect()
}

/// Smallest numbers that are not in use.
struct Free {
    used: BTreeSet<u32>,
    next: u32,
}

impl Free {
    fn new<'a>(used: impl Iterator<Item = &'a u32>, first: u32) -> Self {
        Self {
            used: used.copied().collect(),
            next: first,
        }
    }

    fn take(&mut self) -> u32 {
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }
}

/// Ids of port sets by content.
struct SetIds {
    known: BTreeMap<PortSet, u32>,
    new: BTreeMap<u32, PortSet>,
    free: Free,
}

impl SetIds {
    fn new(state: &State) -> Self {
        Self {
            known: state
                .sets
                .iter()
                .map(|(id, set)| (set.clone(), *id))
                .collect(),
            new: BTreeMap::new(),
            free: Free::new(state.sets.keys(), 1),
        }
    }

    fn id(&mut self, set: PortSet) -> u32 {
        if let Some(id) = self.known.get(&set) {
            return *id;
        }
        let id = self.free.take();
        self.known.insert(set.clone(), id);
        self.new.insert(id, set);
        id
    }
}

/// The wanted policies in kernel numbers: for each, its default and the rows of all numbers in use.
struct Cells(Vec<PolicyState>);

impl Cells {
    fn new(names: &mut Names, sets: &mut SetIds, tables: &Tables, numbering: &Numbering) -> Self {
        let mut numbers: BTreeMap<ClassIx, Vec<u32>> = BTreeMap::new();
        for (number, class) in &numbering.classes {
            numbers.entry(*class).or_default().push(*number);
        }
        Self(
            tables
                .policies
                .iter()
                .map(|table| Self::policy(names, sets, table, &numbers))
                .collect(),
        )
    }

    fn policy(
        names: &mut Names,
        sets: &mut SetIds,
        table: &PolicyTable,
        numbers: &BTreeMap<ClassIx, Vec<u32>>,
    ) -> PolicyState {
        let mut rows = BTreeMap::new();
        for (class, cell) in &table.rows {
            let cell = cell_state(names, sets, cell);
            rows.extend(
                numbers
                    .get(class)
                    .into_iter()
                    .flatten()
                    .map(|number| (*number, cell)),
            );
        }
        PolicyState {
            default: Some(cell_state(names, sets, &table.default)),
            rows,
        }
    }
}

fn cell_state(names: &mut Names, sets: &mut SetIds, cell: &Cell) -> CellState {
    let mut verdict = |decision: &Decision| {
        let rule = decision.rule.as_ref().map_or(0, |rule| names.number(rule));
        (
            if decision.allow {
                action::ALLOW
            } else {
                action::DENY
            },
            rule,
        )
    };
    match cell {
        Cell::All(decision) => {
            let (action, rule) = verdict(decision);
            CellState::All(action, rule)
        }
        Cell::ByPort { ranges, otherwise } => {
            let ranges = ranges
                .iter()
                .map(|range| {
                    let (action, rule) = verdict(&range.decision);
                    (range.protocol, range.first, range.last, action, rule)
                })
                .collect();
            CellState::Ports(sets.id(PortSet {
                otherwise: verdict(otherwise),
                ranges,
            }))
        }
    }
}

/// The id of each wanted policy if no endpoint that stays has to change its own: then addresses can move directly.
fn keep_policies(
    state: &State,
    names: &Names,
    desired: &Desired,
    numbering: &Numbering,
    cells: &Cells,
) -> Option<Vec<u32>> {
    let ids = match_policies(state, names, desired, numbering, cells);
    let keeps = desired.endpoints.iter().all(|(ifindex, want)| {
        let Some(now) = state
            .endpoints
            .get(ifindex)
            .filter(|now| now.uid == want.uid)
        else {
            return true;
        };
        let (ingress, egress) = policy_ids(want, &ids);
        now.ingress == ingress && now.egress == egress
    });
    keeps.then_some(ids)
}

/// Gives each wanted policy the id of one in force that says the same of every identity, preferably one that its endpoints have; else a new id.
fn match_policies(
    state: &State,
    names: &Names,
    desired: &Desired,
    numbering: &Numbering,
    cells: &Cells,
) -> Vec<u32> {
    let mut free = Free::new(
        state.policies.keys().chain(
            state
                .endpoints
                .values()
                .flat_map(policies_of)
                .collect::<Vec<_>>()
                .iter(),
        ),
        policy::id::FIRST,
    );
    let mut preferred: BTreeMap<PolicyIx, Vec<u32>> = BTreeMap::new();
    for (ifindex, want) in &desired.endpoints {
        if let (Some(now), WantPolicies::Compiled(wanted)) =
            (state.endpoints.get(ifindex), &want.policies)
        {
            for (index, id) in wanted
                .ingress
                .iter()
                .zip(now.ingress)
                .chain(wanted.egress.iter().zip(now.egress))
            {
                if let Some(index) = index {
                    preferred.entry(*index).or_default().push(id);
                }
            }
        }
    }
    let mut taken = BTreeSet::new();
    let mut ids = Vec::with_capacity(cells.0.len());
    for (index, wanted) in cells.0.iter().enumerate() {
        let isolated_by = &desired.tables.policies[index].isolated_by;
        let candidates = preferred
            .get(&(index as PolicyIx))
            .into_iter()
            .flatten()
            .chain(state.policies.keys());
        let found = candidates.copied().find(|id| {
            !taken.contains(id)
                && names.isolated_by(*id).is_none_or(|by| by == isolated_by)
                && state
                    .policies
                    .get(id)
                    .is_some_and(|now| says_the_same(now, wanted, numbering))
        });
        let id = found.unwrap_or_else(|| free.take());
        taken.insert(id);
        ids.push(id);
    }
    ids
}

/// Whether a policy in force and a wanted one agree on every number. A fresh number counts as the identity that it starts from.
fn says_the_same(now: &PolicyState, wanted: &PolicyState, numbering: &Numbering) -> bool {
    now.default == wanted.default
        && numbering.classes.keys().all(|number| {
            let old = match numbering.fresh.get(number) {
                Some(None) => return true,
                Some(Some(parent)) => parent,
                None => number,
            };
            now.rows.get(old).or(now.default.as_ref())
                == wanted.rows.get(number).or(wanted.default.as_ref())
        })
}

fn policy_ids(want: &Want, ids: &[u32]) -> ([u32; 2], [u32; 2]) {
    match &want.policies {
        WantPolicies::Closed => ([policy::id::CLOSED; 2], [policy::id::CLOSED; 2]),
        WantPolicies::Open => ([policy::id::NONE; 2], [policy::id::NONE; 2]),
        WantPolicies::Compiled(wanted) => {
            let id = |index: Option<PolicyIx>| {
                index.map_or(policy::id::NONE, |index| ids[index as usize])
            };
            (wanted.ingress.map(id), wanted.egress.map(id))
        }
    }
}

/// Collects actions and what they lead to; a write that changes nothing is left out.
struct Writer {
    after: State,
    actions: Vec<Action>,
}

impl Writer {
    fn push(&mut self, action: Action) {
        self.after.apply(&action);
        self.actions.push(action);
    }

    fn endpoints_gone(&mut self, desired: &Desired) {
        let gone: Vec<(u32, u16)> = self
            .after
            .endpoints
            .iter()
            .filter(|(ifindex, now)| {
                desired
                    .endpoints
                    .get(ifindex)
                    .is_none_or(|want| want.uid != now.uid)
            })
            .map(|(ifindex, now)| (*ifindex, now.slot))
            .collect();
        for (ifindex, slot) in gone {
            // An interface that another pod has taken over is rewritten below, in one write.
            if !desired.endpoints.contains_key(&ifindex) {
                self.push(Action::DropEndpoint { ifindex });
            }
            let generation = self
                .after
                .slots
                .get(&slot)
                .copied()
                .unwrap_or(0)
                .wrapping_add(1);
            self.push(Action::PutSlot { slot, generation });
        }
    }

    fn leaves(&mut self, desired: &Desired, sets: &SetIds) {
        for (id, set) in &sets.new {
            self.push(Action::PutSet {
                id: *id,
                set: set.clone(),
            });
        }
        for service in desired.services.difference(&self.after.services.clone()) {
            self.push(Action::PutService { service: *service });
        }
        for (addr, own) in &desired.nodes {
            if self.after.nodes.get(addr) != Some(&if *own { 1 } else { 2 }) {
                self.push(Action::PutNode {
                    addr: *addr,
                    own: *own,
                });
            }
        }
        for id in desired.cgroups.difference(&self.after.cgroups.clone()) {
            self.push(Action::PutCgroup { id: *id });
        }
    }

    /// Under policies in force a fresh number gets its parent's cell, or where it has none (`direct`) the wanted one.
    fn rows_of_fresh_identities(
        &mut self,
        state: &State,
        numbering: &Numbering,
        cells: &Cells,
        ids: &[u32],
    ) {
        let in_use: BTreeSet<u32> = state.endpoints.values().flat_map(policies_of).collect();
        let wanted: BTreeMap<u32, &PolicyState> = ids.iter().copied().zip(&cells.0).collect();
        for (id, now) in &state.policies {
            for (number, parent) in &numbering.fresh {
                let cell = match parent {
                    Some(parent) if in_use.contains(id) || wanted.contains_key(id) => {
                        now.rows.get(parent)
                    }
                    None => wanted.get(id).and_then(|wanted| wanted.rows.get(number)),
                    Some(_) => None,
                };
                if let Some(cell) = cell
                    && self
                        .after
                        .policies
                        .get(id)
                        .and_then(|policy| policy.rows.get(number))
                        != Some(cell)
                {
                    self.push(Action::PutRow {
                        policy: *id,
                        identity: *number,
                        cell: *cell,
                    });
                }
            }
        }
    }

    fn addresses(&mut self, atoms: &Atoms, staged: &BTreeMap<(u32, ClassIx), u32>) {
        for (prefix, pair) in &atoms.prefixes {
            let known = self.after.cidrs.get(prefix).copied();
            // A prefix that is new to the kernel may stand only for what it stood for.
            if known != Some(staged[pair])
                && (known.is_some() || atoms.wanted_prefixes.contains(prefix))
            {
                self.push(Action::PutCidr {
                    prefix: *prefix,
                    identity: staged[pair],
                });
            }
        }
        for (addr, pair) in &atoms.addresses {
            if self.after.peers.get(addr) != Some(&staged[pair]) {
                self.push(Action::PutPeer {
                    addr: *addr,
                    identity: staged[pair],
                });
            }
        }
    }

    /// Settings; `widening` = before the swap, when what is only in the old tables still counts.
    fn config(&mut self, desired: &Desired, widening: bool) {
        let mut config = desired.config;
        let services =
            !self.after.services.is_empty() && (widening || !desired.services.is_empty());
        config.flags &= !(config_flags::SERVICES | config_flags::CIDRS);
        config.flags |= if services { config_flags::SERVICES } else { 0 };
        config.flags |= if self.after.cidrs.is_empty() {
            0
        } else {
            config_flags::CIDRS
        };
        if config != self.after.config {
            self.push(Action::PutConfig { config });
        }
    }

    fn policies(&mut self, state: &State, cells: &Cells, ids: &[u32]) {
        for (id, wanted) in ids.iter().zip(&cells.0) {
            if state.policies.contains_key(id) {
                continue;
            }
            for (identity, cell) in &wanted.rows {
                if Some(cell) != wanted.default.as_ref() {
                    self.push(Action::PutRow {
                        policy: *id,
                        identity: *identity,
                        cell: *cell,
                    });
                }
            }
            if let Some(cell) = wanted.default {
                self.push(Action::PutDefault { policy: *id, cell });
            }
        }
    }

    fn endpoints(
        &mut self,
        state: &State,
        desired: &Desired,
        atoms: &Atoms,
        numbering: &Numbering,
        ids: &[u32],
    ) {
        // Where an address moved straight to another identity, whoever tells the two apart has to look at its open connections again.
        let moved: BTreeSet<(u32, u32)> = atoms
            .addresses
            .values()
            .chain(atoms.prefixes.values())
            .map(|pair| (pair.0, numbering.staged[pair]))
            .filter(|(from, to)| from != to && !matches!(numbering.fresh.get(to), Some(Some(_))))
            .collect();
        for (ifindex, want) in &desired.endpoints {
            let now = state
                .endpoints
                .get(ifindex)
                .filter(|now| now.uid == want.uid);
            let (ingress, egress) = policy_ids(want, ids);
            let mut endpoint = Endpoint {
                v4: want.addresses[addr::V4],
                v6: want.addresses[addr::V6],
                ingress,
                egress,
                flags: want.flags,
                uid: want.uid,
                ..now.copied().unwrap_or_default()
            };
            if let Some(now) = now {
                let tells_apart = policies_of(now).any(|id| self.tells_apart(id, &moved));
                if endpoint != *now || tells_apart {
                    endpoint.revision = now.revision.wrapping_add(1);
                    self.push(Action::PutEndpoint {
                        ifindex: *ifindex,
                        endpoint,
                    });
                }
                continue;
            }
            let Some(slot) = self.free_slot() else {
                continue;
            };
            let generation = self
                .after
                .slots
                .get(&slot)
                .copied()
                .unwrap_or(0)
                .wrapping_add(1);
            self.push(Action::PutSlot { slot, generation });
            endpoint.slot = slot;
            endpoint.generation = generation as u8;
            endpoint.revision = 1;
            self.push(Action::PutEndpoint {
                ifindex: *ifindex,
                endpoint,
            });
        }
    }

    fn tells_apart(&self, policy: u32, moved: &BTreeSet<(u32, u32)>) -> bool {
        let Some(policy) = self.after.policies.get(&policy) else {
            return false;
        };
        moved.iter().any(|(from, to)| {
            policy.rows.get(from).or(policy.default.as_ref())
                != policy.rows.get(to).or(policy.default.as_ref())
        })
    }

    /// A slot that nobody has; of those that were used before, the one with the fewest generations, so that numbers come back as late as possible.
    fn free_slot(&self) -> Option<u16> {
        let taken: BTreeSet<u16> = self
            .after
            .endpoints
            .values()
            .map(|endpoint| endpoint.slot)
            .collect();
        (1..SLOTS as u16)
            .filter(|slot| !taken.contains(slot))
            .min_by_key(|slot| (self.after.slots.get(slot).copied().unwrap_or(0), *slot))
    }

    /// Steps 5 and 6.
    fn settle(&mut self, desired: &Desired, atoms: &Atoms, numbering: &Numbering) {
        let mut moves = Vec::new();
        for (prefix, pair) in &atoms.prefixes {
            let last = numbering.last[&pair.1];
            if !atoms.wanted_prefixes.contains(prefix) {
                if self.after.cidrs.contains_key(prefix) {
                    moves.push(Action::DropCidr { prefix: *prefix });
                }
            } else if self.after.cidrs.get(prefix) != Some(&last) {
                moves.push(Action::PutCidr {
                    prefix: *prefix,
                    identity: last,
                });
            }
        }
        for (addr, pair) in &atoms.addresses {
            let last = numbering.last[&pair.1];
            if !atoms.wanted_addresses.contains(addr) {
                moves.push(Action::DropPeer { addr: *addr });
            } else if self.after.peers.get(addr) != Some(&last) {
                moves.push(Action::PutPeer {
                    addr: *addr,
                    identity: last,
                });
            }
        }
        self.behind_barrier(moves);
        let mut removals = Vec::new();
        let in_use: BTreeSet<u32> = self
            .after
            .endpoints
            .values()
            .flat_map(policies_of)
            .collect();
        let identities: BTreeSet<u32> = used_identities(&self.after);
        for (id, policy) in &self.after.policies {
            let unused = !in_use.contains(id);
            for identity in policy.rows.keys() {
                if unused || !identities.contains(identity) {
                    removals.push(Action::DropRow {
                        policy: *id,
                        identity: *identity,
                    });
                }
            }
            if unused && policy.default.is_some() {
                removals.push(Action::DropDefault { policy: *id });
            }
        }
        let sets: BTreeSet<u32> = self
            .after
            .policies
            .iter()
            .filter(|(id, _)| in_use.contains(id))
            .flat_map(|(_, policy)| {
                policy
                    .rows
                    .iter()
                    .filter(|(identity, _)| identities.contains(identity))
                    .map(|(_, cell)| cell)
                    .chain(&policy.default)
            })
            .filter_map(|cell| {
                if let CellState::Ports(set) = cell {
                    Some(*set)
                } else {
                    None
                }
            })
            .collect();
        removals.extend(
            self.after
                .sets
                .keys()
                .filter(|id| !sets.contains(id))
                .map(|id| Action::DropSet { id: *id }),
        );
        removals.extend(
            self.after
                .services
                .difference(&desired.services)
                .map(|service| Action::DropService { service: *service }),
        );
        removals.extend(
            self.after
                .nodes
                .keys()
                .filter(|addr| !desired.nodes.contains_key(*addr))
                .map(|addr| Action::DropNode { addr: *addr }),
        );
        removals.extend(
            self.after
                .cgroups
                .difference(&desired.cgroups)
                .map(|id| Action::DropCgroup { id: *id }),
        );
        self.behind_barrier(removals);
        self.config(desired, false);
    }

    fn behind_barrier(&mut self, actions: Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        self.push(Action::Barrier);
        for action in actions {
            self.push(action);
        }
    }
}

/// The kernel's form of an address.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => addr::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The kernel's form of a prefix.
#[must_use]
pub fn prefix(net: &IpNet) -> Prefix {
    match net {
        IpNet::V4(net) => (
            96 + u32::from(net.prefix_len()),
            addr::mapped(net.network().octets()),
        ),
        IpNet::V6(net) => (u32::from(net.prefix_len()), net.network().octets()),
    }
}
