//! What is in the kernel's tables, as a value: the planner reads it, the executor keeps it true, a fresh agent reads it back from the pins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use portcullis_common::abi::{Cell, Config, Endpoint, L4Set, ServiceKey};
use portcullis_common::addr::Addr;
use portcullis_common::policy::{self, Decision, Lookup, WORLD, action};
use portcullis_policy::shared::Shared;

use uses::Uses;

mod uses;

/// A prefix of mapped addresses: length in bits, network address.
pub type Prefix = (u32, Addr);

/// Destination ports of a set: protocol, first and last port, [`action`], rule.
pub type PortRange = (u8, u16, u16, u32, u32);

/// A port set: its verdict for what no range holds, and disjoint ranges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    /// [`action`] and rule for what no range holds.
    pub otherwise: (u32, u32),
    /// Sorted, disjoint.
    pub ranges: Vec<PortRange>,
}

/// The kernel's copy of one compiled policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// The cell for identities without a row.
    pub default: Option<CellState>,
    /// Identity -> cell.
    pub rows: BTreeMap<u32, CellState>,
}

/// A cell without its kernel form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellState {
    /// One verdict: [`action`] and rule.
    All(u32, u32),
    /// A port set by id.
    Ports(u32),
}

impl From<CellState> for Cell {
    fn from(cell: CellState) -> Self {
        match cell {
            CellState::All(action, rule) => Self {
                action,
                rule_or_set: rule,
                valid: 1,
            },
            CellState::Ports(set) => Self {
                action: action::BY_PORT,
                rule_or_set: set,
                valid: 1,
            },
        }
    }
}

impl From<Cell> for CellState {
    fn from(cell: Cell) -> Self {
        if cell.action == action::BY_PORT {
            Self::Ports(cell.rule_or_set)
        } else {
            Self::All(cell.action, cell.rule_or_set)
        }
    }
}

/// Everything that the agent writes. A copy shares what it has with the original: a plan begins with one.
#[derive(Clone, Debug, Default)]
pub struct State {
    peers: OrdMap<Addr, u32>,
    cidrs: OrdMap<Prefix, u32>,
    policies: BTreeMap<u32, Arc<PolicyState>>,
    sets: Shared<BTreeMap<u32, Arc<PortSet>>>,
    /// The same, found by content.
    set_ids: Shared<BTreeMap<Arc<PortSet>, u32>>,
    uses: Uses,
    /// `pc_endpoints`.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// `pc_slots`: generation of every slot that was ever used.
    pub slots: BTreeMap<u16, u32>,
    /// `pc_services`.
    pub services: Shared<BTreeSet<(Addr, u16, u8)>>,
    /// `pc_nodes`.
    pub nodes: Shared<BTreeMap<Addr, u32>>,
    /// `pc_cgroups`.
    pub cgroups: BTreeSet<u64>,
    /// `pc_config`.
    pub config: Config,
}

/// One write. What can be half done (a spilled port set) is ordered inside so that nothing refers to the missing half.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is a map write under the field's own name"
)]
pub enum Action {
    PutSet {
        id: u32,
        set: Arc<PortSet>,
    },
    DropSet {
        id: u32,
        set: Arc<PortSet>,
    },
    PutRow {
        policy: u32,
        identity: u32,
        cell: CellState,
    },
    DropRow {
        policy: u32,
        identity: u32,
    },
    PutDefault {
        policy: u32,
        cell: CellState,
    },
    DropDefault {
        policy: u32,
    },
    PutPeer {
        addr: Addr,
        identity: u32,
    },
    DropPeer {
        addr: Addr,
    },
    PutCidr {
        prefix: Prefix,
        identity: u32,
    },
    DropCidr {
        prefix: Prefix,
    },
    PutSlot {
        slot: u16,
        generation: u32,
    },
    PutEndpoint {
        ifindex: u32,
        endpoint: Endpoint,
    },
    DropEndpoint {
        ifindex: u32,
    },
    PutService {
        service: (Addr, u16, u8),
    },
    DropService {
        service: (Addr, u16, u8),
    },
    PutNode {
        addr: Addr,
        own: bool,
    },
    DropNode {
        addr: Addr,
    },
    PutCgroup {
        id: u64,
    },
    DropCgroup {
        id: u64,
    },
    PutConfig {
        config: Config,
    },
    /// Wait until no program runs that began before: what was unlinked above may be removed or reused below.
    Barrier,
}

