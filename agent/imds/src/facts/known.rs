//! What is known of the node, and the table of each namespace that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;

use super::opt_in::{DEFAULTS, DOCUMENT, OptIn, Place};
use super::{Facts, IdentityDocument};
use crate::upstream::{Entry, Path, entries};

/// What the metadata service said last. A path that is not in it was not answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(pub(super) BTreeMap<Path, Value>);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// This.
    Text(Arc<str>),
    /// There is no such value.
    Absent,
}

/// Everything that is asked for by the namespaces of the node's pods.
pub type Wanted = BTreeSet<OptIn>;

impl Known {
    /// What a pod may read whose namespace asked for `wanted`.
    #[must_use]
    pub fn table(&self, wanted: &Wanted) -> Facts {
        let mut facts = Facts::default();
        for path in &DEFAULTS {
            self.show(path, &mut facts);
        }
        // Signatures are made over the original.
        if wanted.iter().any(OptIn::is_signature) {
            self.show(&DOCUMENT, &mut facts);
        } else {
            match self.document() {
                Some(document) => facts.set_document(&document),
                None if self.0.contains_key(&DOCUMENT) => {}
                None => facts.expect(DOCUMENT.as_str()),
            }
        }
        for asked in wanted {
            let list = match asked.place() {
                Place::At(path) => {
                    self.show(&path, &mut facts);
                    continue;
                }
                Place::In(list) => list,
            };
            match self.entries(&list) {
                Some(entries) => {
                    for path in entries.iter().filter_map(|entry| asked.at(entry)) {
                        self.show(&path, &mut facts);
                    }
                }
                None => facts.expect(list.as_str()),
            }
        }
        facts
    }

    /// Everything that has to be known for these tables, what all need first.
    pub(super) fn paths(&self, wanted: &Wanted) -> Vec<Path> {
        let mut paths: Vec<Path> = DEFAULTS.to_vec();
        paths.push(DOCUMENT.clone());
        for asked in wanted {
            match asked.place() {
                Place::At(path) => paths.push(path),
                Place::In(list) => {
                    let entries = self.entries(&list).unwrap_or_default();
                    if !paths.contains(&list) {
                        paths.push(list);
                    }
                    paths.extend(entries.iter().filter_map(|entry| asked.at(entry)));
                }
            }
        }
        paths
    }

    fn show(&self, path: &Path, facts: &mut Facts) {
        match self.0.get(path) {
            Some(Value::Text(text)) if *path == DOCUMENT => {
                facts.set_original_document((**text).to_owned());
            }
            Some(Value::Text(text)) => {
                if let Err(error) = facts.insert(path.as_str(), text) {
                    warn!(%path, %error, "Not showing a value of the node");
                }
            }
            Some(Value::Absent) => {}
            None => facts.expect(path.as_str()),
        }
    }

    fn document(&self) -> Option<IdentityDocument> {
        match self.0.get(&DOCUMENT)? {
            Value::Text(text) => serde_json::from_str(text).ok(),
            Value::Absent => None,
        }
    }

    /// A list's; none while it is not known.
    fn entries(&self, list: &Path) -> Option<Vec<Entry>> {
        Some(match self.0.get(list)? {
            Value::Text(text) => entries(text),
            Value::Absent => Vec::new(),
        })
    }
}

/// One table for all pods whose namespaces ask for the same.
#[derive(Debug, Default)]
pub struct Tables {
    known: Arc<Known>,
    tables: BTreeMap<Wanted, Arc<Facts>>,
}

impl Tables {
    /// From now on this is known.
    pub fn learn(&mut self, known: Arc<Known>) {
        self.known = known;
        self.tables.clear();
    }

    /// The table of those who ask for `wanted`.
    pub fn of(&mut self, wanted: &Wanted) -> Arc<Facts> {
        if let Some(facts) = self.tables.get(wanted) {
            return Arc::clone(facts);
        }
        let facts = Arc::new(self.known.table(wanted));
        self.tables.insert(wanted.clone(), Arc::clone(&facts));
        facts
    }

    /// Keeps the tables of nobody else.
    pub fn retain(&mut self, is_used: impl Fn(&Wanted) -> bool) {
        self.tables.retain(|wanted, _| is_used(wanted));
    }
}
