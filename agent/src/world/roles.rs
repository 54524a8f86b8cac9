//! Which role each pod of this node has, as of the objects that are known.
//!
//! ```text
//! pod, its service account, its namespace --touch--> uids --settle--> decide again --> PodRole by uid
//! ```
//! Invariant: after every change that the world took in, what [`World::roles`] says is what deciding every local pod afresh would say. Nothing here matters
//! to tables: a world whose roles change is the same world to the compiler.
//!
//! What a namespace says is read once and kept, because its patterns are compiled: reading them again for each pod would let one namespace take its node's
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_imds::facts::Wanted;
use portcullis_imds::role::{
    self, Annotations, Asked, Decision, Malformed, Outcome, decide, imds_v1_allowed,
};

use super::by_name::ByName;
use super::{Name, World};
use crate::discovery::Found;
use crate::kube::{Key, Kind, Pod, ServiceAccount};
use crate::settings::Roles as Rules;

/// What is decided for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRole {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The service account that it names.
    pub service_account: String,
    /// That account's uid; `None` while the account is not known.
    pub service_account_uid: Option<String>,
    /// Its role, or why it has none.
    pub decision: Decision,
    /// Whether it may ask for metadata without a session token.
    pub imds_v1: bool,
    /// What its namespace lets it read of the node beyond the common paths.
    pub metadata_paths: Wanted,
    /// Annotations of it, its account and its namespace that cannot be read, used or not.
    pub malformed: Vec<(Key, Malformed)>,
}

/// Decisions of this node's live pods, hostNetwork ones too, by uid.
pub type PodRoles = Arc<BTreeMap<String, Arc<PodRole>>>;

/// What roles are decided from and what was decided.
#[derive(Debug, Default)]
pub(super) struct Roles {
    rules: Rules,
    pub(super) accounts: ByName<Account>,
    /// Of annotated namespaces.
    namespaces: BTreeMap<String, Arc<Annotations>>,
    /// Of annotated pods of this node, by uid.
    pods: BTreeMap<String, Arc<Annotations>>,
    /// Namespaces of pods of this node, read.
    read: BTreeMap<String, role::Namespace>,
    /// Pods whose decision may have become another, by uid.
    touched: BTreeSet<String>,
    decided: PodRoles,
    generation: u64,
    /// Decisions made, by what came of them and why.
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// A service account, as it is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    uid: Box<str>,
    annotations: Option<Arc<Annotations>>,
}

impl World {
    /// Decides roles by these rules, from now on.
    #[must_use]
    pub fn with_roles(mut self, rules: Rules) -> Self {
        self.roles.rules = rules;
        self.roles.read.clear();
        self.touch_all();
        self.settle();
        self
    }

    /// Takes in what the node says of itself; what waited for it is decided.
    pub fn discovered(&mut self, found: Found) {
        found.apply(&mut self.roles.rules.decide);
        self.touch_all();
        self.settle();
    }

    /// What is decided for each live pod of this node, by uid. Cheap.
    #[must_use]
    pub fn roles(&self) -> PodRoles {
        Arc::clone(&self.roles.decided)
    }

    /// Grows with every change of [`World::roles`].
    #[must_use]
    pub fn roles_generation(&self) -> u64 {
        self.roles.generation
    }

    /// Decisions made since the start, by result and reason. One that comes out as before is none.
    #[must_use]
    pub fn role_counts(&self) -> &BTreeMap<(&'static str, &'static str), u64> {
        &self.roles.counts
    }

    /// Whether everything that roles are decided from has been listed completely.
    #[must_use]
    pub fn roles_in_sync(&self) -> bool {
        Kind::OF_ROLES
            .iter()
            .all(|kind| self.feeds.get(kind).is_some_and(|feed| feed.in_sync))
    }

    pub(super) fn note_namespace(&mut self, name: &str, annotations: Option<Arc<Annotations>>) {
        let known = self.model.namespaces.contains_key(name);
        if known && self.roles.namespaces.get(name) == annotations.as_ref() {
            return;
        }
        set(&mut self.roles.namespaces, name, annotations);
        self.touch_namespace(name);
    }

    pub(super) fn forget_namespace_annotations(&mut self, name: &str) {
        self.roles.namespaces.remove(name);
        self.touch_namespace(name);
    }

    pub(super) fn put_account(
        &mut self,
        name: Name,
        account: ServiceAccount,
        annotations: Option<Arc<Annotations>>,
    ) {
        let account = Account {
            uid: account.uid,
            annotations,
        };
        if self.roles.accounts.get(&name.0, &name.1) == Some(&account) {
            return;
        }
        self.touch_account(&name);
        self.roles.accounts.insert(name, account);
    }

    pub(super) fn forget_account(&mut self, name: &Name) {
        if self.roles.accounts.remove(name).is_some() {
            self.touch_account(name);
        }
    }

    /// Whether an account of this name is there and is another one.
    pub(super) fn is_other_account(&self, (namespace, name): &Name, uid: &str) -> bool {
        let account = self.roles.accounts.get(namespace, name);
        account.is_some_and(|account| &*account.uid != uid)
    }

    /// What a pod of this node says is this.
    pub(super) fn note_pod(&mut self, uid: &str, annotations: Option<Arc<Annotations>>) {
        set(&mut self.roles.pods, uid, annotations);
        self.touch_pod(uid);
    }

    /// Whether a pod of this node says this already.
    pub(super) fn is_noted(&self, uid: &str, annotations: Option<&Arc<Annotations>>) -> bool {
        self.roles.pods.get(uid) == annotations
    }

