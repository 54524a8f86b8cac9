//! The wanted policies in the kernel's numbers: identities, rules, port sets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_common::policy::action;
use portcullis_policy::tables::{Cell, Decision, PolicyIx, PolicyTable};

use super::super::names::Names;
use super::super::state::{CellState, PortSet, State};
use super::numbering::{Free, Numbering};
use super::{Desired, WantPolicies};

/// Forms that are kept beyond twice as many as were in use when they were looked through.
const SPARE: usize = 1024;

/// What cells are in the kernel, kept from one plan to the next: most cells are the same records again.
#[derive(Debug, Default)]
pub(super) struct Forms {
    /// By the address of the cell, which stays alive.
    known: BTreeMap<usize, (Arc<Cell>, Form)>,
    limit: usize,
}

/// A cell, but for the number of its port set.
#[derive(Clone, Debug)]
enum Form {
    All(u32, u32),
    Ports(Arc<PortSet>),
}

impl Forms {
    fn of(&mut self, names: &mut Names, cell: &Arc<Cell>) -> &Form {
        let (_, form) = self
            .known
            .entry(Arc::as_ptr(cell).addr())
            .or_insert_with(|| (Arc::clone(cell), form(names, cell)));
        form
    }

    /// Forgets cells that nobody else has.
    pub(super) fn tidy(&mut self) {
        if self.known.len() > self.limit {
            self.known
                .retain(|_, (cell, _)| Arc::strong_count(cell) > 1);
            self.limit = 2 * self.known.len() + SPARE;
        }
    }
}

/// Ids of port sets by content.
pub(super) struct SetIds<'a> {
    state: &'a State,
    ids: BTreeMap<Arc<PortSet>, u32>,
    pub(super) new: BTreeMap<u32, Arc<PortSet>>,
    free: Free,
}

impl<'a> SetIds<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        Self {
            state,
            ids: BTreeMap::new(),
            new: BTreeMap::new(),
            free: Free::new(state.sets().keys().copied(), 1),
        }
    }

    fn id(&mut self, set: &Arc<PortSet>) -> u32 {
        let known = self.state.set_id(set);
        if let Some(id) = known.or_else(|| self.ids.get(set).copied()) {
            return id;
        }
        let id = self.free.take();
        self.ids.insert(Arc::clone(set), id);
        self.new.insert(id, Arc::clone(set));
        id
    }
}

/// A wanted policy in kernel numbers.
pub(super) struct Wanted {
    pub(super) default: CellState,
    /// The rows of all numbers in use, ascending.
    pub(super) rows: Vec<(u32, CellState)>,
}

impl Wanted {
    /// The cell of a number, if it has one of its own.
    pub(super) fn row(&self, number: u32) -> Option<CellState> {
        let at = self
            .rows
            .binary_search_by_key(&number, |(of, _)| *of)
            .ok()?;
        Some(self.rows[at].1)
    }
}

/// The wanted policies that an endpoint obeys.
pub(super) struct Cells(pub(super) BTreeMap<PolicyIx, Wanted>);

impl Cells {
    pub(super) fn new(
        names: &mut Names,
        forms: &mut Forms,
        sets: &mut SetIds<'_>,
        desired: &Desired,
        numbering: &Numbering,
    ) -> Self {
        let mut numbers: Vec<Vec<u32>> = vec![Vec::new(); desired.tables.classes as usize];
        for (number, class) in &numbering.classes {
            if let Some(numbers) = numbers.get_mut(*class as usize) {
                numbers.push(*number);
            }
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
            (index, Self::policy(names, forms, sets, table, &numbers))
        };
        Self(obeyed.into_iter().map(&mut policy).collect())
    }

    fn policy(
        names: &mut Names,
        forms: &mut Forms,
        sets: &mut SetIds<'_>,
        table: &PolicyTable,
        numbers: &[Vec<u32>],
    ) -> Wanted {
        let mut state = |cell: &Arc<Cell>| match forms.of(names, cell) {
            Form::All(action, rule) => CellState::All(*action, *rule),
            Form::Ports(set) => CellState::Ports(sets.id(set)),
        };
        let default = state(&table.default);
        let mut cells: Vec<Option<CellState>> = vec![None; table.cells.len()];
        let mut rows = Vec::with_capacity(table.rows.len());
        for (class, place) in &table.rows {
            // A class without a number has no address, and what it alone needs is not needed.
            for number in numbers.get(*class as usize).into_iter().flatten() {
                let place = *place as usize;
                let cell = cells[place].get_or_insert_with(|| state(&table.cells[place]));
                rows.push((*number, *cell));
            }
        }
        rows.sort_unstable_by_key(|(number, _)| *number);
        Wanted { default, rows }
    }
}

fn form(names: &mut Names, cell: &Cell) -> Form {
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
            Form::All(action, rule)
        }
        Cell::ByPort { ranges, otherwise } => {
            let ranges = ranges
                .iter()
                .map(|range| {
                    let (action, rule) = verdict(&range.decision);
                    (range.protocol, range.first, range.last, action, rule)
                })
                .collect();
            Form::Ports(Arc::new(PortSet {
                otherwise: verdict(otherwise),
                ranges,
            }))
        }
    }
}
