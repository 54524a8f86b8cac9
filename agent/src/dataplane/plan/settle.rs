//! Steps 5 and 6 of a plan: addresses settle on their final identities, and what nobody uses any more goes.

use std::collections::BTreeSet;

use super::super::state::{Action, CellState, State, policies_of};
use super::Desired;
use super::atoms::Atoms;
use super::numbering::{Numbering, used_identities};
use super::writer::Writer;

impl Writer {
    /// What a plan that was cut short has left behind. Without this, one that fails again and again would fill the tables with its beginnings.
    pub(super) fn leftovers(&mut self) {
        self.behind_barrier(unused(&self.after));
    }

    /// Steps 5 and 6.
    pub(super) fn settle(&mut self, desired: &Desired, atoms: &Atoms, numbering: &Numbering) {
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
        let mut removals = unused(&self.after);
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

/// Rows, policies and port sets that no packet can reach: identities without addresses, policies without endpoints.
fn unused(state: &State) -> Vec<Action> {
    let mut removals = Vec::new();
    let in_use: BTreeSet<u32> = state.endpoints.values().flat_map(policies_of).collect();
    let identities: BTreeSet<u32> = used_identities(state);
    for (id, policy) in &state.policies {
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
    let sets: BTreeSet<u32> = state
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
        state
            .sets
            .keys()
            .filter(|id| !sets.contains(id))
            .map(|id| Action::DropSet { id: *id }),
    );
    removals
}
