//! Joining a pod to the node, as the VPC CNI does.
//!
//! A /32 and a /128 on `eth0`, the gateway 169.254.1.1 or `fe80::1` as a permanent neighbour, and a host route `ADDRESS dev eniXXXXXXXXXXX` in the node.
//! In this order: namespace, cgroup, pair (down), CNI result, addresses, host side on, host routes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Lab;
use crate::cni::{self, Attachment};
use crate::link::{self, End, Route};
use crate::names;
use crate::netlink::Netlink;
use crate::netns::NetNs;
use crate::outside;
use crate::spec::LabPod;

/// A pod's interface, inside.
pub const POD_INTERFACE: &str = "eth0";
/// The IPv4 gateway of every pod.
const POD_GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// A pod as built.
#[derive(Debug)]
pub struct PodSite {
    /// What it was built from.
    pub pod: LabPod,
    /// Its namespace; `None` in the host network and for bare devices.
    pub namespace: Option<NetNs>,
    /// Name of the host end, empty in the host network.
    pub host_interface: String,
    /// Index of the host end in the node, 0 in the host network.
    pub ifindex: u32,
}

impl PodSite {
    /// Hardware address of the pod's end.
    #[must_use]
    pub fn pod_mac(&self) -> [u8; 6] {
        names::hardware_address(&self.pod.namespace, &self.pod.name, 1)
    }

    /// Hardware address of the host's end.
    #[must_use]
    pub fn host_mac(&self) -> [u8; 6] {
        names::hardware_address(&self.pod.namespace, &self.pod.name, 0)
    }
}

impl Lab {
    pub(super) fn join_pod(&mut self, pod: LabPod) -> Result<()> {
        let key = pod.key();
        if self.pods.contains_key(&key) {
            bail!("the lab has a pod {key} already");
        }
        if let Some(cgroups) = &self.cgroups {
            cgroups.create_pod(&pod.uid)?;
        }
        self.state.spec.pods.push(pod.clone());
        let site = if pod.host_network {
            PodSite {
                pod,
                namespace: None,
                host_interface: String::new(),
                ifindex: 0,
            }
        } else {
            self.join_interface(pod)
                .with_context(|| format!("joining pod {key}"))?
        };
        self.pods.insert(key, site);
        Ok(())
    }

    fn join_interface(&mut self, pod: LabPod) -> Result<PodSite> {
        let host_interface = names::host_interface(&pod.namespace, &pod.name);
        let mut site = PodSite {
            pod,
            namespace: None,
            host_interface,
            ifindex: 0,
        };
        let path = self.state.netns(&site.host_interface);
        let (mut own, mut peer_links, peer_name) = if let Some(scratch) = &self.scratch {
            let name = site.host_interface.replacen("eni", "pod", 1);
            (None, scratch.run(Netlink::open)?, name)
        } else {
            let (own, links) = namespace(&path, &[])?;
            (Some(own), links, POD_INTERFACE.to_owned())
        };
        let target = own
            .as_ref()
            .or(self.scratch.as_ref())
            .context("one of the two was just made")?;
        let here = End {
            name: &site.host_interface,
            mac: site.host_mac(),
        };
        let there = End {
            name: &peer_name,
            mac: site.pod_mac(),
        };
        self.links.send(vec![link::veth(&here, &there, target)])?;
        site.ifindex = self.links.existing(&site.host_interface)?;
        if self.options.write_cni_results {
            let attachment = Attachment {
                netns: &path,
                host_interface: &site.host_interface,
                host_mac: site.host_mac(),
                pod_mac: site.pod_mac(),
                cgroup: self
                    .cgroups
                    .as_ref()
                    .map(|cgroups| cgroups.pod_relative(&site.pod.uid)),
            };
            cni::write_result(&self.state.cni_results, &site.pod, &attachment)?;
        }
        // The pod's end first: when the host's end follows, the pod is complete.
        let peer = peer_links.existing(&peer_name)?;
        if own.is_some() {
            configure_pod(&mut peer_links, peer, &site)?;
        } else {
            peer_links.send(vec![link::up(peer)])?;
        }
        let mut requests = vec![link::up(site.ifindex)];
        for address in &site.pod.addresses {
            if self.options.warm_neighbours {
                requests.push(link::neighbour(site.ifindex, *address, site.pod_mac()));
            }
            requests.push(Route::host(*address, site.ifindex).add());
        }
        self.links.send(requests)?;
        peer_links.wait_until_running(peer)?;
        self.outside.behind_node(&site.pod.addresses)?;
        if let Some(namespace) = &mut own {
            peer_links.wait_until_all_local(&site.pod.addresses)?;
            namespace.keep();
        }
        site.namespace = own;
        Ok(site)
    }
}

/// The pod's side: addresses, gateways, `eth0` on.
fn configure_pod(links: &mut Netlink, index: u32, site: &PodSite) -> Result<()> {
    let mut requests = vec![link::up(link::LOOPBACK), link::up(index)];
    requests.extend(
        site.pod
            .addresses
            .iter()
            .map(|address| link::address(index, *address)),
    );
    if site.pod.addresses.iter().any(IpAddr::is_ipv4) {
        requests.push(link::neighbour(index, POD_GATEWAY_V4, site.host_mac()));
        requests.push(Route::host(POD_GATEWAY_V4, index).add());
        requests.push(Route::default_via(POD_GATEWAY_V4, index).add());
    }
    if site.pod.addresses.iter().any(IpAddr::is_ipv6) {
        requests.push(link::neighbour(index, outside::GATEWAY_V6, site.host_mac()));
        requests.push(Route::default_via(outside::GATEWAY_V6, index).add());
    }
    links.send(requests)
}

/// A namespace with the common settings and `more`, and a netlink socket in it.
pub(super) fn namespace(path: &Path, more: &[(&str, &str)]) -> Result<(NetNs, Netlink)> {
    NetNs::create(path, || {
        link::settings(&link::COMMON_SETTINGS)?;
        link::settings(more)?;
        Netlink::open()
    })
}
