//! From a world to the tables of one node.
//!
//! ```text
//! govern: endpoints and their policies, by rank ──> asked: selectors, ipBlocks, lists of them
//!                        \                              \
//!                         \                    index, identity: classes of addresses
//!                          \                            /
//!    one table for each distinct (direction, policies, port numbers of the subject): for each class the rules that fit it, walked by `cell`
//! ```
//! Everything that policy objects can say is gone afterwards: tiers, orders, Pass, defaults and names are one verdict for each class, protocol
//! and port. Endpoints whose verdicts come from the same rules share a table.
//!
//! A [`Compiler`] remembers each stage and does again what depends on what differs between two worlds. What it gives is a function of the world alone:
//!
//! | what differs | what is done again |
//! |---|---|
//! | a workload elsewhere | its group, its addresses' classes; cells of classes that are new |
//! | a workload of this node, a policy, a tier | also who is governed; what comes into force is read, asked and walked |
//! | labels of a namespace | also the groups of that namespace |
//! | a node | nothing |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::asked::{Asked, Changed};
use crate::cell::Names;
use crate::govern::Governed;
use crate::identity::{Class, Identities, SignatureIx, WorkloadChange};
use crate::model::{AtEnd, Labels, Peers, Protocol, Workload, World};
use crate::shared::Shared;
use crate::tables::{ClassIx, Direction, EndpointPolicies, PolicyIx, PolicyTable, Tables};

mod plan;
mod table;

use plan::Plan;
use table::{Members, Table, names_of};

/// Compiles the tables of `world.node`.
#[must_use]
pub fn compile(world: &World) -> Tables {
    let tables = Compiler::default().compile(world);
    Arc::unwrap_or_clone(tables)
}

/// A compiler that remembers the world that it saw last.
#[derive(Default)]
pub struct Compiler {
    /// The node whose endpoints get tables; `None` = endpoints of no node yet.
    node: Option<String>,
    seen: World,
    local: BTreeMap<String, Arc<Workload>>,
    governed: Governed,
    asked: Asked,
    identities: Identities,
    /// Signatures below this one have been met by every table.
    met: SignatureIx,
    memory: BTreeMap<Shape, Table>,
    tables: Arc<Tables>,
}

/// What endpoints must have in common to share a table: direction, versions of the policies by rank and what their tiers do at their ends, the subject's
/// numbers for port names in their rules.
type Shape = (Direction, Vec<(u32, AtEnd)>, Vec<(Protocol, String, u16)>);

/// The same by rank, which gives tables their order.
type RankedShape = (Direction, Vec<usize>, Vec<(Protocol, String, u16)>);

impl Compiler {
    /// The tables of `world.node`, which are those that [`compile`] gives.
    pub fn compile(&mut self, world: &World) -> Arc<Tables> {
        let is_worn = self.asked.is_worn() || self.identities.is_worn();
        if is_worn || self.node.as_ref() != Some(&world.node) {
            *self = Self::of_node(Some(&world.node));
        }
        self.bring_to(world);
        Arc::clone(&self.tables)
    }

    fn of_node(node: Option<&str>) -> Self {
        Self {
            node: node.map(str::to_owned),
            ..Self::default()
        }
    }

    fn bring_to(&mut self, world: &World) {
        let before = std::mem::replace(&mut self.seen, world.clone());
        let workloads = before.workloads.diff(&world.workloads);
        let workloads: Vec<WorkloadChange<'_>> = workloads
            .map(|item| match item {
                DiffItem::Add(_, after) => (None, Some(after)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, before) => (Some(before), None),
            })
            .collect();
        let relabelled = relabelled(&before.namespaces, &world.namespaces);
        let mut governs_anew = !relabelled.is_empty()
            || !before.policies.ptr_eq(&world.policies)
            || !before.tiers.is(&world.tiers);
        for (before, after) in &workloads {
            governs_anew |= self.note_local(*before, *after);
        }
        let mut changed = Changed::default();
        if governs_anew {
            let governed = Governed::new(world, self.local.values());
            governs_anew = governed != self.governed;
            self.governed = governed;
            changed = self.asked.update(&self.governed);
        }
        let classes_differ =
            self.identities
                .update(&self.asked, changed, world, &relabelled, &workloads);
        self.fill(governs_anew, classes_differ);
    }

    /// Whether the endpoints of the node are others now.
    fn note_local(
        &mut self,
        before: Option<&Arc<Workload>>,
        after: Option<&Arc<Workload>>,
    ) -> bool {
        let node = self.node.as_deref();
        let is_local =
            |workload: &&Arc<Workload>| workload.node.as_deref() == node && workload.is_endpoint();
        let (before, after) = (before.filter(is_local), after.filter(is_local));
        if let Some(before) = before {
            self.local.remove(&before.uid);
        }
        if let Some(after) = after {
            self.local.insert(after.uid.clone(), Arc::clone(after));
        }
        before.is_some() || after.is_some()
    }

