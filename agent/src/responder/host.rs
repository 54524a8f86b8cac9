//! Pods in the host network: which of them a cgroup is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::endpoint::cgroup::{self, PodCgroup};

/// Uids by cgroup id.
pub type Table = Arc<BTreeMap<u64, String>>;

/// Pods by their cgroups. Listed when a cgroup is asked for that is not known: a pod's is there before its first process.
pub struct HostPods {
    parent: Option<PodCgroup>,
    table: watch::Sender<Table>,
}

impl HostPods {
    /// Below this cgroup; without one nobody is found.
    #[must_use]
    pub fn new(parent: Option<PodCgroup>) -> Self {
        Self {
            parent,
            table: watch::Sender::default(),
        }
    }

    /// Which of these cgroups is a pod's, and its uid.
    #[must_use]
    pub fn find(&self, candidates: [u64; 2]) -> Option<(u64, String)> {
        if let Some(found) = among(&self.table.borrow(), candidates) {
            return Some(found);
        }
        let pods = cgroup::pod_cgroups(self.parent.as_ref()?);
        let table = Arc::new(pods.into_iter().map(|(uid, id)| (id, uid)).collect());
        let found = among(&table, candidates);
        self.table.send_replace(table);
        found
    }

    /// All that are known, and every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }
}

fn among(table: &Table, candidates: [u64; 2]) -> Option<(u64, String)> {
    let known = |id| table.get(&id).map(|uid| (id, uid.clone()));
    candidates.into_iter().find_map(known)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::endpoint::scratch::Scratch;

    #[test]
    fn a_pod_that_is_new_is_found_in_either_depth_and_an_unknown_cgroup_is_nobodys() {
        let scratch = Scratch::new("host-pods");
        let make = |path: &str| {
            let path = scratch.path().join(path);
            fs::create_dir_all(&path).expect("a directory");
            fs::metadata(&path).expect("it is there").ino()
        };
        let class = make("burstable");
        let pods = HostPods::new(Some(PodCgroup {
            path: scratch.path().to_owned(),
            id: 0,
            level: 0,
        }));
        assert_eq!(pods.find([class, 7]), None);
        let (one, other) = (make("burstable/poda-1"), make("podb-2"));
        assert_eq!(pods.find([class, one]), Some((one, "a-1".to_owned())));
        assert_eq!(pods.find([other, 9]), Some((other, "b-2".to_owned())));
        assert_eq!(pods.watch().borrow().len(), 2);
        assert_eq!(HostPods::new(None).find([class, one]), None);
    }
}