    /// The pod is of this node no more, or is gone.
    pub(super) fn forget_pod_annotations(&mut self, uid: &str) {
        self.roles.pods.remove(uid);
        self.touch_pod(uid);
    }

    pub(super) fn touch_all(&mut self) {
        self.roles.touched.extend(self.local.keys().cloned());
    }

    fn touch_pod(&mut self, uid: &str) {
        self.roles.touched.insert(uid.to_owned());
    }

    fn touch_account(&mut self, (namespace, name): &Name) {
        let touched = self.local_pods().filter(|pod| {
            pod.workload.namespace == *namespace && *pod.workload.service_account == **name
        });
        let uids: Vec<String> = touched.map(|pod| pod.workload.uid.clone()).collect();
        self.roles.touched.extend(uids);
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.roles.read.remove(namespace);
        let of_it = |(_, name): &(&String, &Name)| name.0 == namespace;
        let touched = self.local.iter().filter(of_it);
        self.roles
            .touched
            .extend(touched.map(|(uid, _)| uid.clone()));
    }

    /// Decides again for all that was touched.
    pub(super) fn settle(&mut self) {
        if self.roles.touched.is_empty() {
            return;
        }
        let synced = self.roles_in_sync();
        let mut changed = false;
        for uid in std::mem::take(&mut self.roles.touched) {
            let name = self.local.get(&uid);
            let pod = name.and_then(|(namespace, name)| self.pods.get(namespace, name));
            let now = pod.filter(|pod| !pod.workload.finished).map(|pod| {
                let namespace = &pod.workload.namespace;
                let exists = self.model.namespaces.contains_key(namespace);
                Arc::new(self.roles.decide(pod, exists, synced))
            });
            if self.roles.decided.get(&uid) != now.as_ref() {
                if let Some(role) = &now {
                    *self.roles.counts.entry(words(&role.decision)).or_default() += 1;
                }
                set(Arc::make_mut(&mut self.roles.decided), &uid, now);
                changed = true;
            }
        }
        let inhabited: BTreeSet<&String> = self.local.values().map(|name| &name.0).collect();
        self.roles.read.retain(|name, _| inhabited.contains(name));
        self.roles.generation += u64::from(changed);
    }
}

impl Roles {
    /// The decision for one pod, from what is known now. `exists`: its namespace is known.
    fn decide(&mut self, pod: &Pod, exists: bool, synced: bool) -> PodRole {
        let workload = &pod.workload;
        let reader = &self.rules.reader;
        let none = Annotations::new();
        let said = self.pods.get(&workload.uid).map_or(&none, |said| said);
        let read_pod = reader.pod(
            &workload.uid,
            &workload.namespace,
            &workload.name,
            &workload.service_account,
            said,
        );
        let account = self
            .accounts
            .get(&workload.namespace, &workload.service_account);
        let read_account = account.map(|account| {
            reader.service_account(
                &account.uid,
                &workload.namespace,
                &workload.service_account,
                account.annotations.as_deref().unwrap_or(&none),
            )
        });
        let namespace = exists.then(|| {
            &*self
                .read
                .entry(workload.namespace.clone())
                .or_insert_with_key(|name| {
                    let said = self.namespaces.get(name).map_or(&none, |said| said);
                    reader.namespace(name, said)
                })
        });
        let asked = Asked {
            synced,
            pod: Some(&read_pod),
            service_account: read_account.as_ref(),
            namespace,
            projected: &pod.tokens,
        };
        let mut malformed = Vec::new();
        let mut note = |kind: Kind, name: &str, found: Vec<&Malformed>| {
            let key = Key {
                kind,
                namespace: kind.namespaced().then(|| workload.namespace.clone()),
                name: name.to_owned(),
            };
            malformed.extend(found.into_iter().map(|found| (key.clone(), found.clone())));
        };
        note(Kind::Pod, &workload.name, read_pod.malformed());
        if let Some(account) = &read_account {
            note(Kind::ServiceAccount, &account.name, account.malformed());
        }
        if let Some(namespace) = namespace {
            note(Kind::Namespace, &namespace.name, namespace.malformed());
        }
        PodRole {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            uid: workload.uid.clone(),
            service_account: workload.service_account.to_string(),
            service_account_uid: read_account.as_ref().map(|account| account.uid.clone()),
            decision: decide(&asked, &self.rules.decide),
            imds_v1: synced
                && namespace.is_some_and(|namespace| {
                    imds_v1_allowed(self.rules.imds_v1, namespace, &read_pod)
                }),
            // A list that cannot be read lets nothing be read.
            metadata_paths: namespace
                .filter(|_| synced)
                .and_then(|namespace| namespace.metadata_paths.as_ref().ok()?.as_ref())
                .map(|paths| paths.iter().cloned().collect())
                .unwrap_or_default(),
            malformed,
        }
    }
}

/// A decision as result and reason: why there is none, else which line of the precedence table decided.
fn words(decision: &Decision) -> (&'static str, &'static str) {
    match &decision.outcome {
        Outcome::Role(_) if decision.would_deny().is_some() => {
            ("would_deny", decision.source.as_str())
        }
        Outcome::Role(_) => ("role", decision.source.as_str()),
        Outcome::Nobody => ("none", decision.source.as_str()),
        Outcome::Refused(refusal) => ("refused", refusal.reason().as_str()),
        Outcome::Undecided(waiting) => ("undecided", waiting.as_str()),
    }
}

fn set<T>(map: &mut BTreeMap<String, T>, key: &str, value: Option<T>) {
    match value {
        Some(value) => {
            map.insert(key.to_owned(), value);
        }
        None => {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
