//! Pods by namespace and name. A namespace's name is held once, not with each of its pods.

use std::collections::BTreeMap;

use super::Name;
use crate::kube::Pod;

#[derive(Debug, Default)]
pub(super) struct Pods {
    by_namespace: BTreeMap<String, BTreeMap<Box<str>, Pod>>,
    count: usize,
}

impl Pods {
    pub(super) fn get(&self, (namespace, name): &Name) -> Option<&Pod> {
        self.by_namespace.get(namespace)?.get(name.as_str())
    }

    pub(super) fn insert(&mut self, (namespace, name): Name, pod: Pod) {
        let pods = self.by_namespace.entry(namespace).or_default();
        self.count += usize::from(pods.insert(name.into(), pod).is_none());
    }

    pub(super) fn remove(&mut self, (namespace, name): &Name) -> Option<Pod> {
        let pods = self.by_namespace.get_mut(namespace)?;
        let pod = pods.remove(name.as_str())?;
        self.count -= 1;
        if pods.is_empty() {
            self.by_namespace.remove(namespace);
        }
        Some(pod)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.by_namespace.iter().flat_map(|(namespace, pods)| {
            pods.keys()
                .map(move |name| (namespace.clone(), name.to_string()))
        })
    }
}
