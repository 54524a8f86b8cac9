//! Which policy in force says the same as a wanted one, so that an endpoint whose verdicts stay keeps its policy's id.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::policy;
use portcullis_policy::tables::PolicyIx;

use super::super::names::Names;
use super::super::state::{CellState, PolicyState, State, policies_of};
use super::cells::{Cells, Wanted};
use super::numbering::{Free, Numbering};
use super::{Desired, Want, WantPolicies};

/// The kernel's id of each wanted policy.
pub(super) type PolicyIds = BTreeMap<PolicyIx, u32>;

/// The id of each wanted policy if no endpoint that stays has to change its own: then addresses can move directly.
pub(super) fn keep_policies(
    state: &State,
    names: &Names,
    desired: &Desired,
    numbering: &Numbering,
    cells: &Cells,
) -> Option<PolicyIds> {
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
pub(super) fn match_policies(
    state: &State,
    names: &Names,
    desired: &Desired,
    numbering: &Numbering,
    cells: &Cells,
) -> PolicyIds {
    let obeyed = state.endpoints.values().flat_map(policies_of);
    let used = state.policies().keys().copied().chain(obeyed);
    let mut free = Free::new(used, policy::id::FIRST);
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
    let mut ids = PolicyIds::new();
    for (index, wanted) in &cells.0 {
        let isolated_by = &desired.tables.policies[*index as usize].isolated_by;
        let candidates = preferred
            .get(index)
            .into_iter()
            .flatten()
            .chain(state.policies().keys());
        let found = candidates.copied().find(|id| {
            !taken.contains(id)
                && names.isolated_by(*id).is_none_or(|by| by == isolated_by)
                && state
                    .policies()
                    .get(id)
                    .is_some_and(|now| says_the_same(now, wanted, numbering))
        });
        let id = found.unwrap_or_else(|| free.take());
        taken.insert(id);
        ids.insert(*index, id);
    }
    ids
}

/// Whether a policy in force and a wanted one agree on every number. A fresh number counts as the identity that it starts from.
fn says_the_same(now: &PolicyState, wanted: &Wanted, numbering: &Numbering) -> bool {
    if now.default != Some(wanted.default) {
        return false;
    }
    let differs = |(_, cell): &(u32, CellState)| *cell != wanted.default;
    let is_kept = |number: &u32| {
        numbering.classes.contains_key(number) && !numbering.fresh.contains_key(number)
    };
    let before = now.rows.iter().map(|(number, cell)| (*number, *cell));
    let before = before.filter(differs).filter(|(number, _)| is_kept(number));
    let after = wanted.rows.iter().copied();
    let after = after.filter(differs).filter(|(number, _)| is_kept(number));
    let fresh = numbering.fresh.iter();
    before.eq(after)
        && fresh
            .filter_map(|(number, parent)| Some((*number, (*parent)?)))
            .all(|(number, parent)| {
                let before = now.rows.get(&parent).copied().unwrap_or(wanted.default);
                before == wanted.row(number).unwrap_or(wanted.default)
            })
}

pub(super) fn policy_ids(want: &Want, ids: &PolicyIds) -> ([u32; 2], [u32; 2]) {
    match &want.policies {
        WantPolicies::Closed => ([policy::id::CLOSED; 2], [policy::id::CLOSED; 2]),
        WantPolicies::Open => ([policy::id::NONE; 2], [policy::id::NONE; 2]),
        WantPolicies::Compiled(wanted) => {
            let id = |index: Option<PolicyIx>| index.map_or(policy::id::NONE, |index| ids[&index]);
            (wanted.ingress.map(id), wanted.egress.map(id))
        }
    }
}
