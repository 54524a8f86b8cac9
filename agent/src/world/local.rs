//! Pods of this node: what only the node itself knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_policy::model::Workload;

use super::{Name, World};
use crate::kube::Pod;

impl World {
    /// Takes in what the CNI gave to local pods, by pod uid. It counts while the API server knows no address of a live pod (issue: no pod loses its
    /// first second), and never for a pod whose addresses were taken back.
    pub fn set_cni_addresses(&mut self, addresses: BTreeMap<String, Vec<IpAddr>>) -> bool {
        let before = std::mem::replace(&mut self.cni_addresses, addresses);
        let touched: BTreeSet<&String> = before.keys().chain(self.cni_addresses.keys()).collect();
        let names: Vec<Name> = touched
            .into_iter()
            .filter(|uid| before.get(*uid) != self.cni_addresses.get(*uid))
            .filter_map(|uid| self.local.get(uid).cloned())
            .collect();
        let mut changed = false;
        for name in names {
            if let Some(pod) = self.pods.get(&name.0, &name.1) {
                let workload = self.effective(pod);
                changed |= self.put_workload(&workload);
            }
        }
        self.generation += u64::from(changed);
        changed
    }

    /// A pod of this node by uid.
    #[must_use]
    pub fn local_pod(&self, uid: &str) -> Option<&Pod> {
        let (namespace, name) = self.local.get(uid)?;
        self.pods.get(namespace, name)
    }

    /// Pods bound to this node, hostNetwork and finished ones too, by uid. Their addresses are the API server's: [`World::snapshot`] has those that
    /// are in force.
    pub fn local_pods(&self) -> impl Iterator<Item = &Pod> {
        let names = self.local.values();
        names.filter_map(|(namespace, name)| self.pods.get(namespace, name))
    }

    /// The pod as the compiler sees it: with the CNI's addresses while the API server knows none.
    pub(super) fn effective(&self, pod: &Pod) -> Arc<Workload> {
        let workload = &pod.workload;
        let local = self.local.contains_key(&workload.uid);
        if !local || !workload.addresses.is_empty() || !pod.is_endpoint() || pod.withdrawn {
            return Arc::clone(workload);
        }
        let known = [Some(workload.uid.as_str()), pod.static_uid.as_deref()]
            .into_iter()
            .flatten()
            .find_map(|uid| self.cni_addresses.get(uid));
        match known {
            Some(addresses) => Arc::new(Workload {
                addresses: addresses.clone(),
                ..Workload::clone(workload)
            }),
            None => Arc::clone(workload),
        }
    }
}
