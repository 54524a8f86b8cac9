//! What is true of world and node, as the tables and endpoints that the kernel should have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_common::abi::{CONNTRACK_ENTRIES, Config, SLOTS, config_flags, endpoint_flags};
use portcullis_common::addr;
use portcullis_policy::model;

use super::Node;
use crate::dataplane::names::uid_digest;
use crate::dataplane::plan::{Desired, Want, WantPolicies, address_bytes};
use crate::endpoint::EndpointBinding;
use crate::endpoint::cgroup;
use crate::responder::address::PORT;
use crate::settings::UnknownPod;

/// Connections that one endpoint may have: opened by it, opened to it, half-open ones of both.
const QUOTA: [u32; 4] = [65_536, 65_536, 16_384, 16_384];
/// Deny events of one endpoint in a tick (1.07 s); the rest is counted.
const EVENTS_PER_TICK: u32 = 50;
/// Endpoints for which half of the conntrack table is set aside, at the least.
const ENDPOINTS_FORESEEN: u32 = 128;

impl Node {
    pub(super) fn desired(&self, model: &model::World) -> Desired {
        let endpoints = self
            .bindings
            .iter()
            .map(|binding| (binding.ifindex, self.want(model, binding)))
            .collect();
        let mut nodes: BTreeMap<_, bool> = model
            .nodes
            .values()
            .flat_map(|node| &node.addresses)
            .map(|address| (address_bytes(*address), false))
            .collect();
        let own = model
            .nodes
            .get(&model.node)
            .into_iter()
            .flat_map(|node| &node.addresses);
        nodes.extend(
            self.observed
                .node_addresses
                .iter()
                .chain(own)
                .map(|address| (address_bytes(*address), true)),
        );
        Desired {
            tables: Arc::clone(&self.tables),
            endpoints,
            services: Arc::clone(&self.translated.all),
            nodes,
            cgroups: self.allowed.clone(),
            config: self.config(),
        }
    }

    fn want(&self, model: &model::World, binding: &EndpointBinding) -> Want {
        let workload = binding
            .uid
            .as_ref()
            .and_then(|uid| model.workloads.get(uid));
        let policies = binding
            .uid
            .as_ref()
            .and_then(|uid| self.tables.endpoints.get(uid));
        let mut addresses = [addr::NONE; 2];
        for address in &binding.addresses {
            let family = if address.is_ipv4() {
                addr::V4
            } else {
                addr::V6
            };
            if addresses[family] == addr::NONE {
                addresses[family] = address_bytes(*address);
            }
        }
        let unknown = match self.settings.unknown_pod {
            UnknownPod::Closed => WantPolicies::Closed,
            UnknownPod::Open => WantPolicies::Open,
        };
        let mut flags = if policies.is_some() {
            0
        } else {
            endpoint_flags::UNKNOWN
        };
        if workload.is_some_and(|workload| self.may_reach_metadata(workload)) {
            flags |= endpoint_flags::METADATA_ALLOWED;
        }
        Want {
            uid: binding.uid.as_deref().map_or_else(
                || uid_digest(&format!("interface {}", binding.name)),
                uid_digest,
            ),
            addresses,
            flags,
            policies: policies.map_or(unknown, |policies| WantPolicies::Compiled(*policies)),
        }
    }

    fn may_reach_metadata(&self, workload: &model::Workload) -> bool {
        self.settings.metadata_allow.contains(&(
            workload.namespace.clone(),
            workload.service_account.to_string(),
        ))
    }

    /// Cgroups of pods in the host network that are on the allow list, and of the agent's own where it answers for the metadata service: it asks that
    /// itself.
    pub(super) fn allowed_cgroups(&self) -> BTreeSet<u64> {
        let Ok(parent) = &self.cgroup else {
            return BTreeSet::new();
        };
        let own = self.settings.own_uid.as_ref();
        let own = own.filter(|_| !self.responder.is_empty());
        let allowed: BTreeSet<&String> = self
            .world
            .local_pods()
            .filter(|pod| {
                pod.workload.host_network
                    && !pod.workload.finished
                    && self.may_reach_metadata(&pod.workload)
            })
            .map(|pod| &pod.workload.uid)
            .chain(own)
            .collect();
        if allowed.is_empty() {
            return BTreeSet::new();
        }
        cgroup::pod_cgroups(parent)
            .into_iter()
            .filter(|(uid, _)| allowed.contains(uid))
            .map(|(_, id)| id)
            .collect()
    }

    pub(super) fn config(&self) -> Config {
        let endpoints = (self.bindings.len() as u32).max(ENDPOINTS_FORESEEN);
        let responder = |family: fn(&IpAddr) -> bool| {
            let address = self.responder.iter().find(|address| family(address));
            address.map_or(addr::NONE, |address| address_bytes(*address))
        };
        let (pods_cgroup, pods_cgroup_level, mut flags) = match &self.cgroup {
            Ok(found) => (found.id, found.level, config_flags::HOST_NETWORK_GUARD),
            Err(_) => (0, 0, 0),
        };
        if !self.responder.is_empty() {
            flags |= config_flags::RESPONDER;
        }
        Config {
            flags,
            pods_cgroup_level,
            pods_cgroup,
            netns_cookie: self.dataplane.owner.netns_cookie,
            quota: QUOTA,
            guaranteed: CONNTRACK_ENTRIES / 4 / endpoints,
            pool: CONNTRACK_ENTRIES / 2 - SLOTS,
            events_per_tick: EVENTS_PER_TICK,
            responder_port: PORT,
            reserved: 0,
            responder_v4: responder(IpAddr::is_ipv4),
            responder_v6: responder(IpAddr::is_ipv6),
        }
    }
}
