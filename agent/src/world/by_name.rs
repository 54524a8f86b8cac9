//! Objects by namespace and name. A namespace's name is held once, not with each of its objects.

use std::collections::BTreeMap;

use super::Name;

#[derive(Debug)]
pub(super) struct ByName<T> {
    by_namespace: BTreeMap<String, BTreeMap<Box<str>, T>>,
    count: usize,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            by_namespace: BTreeMap::new(),
            count: 0,
        }
    }
}

impl<T> ByName<T> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.by_namespace.get(namespace)?.get(name)
    }

    pub(super) fn insert(&mut self, (namespace, name): Name, object: T) {
        let objects = self.by_namespace.entry(namespace).or_default();
        self.count += usize::from(objects.insert(name.into(), object).is_none());
    }

    pub(super) fn remove(&mut self, (namespace, name): &Name) -> Option<T> {
        let objects = self.by_namespace.get_mut(namespace)?;
        let object = objects.remove(name.as_str())?;
        self.count -= 1;
        if objects.is_empty() {
            self.by_namespace.remove(namespace);
        }
        Some(object)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.by_namespace.iter().flat_map(|(namespace, objects)| {
            objects
                .keys()
                .map(move |name| (namespace.clone(), name.to_string()))
        })
    }
}
