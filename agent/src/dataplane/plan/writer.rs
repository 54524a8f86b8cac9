//! Steps 0 to 4 of a plan as writes: up to the swap. The list is in [`super`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_common::abi::{Endpoint, SLOTS, config_flags, endpoint_flags};
use portcullis_common::addr;
use portcullis_common::policy;

use super::super::state::{Action, PortSet, State, policies_of};
use super::Desired;
use super::atoms::Atoms;
use super::cells::{Cells, Wanted};
use super::matching::{PolicyIds, policy_ids};
use super::numbering::Numbering;

/// Collects actions and what they lead to; a write that changes nothing is left out.
pub(super) struct Writer {
    pub(super) after: State,
    pub(super) actions: Vec<Action>,
}

impl Writer {
    pub(super) fn new(state: &State) -> Self {
        Self {
            after: state.clone(),
            actions: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, action: Action) {
        self.after.apply(&action);
        self.actions.push(action);
    }

    pub(super) fn endpoints_gone(&mut self, desired: &Desired) {
        let gone: Vec<(u32, Endpoint)> = self
            .after
            .endpoints
            .iter()
            .filter(|(ifindex, now)| {
                desired
                    .endpoints
                    .get(ifindex)
                    .is_none_or(|want| want.uid != now.uid)
            })
            .map(|(ifindex, now)| (*ifindex, *now))
            .collect();
        for (ifindex, now) in gone {
            // An interface whose pod has become known is rewritten below, in one write. One that another pod has taken over is closed until then: it
            // must not obey its predecessor's policy.
            let unknown = now.flags & endpoint_flags::UNKNOWN != 0;
            if !unknown || !desired.endpoints.contains_key(&ifindex) {
                self.push(Action::DropEndpoint { ifindex });
            }
            self.next_generation(now.slot);
        }
    }

    /// What an earlier endpoint of the slot has opened is dead from here on.
    fn next_generation(&mut self, slot: u16) -> u32 {
        let last = self.after.slots.get(&slot).copied().unwrap_or(0);
        let generation = last.wrapping_add(1);
        self.push(Action::PutSlot { slot, generation });
        generation
    }

    pub(super) fn leaves(&mut self, desired: &Desired, sets: &BTreeMap<u32, Arc<PortSet>>) {
        for (id, set) in sets {
            self.push(Action::PutSet {
                id: *id,
                set: Arc::clone(set),
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
    pub(super) fn rows_of_fresh_identities(
        &mut self,
        state: &State,
        numbering: &Numbering,
        cells: &Cells,
        ids: &PolicyIds,
    ) {
        let in_use: BTreeSet<u32> = state.endpoints.values().flat_map(policies_of).collect();
        let wanted: BTreeMap<u32, &Wanted> = ids.values().copied().zip(cells.0.values()).collect();
        for (id, now) in state.policies() {
            for (number, parent) in &numbering.fresh {
                let cell = match parent {
                    Some(parent) if in_use.contains(id) || wanted.contains_key(id) => {
                        now.rows.get(parent).copied()
                    }
                    None => wanted.get(id).and_then(|wanted| wanted.row(*number)),
                    Some(_) => None,
                };
                let known = self.after.policies().get(id);
                if let Some(cell) = cell
                    && known.and_then(|policy| policy.rows.get(number)) != Some(&cell)
                {
                    self.push(Action::PutRow {
                        policy: *id,
                        identity: *number,
                        cell,
                    });
                }
            }
        }
    }

    /// Endpoints whose open connections have to be judged again: an address moves straight to an identity that their policy allows less than the one
    /// before, or an earlier agent did not get to the end of such moves. What it allows more has opened no connection yet.
    pub(super) fn stale(&self, atoms: &Atoms, numbering: &Numbering) -> BTreeSet<u32> {
        let pairs = atoms.list().zip(numbering.staged_by_place(atoms));
        let moved: BTreeSet<(u32, u32)> = pairs
            .map(|(pair, staged)| (pair.0, staged))
            .filter(|(from, to)| from != to && !matches!(numbering.fresh.get(to), Some(Some(_))))
            .collect();
        let cut_short = self.after.config.flags & config_flags::MOVING != 0;
        self.after
            .endpoints
            .iter()
            .filter(|(_, now)| cut_short || policies_of(now).any(|id| self.allows_less(id, &moved)))
            .map(|(ifindex, _)| *ifindex)
            .collect()
    }

    /// Says that moves have begun whose endpoints have no new revision yet.
    pub(super) fn moving(&mut self, stale: &BTreeSet<u32>) {
        let mut config = self.after.config;
        config.flags |= config_flags::MOVING;
        if !stale.is_empty() && config != self.after.config {
            self.push(Action::PutConfig { config });
        }
    }

    /// The order matters where an address moves straight to its identity: each meets what it stood for and then what it will stand for, never what
    /// a shorter prefix is about to mean. So exact addresses come first, then prefixes from long to short.
    pub(super) fn addresses(&mut self, atoms: &Atoms, numbering: &Numbering) {
        let staged = numbering.staged_by_place(atoms);
        let moves: Vec<bool> = std::iter::zip(atoms.list(), &staged)
            .map(|((identity, _), staged)| identity != *staged)
            .collect();
        let mut is_new = false;
        for atom in &atoms.addresses {
            let pair = atom.pair as usize;
            if moves[pair] || !atom.is_known {
                is_new |= !atom.is_known;
                self.push(Action::PutPeer {
                    addr: atom.at,
                    identity: staged[pair],
                });
            }
        }
        let mut cidrs = Vec::new();
        for atom in atoms.prefixes.iter().rev() {
            let pair = atom.pair as usize;
            // A prefix that is new to the kernel may stand only for what it stood for.
            if moves[pair] && atom.is_known || !atom.is_known && atom.is_wanted {
                cidrs.push(Action::PutCidr {
                    prefix: atom.at,
                    identity: staged[pair],
                });
            }
        }
        if is_new && !cidrs.is_empty() {
            // A program that has not found the address goes on to the prefixes.
            self.push(Action::Barrier);
        }
        for action in cidrs {
            self.push(action);
        }
    }

    /// Settings; `widening` = before the swap, when what is only in the old tables still counts.
    pub(super) fn config(&mut self, desired: &Desired, widening: bool) {
        let mut config = desired.config;
        let services =
            !self.after.services.is_empty() && (widening || !desired.services.is_empty());
        config.flags &= !(config_flags::SERVICES | config_flags::CIDRS | config_flags::MOVING);
        if widening {
            config.flags |= self.after.config.flags & config_flags::MOVING;
        }
        config.flags |= if services { config_flags::SERVICES } else { 0 };
        config.flags |= if self.after.cidrs().is_empty() {
            0
        } else {
            config_flags::CIDRS
        };
        if config != self.after.config {
            self.push(Action::PutConfig { config });
        }
    }

    pub(super) fn policies(&mut self, state: &State, cells: &Cells, ids: &PolicyIds) {
        for (id, wanted) in ids.values().zip(cells.0.values()) {
            if state.policies().contains_key(id) {
                continue;
            }
            for (identity, cell) in &wanted.rows {
                if *cell != wanted.default {
                    self.push(Action::PutRow {
                        policy: *id,
                        identity: *identity,
                        cell: *cell,
                    });
                }
            }
            self.push(Action::PutDefault {
                policy: *id,
                cell: wanted.default,
            });
        }
    }

    pub(super) fn endpoints(
        &mut self,
        state: &State,
        desired: &Desired,
        ids: &PolicyIds,
        stale: &BTreeSet<u32>,
    ) {
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
                if endpoint != *now || stale.contains(ifindex) {
                    endpoint.revision = now.revision.wrapping_add(1);
                    self.push(Action::PutEndpoint {
                        ifindex: *ifindex,
                        endpoint,
                    });
                }
                continue;
            }
            self.new_endpoint(*ifindex, endpoint);
        }
    }

    /// Gives an endpoint a slot and writes it. Without a free slot its interface stays closed.
    fn new_endpoint(&mut self, ifindex: u32, endpoint: Endpoint) {
        let mut slot = self.free_slot();
        if slot.is_none() && self.after.endpoints.contains_key(&ifindex) {
            self.push(Action::DropEndpoint { ifindex });
            slot = self.free_slot();
        }
        let Some(slot) = slot else {
            return;
        };
        let generation = self.next_generation(slot);
        self.push(Action::PutEndpoint {
            ifindex,
            endpoint: Endpoint {
                slot,
                generation: generation as u8,
                revision: 1,
                ..endpoint
            },
        });
    }

    /// Endpoints that have no version of their own, closed but for their node.
    pub(super) fn lock_down(&mut self, desired: &Desired) {
        for (ifindex, want) in &desired.endpoints {
            let now = self.after.endpoints.get(ifindex);
            if now.is_some_and(|now| now.uid == want.uid) {
                continue;
            }
            if now.is_some() {
                self.push(Action::DropEndpoint { ifindex: *ifindex });
            }
            self.new_endpoint(
                *ifindex,
                Endpoint {
                    v4: want.addresses[addr::V4],
                    v6: want.addresses[addr::V6],
                    ingress: [policy::id::CLOSED; 2],
                    egress: [policy::id::CLOSED; 2],
                    uid: want.uid,
                    ..Endpoint::default()
                },
            );
        }
    }

    fn allows_less(&self, policy: u32, moved: &BTreeSet<(u32, u32)>) -> bool {
        let Some(policy) = self.after.policies().get(&policy) else {
            return false;
        };
        let cell = |identity| policy.rows.get(identity).or(policy.default.as_ref());
        moved
            .iter()
            .any(|(from, to)| self.after.allows_less(cell(from), cell(to)))
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
}