impl fmt::Display for Action {
    /// On one line, however large a port set is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutSet { id, set } => {
                write!(f, "port set {id} of {} ranges", set.ranges.len())
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl State {
    /// `pc_peers`.
    #[must_use]
    pub fn peers(&self) -> &OrdMap<Addr, u32> {
        &self.peers
    }

    /// `pc_cidrs`.
    #[must_use]
    pub fn cidrs(&self) -> &OrdMap<Prefix, u32> {
        &self.cidrs
    }

    /// `pc_policies` and `pc_policy`.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<u32, Arc<PolicyState>> {
        &self.policies
    }

    /// `pc_l4sets` and `pc_l4lpm`.
    #[must_use]
    pub fn sets(&self) -> &BTreeMap<u32, Arc<PortSet>> {
        &self.sets
    }

    /// The port set with this content.
    #[must_use]
    pub fn set_id(&self, set: &PortSet) -> Option<u32> {
        self.set_ids.get(set).copied()
    }

    /// Identities that an address or a prefix has, ascending, and the world.
    pub fn identities(&self) -> impl Iterator<Item = u32> {
        self.uses.identities()
    }

    /// Whether an address or a prefix has the identity, or it is the world's.
    #[must_use]
    pub fn has_identity(&self, identity: u32) -> bool {
        self.uses.has_identity(identity)
    }

    /// Identities that rows are about and nobody has, ascending.
    pub fn identities_without_members(&self) -> impl Iterator<Item = u32> {
        self.uses.without_members()
    }

    /// Port sets that no cell refers to.
    pub fn unused_sets(&self) -> impl Iterator<Item = (u32, &Arc<PortSet>)> {
        self.sets
            .iter()
            .filter(|(id, _)| !self.uses.has_set(**id))
            .map(|(id, set)| (*id, set))
    }

