//! What pods have in common, held once. Most pods of a cluster have twins: the same labels, ports, account; and many are on one node. Labels are the
//! largest part of a pod's record.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use portcullis_policy::model::{Labels, NamedPort};

use crate::kube::{Entry, Object};

/// The feed of pods owns one: every record that it hands on goes through it.
#[derive(Default)]
pub(super) struct Common {
    labels: Pool<Labels>,
    ports: Pool<[NamedPort]>,
    names: Pool<str>,
}

impl Common {
    /// Gives the pod what its twins have.
    pub(super) fn share(&mut self, entry: &mut Entry) {
        let Some(Object::Pod(pod)) = &mut entry.object else {
            return;
        };
        // Nobody else holds a record that was just read.
        let Some(workload) = Arc::get_mut(&mut pod.workload) else {
            return;
        };
        self.labels.share(&mut workload.labels);
        self.ports.share(&mut workload.ports);
        self.names.share(&mut workload.service_account);
        if let Some(node) = &mut workload.node {
            self.names.share(node);
        }
    }
}

/// Equal values, each held once.
struct Pool<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// Size at which values that nobody else holds any more are forgotten.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: 64,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.known.get(&*value) {
            *value = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = 2 * self.known.len() + 64;
        }
        self.known.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::convert::{convert, identify};
    use crate::kube::{Keep, Kind, Pod};

    fn pod(name: &str, app: &str) -> Entry {
        let object =
            json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": app}}});
        let key = identify(Kind::Pod, &object).expect("it has a name");
        convert(key, &object, &Keep::nothing())
    }

    fn labels(entry: &Entry) -> &Arc<Labels> {
        match &entry.object {
            Some(Object::Pod(Pod { workload, .. })) => &workload.labels,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn twins_share_and_others_do_not() {
        let mut common = Common::default();
        let mut pods = [pod("a", "web"), pod("b", "web"), pod("c", "db")];
        for pod in &mut pods {
            common.share(pod);
        }
        assert!(Arc::ptr_eq(labels(&pods[0]), labels(&pods[1])));
        assert_eq!(labels(&pods[2])["app"], "db");
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut common = Common::default();
        for number in 0..10_000 {
            common.share(&mut pod("a", &number.to_string()));
        }
        assert!(
            common.labels.known.len() < 200,
            "{}",
            common.labels.known.len()
        );
    }
}
