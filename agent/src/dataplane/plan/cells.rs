//! The wanted policies in the kernel's numbers: identities, rules, port sets.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::policy::action;
use portcullis_policy::tables::{Cell, ClassIx, Decision, PolicyIx, PolicyTable};

use super::super::names::Names;
use super::super::state::{CellState, PolicyState, PortSet, State};
use super::numbering::{Free, Numbering};
use super::{Desired, WantPolicies};

/// Ids of port sets by content.
pub(super) struct SetIds {
    known: BTreeMap<PortSet, u32>,
    pub(super) new: BTreeMap<u32, PortSet>,
    free: Free,
}

impl SetIds {
    pub(super) fn new(state: &State) -> Self {
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

/// The wanted policies that an endpoint obeys, in kernel numbers: for each, its default and the rows of all numbers in use.
pub(super) struct Cells(pub(super) BTreeMap<PolicyIx, PolicyState>);

impl Cells {
    pub(super) fn new(
        names: &mut Names,
        sets: &mut SetIds,
        desired: &Desired,
        numbering: &Numbering,
    ) -> Self {
        let mut numbers: BTreeMap<ClassIx, Vec<u32>> = BTreeMap::new();
        for (number, class) in &numbering.classes {
            numbers.entry(*class).or_default().push(*number);
        }
        let obeyed: BTreeSet<PolicyIx> = desired
            .endpoints
            .values()
            .filter_map(|want| match &want.policies {
                WantPolicies::Compiled(obeys) => Some(obeys.ingress.iter().chain(&obeys.egress)),
                WantPolicies::Closed | WantPolicies::Open => None,
            })
            .flatten()
            .flatten()
            .copied()
            .collect();
        let mut policy = |index: PolicyIx| {
            let table = &desired.tables.policies[index as usize];
            (index, Self::policy(names, sets, table, &numbers))
        };
        Self(obeyed.into_iter().map(&mut policy).collect())
    }

    fn policy(
        names: &mut Names,
        sets: &mut SetIds,
        table: &PolicyTable,
        numbers: &BTreeMap<ClassIx, Vec<u32>>,
    ) -> PolicyState {
        let mut rows = BTreeMap::new();
        for (class, cell) in &table.rows {
            if let Some(numbers) = numbers.get(class) {
                let cell = cell_state(names, sets, cell);
                rows.extend(numbers.iter().map(|number| (*number, cell)));
            }
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
