//! What the node says of itself: whether all is in force, what is missing, how full the tables are. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::abi::{
    CIDR_ENTRIES, CONNTRACK_ENTRIES, Endpoint, L4_SETS, PEER_ENTRIES, POLICIES,
    PORT_PREFIX_ENTRIES, ROW_ENTRIES, SLOTS, Slot, direction, endpoint_flags,
};
use portcullis_common::reason;

use super::Node;
use crate::endpoint::EndpointBinding;
use crate::report::{
    DropCount, EndpointStatus, FeedStatus, MapFill, NodeStatus, RefusedObject, RoleCount,
};

impl Node {
    /// Whether everything known is in force and every live local pod with addresses has its interface.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.waiting_for().is_empty()
    }

    /// What is missing for that, in sentences.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut missing = self.behind();
        if self.in_force.is_none() {
            // Nobody has looked for pods yet.
            return missing;
        }
        let bound = self.bound();
        let model = self.world.snapshot();
        // As the compiler sees them: with the addresses that are in force.
        let local = self
            .world
            .local_pods()
            .filter_map(|pod| model.workloads.get(&pod.workload.uid));
        for workload in local {
            if workload.is_endpoint()
                && !workload.addresses.is_empty()
                && let Some(lacks) = lacks(&bound, &workload.uid)
            {
                missing.push(format!(
                    "pod {}/{} {lacks}",
                    workload.namespace, workload.name
                ));
            }
        }
        missing
    }

    /// What keeps every pod of the node from being up to date, in sentences.
    pub(super) fn behind(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (kind, feed) in self
            .world
            .feeds()
            .iter()
            .filter(|(kind, feed)| kind.is_in_tables() && feed.is_stale())
        {
            missing.extend(feed.problem(*kind));
        }
        if let Some(failure) = &self.failure {
            missing.push(format!("the tables are not up to date: {failure}"));
        }
        missing.extend(self.others.in_front());
        if missing.is_empty() && self.in_force != Some(self.world.generation()) {
            missing.push("the newest objects are not in force yet".to_owned());
        }
        missing
    }

    /// Pods with tables, by uid: whether their programs are attached.
    pub(super) fn bound(&self) -> BTreeMap<&String, bool> {
        self.bindings
            .iter()
            .filter(|binding| {
                let endpoints = &self.dataplane.state().endpoints;
                endpoints.contains_key(&binding.ifindex)
            })
            .filter_map(|binding| {
                let attached = self.dataplane.hooks_attached(binding.ifindex);
                Some((binding.uid.as_ref()?, attached))
            })
            .collect()
    }

    /// The agent's word on itself.
    #[must_use]
    pub fn status(&mut self) -> NodeStatus {
        let mut problems = self.waiting_for();
        let ready = problems.is_empty();
        if let Err(reason) = &self.cgroup {
            problems.push(format!(
                "pods in the host network are not guarded at their sockets: {reason}"
            ));
        }
        problems.extend(self.others.beside());
        let doubtful = self
            .world
            .feeds()
            .iter()
            .filter(|(kind, feed)| !kind.is_in_tables() || !feed.is_stale());
        problems.extend(doubtful.filter_map(|(kind, feed)| feed.problem(*kind)));
        let counts = self.world.counts();
        let slots = self.dataplane.slots();
        let state = self.dataplane.state();
        let rows: usize = state
            .policies()
            .values()
            .map(|policy| policy.rows.len())
            .sum();
        let port_prefixes: usize = state.sets().values().map(|set| set.spilled()).sum();
        let conntrack_entries = slots.iter().flat_map(|slot| slot.flows).sum();
        NodeStatus {
            api_version: "portcullis.dev/v1alpha1".to_owned(),
            kind: "NodeStatus".to_owned(),
            node: self.world.node().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            ready,
            problems,
            adopted: self.dataplane.adopted,
            attachment: if self.dataplane.uses_tcx() {
                "tcx"
            } else {
                "clsact"
            }
            .to_owned(),
            revision: self.revision,
            endpoints: self
                .bindings
                .iter()
                .map(|binding| self.endpoint_status(binding, &slots))
                .collect(),
            uplinks: self
                .observed
                .uplinks()
                .map(|(_, interface)| interface.name.clone())
                .collect(),
            cgroup_hooks: self.dataplane.cgroup_hooks(),
            pod_cgroup: self
                .cgroup
                .as_ref()
                .ok()
                .map(|found| found.path.display().to_string()),
            objects: BTreeMap::from([
                ("Namespace".to_owned(), counts.namespaces),
                ("Node".to_owned(), counts.nodes),
                ("Pod".to_owned(), counts.pods),
                ("NetworkPolicy".to_owned(), counts.policies),
                ("Service".to_owned(), counts.services),
            ]),
            feeds: self
                .world
                .feeds()
                .iter()
                .map(|(kind, feed)| FeedStatus {
                    kind: kind.name().to_owned(),
                    in_sync: feed.in_sync,
                    trouble: feed.trouble.as_ref().map(|trouble| trouble.reason.clone()),
                    stale_secs: feed
                        .trouble
                        .as_ref()
                        .map(|trouble| trouble.since.elapsed().as_secs()),
                })
                .collect(),
            refused: self
                .world
                .refused()
                .iter()
                .map(|(key, refusal)| RefusedObject {
                    object: key.to_string(),
                    whole: refusal.whole,
                    problems: refusal.problems.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            drops: self.drops(),
            events_lost: slots.iter().map(|slot| slot.lost).sum(),
            conntrack_entries,
            conntrack_capacity: u64::from(CONNTRACK_ENTRIES),
            map_entries: [
                (
                    "pc_conntrack",
                    conntrack_entries,
                    u64::from(CONNTRACK_ENTRIES),
                ),
                (
                    "pc_endpoints",
                    state.endpoints.len() as u64,
                    u64::from(SLOTS),
                ),
                (
                    "pc_peers",
                    state.peers().len() as u64,
                    u64::from(PEER_ENTRIES),
                ),
                (
                    "pc_cidrs",
                    state.cidrs().len() as u64,
                    u64::from(CIDR_ENTRIES),
                ),
                (
                    "pc_policies",
                    state.policies().len() as u64,
                    u64::from(POLICIES),
                ),
                ("pc_policy", rows as u64, u64::from(ROW_ENTRIES)),
                ("pc_l4sets", state.sets().len() as u64, u64::from(L4_SETS)),
                (
                    "pc_l4lpm",
                    port_prefixes as u64,
                    u64::from(PORT_PREFIX_ENTRIES),
                ),
                ("pc_services", state.services.len() as u64, 131_072),
            ]
            .into_iter()
            .map(|(name, used, capacity)| (name.to_owned(), MapFill { used, capacity }))
            .collect(),
            apply_errors: self.apply_errors,
            map_writes: self.map_writes,
            last_apply_ms: self.last_apply_ms,
            role_decisions: self
                .world
                .role_counts()
                .iter()
                .map(|((result, reason), count)| RoleCount {
                    result: (*result).to_owned(),
                    reason: (*reason).to_owned(),
                    count: *count,
                })
                .collect(),
        }
    }

    fn endpoint_status(&self, binding: &EndpointBinding, slots: &[Slot]) -> EndpointStatus {
        let model = self.world.snapshot();
        let workload = binding
            .uid
            .as_ref()
            .and_then(|uid| model.workloads.get(uid));
        let endpoint: Option<&Endpoint> = self.dataplane.state().endpoints.get(&binding.ifindex);
        let isolating = |ids: [u32; 2]| -> Vec<String> {
            let names: BTreeSet<String> = ids
                .iter()
                .filter_map(|id| self.dataplane.names().isolated_by(*id))
                .flatten()
                .map(ToString::to_string)
                .collect();
            names.into_iter().collect()
        };
        EndpointStatus {
            pod: workload.map_or_else(
                || "<unknown>".to_owned(),
                |workload| format!("{}/{}", workload.namespace, workload.name),
            ),
            uid: binding.uid.clone(),
            interface: binding.name.clone(),
            ifindex: binding.ifindex,
            slot: endpoint.map_or(0, |endpoint| endpoint.slot),
            generation: endpoint.map_or(0, |endpoint| endpoint.generation),
            addresses: binding.addresses.clone(),
            state: match endpoint {
                None => "failed",
                Some(_) if !self.dataplane.hooks_attached(binding.ifindex) => "failed",
                Some(endpoint) if endpoint.flags & endpoint_flags::UNKNOWN != 0 => "closed",
                Some(_) => "enforced",
            }
            .to_owned(),
            ingress: endpoint
                .map(|endpoint| isolating(endpoint.ingress))
                .unwrap_or_default(),
            egress: endpoint
                .map(|endpoint| isolating(endpoint.egress))
                .unwrap_or_default(),
            metadata_allowed: endpoint
                .is_some_and(|endpoint| endpoint.flags & endpoint_flags::METADATA_ALLOWED != 0),
            start_to_enforced_ms: self.enforced.get(&binding.ifindex).copied(),
            flows: endpoint
                .and_then(|endpoint| slots.get(usize::from(endpoint.slot)))
                .map(|slot| slot.flows)
                .unwrap_or_default(),
        }
    }

    /// Every reason in both directions, also those that never happened.
    fn drops(&self) -> Vec<DropCount> {
        let mut counts = Vec::new();
        for (direction, name) in [
            (direction::INGRESS, "ingress"),
            (direction::EGRESS, "egress"),
        ] {
            for (number, spelling, _) in reason::ALL.iter().filter(|(.., drops)| *drops) {
                let packets = self.dataplane.drops(direction, *number);
                counts.push(DropCount {
                    direction: name.to_owned(),
                    reason: (*spelling).to_owned(),
                    packets,
                });
            }
        }
        counts
    }
}

/// What an endpoint of this node lacks.
pub(super) fn lacks(bound: &BTreeMap<&String, bool>, uid: &String) -> Option<&'static str> {
    match bound.get(uid) {
        Some(true) => None,
        Some(false) => Some("has no programs on its interface"),
        None => Some("has no interface yet"),
    }
}
