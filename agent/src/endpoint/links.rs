//! What netlink says about interfaces, addresses and routes, and which interface is a pod's by that alone.
//!
//! A table that takes messages in, and a function over it; no socket here. Decisions, in this order:
//!
//! 1. Loopback is neither.
//! 2. Other unicast routes lead over it (a prefix, or a gateway): an uplink, veth or not. Uplinks have host routes too, to their gateway and their DNS
//!    server (systemd-networkd, the VPC CNI's table for each secondary ENI), so this comes before 3.
//! 3. A /32 or /128 route without gateway leads to it, in whatever table: a pod's.
//! 4. Anything else is neither: bridge ports, for one, which only the CNI's cache can tell.
//!
//! Not counted as routes: the local table and everything that is no unicast route, link-local and multicast prefixes (every interface has them), and
//! routes to the node's own addresses (IPv6 puts a /128 into the main table for each).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, route::RouteNextHop};

/// The kernel's table of its own addresses.
const LOCAL_TABLE: u32 = 255;

/// An interface as netlink describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// `IFLA_IFNAME`.
    pub name: String,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// `veth`, `bridge`, `vlan`...; empty for physical devices.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// A loopback device.
    pub loopback: bool,
    /// The bridge, bond or VRF that it is a port of.
    pub controller: Option<u32>,
}

/// What the routes say an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteRole {
    /// A pod's; these addresses are routed to it.
    Pod(BTreeSet<IpAddr>),
    /// Leads to other machines.
    Uplink,
    /// Neither can be said.
    Other,
}

/// Everything that netlink said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTable {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
    routes: BTreeMap<RouteKey, BTreeSet<Hop>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    table: u32,
    destination: IpAddr,
    length: u8,
    tos: u8,
    priority: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hop {
    interface: u32,
    gateway: bool,
    kernel: bool,
}

/// What a message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is different.
    Nothing,
    /// Something is different.
    Changed,
    /// Something is different, and the kernel may have removed routes without saying so: dump again soon.
    Doubtful,
}

impl LinkTable {
    /// Takes in one message; `flags` are those of its netlink header.
    pub fn apply(&mut self, message: &RouteNetlinkMessage, flags: u16) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.remove_link(link),
            RouteNetlinkMessage::NewAddress(address) => {
                changed(address_of(address).is_some_and(|address| self.addresses.insert(address)))
            }
            // IPv4 drops the routes that used it as their source without a word (fib_sync_down_addr).
            RouteNetlinkMessage::DelAddress(address) => {
                let known =
                    address_of(address).is_some_and(|address| self.addresses.remove(&address));
                if known {
                    Effect::Doubtful
                } else {
                    Effect::Nothing
                }
            }
            RouteNetlinkMessage::NewRoute(route) => {
                self.new_route(route, flags & NLM_F_REPLACE != 0)
            }
            RouteNetlinkMessage::DelRoute(route) => self.remove_route(route),
            _ => Effect::Nothing,
        }
    }

    /// The interfaces by index.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// The node's own addresses; loopback's 127/8 and `::1` are not among them.
    #[must_use]
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses
            .iter()
            .map(|(_, address)| *address)
            .filter(|address| !address.is_loopback())
            .collect()
    }

    /// What the routes say of every interface.
    #[must_use]
    pub fn roles(&self) -> BTreeMap<u32, RouteRole> {
        let own = self.node_addresses();
        let mut roles: BTreeMap<u32, RouteRole> = self
            .links
            .keys()
            .map(|index| (*index, RouteRole::Other))
            .collect();
        for (key, hops) in &self.routes {
            let host = key.length == host_length(key.destination);
            if host && own.contains(&key.destination) {
                continue;
            }
            for hop in hops {
                if self
                    .links
                    .get(&hop.interface)
                    .is_none_or(|link| link.loopback)
                {
                    continue;
                }
                // `ip addr add A peer B` aside, the kernel's own IPv6 host routes are to addresses that are only just being added.
                if host && hop.kernel && key.destination.is_ipv6() {
                    continue;
                }
                let role = roles.entry(hop.interface).or_insert(RouteRole::Other);
                match role {
                    RouteRole::Uplink => {}
                    _ if !host || hop.gateway => *role = RouteRole::Uplink,
                    RouteRole::Pod(addresses) => {
                        addresses.insert(key.destination);
                    }
                    RouteRole::Other => *role = RouteRole::Pod(BTreeSet::from([key.destination])),
                }
            }
        }
        roles
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // A bridge reports its ports in its own family as well, with half of the attributes.
        if message.header.interface_family == AddressFamily::Bridge {
            return Effect::Nothing;
        }
        let index = message.header.index;
        let link = link_of(message);
        let before = self.links.insert(index, link.clone());
        match before {
            Some(before) if before == link => Effect::Nothing,
            // IPv4 drops the routes over an interface that goes down without a word (fib_sync_down_dev).
            Some(before) if before.up && !link.up => Effect::Doubtful,
            _ => Effect::Changed,
        }
    }

    fn remove_link(&mut self, message: &LinkMessage) -> Effect {
        if message.header.interface_family == AddressFamily::Bridge {
            return Effect::Nothing;
        }
        let index = message.header.index;
        self.addresses.retain(|(interface, _)| *interface != index);
        self.routes.retain(|_, hops| {
            hops.retain(|hop| hop.interface != index);
            !hops.is_empty()
        });
        changed(self.links.remove(&index).is_some())
    }

    fn new_route(&mut self, message: &RouteMessage, replace: bool) -> Effect {
        let Some((key, hops)) = route_of(message) else {
            // What was replaced by a route without an interface may have been one of ours.
            return if replace {
                Effect::Doubtful
            } else {
                Effect::Nothing
            };
        };
        let known = self.routes.entry(key).or_default();
        let before = known.clone();
        if replace {
            known.clear();
        }
        known.extend(hops);
        changed(*known != before)
    }

    fn remove_route(&mut self, message: &RouteMessage) -> Effect {
        let Some((key, hops)) = route_of(message) else {
            return Effect::Nothing;
        };
        let Some(known) = self.routes.get_mut(&key) else {
            return Effect::Nothing;
        };
        let before = known.len();
        known.retain(|hop| !hops.contains(hop));
        let after = known.len();
        if after == 0 {
            self.routes.remove(&key);
        }
        changed(after != before)
    }
}

