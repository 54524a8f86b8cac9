//! One table, kept from one compilation to the next: classes that it has met keep their cells, only new ones are walked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::Plan;
use crate::asked::{Asked, ListIx, NameIx};
use crate::cell::Names;
use crate::identity::{Class, SignatureIx};
use crate::model::Protocol;
use crate::tables::{Cell, ClassIx, PolicyTable};

/// All that a cell depends on within a table: the steps that decide, and the class's port names if the table asks for any.
type Ground = (Vec<u32>, Vec<(NameIx, u16)>);

/// Cells that may be left over before the cells in use are gathered anew.
const SPARE: usize = 32;

/// A table and what it was made from.
pub(super) struct Table {
    plan: Plan,
    for_anyone: Vec<u32>,
    asks_names: bool,
    /// What port names mean on the subject.
    subject: Vec<(Protocol, String, u16)>,
    world: Ground,
    grounds: BTreeMap<Ground, u32>,
    cells: Vec<Arc<Cell>>,
    /// Cells of classes, by signature; classes that are as good as the world are not here.
    rows: BTreeMap<SignatureIx, u32>,
    built: Arc<PolicyTable>,
}

/// Classes by the lists that they are in.
pub(super) struct Members<'a> {
    classes: &'a [Class],
    by_list: BTreeMap<ListIx, Vec<ClassIx>>,
    /// Classes with numbers of port names.
    with_ports: Vec<ClassIx>,
}

impl<'a> Members<'a> {
    /// The classes whose signature is not below `since`.
    pub(super) fn new(classes: &'a [Class], since: SignatureIx) -> Self {
        let mut members = Self {
            classes,
            by_list: BTreeMap::new(),
            with_ports: Vec::new(),
        };
        for (class, of) in (0..).zip(classes).filter(|(_, of)| of.number >= since) {
            for list in &of.signature.lists {
                members.by_list.entry(*list).or_default().push(class);
            }
            if !of.signature.ports.is_empty() {
                members.with_ports.push(class);
            }
        }
        members
    }

    fn of(&self, list: ListIx) -> &[ClassIx] {
        self.by_list.get(&list).map_or(&[], Vec::as_slice)
    }
}

impl Table {
    /// An empty table: nobody has met it.
    pub(super) fn new(plan: Plan, subject: Vec<(Protocol, String, u16)>) -> Self {
        let for_anyone = plan.for_anyone();
        let world = (plan.deciding(for_anyone.iter().copied()), Vec::new());
        let mut table = Self {
            asks_names: plan.asks_names(),
            built: Arc::new(PolicyTable {
                isolated_by: plan.isolated_by(),
                default: Arc::new(plan.walk(&world.0, &borrowed(&subject))),
                rows: Vec::new(),
                cells: Vec::new(),
            }),
            plan,
            for_anyone,
            subject,
            grounds: BTreeMap::new(),
            cells: Vec::new(),
            rows: BTreeMap::new(),
            world,
        };
        table.cells.push(Arc::clone(&table.built.default));
        table.grounds.insert(table.world.clone(), 0);
        table
    }

    /// Takes in the classes that it has not met, and numbers all as they are numbered now.
    pub(super) fn update(
        &mut self,
        asked: &Asked,
        new: &Members<'_>,
        class_of: &BTreeMap<SignatureIx, ClassIx>,
    ) {
        self.meet(asked, new);
        self.rows.retain(|number, _| class_of.contains_key(number));
        let mut rows: Vec<(ClassIx, u32)> = self
            .rows
            .iter()
            .filter_map(|(number, cell)| Some((*class_of.get(number)?, *cell)))
            .collect();
        rows.sort_unstable();
        let mut places: Vec<Option<u32>> = vec![None; self.cells.len()];
        let mut cells = Vec::new();
        for (_, cell) in &mut rows {
            let number = *cell as usize;
            *cell = *places[number].get_or_insert_with(|| {
                cells.push(Arc::clone(&self.cells[number]));
                cells.len() as u32 - 1
            });
        }
        if self.cells.len() > 2 * cells.len() + SPARE {
            self.gather();
        }
        if rows != self.built.rows || cells != self.built.cells {
            self.built = Arc::new(PolicyTable {
                isolated_by: self.built.isolated_by.clone(),
                default: Arc::clone(&self.built.default),
                rows,
                cells,
            });
        }
    }