    /// Notes a write that succeeded.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::PutSet { id, set } => {
                self.forget_set(*id);
                self.sets.insert(*id, Arc::clone(set));
                self.set_ids.insert(Arc::clone(set), *id);
            }
            Action::DropSet { id, .. } => self.forget_set(*id),
            Action::PutRow {
                policy,
                identity,
                cell,
            } => {
                let state = self.policies.entry(*policy).or_default();
                let before = Arc::make_mut(state).rows.insert(*identity, *cell);
                self.uses.row(*identity, before.is_some(), true);
                self.uses.cell(before, Some(*cell));
            }
            Action::DropRow { policy, identity } => {
                let state = self.policies.get_mut(policy);
                let before = state.and_then(|state| Arc::make_mut(state).rows.remove(identity));
                self.uses.row(*identity, before.is_some(), false);
                self.uses.cell(before, None);
                self.forget_if_empty(*policy);
            }
            Action::PutDefault { policy, cell } => {
                let state = Arc::make_mut(self.policies.entry(*policy).or_default());
                let before = state.default.replace(*cell);
                self.uses.cell(before, Some(*cell));
            }
            Action::DropDefault { policy } => {
                let state = self.policies.get_mut(policy);
                let before = state.and_then(|state| Arc::make_mut(state).default.take());
                self.uses.cell(before, None);
                self.forget_if_empty(*policy);
            }
            Action::PutPeer { addr, identity } => {
                let before = self.peers.insert(*addr, *identity);
                self.uses.member(before, Some(*identity));
            }
            Action::DropPeer { addr } => {
                let before = self.peers.remove(addr);
                self.uses.member(before, None);
            }
            Action::PutCidr { prefix, identity } => {
                let before = self.cidrs.insert(*prefix, *identity);
                self.uses.member(before, Some(*identity));
            }
            Action::DropCidr { prefix } => {
                let before = self.cidrs.remove(prefix);
                self.uses.member(before, None);
            }
            Action::PutSlot { slot, generation } => drop(self.slots.insert(*slot, *generation)),
            Action::PutEndpoint { ifindex, endpoint } => {
                self.endpoints.insert(*ifindex, *endpoint);
            }
            Action::DropEndpoint { ifindex } => drop(self.endpoints.remove(ifindex)),
            Action::PutService { service } => drop(self.services.insert(*service)),
            Action::DropService { service } => drop(self.services.remove(service)),
            Action::PutNode { addr, own } => {
                self.nodes.insert(*addr, if *own { 1 } else { 2 });
            }
            Action::DropNode { addr } => drop(self.nodes.remove(addr)),
            Action::PutCgroup { id } => drop(self.cgroups.insert(*id)),
            Action::DropCgroup { id } => drop(self.cgroups.remove(id)),
            Action::PutConfig { config } => self.config = *config,
            Action::Barrier => {}
        }
    }

    /// Whether something passes by the one cell and not by the other.
    #[must_use]
    pub fn allows_less(&self, before: Option<&CellState>, after: Option<&CellState>) -> bool {
        if before == after {
            return false;
        }
        let set = |cell: Option<&CellState>| match cell {
            Some(CellState::Ports(id)) => self.sets.get(id).cloned(),
            Some(CellState::All(action, rule)) => Some(Arc::new(PortSet {
                otherwise: (*action, *rule),
                ranges: Vec::new(),
            })),
            None => None,
        };
        match (set(before), set(after)) {
            (Some(before), Some(after)) => before.passes_more_than(&after),
            (before, _) => before.is_some(),
        }
    }

    fn forget_set(&mut self, id: u32) {
        // What is not there is not worth a copy of what is.
        if !self.sets.contains_key(&id) {
            return;
        }
        if let Some(set) = self.sets.remove(&id)
            && self.set_ids.get(&set) == Some(&id)
        {
            self.set_ids.remove(&set);
        }
    }

    fn forget_if_empty(&mut self, policy: u32) {
        if self
            .policies
            .get(&policy)
            .is_some_and(|state| state.default.is_none() && state.rows.is_empty())
        {
            self.policies.remove(&policy);
        }
    }

    /// The identity of an address that is not in `peers`.
    #[must_use]
    pub fn identity_by_prefix(&self, addr: &Addr) -> u32 {
        Longest::new(&self.cidrs)
            .find(addr, 128)
            .copied()
            .unwrap_or(WORLD)
    }
}

/// The same look-ups as the kernel's, for `explain --at-maps`, tests, and whoever asks what the kernel would say.
impl Lookup for State {
    fn identity(&self, addr: &Addr) -> u32 {
        self.peers
            .get(addr)
            .copied()
            .unwrap_or_else(|| self.identity_by_prefix(addr))
    }

    fn row(&self, policy: u32, identity: u32) -> Option<Cell> {
        self.policies
            .get(&policy)?
            .rows
            .get(&identity)
            .map(|cell| Cell::from(*cell))
    }

    fn default(&self, policy: u32) -> Option<Cell> {
        self.policies.get(&policy)?.default.map(Cell::from)
    }

    fn ports(&self, set: u32, protocol: u8, port: u16) -> Decision {
        let Some(set) = self.sets.get(&set) else {
            return Decision::NOT_READY;
        };
        let range = set
            .ranges
            .iter()
            .find(|(of, first, last, ..)| *of == protocol && *first <= port && port <= *last);
        range.map_or_else(
            || Decision::of(set.otherwise.0, set.otherwise.1),
            |(.., action, rule)| Decision::of(*action, *rule),
        )
    }
}

