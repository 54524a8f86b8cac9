//! World and node meet: what is true of both becomes tables in the kernel.
//!
//! ```text
//! feeds --Batch--> World --\
//!                           >-- resolve -- compile -- plan -- write -- attach --> enforced
//! node --Observed----------/
//! ```
//! One task owns all of it, so there is no lock. Level-triggered: every round starts from the whole of what is true now.
//!
//! Order of a first start: uplink guards at once, for they need no API data; pods' programs after the first tables, so that no running pod loses a
//! packet to an empty table. Later a pod's programs come first: a pod that starts is closed until its endpoint stands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use portcullis_common::abi::{
    CONNTRACK_ENTRIES, Config, Endpoint, POLICIES, SLOTS, config_flags, direction, endpoint_flags,
};
use portcullis_common::{addr, reason};
use portcullis_policy::compile;
use portcullis_policy::model;
use portcullis_policy::tables::Tables;
use tracing::{error, info, warn};

use crate::dataplane::Dataplane;
use crate::dataplane::attach::Role;
use crate::dataplane::names::uid_digest;
use crate::dataplane::plan::{Desired, Want, WantPolicies, address_bytes};
use crate::endpoint::cgroup::{self, PodCgroup};
use crate::endpoint::{EndpointBinding, InterfaceKind, Observed, resolve};
use crate::kube::Batch;
use crate::report::{DropCount, EndpointStatus, FeedStatus, MapFill, NodeStatus, RefusedObject};
use crate::settings::{Settings, UnknownPod};
use crate::world::World;

/// Connections that one endpoint may have: opened by it, opened to it, half-open ones of both.
const QUOTA: [u32; 4] = [65_536, 65_536, 16_384, 16_384];
/// Deny events of one endpoint in a tick (1.07 s); the rest is counted.
const EVENTS_PER_TICK: u32 = 50;
/// Endpoints for which half of the conntrack table is set aside, at the least.
const ENDPOINTS_FORESEEN: u32 = 128;

/// The node's state and the hands that change it.
pub struct Node {
    settings: Settings,
    world: World,
    observed: Arc<Observed>,
    dataplane: Dataplane,
    cgroup: Result<PodCgroup, String>,
    tables: Tables,
    bindings: Vec<EndpointBinding>,
    first_seen: BTreeMap<u32, Instant>,
    enforced: BTreeMap<u32, f64>,
    /// World generation in force; `None` before the first tables.
    in_force: Option<u64>,
    failure: Option<String>,
    revision: u64,
    apply_errors: u64,
    map_writes: u64,
    last_apply_ms: f64,
}

impl Node {
    /// Opens the dataplane and puts up what needs no API data. Attaches nothing to pods yet, unless an earlier agent's tables were taken over.
    pub fn open(settings: Settings, observed: Arc<Observed>) -> Result<Self> {
        let mut dataplane = Dataplane::open(&settings.bpffs)?;
        let cgroup = cgroup::find(settings.pod_cgroup.as_deref(), settings.own_uid.as_deref())
            .map_err(|error| error.to_string());
        match &cgroup {
            Ok(found) => {
                let host = match &settings.host_cgroup {
                    Some(path) => Some(path.clone()),
                    None => found.parent().map(|parent| parent.path),
                };
                dataplane.hooks().attach_pods_cgroup(&found.path)?;
                if let Some(host) = host {
                    dataplane.hooks().attach_host_cgroup(&host)?;
                }
            }
            Err(error) if settings.pod_cgroup.is_some() => anyhow::bail!(
                "no pods' cgroup\nwhy:  {error}\ndo:   give a cgroup2 directory with --pod-cgroup"
            ),
            Err(reason) => info!(%reason, "Socket hooks for pods in the host network are off"),
        }
        let mut node = Self {
            world: World::new(&settings.node),
            settings,
            observed,
            dataplane,
            cgroup,
            tables: Tables::default(),
            bindings: Vec::new(),
            first_seen: BTreeMap::new(),
            enforced: BTreeMap::new(),
            in_force: None,
            failure: None,
            revision: 0,
            apply_errors: 0,
            map_writes: 0,
            last_apply_ms: 0.0,
        };
        node.guard()?;
        if node.dataplane.adopted {
            node.attach_pods();
        }
        Ok(node)
    }

    /// The deny events' ring; once.
    pub fn take_events(&mut self) -> Result<aya::maps::RingBuf<aya::maps::MapData>> {
        self.dataplane.take_events()
    }

    /// Takes in what the feeds say.
    pub fn changes(&mut self, batch: Batch) {
        self.world.apply_batch(batch, SystemTime::now());
    }

    /// Takes in what the node shows. Programs go onto new interfaces at once.
    pub fn observe(&mut self, observed: Arc<Observed>) {
        self.observed = observed;
        if let Err(error) = self.guard() {
            error!(error = %format!("{error:#}"), "Failed to guard an uplink");
            self.failure = Some(format!("{error:#}"));
        }
        if self.in_force.is_some() || self.dataplane.adopted {
            self.attach_pods();
        }
    }

