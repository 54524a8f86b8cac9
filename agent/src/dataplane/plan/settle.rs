//! Steps 5 and 6 of a plan: addresses settle on their final identities, and what nobody uses any more goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::state::{Action, State, policies_of};
use super::Desired;
use super::atoms::Atoms;
use super::numbering::Numbering;
use super::writer::Writer;

impl Writer {
    /// What a plan that was cut short has left behind. Without this, one that fails again and again would fill the tables with its beginnings.
    pub(super) fn leftovers(&mut self) {
        self.behind_barrier(unused(&self.after));
    }

    /// Steps 5 and 6.
    pub(super) fn settle(&mut self, desired: &Desired, atoms: &Atoms, numbering: &Numbering) {
        let last = numbering.last_by_place(atoms);
        let staged = numbering.staged_by_place(atoms);
        let goes_on = |pair: usize| staged[pair] != last[pair];
        let mut moves = Vec::new();
        for atom in &atoms.prefixes {
            let (prefix, pair) = (atom.at, atom.pair as usize);
            if !atom.is_wanted {
                if atom.is_known {
                    moves.push(Action::DropCidr { prefix });
                }
            } else if goes_on(pair) {
                let identity = last[pair];
                moves.push(Action::PutCidr { prefix, identity });
            }
        }
        for atom in &atoms.addresses {
            let (addr, pair) = (atom.at, atom.pair as usize);
            if !atom.is_wanted {
                moves.push(Action::DropPeer { addr });
            } else if goes_on(pair) {
                let identity = last[pair];
                moves.push(Action::PutPeer { addr, identity });
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
    let without_members: Vec<u32> = state.identities_without_members().collect();
    for (id, policy) in state.policies() {
        let drop_row = |identity: &u32| Action::DropRow {
            policy: *id,
            identity: *identity,
        };
        if in_use.contains(id) {
            let gone = without_members.iter();
            let gone = gone.filter(|identity| policy.rows.contains_key(*identity));
            removals.extend(gone.map(drop_row));
        } else {
            removals.extend(policy.rows.keys().map(drop_row));
            removals.extend(policy.default.map(|_| Action::DropDefault { policy: *id }));
        }
    }
    let mut after = state.clone();
    for action in &removals {
        after.apply(action);
    }
    removals.extend(after.unused_sets().map(|(id, set)| Action::DropSet {
        id,
        set: Arc::clone(set),
    }));
    removals
}