/// Longest-prefix look-ups in an ordered map: one probe for each prefix length in use.
pub struct Longest<'a, V> {
    map: &'a OrdMap<Prefix, V>,
    lengths: Vec<u32>,
}

impl<'a, V> Longest<'a, V> {
    /// Notes which lengths occur.
    #[must_use]
    pub fn new(map: &'a OrdMap<Prefix, V>) -> Self {
        let lengths: BTreeSet<u32> = map.keys().map(|(length, _)| *length).collect();
        Self {
            map,
            lengths: lengths.into_iter().rev().collect(),
        }
    }

    /// The value of the longest prefix of at most `at_most` bits that holds `addr`.
    #[must_use]
    pub fn find(&self, addr: &Addr, at_most: u32) -> Option<&'a V> {
        self.lengths
            .iter()
            .filter(|length| **length <= at_most)
            .find_map(|length| self.map.get(&(*length, masked(addr, *length))))
    }
}

/// `addr` with all but its first `length` bits cleared.
#[must_use]
pub fn masked(addr: &Addr, length: u32) -> Addr {
    let mask = if length == 0 {
        0
    } else {
        u128::MAX << (128 - length.min(128))
    };
    (u128::from_be_bytes(*addr) & mask).to_be_bytes()
}

impl PortSet {
    /// The array entry. `spilled` sets keep their ranges in the LPM table.
    #[must_use]
    pub fn record(&self) -> L4Set {
        let mut record = L4Set {
            otherwise: self.otherwise.0,
            otherwise_rule: self.otherwise.1,
            spilled: u32::from(self.is_spilled()),
            valid: 1,
            ..L4Set::default()
        };
        if !self.is_spilled() {
            for (slot, (protocol, first, last, action, rule)) in
                record.ranges.iter_mut().zip(&self.ranges)
            {
                slot.protocol = *protocol;
                slot.action = *action as u8;
                slot.first = *first;
                slot.last = *last;
                slot.source_last = u16::MAX;
                slot.rule = *rule;
            }
        }
        record
    }

    /// Whether something passes by this set and not by the other.
    #[must_use]
    pub fn passes_more_than(&self, other: &Self) -> bool {
        // Between two neighbouring ends of ranges both sets say the same of every port.
        let ranges = self.ranges.iter().chain(&other.ranges);
        let mut ends = ranges.flat_map(|(protocol, first, last, ..)| {
            let behind = last.checked_add(1);
            let ends = [Some(0), Some(*first), behind].into_iter().flatten();
            ends.map(move |port| (*protocol, port))
        });
        let passes = |set: &Self, (protocol, port)| set.action(protocol, port) == action::ALLOW;
        ends.any(|end| passes(self, end) && !passes(other, end))
            || self.otherwise.0 == action::ALLOW && other.otherwise.0 != action::ALLOW
    }

    fn action(&self, protocol: u8, port: u16) -> u32 {
        let behind = self
            .ranges
            .partition_point(|(of, first, ..)| (*of, *first) <= (protocol, port));
        let before = self.ranges[..behind].last();
        before
            .filter(|(of, _, last, ..)| *of == protocol && *last >= port)
            .map_or(self.otherwise.0, |(.., action, _)| *action)
    }

    /// Whether there are more ranges than fit inline.
    #[must_use]
    pub fn is_spilled(&self) -> bool {
        self.ranges.len() > portcullis_common::abi::INLINE_RANGES
    }

    /// How many entries it has in the LPM table.
    #[must_use]
    pub fn spilled(&self) -> usize {
        if self.is_spilled() {
            self.prefixes().count()
        } else {
            0
        }
    }

    /// The ranges as port prefixes: protocol, port, bits of the port that count, action, rule.
    pub fn prefixes(&self) -> impl Iterator<Item = (u8, u16, u32, u32, u32)> + '_ {
        self.ranges
            .iter()
            .flat_map(|(protocol, first, last, action, rule)| {
                port_prefixes(*first, *last)
                    .into_iter()
                    .map(move |(port, bits)| (*protocol, port, bits, *action, *rule))
            })
    }
}