    /// Settings, and the guard on every uplink: all that the metadata block of forwarded packets needs.
    fn guard(&mut self) -> Result<()> {
        if self.in_force.is_none() && !self.dataplane.adopted {
            // Before the first tables: settings alone.
            let desired = Desired {
                config: self.config(),
                ..Desired::default()
            };
            self.dataplane.apply(&desired)?;
        }
        let uplinks: Vec<_> = self
            .observed
            .uplinks()
            .map(|(ifindex, interface)| (ifindex, interface.name.clone(), interface.mac.is_some()))
            .collect();
        for (ifindex, name, has_header) in uplinks {
            let role = if has_header {
                Role::Uplink
            } else {
                Role::UplinkWithoutHeader
            };
            self.dataplane.attach(ifindex, &name, role)?;
        }
        let gone: Vec<u32> = self
            .dataplane
            .hooks()
            .attached()
            .keys()
            .copied()
            .filter(|ifindex| !self.observed.interfaces.contains_key(ifindex))
            .collect();
        for ifindex in gone {
            self.dataplane.hooks().forget(ifindex);
            self.first_seen.remove(&ifindex);
            self.enforced.remove(&ifindex);
        }
        Ok(())
    }

    fn attach_pods(&mut self) {
        let pods: Vec<(u32, String)> = self
            .observed
            .interfaces
            .iter()
            .filter(|(_, interface)| matches!(interface.kind, InterfaceKind::Pod { .. }))
            .map(|(ifindex, interface)| (*ifindex, interface.name.clone()))
            .collect();
        for (ifindex, name) in pods {
            self.first_seen.entry(ifindex).or_insert_with(Instant::now);
            if let Err(error) = self.dataplane.attach(ifindex, &name, Role::Pod) {
                // The interface may have gone meanwhile: the next view of the node says so.
                warn!(interface = %name, error = %format!("{error:#}"), "Failed to attach to a pod's interface");
            }
        }
    }

    /// Brings the kernel to what is true now. Nothing is written before every feed is in sync.
    pub fn reconcile(&mut self) {
        if !self.world.in_sync() {
            return;
        }
        let started = Instant::now();
        match self.try_reconcile() {
            Ok(writes) => {
                self.map_writes += writes as u64;
                self.failure = None;
                if writes > 0 || self.in_force.is_none() {
                    self.revision += 1;
                    self.last_apply_ms = started.elapsed().as_secs_f64() * 1e3;
                }
                let first = self.in_force.is_none();
                self.in_force = Some(self.world.generation());
                self.attach_pods();
                if first {
                    let alive: BTreeSet<u32> = self.observed.interfaces.keys().copied().collect();
                    self.dataplane
                        .hooks()
                        .forget_dead(|ifindex| alive.contains(&ifindex));
                    info!(
                        endpoints = self.bindings.len(),
                        adopted = self.dataplane.adopted,
                        writes,
                        "Tables are in force"
                    );
                }
                self.note_enforced();
            }
            Err(error) => {
                self.apply_errors += 1;
                let text = format!("{error:#}");
                if self.failure.as_ref() != Some(&text) {
                    error!(error = %text, "Failed to bring the tables up to date, endpoints keep their last whole version");
                }
                self.failure = Some(text);
            }
        }
    }

    fn try_reconcile(&mut self) -> Result<usize> {
        self.world.set_cni_addresses(self.observed.cni_addresses());
        self.bindings = resolve(&self.observed, &self.world);
        let model = self.world.snapshot();
        self.tables = compile(&model);
        let desired = self.desired(&model);
        Ok(self
            .dataplane
            .apply(&desired)
            .context("writing the tables")?
            .writes)
    }

    fn desired(&self, model: &model::World) -> Desired {
        let endpoints = self
            .bindings
            .iter()
            .map(|binding| (binding.ifindex, self.want(model, binding)))
            .collect();
        let services = self.world.service_addresses(&self.observed.node_addresses);
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
            tables: self.tables.clone(),
            endpoints,
            services: services
                .into_iter()
                .map(|service| {
                    (
                        address_bytes(service.address),
                        service.port,
                        service.protocol,
                    )
                })
                .collect(),
            nodes,
            cgroups: self.allowed_cgroups(),
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
        self.settings
            .metadata_allow
            .contains(&(workload.namespace.clone(), workload.service_account.clone()))
    }