fn changed(changed: bool) -> Effect {
    if changed {
        Effect::Changed
    } else {
        Effect::Nothing
    }
}

fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn link_of(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => {
                link.controller = Some(*index).filter(|index| *index != 0);
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn address_of(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // With a peer, IFA_ADDRESS is the peer and IFA_LOCAL is ours.
            AddressAttribute::Local(local) => return Some((message.header.index, *local)),
            AddressAttribute::Address(ours) => address = Some(*ours),
            _ => {}
        }
    }
    address.map(|address| (message.header.index, address))
}

/// The route's key and next hops, if it is a route that tells something.
fn route_of(message: &RouteMessage) -> Option<(RouteKey, Vec<Hop>)> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let kernel = header.protocol == RouteProtocol::Kernel;
    let mut key = RouteKey {
        table: u32::from(header.table),
        destination: unspecified,
        length: header.destination_prefix_length,
        tos: header.tos,
        priority: 0,
    };
    let mut interface = None;
    let mut gateway = false;
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => key.table = *table,
            RouteAttribute::Destination(address) => key.destination = ip(address)?,
            RouteAttribute::Priority(priority) => key.priority = *priority,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
            RouteAttribute::MultiPath(paths) => {
                hops.extend(paths.iter().map(|path| hop_of(path, kernel)));
            }
            _ => {}
        }
    }
    hops.extend(interface.map(|interface| Hop {
        interface,
        gateway,
        kernel,
    }));
    if key.table == LOCAL_TABLE || hops.is_empty() || tells_nothing(key.destination, key.length) {
        return None;
    }
    Some((key, hops))
}

fn hop_of(path: &RouteNextHop, kernel: bool) -> Hop {
    let gateway = path.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
        )
    });
    Hop {
        interface: path.interface_index,
        gateway,
        kernel,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Link-local and multicast prefixes stand on every interface; a link-local host route is a neighbour's.
fn tells_nothing(destination: IpAddr, length: u8) -> bool {
    match destination {
        IpAddr::V4(address) => address.is_multicast() || (address.is_link_local() && length >= 16),
        IpAddr::V6(address) => {
            address.is_multicast() || (address.is_unicast_link_local() && length >= 10)
        }
    }
}

#[cfg(test)]
mod tests;
