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
//! packet to an empty table. Later a pod's programs come first: a pod that starts is closed until its endpoint stands. Behind an agent of another version
//! everything comes after the first tables: until then its programs and tables guard the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use portcullis_common::addr::{self, Addr};
use portcullis_common::conntrack;
use portcullis_policy::Compiler;
use portcullis_policy::tables::Tables;
use tracing::{error, info, warn};

use crate::dataplane::Dataplane;
use crate::dataplane::adopt::existing;
use crate::dataplane::attach::Role;
use crate::dataplane::plan::Desired;
use crate::discovery::Found;
use crate::endpoint::cgroup::{self, PodCgroup};
use crate::endpoint::{EndpointBinding, Interface, InterfaceKind, Observed, resolve, tracked};
use crate::failure::Failure;
use crate::kube::Batch;
use crate::responder::origin::Origins;
use crate::settings::Settings;
use crate::world::World;

mod answer;
mod callers;
mod others;
mod report;
mod translated;
mod want;

pub use answer::View;
pub use callers::{Callers, attachment, host_attachment};
pub use others::rules_of_others;
use translated::Translated;

/// For how long a connection that an agent of another version knew may be silent before it is forgotten.
const SUCCESSION_PATIENCE: Duration = Duration::from_mins(5);

/// The node's state and the hands that change it.
pub struct Node {
    settings: Settings,
    responder: Vec<IpAddr>,
    world: World,
    observed: Arc<Observed>,
    dataplane: Dataplane,
    cgroup: Result<PodCgroup, String>,
    compiler: Compiler,
    tables: Arc<Tables>,
    translated: Translated,
    bindings: Vec<EndpointBinding>,
    /// When an interface was first seen to be a pod's; none for those that an earlier agent has seen to.
    first_seen: BTreeMap<u32, Instant>,
    enforced: BTreeMap<u32, f64>,
    /// World generation in force; `None` before the first tables.
    in_force: Option<u64>,
    /// Whether the view of the node has been taken in.
    seen: bool,
    /// Cgroups on the metadata guard's allow list that are in force.
    allowed: BTreeSet<u64>,
    failure: Option<String>,
    others: others::Others,
    revision: u64,
    apply_errors: u64,
    map_writes: u64,
    last_apply_ms: f64,
}

impl Node {
    /// Opens the dataplane and puts up what needs no API data. Attaches nothing to pods yet, unless an earlier agent's tables were taken over.
    ///
    /// `responder` are the addresses at which the responder listens; without any the metadata addresses are blocked.
    pub fn open(settings: Settings, observed: Arc<Observed>, responder: &[IpAddr]) -> Result<Self> {
        // What may be wrong with the settings comes before anything is pinned.
        let cgroup = cgroup::find(settings.pod_cgroup.as_deref(), settings.own_uid.as_deref())
            .map_err(|error| error.to_string());
        if let (Err(error), Some(_)) = (&cgroup, &settings.pod_cgroup) {
            return Err(Failure::new(
                "PC1007",
                "no pods' cgroup",
                error.clone(),
                "give a cgroup2 directory with --pod-cgroup",
            )
            .into());
        }
        if let Err(reason) = &cgroup {
            info!(%reason, "Socket hooks for pods in the host network are off");
        }
        let dataplane = Dataplane::open(&settings.bpffs)?;
        let mut node = Self {
            world: World::new(&settings.node).with_roles(settings.roles.clone()),
            settings,
            responder: responder.to_vec(),
            observed,
            dataplane,
            cgroup,
            compiler: Compiler::default(),
            tables: Arc::default(),
            translated: Translated::default(),
            bindings: Vec::new(),
            first_seen: BTreeMap::new(),
            enforced: BTreeMap::new(),
            in_force: None,
            seen: false,
            allowed: BTreeSet::new(),
            failure: None,
            others: others::Others::default(),
            revision: 0,
            apply_errors: 0,
            map_writes: 0,
            last_apply_ms: 0.0,
        };
        if node.dataplane.has_predecessor() {
            info!("Programs of another version guard the node until the tables stand");
        } else {
            node.attach_cgroups()?;
            node.guard()?;
        }
        if node.dataplane.adopted {
            node.attach_pods();
        } else {
            node.see(&BTreeMap::new());
        }
        Ok(node)
    }

    /// Socket hooks, and the check of what reaches the host.
    fn attach_cgroups(&mut self) -> Result<()> {
        let Ok(found) = &self.cgroup else {
            return Ok(());
        };
        let host = match &self.settings.host_cgroup {
            Some(path) => Some(path.clone()),
            None => found.parent().map(|parent| parent.path),
        };
        let hooks = self.dataplane.hooks();
        hooks.attach_pods_cgroup(&found.path)?;
        if let Some(host) = host {
            hooks.attach_host_cgroup(&host)?;
        }
        Ok(())
    }

    /// The deny events' ring; once.
    pub fn take_events(&mut self) -> Result<aya::maps::RingBuf<aya::maps::MapData>> {
        self.dataplane.take_events()
    }

    /// The table that says whose a redirected connection is.
    pub fn origins(&self) -> Result<Origins> {
        self.dataplane.origins()
    }

