//! Interfaces meet pods.
//!
//! For each pod interface, in this order:
//!
//! 1. The CNI's record for it names a uid: that pod (or the API's mirror of it, for a static pod).
//! 2. A route leads to it for the address of a live pod of this node: that pod, the youngest if several claim the address.
//! 3. Nobody: an unknown pod, closed.
//!
//! Then claims are compared: an address, and a pod's one interface of a name, belong to one interface only. The newest live sandbox keeps them (the
//! record written last; without records the interface made last), the other interface is closed (reliability-spec 4, "IP reuse").

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::cni_cache::CniRecord;
use super::{InterfaceKind, Observed};
use crate::world::World;

/// The answer for one pod interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointBinding {
    /// The host's end.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The pod behind it; `None` = unknown, closed. The world may not know the pod (yet): it is closed then as well.
    pub uid: Option<String>,
    /// Addresses that the pod may send from here; for an unknown pod those that are routed to it.
    pub addresses: Vec<IpAddr>,
    /// What the answer rests on.
    pub evidence: Evidence,
    /// The interface that won what this one claims too; its `uid` is `None` then.
    pub superseded_by: Option<u32>,
}

/// What a binding rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The CNI's record.
    Cni,
    /// A host route and the API server's word on the address.
    Route,
    /// Nothing.
    None,
}

/// The pod behind each pod interface, in the order of the interfaces' indices.
#[must_use]
pub fn resolve(observed: &Observed, world: &World) -> Vec<EndpointBinding> {
    let owners = owners(world);
    let mut candidates: Vec<Candidate> = observed
        .interfaces
        .iter()
        .filter_map(|(index, interface)| match &interface.kind {
            InterfaceKind::Pod { addresses, cni } => {
                let binding = bind(
                    *index,
                    &interface.name,
                    addresses,
                    cni.as_deref(),
                    &owners,
                    world,
                );
                Some(Candidate {
                    binding,
                    cni: cni.clone(),
                })
            }
            InterfaceKind::Uplink | InterfaceKind::Other => None,
        })
        .collect();

    // Newest first: a record beats none, a later record an earlier one, a higher index a lower one.
    candidates.sort_by_key(|candidate| Reverse(candidate.rank()));
    let mut addresses: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let mut attachments: BTreeMap<(String, String), u32> = BTreeMap::new();
    for candidate in &mut candidates {
        let Some(uid) = candidate.binding.uid.clone() else {
            continue;
        };
        let attachment = (
            uid,
            candidate
                .cni
                .as_ref()
                .map(|record| record.interface.clone())
                .unwrap_or_default(),
        );
        let binding = &mut candidate.binding;
        let winner = attachments.get(&attachment).or_else(|| {
            binding
                .addresses
                .iter()
                .find_map(|address| addresses.get(address))
        });
        if let Some(winner) = winner {
            binding.superseded_by = Some(*winner);
            binding.uid = None;
            binding.evidence = Evidence::None;
        } else {
            attachments.insert(attachment, binding.ifindex);
            addresses.extend(
                binding
                    .addresses
                    .iter()
                    .map(|address| (*address, binding.ifindex)),
            );
        }
    }
    let mut bindings: Vec<_> = candidates
        .into_iter()
        .map(|candidate| candidate.binding)
        .collect();
    bindings.sort_by_key(|binding| binding.ifindex);
    bindings
}

struct Candidate {
    binding: EndpointBinding,
    cni: Option<Arc<CniRecord>>,
}

impl Candidate {
    fn rank(&self) -> (Option<SystemTime>, u32) {
        (
            self.cni.as_ref().map(|record| record.written),
            self.binding.ifindex,
        )
    }
}

/// A pod's age, its uid to tell twins apart.
type Claim = (Option<i64>, String);

/// The live pod of this node that owns an address: the youngest of several.
fn owners(world: &World) -> BTreeMap<IpAddr, Claim> {
    let model = world.snapshot();
    let mut owners: BTreeMap<IpAddr, Claim> = BTreeMap::new();
    for pod in world.local_pods().filter(|pod| pod.is_endpoint()) {
        let uid = &pod.workload.uid;
        let claim = (pod.created_secs, uid.clone());
        for address in model
            .workloads
            .get(uid)
            .map(|workload| workload.addresses.as_slice())
            .unwrap_or_default()
        {
            let owner = owners.entry(*address).or_insert_with(|| claim.clone());
            if *owner < claim {
                *owner = claim.clone();
            }
        }
    }
    owners
}

fn bind(
    ifindex: u32,
    name: &str,
    routed: &BTreeSet<IpAddr>,
    cni: Option<&CniRecord>,
    owners: &BTreeMap<IpAddr, Claim>,
    world: &World,
) -> EndpointBinding {
    let mut binding = EndpointBinding {
        ifindex,
        name: name.to_owned(),
        uid: None,
        addresses: routed.iter().copied().collect(),
        evidence: Evidence::None,
        superseded_by: None,
    };
    if let Some(record) = cni {
        let uid = known_uid(record, world);
        // Plugins that leave addressing to DHCP list none.
        if !record.addresses.is_empty() {
            binding.addresses.clone_from(&record.addresses);
        } else if routed.is_empty()
            && let Some(workload) = world.snapshot().workloads.get(&uid)
        {
            binding.addresses.clone_from(&workload.addresses);
        }
        binding.uid = Some(uid);
        binding.evidence = Evidence::Cni;
    } else if let Some((_, uid)) = routed
        .iter()
        .filter_map(|address| owners.get(address))
        .max()
    {
        binding
            .addresses
            .retain(|address| owners.get(address).is_some_and(|(_, owner)| owner == uid));
        binding.uid = Some(uid.clone());
        binding.evidence = Evidence::Route;
    }
    binding
}

/// The uid under which the API server knows the record's pod. The kubelet runs a static pod under a uid of its own; its mirror says which, and only
/// the pod of the very name is asked.
fn known_uid(record: &CniRecord, world: &World) -> String {
    let mirror = || {
        let pod = world.pod(&record.namespace, &record.name)?;
        (pod.static_uid.as_deref() == Some(record.uid.as_str())).then(|| pod.workload.uid.clone())
    };
    if world.local_pod(&record.uid).is_some() {
        return record.uid.clone();
    }
    mirror().unwrap_or_else(|| record.uid.clone())
}

#[cfg(test)]
mod tests;
