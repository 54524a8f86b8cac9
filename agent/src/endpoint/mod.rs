//! Which pod is behind this interface? One question, one answer.
//!
//! ```text
//! netlink --links--------\
//!                         >-- Observed --resolve(world)--> EndpointBinding for each pod interface
//! CNI cache --cni_cache--/
//! ```
//! `Observed` is what the node shows, without asking what the cluster says; [`resolve::resolve`] puts both together and is pure. Namespaces of pods
//! are never entered: that needs `CAP_SYS_ADMIN`, and the agent lives with BPF and net admin.

pub mod cgroup;
pub mod cni_cache;
pub mod directory;
mod dump;
pub mod foreign;
pub mod links;
pub mod monitor;
pub mod resolve;
#[cfg(test)]
pub(crate) mod scratch;
pub mod tracked;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use self::cni_cache::{CniCache, CniRecord};
use self::directory::DirectoryWatch;
use self::links::{LinkTable, RouteRole};
use self::monitor::{LinkMonitor, MonitorError};

pub use resolve::{EndpointBinding, Evidence, resolve};

/// How often the CNI cache is read where it cannot be watched, and how soon a file that was garbage is read again.
const POLL: Duration = Duration::from_secs(1);

/// Link kinds that are never the host's end of a pod, whatever a CNI result says: devices that others share.
const SHARED_KINDS: [&str; 8] = [
    "",
    "bond",
    "bridge",
    "geneve",
    "team",
    "vrf",
    "vxlan",
    "wireguard",
];

/// What the node shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The node's own addresses, link-local ones too, loopback's not.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Whether the CNI leaves records on this node, or did: an interface without one is then of a pod that is being wired.
    pub has_records: bool,
}

/// One interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// `veth`, `bridge`...; empty for physical devices.
    pub link_kind: String,
    /// What it is for.
    pub kind: InterfaceKind,
}

/// What an interface is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// The host's end of a pod.
    Pod {
        /// Addresses that routes lead to it for; empty for a bridge's port.
        addresses: BTreeSet<IpAddr>,
        /// What the CNI said, if it did: the newest record that names the interface.
        cni: Option<Arc<CniRecord>>,
    },
    /// Leads to other machines, or to a bridge's pods.
    Uplink,
    /// Loopback, or nothing leads there (yet).
    Other,
}

impl Observed {
    /// Puts what netlink and what the CNI say together.
    #[must_use]
    pub fn assemble<'a>(
        table: &LinkTable,
        records: impl IntoIterator<Item = &'a Arc<CniRecord>>,
    ) -> Self {
        let mut newest: BTreeMap<&str, &Arc<CniRecord>> = BTreeMap::new();
        let mut has_records = false;
        for record in records {
            has_records = true;
            let Some(name) = &record.host_interface else {
                continue;
            };
            let known = newest.entry(name).or_insert(record);
            // Files have no order; equal times are told apart by the sandbox, so that the answer is always the same.
            if (known.written, &known.container_id) < (record.written, &record.container_id) {
                *known = record;
            }
        }
        let interfaces =
            table
                .links()
                .iter()
                .zip(table.roles())
                .map(|((index, link), (_, role))| {
                    let shared = link.loopback || SHARED_KINDS.contains(&link.kind.as_str());
                    let cni = newest
                        .get(link.name.as_str())
                        .filter(|_| !shared)
                        .map(|record| Arc::clone(record));
                    let kind = match (cni, role) {
                        (Some(record), RouteRole::Pod(addresses)) => InterfaceKind::Pod {
                            addresses,
                            cni: Some(record),
                        },
                        (Some(record), _) => InterfaceKind::Pod {
                            addresses: BTreeSet::new(),
                            cni: Some(record),
                        },
                        (None, RouteRole::Pod(addresses)) => InterfaceKind::Pod {
                            addresses,
                            cni: None,
                        },
                        (None, RouteRole::Uplink) => InterfaceKind::Uplink,
                        (None, RouteRole::Other) => InterfaceKind::Other,
                    };
                    let interface = Interface {
                        name: link.name.clone(),
                        mac: link.mac,
                        up: link.up,
                        link_kind: link.kind.clone(),
                        kind,
                    };
                    (*index, interface)
                });
        Self {
            interfaces: interfaces.collect(),
            node_addresses: table.node_addresses(),
            has_records,
        }
    }

    /// Addresses that the CNI gave to pods whose interface is there, by pod uid: what the world may know before the API server does. A sandbox that
    /// was replaced no longer counts.
    #[must_use]
    pub fn cni_addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut newest: BTreeMap<(&str, &str), &CniRecord> = BTreeMap::new();
        for interface in self.interfaces.values() {
            if let InterfaceKind::Pod {
                cni: Some(record), ..
            } = &interface.kind
            {
                let known = newest
                    .entry((&record.uid, &record.interface))
                    .or_insert(record);
                if (known.written, &known.container_id) < (record.written, &record.container_id) {
                    *known = record;
                }
            }
        }
        let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for ((uid, _), record) in newest {
            let known = addresses.entry(uid.to_owned()).or_default();
            known.extend(&record.addresses);
            known.sort_unstable();
            known.dedup();
        }
        addresses
    }

    /// Indices of the uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = (u32, &Interface)> {
        let uplink = |(_, interface): &(&u32, &Interface)| interface.kind == InterfaceKind::Uplink;
        self.interfaces
            .iter()
            .filter(uplink)
            .map(|(index, interface)| (*index, interface))
    }
}