    /// Takes in what the feeds say.
    pub fn changes(&mut self, batch: Batch) {
        self.world.apply_batch(batch, SystemTime::now());
    }

    /// Takes in what the node says of itself.
    pub fn discovered(&mut self, found: Found) {
        self.world.discovered(found);
    }

    /// Takes in what the node shows. Programs go onto new interfaces at once.
    pub fn observe(&mut self, observed: Arc<Observed>) {
        let before = std::mem::replace(&mut self.observed, observed);
        self.see(&before.interfaces);
        self.seen = false;
        let waits = self.in_force.is_none() && self.dataplane.has_predecessor();
        if !waits && let Err(error) = self.guard() {
            error!(error = %format!("{error:#}"), "Failed to guard an uplink");
            self.failure = Some(format!("{error:#}"));
        }
        if self.in_force.is_some() || self.dataplane.adopted {
            self.attach_pods();
        }
    }

    /// Notes when interfaces turned out to be pods' that were not so `before`: a plugin makes them some time before it gives them to a pod.
    fn see(&mut self, before: &BTreeMap<u32, Interface>) {
        let now = Instant::now();
        let is_pod = |interface: &Interface| matches!(interface.kind, InterfaceKind::Pod { .. });
        let new = self
            .observed
            .interfaces
            .iter()
            .filter(|(ifindex, interface)| {
                is_pod(interface) && !before.get(ifindex).is_some_and(is_pod)
            });
        self.first_seen
            .extend(new.map(|(ifindex, _)| (*ifindex, now)));
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
        let allowed = self.allowed_cgroups();
        if self.is_current() && self.allowed == allowed {
            // What changed is nothing that a table holds; an interface that refused its programs may take them now.
            self.attach_pods();
            self.note_enforced();
            return;
        }
        self.allowed = allowed;
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
                self.seen = true;
                // Most are known when the first packet comes; those that were opened meanwhile, a moment later.
                if first {
                    self.adopt_existing();
                }
                self.attach_pods();
                if first {
                    self.adopt_existing();
                }
                if self.dataplane.has_predecessor() {
                    self.succeed();
                }
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
                    self.look_around();
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

    /// Whether the tables were made from world and node as they are now.
    fn is_current(&self) -> bool {
        self.in_force == Some(self.world.generation()) && self.seen && self.failure.is_none()
    }

    /// With the first tables: puts our programs in the place of another version's. Where that fails the others go on, and the next round tries again.
    fn succeed(&mut self) {
        let taken = self
            .attach_cgroups()
            .and_then(|()| self.guard())
            .and_then(|()| self.dataplane.succeed());
        match taken {
            Ok(pins) => info!(pins, "Took over from an agent of another version"),
            Err(error) => {
                let text = format!("{error:#}");
                error!(error = %text, "Failed to take over from an agent of another version");
                self.failure = Some(text);
            }
        }
    }

    /// On the first start on a node: remembers the connections that its pods have open, if the operator wants that. Behind an agent of another version
    /// always, for its memory cannot be read.
    fn adopt_existing(&mut self) {
        let succession = self
            .dataplane
            .has_predecessor()
            .then_some(SUCCESSION_PATIENCE);
        let Some(patience) = self.settings.adopt_existing.or(succession) else {
            return;
        };
        if self.dataplane.adopted {
            return;
        }
        let ticks = conntrack::tick(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX));
        let endpoints: Vec<_> = self.dataplane.state().endpoints.values().copied().collect();
        let remembered = tracked::read()
            .context("reading the kernel's connection tracking")
            .and_then(|open| {
                let existing = existing(&open, &endpoints, &self.observed.node_addresses, ticks);
                self.dataplane.remember(&existing)
            });
        match remembered {
            Ok(entries) => info!(entries, "Connections that were open are adopted"),
            Err(error) => {
                warn!(error = %format!("{error:#}"), "Failed to adopt connections that were open");
            }
        }
    }

    fn try_reconcile(&mut self) -> Result<usize> {
        self.world.set_cni_addresses(self.observed.cni_addresses());
        self.bindings = resolve(&self.observed, &self.world);
        let model = self.world.snapshot();
        self.tables = self.compiler.compile(&model);
        self.translated.refresh(&self.world, &self.observed);
        let desired = self.desired(&model);
        Ok(self
            .dataplane
            .apply(&desired)
            .context("writing the tables")?
            .writes)
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
                || !self.dataplane.hooks_attached(binding.ifindex)
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
            holders: self.holders(),
            pods: self.world.owners(),
        }
    }

    /// Who has which address.
    fn holders(&self) -> BTreeMap<Addr, Vec<(u16, u8)>> {
        let mut holders: BTreeMap<Addr, Vec<(u16, u8)>> = BTreeMap::new();
        for endpoint in self.dataplane.state().endpoints.values() {
            for address in [endpoint.v4, endpoint.v6] {
                if address != addr::NONE {
                    let holder = (endpoint.slot, endpoint.generation);
                    holders.entry(address).or_default().push(holder);
                }
            }
        }
        holders
    }

    /// Addresses that the node itself has.
    #[must_use]
    pub fn node_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.observed.node_addresses
    }
}
