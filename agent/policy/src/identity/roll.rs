//! Who is where: every workload that owns addresses, in its group, and the owners of every address.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::pieces::Sets;
use crate::asked::{Asked, AtomIx, Changed, NameIx};
use crate::index::{GroupIx, Index, News};
use crate::model::{Workload, World};

/// Number of a set of port numbers; 0 is the empty one.
pub(super) type PortsIx = u32;

/// A workload that came, went or is another now: before, after.
pub(crate) type WorkloadChange<'a> = (Option<&'a Arc<Workload>>, Option<&'a Arc<Workload>>);

/// What a workload brings to its addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) group: GroupIx,
    pub(super) ports: PortsIx,
}

/// A workload, found by its uid.
struct Member(Arc<Workload>);

impl Borrow<str> for Member {
    fn borrow(&self) -> &str {
        &self.0.uid
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for Member {}

impl PartialOrd for Member {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Member {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.uid.cmp(&other.0.uid)
    }
}

/// Workloads and addresses.
#[derive(Default)]
pub(super) struct Roll {
    index: Index,
    members: BTreeMap<Member, Owner>,
    /// How many workloads of one kind have the address.
    owners: BTreeMap<(IpAddr, Owner), u32>,
    ports: Sets<(NameIx, u16)>,
    /// Groups whose number may have been another's.
    fresh: BTreeSet<GroupIx>,
}

impl Roll {
    pub(super) fn update(
        &mut self,
        asked: &Asked,
        changed: Changed,
        world: &World,
        relabelled: &BTreeSet<&str>,
        workloads: &[WorkloadChange<'_>],
    ) {
        // Who is gone must not be grouped again.
        for (before, _) in workloads {
            if let Some(before) = before {
                self.remove(before);
            }
        }
        let news = changed
            .selectors
            .then(|| self.index.set_selectors(&asked.selectors));
        if changed.names {
            self.ports = Sets::default();
        }
        let everything = matches!(news, Some(News::Everything)) || changed.names;
        if everything || news.as_ref().is_some_and(|news| !news.is_none()) {
            self.regroup(asked, world, news.as_ref(), changed.names);
        }
        let within = (!changed.selectors).then_some(relabelled);
        if within.is_none_or(|within| !within.is_empty()) {
            let members = self
                .members
                .iter()
                .map(|(member, owner)| (&*member.0, owner.group));
            self.index
                .evaluate_again(members, &world.namespaces, within);
        }
        for (_, after) in workloads {
            if let Some(after) = after {
                self.add(asked, world, after);
            }
        }
    }

    /// Every address that a live workload owns, ascending, with its owners.
    pub(super) fn each_address(&self, mut visit: impl FnMut(IpAddr, &[Owner])) {
        let mut owners: Vec<Owner> = Vec::new();
        let mut entries = self.owners.keys().peekable();
        while let Some((address, owner)) = entries.next() {
            owners.push(*owner);
            if entries.peek().is_none_or(|(next, _)| next != address) {
                visit(*address, &owners);
                owners.clear();
            }
        }
    }

    /// The selectors that hold for an owner.
    pub(super) fn holding(&self, owner: Owner) -> &[AtomIx] {
        self.index.holding(owner.group)
    }

    /// An owner's numbers of the port names in use.
    pub(super) fn ports(&self, owner: Owner) -> &[(NameIx, u16)] {
        self.ports.get(owner.ports)
    }

    /// Groups whose number may have been another's when this was asked last.
    pub(super) fn take_fresh_groups(&mut self) -> impl Iterator<Item = GroupIx> + use<> {
        std::mem::take(&mut self.fresh).into_iter()
    }

    /// How much is kept: members, owned addresses.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        let mut addresses = 0;
        self.each_address(|_, _| addresses += 1);
        [self.members.len(), addresses]
    }

    fn add(&mut self, asked: &Asked, world: &World, workload: &Arc<Workload>) {
        if !workload.is_endpoint() || workload.addresses.is_empty() {
            return;
        }
        let owner = Owner {
            group: self.join(workload, world),
            ports: self.ports_of(asked, workload),
        };
        self.put_owner(workload, owner);
        self.members.insert(Member(Arc::clone(workload)), owner);
    }

    fn remove(&mut self, workload: &Workload) {
        if let Some(owner) = self.members.remove(workload.uid.as_str()) {
            self.drop_owner(workload, owner);
            self.index.leave(owner.group);
        }
    }

    /// Moves the members whom the news concern, or whose port numbers have to be read again.
    fn regroup(&mut self, asked: &Asked, world: &World, news: Option<&News>, names: bool) {
        let everything = matches!(news, Some(News::Everything));
        let mut members = std::mem::take(&mut self.members);
        for (Member(workload), owner) in &mut members {
            let moves = news.is_some_and(|news| news.concern(&workload.labels));
            if !moves && !names {
                continue;
            }
            let before = *owner;
            if moves {
                owner.group = self.join(workload, world);
                if !everything {
                    self.index.leave(before.group);
                }
            }
            if names {
                owner.ports = self.ports_of(asked, workload);
            }
            if *owner != before {
                self.drop_owner(workload, before);
                self.put_owner(workload, *owner);
            }
        }
        self.members = members;
    }

    fn join(&mut self, workload: &Workload, world: &World) -> GroupIx {
        let group = self.index.join(workload, &world.namespaces);
        if self.index.is_new(group) {
            self.fresh.insert(group);
        }
        group
    }

    fn ports_of(&mut self, asked: &Asked, workload: &Workload) -> PortsIx {
        let ports = workload.ports.iter();
        let mut set: Vec<(NameIx, u16)> = ports
            .filter_map(|port| Some((asked.name(port.protocol, &port.name)?, port.number)))
            .collect();
        set.sort_unstable();
        set.dedup();
        self.ports.intern(set)
    }

    fn put_owner(&mut self, workload: &Workload, owner: Owner) {
        for address in &workload.addresses {
            *self.owners.entry((*address, owner)).or_default() += 1;
        }
    }

    fn drop_owner(&mut self, workload: &Workload, owner: Owner) {
        for address in &workload.addresses {
            let key = (*address, owner);
            if let Some(count) = self.owners.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.owners.remove(&key);
                }
            }
        }
    }
}