/// Watches the node; the receiver always holds the whole of what it shows, but for addresses that are the agent's `own`. Returns when the first view is
/// complete. The task ends with its receivers.
pub async fn observe(
    cni_directory: &Path,
    own: BTreeSet<IpAddr>,
) -> Result<(watch::Receiver<Arc<Observed>>, JoinHandle<()>), MonitorError> {
    // The watch stands before the first reading.
    let watch = DirectoryWatch::new(cni_directory)
        .map_err(|error| {
            warn!(directory = %cni_directory.display(), %error, "CNI cache cannot be watched, reading it every second");
        })
        .ok();
    let mut observer = Observer {
        monitor: LinkMonitor::start().await?,
        watch,
        cache: CniCache::new(cni_directory),
        own,
        had_records: false,
    };
    observer.rescan();
    observer.had_records = observer.view().has_records;
    let (sender, receiver) = watch::channel(Arc::new(observer.view()));
    let task = tokio::spawn(async move { observer.run(&sender).await });
    Ok((receiver, task))
}

struct Observer {
    monitor: LinkMonitor,
    watch: Option<DirectoryWatch>,
    cache: CniCache,
    own: BTreeSet<IpAddr>,
    /// Between two pods there may be none.
    had_records: bool,
}

impl Observer {
    fn view(&self) -> Observed {
        let mut view = Observed::assemble(self.monitor.table(), self.cache.records());
        view.node_addresses
            .retain(|address| !self.own.contains(address));
        view.has_records |= self.had_records;
        view
    }

    async fn run(mut self, sender: &watch::Sender<Arc<Observed>>) {
        loop {
            let poll = self.watch.is_none() || self.cache.doubtful();
            tokio::select! {
                result = self.monitor.changed() => if let Err(error) = result {
                    error!(%error, "Netlink monitor stopped, starting it again");
                    self.restart().await;
                },
                result = watched(&mut self.watch) => {
                    if let Err(error) = result {
                        warn!(%error, "CNI cache cannot be watched any more, reading it every second");
                        self.watch = None;
                    }
                    self.rescan();
                }
                () = tokio::time::sleep(POLL), if poll => self.rescan(),
                () = sender.closed() => return,
            }
            let view = self.view();
            self.had_records = view.has_records;
            sender.send_if_modified(|known| {
                let changed = **known != view;
                if changed {
                    *known = Arc::new(view);
                }
                changed
            });
        }
    }

    fn rescan(&mut self) {
        match self.cache.rescan() {
            Ok(garbage) => {
                for (file, reason) in garbage {
                    warn!(%file, %reason, "Ignoring a file of the CNI cache");
                }
            }
            Err(error) => {
                let directory = self.cache.directory().display();
                warn!(%directory, %error, "CNI cache cannot be read, its last state counts");
            }
        }
    }

    async fn restart(&mut self) {
        loop {
            match LinkMonitor::start().await {
                Ok(monitor) => {
                    self.monitor = monitor;
                    info!("Netlink monitor runs again");
                    return;
                }
                Err(error) => {
                    warn!(%error, "Netlink monitor cannot be started");
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }
}

/// Waits for a change of a directory; for ever if it is not watched.
async fn watched(watch: &mut Option<DirectoryWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