    /// Cgroups of pods in the host network that are on the allow list.
    fn allowed_cgroups(&self) -> BTreeSet<u64> {
        let Ok(parent) = &self.cgroup else {
            return BTreeSet::new();
        };
        let allowed: BTreeSet<&String> = self
            .world
            .local_pods()
            .filter(|pod| {
                pod.workload.host_network
                    && !pod.workload.finished
                    && self.may_reach_metadata(&pod.workload)
            })
            .map(|pod| &pod.workload.uid)
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

    fn config(&self) -> Config {
        let endpoints = (self.bindings.len() as u32).max(ENDPOINTS_FORESEEN);
        let (pods_cgroup, pods_cgroup_level, flags) = match &self.cgroup {
            Ok(found) => (found.id, found.level, config_flags::HOST_NETWORK_GUARD),
            Err(_) => (0, 0, 0),
        };
        Config {
            flags,
            pods_cgroup_level,
            pods_cgroup,
            netns_cookie: self.dataplane.owner.netns_cookie,
            quota: QUOTA,
            guaranteed: CONNTRACK_ENTRIES / 4 / endpoints,
            pool: CONNTRACK_ENTRIES / 2 - SLOTS,
            events_per_tick: EVENTS_PER_TICK,
            reserved: [0; 3],
        }
    }

    fn note_enforced(&mut self) {
        let model = self.world.snapshot();
        for binding in &self.bindings {
            let known = binding
                .uid
                .as_ref()
                .and_then(|uid| model.workloads.get(uid));
            let (Some(workload), Some(seen)) = (known, self.first_seen.get(&binding.ifindex))
            else {
                continue;
            };
            if self.enforced.contains_key(&binding.ifindex)
                || !self
                    .dataplane
                    .state()
                    .endpoints
                    .contains_key(&binding.ifindex)
            {
                continue;
            }
            let milliseconds = seen.elapsed().as_secs_f64() * 1e3;
            self.enforced.insert(binding.ifindex, milliseconds);
            info!(
                pod = %format!("{}/{}", workload.namespace, workload.name),
                interface = %binding.name,
                start_to_enforced_ms = %format!("{milliseconds:.1}"),
                "Endpoint is enforced"
            );
        }
    }

    /// Whether everything known is in force and every live local pod with addresses has its interface.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.waiting_for().is_empty()
    }

    /// What is missing for that, in sentences.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (kind, feed) in self.world.feeds().iter().filter(|(_, feed)| !feed.in_sync) {
            let trouble = feed
                .trouble
                .as_deref()
                .map(|trouble| format!(": {trouble}"))
                .unwrap_or_default();
            missing.push(format!(
                "{} objects are not listed yet{trouble}",
                kind.name()
            ));
        }
        if let Some(failure) = &self.failure {
            missing.push(format!("the tables are not up to date: {failure}"));
        }
        if missing.is_empty() && self.in_force != Some(self.world.generation()) {
            missing.push("the newest objects are not in force yet".to_owned());
        }
        let bound: BTreeSet<&String> = self
            .bindings
            .iter()
            .filter(|binding| {
                self.dataplane.hooks_attached(binding.ifindex)
                    && self
                        .dataplane
                        .state()
                        .endpoints
                        .contains_key(&binding.ifindex)
            })
            .filter_map(|binding| binding.uid.as_ref())
            .collect();
        let model = self.world.snapshot();
        for workload in model.workloads.values() {
            let local = workload.node.as_deref() == Some(self.world.node());
            if local
                && workload.is_endpoint()
                && !workload.addresses.is_empty()
                && !bound.contains(&workload.uid)
            {
                missing.push(format!(
                    "pod {}/{} has no interface yet",
                    workload.namespace, workload.name
                ));
            }
        }
        missing
    }

    /// Removes connections that are gone.
    pub fn sweep(&mut self) {
        if let Err(error) = self.dataplane.sweep() {
            warn!(error = %format!("{error:#}"), "Failed to sweep the conntrack table");
        }
    }

    /// What events need to be put into words.
    #[must_use]
    pub fn lookup(&self) -> crate::flowlog::Lookup {
        crate::flowlog::Lookup {
            model: self.world.snapshot(),
            names: self.dataplane.names().clone(),
            endpoints: self
                .bindings
                .iter()
                .filter_map(|binding| {
                    let endpoint = self.dataplane.state().endpoints.get(&binding.ifindex)?;
                    Some(((endpoint.slot, endpoint.generation), binding.uid.clone()?))
                })
                .collect(),
        }
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
        problems.extend(self.world.feeds().iter().filter_map(|(kind, feed)| {
            Some(format!(
                "feed of {}: {}",
                kind.name(),
                feed.trouble.as_ref()?
            ))
        }));
        let counts = self.world.counts();
        let slots = self.dataplane.slots();
        let state = self.dataplane.state();
        let rows: usize = state
            .policies
            .values()
            .map(|policy| policy.rows.len())
            .sum();
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
                    trouble: feed.trouble.clone(),
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
                ("pc_peers", state.peers.len() as u64, 262_144),
                ("pc_cidrs", state.cidrs.len() as u64, 131_072),
                (
                    "pc_policies",
                    state.policies.len() as u64,
                    u64::from(POLICIES),
                ),
                ("pc_policy", rows as u64, 524_288),
                ("pc_services", state.services.len() as u64, 131_072),
            ]
            .into_iter()
            .map(|(name, used, capacity)| (name.to_owned(), MapFill { used, capacity }))
            .collect(),
            apply_errors: self.apply_errors,
            map_writes: self.map_writes,
            last_apply_ms: self.last_apply_ms,
        }
    }

    fn endpoint_status(
        &self,
        binding: &EndpointBinding,
        slots: &[portcullis_common::abi::Slot],
    ) -> EndpointStatus {
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

    /// Addresses that the node itself has.
    #[must_use]
    pub fn node_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.observed.node_addresses
    }
}
