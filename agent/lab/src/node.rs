//! The lab itself: a node's namespace, its uplink, its pods; pods come and go while it runs.
//!
//! Whoever drops a [`Lab`] that it built takes it down; `lab up` hands it over to the state file instead. How a pod is joined is in `node/join.rs`.

mod claim;
mod join;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use self::claim::{check_name, claim};
use self::join::namespace;
pub use self::join::{POD_INTERFACE, PodSite};
use crate::cgroup::Cgroups;
use crate::cni;
use crate::link;
use crate::names;
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::outside::{self, Outside};
use crate::serve::Services;
use crate::spec::{LabPod, LabSpec};
use crate::state::{LabState, ProcessRecord};
use crate::teardown;

/// How to build a lab.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Name: lower-case letters, digits and hyphens.
    pub name: String,
    /// Whether the node knows its pods' hardware addresses from the start. Off: it asks by ARP and neighbour discovery, as a real node does.
    pub warm_neighbours: bool,
    /// Pods are bare devices whose other ends share one scratch namespace: cheap, for programs run without packets.
    pub devices: bool,
    /// Where CNI results go; default: a directory of the lab's own.
    pub cni_results: Option<PathBuf>,
    /// Whether CNI results are written at all.
    pub write_cni_results: bool,
    /// Whether to make cgroups where cgroup2 is mounted.
    pub cgroups: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            name: "lab".into(),
            warm_neighbours: true,
            devices: false,
            cni_results: None,
            write_cni_results: true,
            cgroups: true,
        }
    }
}

