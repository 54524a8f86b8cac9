//! The one place that knows what the cluster looks like now.
//!
//! ```text
//! Batch of Change --apply--> World --snapshot--> policy::model::World (compiler)
//!                              |  \--services---> Services (explain)
//! CNI records -----local---/      |\--roles----> decision for each pod of this node
//!                                  \--refused, feeds, counts, service_addresses (status, dataplane)
//! ```
//! Output is a function of what is true now, not of the way there: any order of the same changes ends in the same snapshot. No I/O, no clock (times
//! come in), no lock: one task owns it and hands out snapshots. Snapshots share their records: taking one copies nothing,
//! and a change copies only what it touches.

mod backends;
mod by_name;
mod local;
mod roles;
mod services;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use portcullis_imds::role::Annotations;
use portcullis_policy::model::{self, PolicyKind, PolicyRef, Workload};

use self::by_name::ByName;
pub use backends::{Backends, Lacks, WantedPort};
pub use roles::{PodRole, PodRoles};
pub use services::{ServiceAddress, Services};
pub use status::{Counts, Feed, Refusal};

use crate::kube::{Change, Entry, Key, Kind, Object, Pod, Problem};

/// Namespace and name.
type Name = (String, String);

/// What is true now.
#[derive(Debug)]
pub struct World {
    model: Arc<model::World>,
    pods: ByName<Pod>,
    /// Pods bound to this node, by uid.
    local: BTreeMap<String, Name>,
    services: Arc<Services>,
    refused: BTreeMap<Key, Refusal>,
    feeds: BTreeMap<Kind, Feed>,
    /// Addresses of local pods as the CNI gave them, by uid.
    cni_addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Who has an address; of several who claim it, whoever said so last.
    owners: OrdMap<IpAddr, Arc<Workload>>,
    generation: u64,
    services_generation: u64,
    roles: roles::Roles,
}