    fn fill(&mut self, governs_anew: bool, classes_differ: bool) {
        let mut tables = Tables {
            classes: self.identities.classes.len() as u32,
            addresses: Arc::clone(&self.identities.addresses),
            prefixes: Arc::clone(&self.identities.prefixes),
            policies: Vec::new(),
            endpoints: BTreeMap::new(),
        };
        if governs_anew || classes_differ {
            self.fill_policies(&mut tables, classes_differ);
        } else {
            tables.policies.clone_from(&self.tables.policies);
            tables.endpoints.clone_from(&self.tables.endpoints);
        }
        self.tables = Arc::new(tables);
    }

    fn fill_policies(&mut self, tables: &mut Tables, classes_differ: bool) {
        let mut shapes: BTreeMap<RankedShape, Vec<&str>> = BTreeMap::new();
        for (uid, endpoint) in &self.governed.endpoints {
            tables
                .endpoints
                .insert(uid.clone(), EndpointPolicies::default());
            for direction in [Direction::Ingress, Direction::Egress] {
                let governing = endpoint.governing(direction);
                if governing.is_empty() {
                    continue;
                }
                let names = match direction {
                    Direction::Ingress => owned(&self.governed.subject_names(endpoint)),
                    Direction::Egress => Vec::new(),
                };
                shapes
                    .entry((direction, governing.to_vec(), names))
                    .or_default()
                    .push(uid);
            }
        }
        let classes = &self.identities.classes;
        let class_of: BTreeMap<SignatureIx, ClassIx> = (0..)
            .zip(classes)
            .map(|(class, of)| (of.number, class))
            .collect();
        let new = Members::new(classes, self.met);
        let mut all = None;
        let mut memory = BTreeMap::new();
        let mut numbers: BTreeMap<Arc<PolicyTable>, PolicyIx> = BTreeMap::new();
        for ((direction, ranks, names), uids) in shapes {
            let versions = self.asked.versions(&self.governed, &ranks);
            let shape = (direction, versions, names);
            let table = if let Some(mut table) = self.memory.remove(&shape) {
                if classes_differ {
                    table.update(&self.asked, &new, &class_of);
                }
                table
            } else {
                let plan = Plan::new(&self.governed, &self.asked, direction, &ranks);
                let mut table = Table::new(plan, shape.2.clone());
                let all = all.get_or_insert_with(|| Members::new(classes, 0));
                table.update(&self.asked, all, &class_of);
                table
            };
            let next = numbers.len() as PolicyIx;
            let number = *numbers.entry(Arc::clone(table.built())).or_insert(next);
            memory.insert(shape, table);
            for uid in uids {
                let Some(policies) = tables.endpoints.get_mut(uid) else {
                    continue;
                };
                match direction {
                    Direction::Ingress => policies.ingress = [Some(number); 2],
                    Direction::Egress => policies.egress = [Some(number); 2],
                }
            }
        }
        self.memory = memory;
        self.met = self.identities.next_signature();
        let mut policies: Vec<(Arc<PolicyTable>, PolicyIx)> = numbers.into_iter().collect();
        policies.sort_unstable_by_key(|(_, number)| *number);
        tables.policies = policies.into_iter().map(|(table, _)| table).collect();
    }
}

/// The tables of a node and what they were made from, for those who have to explain them.
pub(crate) struct Compilation {
    pub(crate) tables: Arc<Tables>,
    pub(crate) governed: Governed,
    asked: Asked,
    classes: Vec<Class>,
}

impl Compilation {
    pub(crate) fn new(world: &World, node: Option<&str>) -> Self {
        let mut compiler = Compiler::of_node(node);
        compiler.bring_to(world);
        // What is only good for the next world is not kept.
        Self {
            tables: compiler.tables,
            governed: compiler.governed,
            asked: compiler.asked,
            classes: compiler.identities.classes,
        }
    }

    /// The numbers of the port names in use on the addresses of `class`.
    pub(crate) fn class_names(&self, class: ClassIx) -> Vec<(Protocol, &str, u16)> {
        let signature = &self.classes[class as usize].signature;
        names_of(&self.asked, &signature.ports)
    }

    /// Whether `peers`, of a rule in force, match the addresses of `class`.
    pub(crate) fn peers_match(&self, peers: &Peers, class: ClassIx) -> bool {
        let Peers::OneOf(peers) = peers else {
            return true;
        };
        let signature = &self.classes[class as usize].signature;
        self.asked
            .list(peers)
            .is_some_and(|list| signature.lists.binary_search(&list).is_ok())
    }
}

/// Namespaces whose labels differ, or that came or went.
fn relabelled<'w>(
    before: &'w Shared<BTreeMap<String, Labels>>,
    after: &'w Shared<BTreeMap<String, Labels>>,
) -> BTreeSet<&'w str> {
    if before.is(after) {
        return BTreeSet::new();
    }
    let names = before.keys().chain(after.keys());
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(String::as_str)
        .collect()
}

fn owned(names: &Names<'_>) -> Vec<(Protocol, String, u16)> {
    names
        .iter()
        .map(|(protocol, name, number)| (*protocol, (*name).to_owned(), *number))
        .collect()
}

#[cfg(test)]
mod tests;