    /// The table as it was numbered last.
    pub(super) fn built(&self) -> &Arc<PolicyTable> {
        &self.built
    }

    fn meet(&mut self, asked: &Asked, new: &Members<'_>) {
        let mut fitting: BTreeMap<ClassIx, Vec<u32>> = BTreeMap::new();
        if self.asks_names {
            fitting.extend(new.with_ports.iter().map(|class| (*class, Vec::new())));
        }
        for (number, step) in (0..).zip(&self.plan.steps) {
            for class in step.peers.map_or(&[][..], |list| new.of(list)) {
                fitting.entry(*class).or_default().push(number);
            }
        }
        for (class, steps) in fitting {
            let class = &new.classes[class as usize];
            let steps = merged(&steps, &self.for_anyone);
            let ports = if self.asks_names {
                class.signature.ports.clone()
            } else {
                Vec::new()
            };
            let ground = (self.plan.deciding(steps), ports);
            if ground == self.world {
                continue;
            }
            let cell = self.cell(asked, ground);
            if self.cells[cell as usize] != self.built.default {
                self.rows.insert(class.number, cell);
            }
        }
    }

    fn cell(&mut self, asked: &Asked, ground: Ground) -> u32 {
        if let Some(cell) = self.grounds.get(&ground) {
            return *cell;
        }
        let subject = borrowed(&self.subject);
        let of_class;
        let names: &Names<'_> = if self.asks_names {
            of_class = names_of(asked, &ground.1);
            &of_class
        } else {
            &subject
        };
        let cell = self.cells.len() as u32;
        self.cells.push(Arc::new(self.plan.walk(&ground.0, names)));
        self.grounds.insert(ground, cell);
        cell
    }

    /// Forgets the cells that no row has.
    fn gather(&mut self) {
        let mut places: Vec<Option<u32>> = vec![None; self.cells.len()];
        let mut kept = vec![Arc::clone(&self.built.default)];
        places[0] = Some(0);
        for cell in self.rows.values_mut() {
            let number = *cell as usize;
            *cell = *places[number].get_or_insert_with(|| {
                kept.push(Arc::clone(&self.cells[number]));
                kept.len() as u32 - 1
            });
        }
        self.cells = kept;
        self.grounds.retain(|_, cell| {
            let place = places[*cell as usize];
            *cell = place.unwrap_or(*cell);
            place.is_some()
        });
    }
}

/// What port numbers of a class are called.
pub(super) fn names_of<'a>(
    asked: &'a Asked,
    numbers: &[(NameIx, u16)],
) -> Vec<(Protocol, &'a str, u16)> {
    let mut names = Vec::new();
    for (protocol, name, wanted) in asked.names() {
        let of_name = numbers.iter().filter(|(number, _)| *number == wanted);
        names.extend(of_name.map(|(_, number)| (protocol, name, *number)));
    }
    names
}

fn borrowed(names: &[(Protocol, String, u16)]) -> Vec<(Protocol, &str, u16)> {
    let names = names.iter();
    names
        .map(|(protocol, name, number)| (*protocol, name.as_str(), *number))
        .collect()
}

/// Two ascending lists as one, without what is in both twice.
fn merged<'a>(one: &'a [u32], other: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        let next = match (one.peek(), other.peek()) {
            (Some(a), Some(b)) => **a.min(b),
            (Some(a), None) => **a,
            (None, Some(b)) => **b,
            (None, None) => return None,
        };
        one.next_if(|number| **number == next);
        other.next_if(|number| **number == next);
        Some(next)
    })
}