impl World {
    /// An empty world seen from `node`.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            model: Arc::new(model::World {
                node: node.to_owned(),
                ..model::World::default()
            }),
            pods: ByName::default(),
            local: BTreeMap::new(),
            services: Arc::default(),
            refused: BTreeMap::new(),
            feeds: Kind::FED.map(|kind| (kind, Feed::default())).into(),
            cni_addresses: BTreeMap::new(),
            owners: OrdMap::new(),
            generation: 0,
            services_generation: 0,
            roles: roles::Roles::default(),
        }
    }

    /// Takes in changes that belong together; says whether anything that matters to the dataplane is different now.
    pub fn apply_batch(
        &mut self,
        batch: impl IntoIterator<Item = Change>,
        now: SystemTime,
    ) -> bool {
        let mut changed = false;
        for change in batch {
            changed |= self.apply(change, now);
        }
        changed
    }

    /// Takes in one change.
    pub fn apply(&mut self, change: Change, now: SystemTime) -> bool {
        let changed = match change {
            Change::Apply(entry) => self.put(entry, now),
            Change::Delete { key, uid } => self.delete(&key, uid.as_deref()),
            Change::Reset { kind, live } => self.reset(kind, live, now),
            Change::Trouble { kind, trouble } => {
                // A state to report, not one that changes a verdict.
                if let Some(feed) = self.feeds.get_mut(&kind) {
                    feed.trouble = trouble;
                }
                false
            }
        };
        self.settle();
        self.generation += u64::from(changed);
        changed
    }

    /// What the compiler reads. Cheap.
    #[must_use]
    pub fn snapshot(&self) -> Arc<model::World> {
        Arc::clone(&self.model)
    }

    /// Services and their backends. Cheap.
    #[must_use]
    pub fn services(&self) -> Arc<Services> {
        Arc::clone(&self.services)
    }

    /// Grows with every change that [`World::apply`] reported.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows with every change that [`World::service_addresses`] may tell.
    #[must_use]
    pub fn services_generation(&self) -> u64 {
        self.services_generation
    }

    /// Pods by address. Cheap.
    #[must_use]
    pub fn owners(&self) -> OrdMap<IpAddr, Arc<Workload>> {
        self.owners.clone()
    }

    /// Whether every kind that is in tables has been listed completely: only then may they be written or swept.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        let mut feeds = self.feeds.iter();
        feeds.all(|(kind, feed)| feed.in_sync || !kind.is_in_tables())
    }

    /// State of each kind's feed.
    #[must_use]
    pub fn feeds(&self) -> &BTreeMap<Kind, Feed> {
        &self.feeds
    }

    /// Objects that were refused, whole or in part.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Key, Refusal> {
        &self.refused
    }

    /// The node that this world is seen from.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.model.node
    }

    /// A pod by name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(namespace, name)
    }

    /// How many objects there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            namespaces: self.model.namespaces.len(),
            nodes: self.model.nodes.len(),
            pods: self.pods.len(),
            local_pods: self.local.len(),
            policies: self.model.policies.len(),
            services: self.services.services.len(),
            ready_backends: self
                .services
                .slices
                .values()
                .flat_map(|slice| &slice.endpoints)
                .filter(|end| end.ready)
                .count(),
            refused: self.refused.len(),
        }
    }

    fn put(&mut self, entry: Entry, now: SystemTime) -> bool {
        let Entry {
            key,
            object,
            problems,
            annotations,
        } = entry;
        self.note_refusal(&key, object.is_none(), problems, now);
        let Some(object) = object else {
            return self.forget(&key);
        };
        match object {
            Object::Namespace(labels) => {
                self.note_namespace(&key.name, annotations);
                self.model.namespaces.get(&key.name) != Some(&labels) && {
                    self.model_mut().namespaces.insert(key.name, labels);
                    true
                }
            }
            Object::Node(node) => {
                self.model.nodes.get(&key.name) != Some(&node) && {
                    self.services_generation += u64::from(key.name == self.model.node);
                    self.model_mut().nodes.insert(key.name, node);
                    true
                }
            }
            Object::Policy(policy) => {
                self.model.policies.get(&policy.name) != Some(&policy) && {
                    self.model_mut()
                        .policies
                        .insert(policy.name.clone(), policy);
                    true
                }
            }
            Object::Pod(pod) => self.put_pod(name_of(key), pod, annotations),
            Object::ServiceAccount(account) => {
                self.put_account(name_of(key), account, annotations);
                false
            }
            Object::Service(service) => {
                let name = name_of(key);
                self.services.services.get(&name).map(|known| &**known) != Some(&service) && {
                    self.services_generation += 1;
                    self.services_mut().services.insert(name, Arc::new(service));
                    true
                }
            }
            Object::EndpointSlice(slice) => {
                let name = name_of(key);
                self.services.slices.get(&name).map(|known| &**known) != Some(&slice) && {
                    self.services_mut().slices.insert(name, Arc::new(slice));
                    true
                }
            }
        }
    }

    fn put_pod(&mut self, name: Name, pod: Pod, annotations: Option<Arc<Annotations>>) -> bool {
        let is_local = pod.workload.node.as_deref() == Some(self.model.node.as_str());
        let known = self.pods.get(&name.0, &name.1);
        if known == Some(&pod) {
            // What it says of its role is nothing that a table holds.
            if is_local && !self.is_noted(&pod.workload.uid, annotations.as_ref()) {
                self.note_pod(&pod.workload.uid, annotations);
            }
            return false;
        }
        // A successor of the same name has another uid: nothing of its predecessor may stay.
        if known.is_some_and(|old| old.workload.uid != pod.workload.uid) {
            self.forget_pod(&name);
        }
        let uid = &pod.workload.uid;
        let was_local = self.local.contains_key(uid);
        if is_local {
            self.local.insert(uid.clone(), name.clone());
            self.note_pod(uid, annotations);
        } else if self.local.remove(uid).is_some() {
            self.forget_pod_annotations(uid);
        }
        self.services_generation += u64::from(was_local || is_local);
        let workload = self.effective(&pod);
        self.put_workload(&workload);
        self.pods.insert(name, pod);
        true
    }

    fn put_workload(&mut self, workload: &Arc<Workload>) -> bool {
        if self.model.workloads.get(&workload.uid) == Some(workload) {
            return false;
        }
        let uid = workload.uid.clone();
        let before = self.model_mut().workloads.insert(uid, Arc::clone(workload));
        if let Some(before) = before {
            self.disown(&before);
        }
        for address in &workload.addresses {
            self.owners.insert(*address, Arc::clone(workload));
        }
        true
    }

    /// The addresses of a workload are nobody's, but for those that somebody else claimed later.
    fn disown(&mut self, workload: &Workload) {
        for address in &workload.addresses {
            let owner = self.owners.get(address);
            if owner.is_some_and(|owner| owner.uid == workload.uid) {
                self.owners.remove(address);
            }
        }
    }

    fn delete(&mut self, key: &Key, uid: Option<&str>) -> bool {
        let name = name_of(key.clone());
        let is_other = uid.is_some_and(|uid| match key.kind {
            Kind::Pod => {
                let pod = self.pods.get(&name.0, &name.1);
                pod.is_some_and(|pod| pod.workload.uid != uid)
            }
            Kind::ServiceAccount => self.is_other_account(&name, uid),
            _ => false,
        });
        if is_other {
            // The successor is here already.
            return false;
        }
        self.refused.remove(key);
        self.forget(key)
    }

    fn reset(&mut self, kind: Kind, live: Vec<Entry>, now: SystemTime) -> bool {
        let listed: BTreeSet<Key> = live.iter().map(|entry| entry.key.clone()).collect();
        let mut changed = false;
        for key in self.known(kind) {
            if !listed.contains(&key) {
                self.refused.remove(&key);
                changed |= self.forget(&key);
            }
        }
        for entry in live {
            changed |= self.put(entry, now);
        }
        // Documents have no feed of their own.
        if let Some(feed) = self.feeds.get_mut(&kind)
            && !std::mem::replace(&mut feed.in_sync, true)
        {
            changed |= kind.is_in_tables();
            if Kind::OF_ROLES.contains(&kind) {
                self.touch_all();
            }
        }
        changed
    }

    /// Every name of the kind that anything is remembered of.
    fn known(&self, kind: Kind) -> BTreeSet<Key> {
        let namespaced = |name: &Name| Key {
            kind,
            namespace: Some(name.0.clone()),
            name: name.1.clone(),
        };
        let plain = |name: &String| Key {
            kind,
            namespace: None,
            name: name.clone(),
        };
        let mut keys: BTreeSet<Key> = match kind {
            Kind::Namespace => self.model.namespaces.keys().map(plain).collect(),
            Kind::Node => self.model.nodes.keys().map(plain).collect(),
            Kind::Pod => self.pods.names().map(|name| namespaced(&name)).collect(),
            Kind::ServiceAccount => {
                let names = self.roles.accounts.names();
                names.map(|name| namespaced(&name)).collect()
            }
            Kind::Service => self.services.services.keys().map(namespaced).collect(),
            Kind::EndpointSlice => self.services.slices.keys().map(namespaced).collect(),
            Kind::NetworkPolicy => self
                .model
                .policies
                .keys()
                .filter(|policy| policy.kind == PolicyKind::NetworkPolicy)
                .map(|policy| Key {
                    kind,
                    namespace: policy.namespace.clone(),
                    name: policy.name.clone(),
                })
                .collect(),
            Kind::Document => BTreeSet::new(),
        };
        keys.extend(self.refused.keys().filter(|key| key.kind == kind).cloned());
        keys
    }

    /// Nothing of the object is in force any more; says whether anything was.
    fn forget(&mut self, key: &Key) -> bool {
        match key.kind {
            Kind::Namespace => {
                self.model.namespaces.contains_key(&key.name) && {
                    self.forget_namespace_annotations(&key.name);
                    self.model_mut().namespaces.remove(&key.name).is_some()
                }
            }
            Kind::Node => {
                self.model.nodes.contains_key(&key.name) && {
                    self.services_generation += u64::from(key.name == self.model.node);
                    self.model_mut().nodes.remove(&key.name).is_some()
                }
            }
            Kind::NetworkPolicy => {
                let policy = PolicyRef {
                    kind: PolicyKind::NetworkPolicy,
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                self.model.policies.contains_key(&policy)
                    && self.model_mut().policies.remove(&policy).is_some()
            }
            Kind::Pod => self.forget_pod(&name_of(key.clone())),
            Kind::Service => {
                let name = name_of(key.clone());
                self.services.services.contains_key(&name) && {
                    self.services_generation += 1;
                    self.services_mut().services.remove(&name).is_some()
                }
            }
            Kind::EndpointSlice => {
                let name = name_of(key.clone());
                self.services.slices.contains_key(&name)
                    && self.services_mut().slices.remove(&name).is_some()
            }
            Kind::ServiceAccount => {
                self.forget_account(&name_of(key.clone()));
                false
            }
            Kind::Document => false,
        }
    }

    fn forget_pod(&mut self, name: &Name) -> bool {
        let Some(pod) = self.pods.remove(name) else {
            return false;
        };
        let uid = &pod.workload.uid;
        // Two names with one uid happen in broken feeds only; the uid is then that of the name that claimed it last.
        if self.local.get(uid) == Some(name) {
            self.local.remove(uid);
            self.forget_pod_annotations(uid);
            self.services_generation += 1;
        }
        let owner = self.model.workloads.get(uid);
        if owner.is_some_and(|owner| owner.namespace == name.0 && owner.name == name.1)
            && let Some(workload) = self.model_mut().workloads.remove(uid)
        {
            self.disown(&workload);
        }
        true
    }

    fn note_refusal(&mut self, key: &Key, whole: bool, problems: Vec<Problem>, now: SystemTime) {
        if problems.is_empty() {
            self.refused.remove(key);
            return;
        }
        let known = self
            .refused
            .get(key)
            .filter(|known| known.problems == problems && known.whole == whole);
        let since = known.map_or(now, |known| known.since);
        self.refused.insert(
            key.clone(),
            Refusal {
                problems,
                whole,
                since,
            },
        );
    }

    fn model_mut(&mut self) -> &mut model::World {
        Arc::make_mut(&mut self.model)
    }

    fn services_mut(&mut self) -> &mut Services {
        Arc::make_mut(&mut self.services)
    }
}

fn name_of(key: Key) -> Name {
    (key.namespace.unwrap_or_default(), key.name)
}

#[cfg(test)]
mod tests;