/// Cuts `first..=last` into aligned blocks: port and prefix length of each.
fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut blocks = Vec::new();
    let mut at = u32::from(first);
    let end = u32::from(last) + 1;
    while at < end {
        let aligned = if at == 0 {
            16
        } else {
            at.trailing_zeros().min(16)
        };
        let fits = (end - at).ilog2();
        let bits = aligned.min(fits);
        blocks.push((at as u16, 16 - bits));
        at += 1 << bits;
    }
    blocks
}

/// Keys of `pc_services`.
#[must_use]
pub fn service_key((addr, port, protocol): (Addr, u16, u8)) -> ServiceKey {
    ServiceKey {
        addr,
        port,
        protocol,
        reserved: 0,
    }
}

/// Policies that endpoints refer to, and ids that nobody may take away from under them.
pub fn policies_of(endpoint: &Endpoint) -> impl Iterator<Item = u32> {
    let all = [
        endpoint.ingress,
        endpoint.egress,
        endpoint.pending_ingress,
        endpoint.pending_egress,
    ];
    all.into_iter()
        .flatten()
        .filter(|id| *id >= policy::id::FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_prefixes_cover_exactly_their_range() {
        for (first, last) in [
            (0, 65_535),
            (1, 65_535),
            (80, 80),
            (8000, 8999),
            (0, 0),
            (65_535, 65_535),
            (32_768, 60_999),
        ] {
            let mut covered = 0_u32;
            let mut next = u32::from(first);
            for (port, bits) in port_prefixes(first, last) {
                assert_eq!(u32::from(port), next);
                let size = 1 << (16 - bits);
                assert_eq!(u32::from(port) % size, 0);
                covered += size;
                next += size;
            }
            assert_eq!(covered, u32::from(last) - u32::from(first) + 1);
        }
    }

    #[test]
    fn a_set_passes_more_than_another_where_it_alone_has_a_port() {
        let set = |otherwise, ranges: &[(u8, u16, u16, u32)]| PortSet {
            otherwise: (otherwise, 0),
            ranges: ranges
                .iter()
                .map(|(protocol, first, last, action)| (*protocol, *first, *last, *action, 7))
                .collect(),
        };
        let nothing = set(action::DENY, &[]);
        let everything = set(action::ALLOW, &[]);
        let web = set(action::DENY, &[(6, 80, 80, action::ALLOW)]);
        let more = set(
            action::DENY,
            &[(6, 79, 79, action::ALLOW), (6, 80, 90, action::ALLOW)],
        );
        let other = set(action::DENY, &[(17, 0, u16::MAX, action::ALLOW)]);
        let but_web = set(action::ALLOW, &[(6, 80, 80, action::DENY)]);
        for (one, another, expected) in [
            (&nothing, &web, false),
            (&web, &nothing, true),
            (&web, &more, false),
            (&more, &web, true),
            (&web, &other, true),
            (&other, &everything, false),
            (&everything, &other, true),
            (&everything, &but_web, true),
            (&but_web, &everything, false),
            (&web, &but_web, true),
            (&other, &but_web, false),
            (&more, &but_web, true),
        ] {
            assert_eq!(
                one.passes_more_than(another),
                expected,
                "{one:?} {another:?}"
            );
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let addr = portcullis_common::addr::mapped([10, 1, 2, 3]);
        let map = OrdMap::from_iter([
            ((96 + 8, masked(&addr, 104)), 2),
            ((96 + 24, masked(&addr, 120)), 3),
        ]);
        let longest = Longest::new(&map);
        assert_eq!(longest.find(&addr, 128), Some(&3));
        assert_eq!(longest.find(&addr, 119), Some(&2));
        assert_eq!(longest.find(&[0x20; 16], 128), None);
    }
}