impl LabOptions {
    /// Defaults under another name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// A node of namespaces. Dropping it takes it down, unless it was handed over by [`Lab::persist`].
#[derive(Debug)]
pub struct Lab {
    state: LabState,
    options: LabOptions,
    node: NetNs,
    links: Netlink,
    uplink: u32,
    outside: Outside,
    scratch: Option<NetNs>,
    pods: BTreeMap<String, PodSite>,
    cgroups: Option<Cgroups>,
    services: Option<Services>,
    teardown: Teardown,
}

/// Takes the lab down when dropped; the last field of [`Lab`], so that its sockets are closed before.
#[derive(Debug)]
struct Teardown(Option<String>);

impl Drop for Teardown {
    fn drop(&mut self) {
        if let Some(name) = self.0.take()
            && let Err(error) = teardown::down(&name)
        {
            eprintln!("lab {name}: {error:#}");
        }
    }
}

impl Lab {
    /// Builds a lab, in place of one of its name whose builder died. On failure nothing of it is left.
    pub fn up(spec: LabSpec, options: LabOptions) -> Result<Self> {
        check_name(&options.name)?;
        let directory = LabState::directory_of(&options.name);
        if LabState::load(&options.name)?.is_some_and(|state| state.is_abandoned()) {
            teardown::down(&options.name)?;
        }
        claim(&directory)?;
        let teardown = Teardown(Some(options.name.clone()));
        let cgroups = if options.cgroups {
            Cgroups::create(&options.name)?
        } else {
            None
        };
        let pods = spec.pods.clone();
        let mut state = LabState {
            name: options.name.clone(),
            spec,
            devices: options.devices,
            cni_results: options
                .cni_results
                .clone()
                .unwrap_or_else(|| directory.join("cni-results")),
            cgroup: cgroups.as_ref().map(|cgroups| cgroups.host().to_owned()),
            builder: ProcessRecord::of("builder", std::process::id() as i32),
            agent: None,
            processes: Vec::new(),
        };
        state.spec.pods.clear();
        state.save()?;
        for path in [
            state.bpffs(),
            directory.join("netns"),
            state.cni_results.clone(),
        ] {
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        mount(
            Some("bpffs"),
            &state.bpffs(),
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .context("mounting a bpffs for the lab")?;
        // From here on the names belong to the lab's teardown, which still needs the node's namespace.
        let (mut node, mut links) = namespace(&state.netns("node"), &link::FORWARDING)?;
        node.keep();
        let (mut outside, outside_links) = namespace(&state.netns("outside"), &outside::SETTINGS)?;
        outside.keep();
        links.send(vec![link::up(link::LOOPBACK)])?;
        let (outside, uplink) = Outside::join(
            outside,
            outside_links,
            &mut links,
            &state.spec.node_addresses,
        )?;
        let mut scratch = None;
        if options.devices {
            let (made, _) = namespace(&state.netns("scratch"), &[])?;
            scratch.insert(made).keep();
        }
        let mut lab = Self {
            state,
            options,
            node,
            links,
            uplink,
            outside,
            scratch,
            pods: BTreeMap::new(),
            cgroups,
            services: None,
            teardown,
        };
        for pod in pods {
            lab.join_pod(pod)?;
        }
        lab.state.save()?;
        Ok(lab)
    }

    /// Opens a lab that another process built; dropping it leaves the lab as it is.
    pub fn open(name: &str) -> Result<Self> {
        let Some(state) = LabState::load(name)? else {
            bail!(
                "there is no such lab\nwhy:  no lab of the name {name} is up\ndo:   see `portcullis lab status`, name one with --name, or build it with `portcullis lab up`"
            )
        };
        let node = NetNs::open(&state.netns("node"))?;
        let mut links = node.run(Netlink::open)?;
        let outside = Outside::open(NetNs::open(&state.netns("outside"))?)?;
        let uplink = links.existing(outside::NODE_INTERFACE)?;
        let scratch = if state.devices {
            Some(NetNs::open(&state.netns("scratch"))?)
        } else {
            None
        };
        let mut pods = BTreeMap::new();
        for pod in &state.spec.pods {
            let host_interface = if pod.host_network {
                String::new()
            } else {
                names::host_interface(&pod.namespace, &pod.name)
            };
            let ifindex = if pod.host_network {
                0
            } else {
                links.existing(&host_interface)?
            };
            let own = !pod.host_network && !state.devices;
            let namespace = if own {
                Some(NetNs::open(&state.netns(&host_interface))?)
            } else {
                None
            };
            pods.insert(
                pod.key(),
                PodSite {
                    pod: pod.clone(),
                    namespace,
                    host_interface,
                    ifindex,
                },
            );
        }
        let cgroups = if state.cgroup.is_some() {
            Cgroups::of(name)
        } else {
            None
        };
        let options = LabOptions {
            devices: state.devices,
            cni_results: Some(state.cni_results.clone()),
            ..LabOptions::named(name)
        };
        Ok(Self {
            state,
            options,
            node,
            links,
            uplink,
            outside,
            scratch,
            pods,
            cgroups,
            services: None,
            teardown: Teardown(None),
        })
    }

    /// Leaves the lab standing when this value is dropped; its in-process services end.
    pub fn persist(mut self) -> Result<()> {
        self.state.builder = None;
        self.state.save()?;
        self.teardown.0 = None;
        Ok(())
    }

    /// Takes the lab down and reports what went wrong.
    pub fn down(mut self) -> Result<()> {
        self.teardown.0 = None;
        let name = self.state.name.clone();
        drop(self);
        teardown::down(&name)
    }

    /// Adds a pod to the running lab.
    pub fn add_pod(&mut self, pod: LabPod) -> Result<&PodSite> {
        let key = pod.key();
        self.join_pod(pod)?;
        self.state.save()?;
        if let (Some(services), Some(site)) = (&self.services, self.pods.get(&key)) {
            services.add_pod(site)?;
        }
        self.pods.get(&key).context("the pod was just added")
    }

    /// Removes a pod: its processes, interface, namespace, CNI result and routes. Its address may then be used again.
    pub fn remove_pod(&mut self, key: &str) -> Result<()> {
        let site = self
            .pods
            .remove(key)
            .with_context(|| format!("the lab has no pod {key}"))?;
        if let Some(services) = &self.services {
            services.forget(key)?;
        }
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove_pod(&site.pod.uid)?;
        }
        if site.ifindex != 0 {
            self.links.send(vec![link::delete(site.ifindex)])?;
            self.outside.no_longer_behind_node(&site.pod.addresses)?;
        }
        cni::remove_result(&self.state.cni_results, &site.pod);
        if let Some(namespace) = site.namespace {
            namespace.remove();
        }
        self.state.spec.pods.retain(|pod| pod.key() != key);
        self.state.save()
    }

    /// What is on record.
    #[must_use]
    pub fn state(&self) -> &LabState {
        &self.state
    }

    /// The record, to be added to.
    pub fn state_mut(&mut self) -> &mut LabState {
        &mut self.state
    }

    /// The node's namespace.
    #[must_use]
    pub fn node(&self) -> &NetNs {
        &self.node
    }

    /// Index of the uplink in the node.
    #[must_use]
    pub fn uplink(&self) -> u32 {
        self.uplink
    }

    /// The namespace behind the uplink.
    #[must_use]
    pub fn outside(&self) -> &NetNs {
        &self.outside.namespace
    }

    /// The lab's cgroups.
    #[must_use]
    pub fn cgroups(&self) -> Option<&Cgroups> {
        self.cgroups.as_ref()
    }

    /// All pods by `namespace/name`.
    #[must_use]
    pub fn pods(&self) -> &BTreeMap<String, PodSite> {
        &self.pods
    }

    /// The pod `namespace/name`.
    pub fn pod(&self, key: &str) -> Result<&PodSite> {
        self.pods
            .get(key)
            .with_context(|| format!("the lab has no pod {key}"))
    }

    /// The in-process services, if [`Lab::start_services`] was called.
    #[must_use]
    pub fn services(&self) -> Option<&Services> {
        self.services.as_ref()
    }

    /// Serves the pods' and the outside's ports from a thread of this process.
    pub fn start_services(&mut self) -> Result<&Services> {
        let services = Services::start(self)?;
        Ok(self.services.insert(services))
    }

    /// Closes every port again, so that another process can serve them.
    pub fn stop_services(&mut self) {
        self.services = None;
    }

    /// The namespace of a pod; the node's for a pod in the host network.
    pub fn namespace_of(&self, key: &str) -> Result<&NetNs> {
        let site = self.pod(key)?;
        match &site.namespace {
            Some(namespace) => Ok(namespace),
            None if site.pod.host_network => Ok(&self.node),
            None => bail!("pod {key} is a bare device"),
        }
    }
}
