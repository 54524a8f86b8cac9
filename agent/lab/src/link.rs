//! Links, addresses, routes and neighbours as requests, and the kernel settings of a namespace.
//!
//! The verbs of `ip` that the lab needs, without `ip`: a bare machine may not have it.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};

use crate::netlink::{Request, attribute};
use crate::netns::NetNs;

/// Index of `lo` in every network namespace.
pub const LOOPBACK: u32 = 1;
/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// `RTNH_F_ONLINK` of linux/rtnetlink.h: the gateway is on the link, whatever the routes say.
const RTNH_F_ONLINK: u32 = 4;

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// A pair with one end in the namespace of the netlink socket and the other in `namespace`; both are down.
#[must_use]
pub fn veth(here: &End<'_>, there: &End<'_>, namespace: &NetNs) -> Request {
    let mut peer = interface(0, 0);
    attribute(&mut peer, libc::IFLA_IFNAME, &terminated(there.name));
    attribute(&mut peer, libc::IFLA_ADDRESS, &there.mac);
    let fd: RawFd = namespace.file().as_raw_fd();
    attribute(&mut peer, libc::IFLA_NET_NS_FD, &fd.to_ne_bytes());
    let mut data = Vec::new();
    attribute(&mut data, VETH_INFO_PEER, &peer);
    let mut info = Vec::new();
    attribute(&mut info, libc::IFLA_INFO_KIND, b"veth");
    attribute(&mut info, libc::IFLA_INFO_DATA, &data);
    let purpose = format!("creating the veth pair {} - {}", here.name, there.name);
    Request::new(
        purpose,
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &interface(0, 0),
    )
    .with(libc::IFLA_IFNAME, &terminated(here.name))
    .with(libc::IFLA_ADDRESS, &here.mac)
    .with(libc::IFLA_LINKINFO, &info)
}

/// Switches an interface on.
#[must_use]
pub fn up(index: u32) -> Request {
    Request::new(
        format!("switching interface {index} on"),
        libc::RTM_NEWLINK,
        0,
        &interface(index, libc::IFF_UP as u32),
    )
}

/// Switches an interface off.
#[must_use]
pub fn down(index: u32) -> Request {
    let mut header = interface(index, 0);
    header[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    Request::new(
        format!("switching interface {index} off"),
        libc::RTM_NEWLINK,
        0,
        &header,
    )
}

/// Deletes an interface, and its peer with it.
#[must_use]
pub fn delete(index: u32) -> Request {
    Request::new(
        format!("deleting interface {index}"),
        libc::RTM_DELLINK,
        0,
        &interface(index, 0),
    )
}

/// Gives an interface the single address `address` (/32 or /128), usable at once.
#[must_use]
pub fn address(index: u32, address: IpAddr) -> Request {
    let (bytes, width) = octets(address);
    let header = [
        family(address),
        width,
        libc::IFA_F_NODAD as u8,
        libc::RT_SCOPE_UNIVERSE,
    ];
    let header: Vec<u8> = header.into_iter().chain(index.to_ne_bytes()).collect();
    Request::new(
        format!("adding address {address}"),
        libc::RTM_NEWADDR,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &header,
    )
    .with(libc::IFA_LOCAL, &bytes)
    .with(libc::IFA_ADDRESS, &bytes)
}

/// A route through `index`; see the constructors.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    destination: IpAddr,
    width: u8,
    gateway: Option<IpAddr>,
    kind: u8,
    table: u8,
    scope: u8,
    index: u32,
}

impl Route {
    /// `DESTINATION/32 dev INDEX scope link`, as a CNI routes to a pod.
    #[must_use]
    pub fn host(destination: IpAddr, index: u32) -> Self {
        let (table, kind) = (libc::RT_TABLE_MAIN, libc::RTN_UNICAST);
        Self {
            destination,
            width: octets(destination).1,
            gateway: None,
            kind,
            table,
            scope: libc::RT_SCOPE_LINK,
            index,
        }
    }

    /// `default via GATEWAY dev INDEX onlink`.
    #[must_use]
    pub fn default_via(gateway: IpAddr, index: u32) -> Self {
        let (table, kind) = (libc::RT_TABLE_MAIN, libc::RTN_UNICAST);
        Self {
            destination: unspecified(gateway),
            width: 0,
            gateway: Some(gateway),
            kind,
            table,
            scope: libc::RT_SCOPE_UNIVERSE,
            index,
        }
    }

    /// `local default dev lo`: every address of the family of `any` is this namespace's own (what is known as any-IP).
    #[must_use]
    pub fn everything_local(any: IpAddr) -> Self {
        let (table, kind) = (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL);
        Self {
            destination: unspecified(any),
            width: 0,
            gateway: None,
            kind,
            table,
            scope: libc::RT_SCOPE_HOST,
            index: LOOPBACK,
        }
    }

    /// Puts the route into the table `local`: beside [`Route::everything_local`] the longer prefix must win within one table.
    #[must_use]
    pub fn in_local_table(mut self) -> Self {
        self.table = libc::RT_TABLE_LOCAL;
        self
    }

    /// The request that adds or replaces it.
    #[must_use]
    pub fn add(self) -> Request {
        self.request(
            "adding",
            libc::RTM_NEWROUTE,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        )
    }

    /// The request that deletes it.
    #[must_use]
    pub fn delete(self) -> Request {
        self.request("deleting", libc::RTM_DELROUTE, 0)
    }

    fn request(self, verb: &str, kind: u16, flags: libc::c_int) -> Request {
        let mut header = vec![
            family(self.destination),
            self.width,
            0,
            0,
            self.table,
            libc::RTPROT_STATIC,
            self.scope,
            self.kind,
        ];
        let onlink = if self.gateway.is_some() {
            RTNH_F_ONLINK
        } else {
            0
        };
        header.extend_from_slice(&onlink.to_ne_bytes());
        let purpose = format!("{verb} route to {}/{}", self.destination, self.width);
        let mut request = Request::new(purpose, kind, flags, &header)
            .with(libc::RTA_OIF, &self.index.to_ne_bytes());
        if self.width > 0 {
            request = request.with(libc::RTA_DST, &octets(self.destination).0);
        }
        if let Some(gateway) = self.gateway {
            request = request.with(libc::RTA_GATEWAY, &octets(gateway).0);
        }
        request
    }
}

/// A permanent neighbour entry: first packets are not lost to address resolution.
#[must_use]
pub fn neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Request {
    let mut header = vec![family(address), 0, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[0, libc::RTN_UNICAST]);
    Request::new(
        format!("adding neighbour {address}"),
        libc::RTM_NEWNEIGH,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &header,
    )
    .with(libc::NDA_DST, &octets(address).0)
    .with(libc::NDA_LLADDR, &mac)
}

/// Writes settings under `/proc/sys/net` of the calling thread's namespace.
pub fn settings(pairs: &[(&str, &str)]) -> Result<()> {
    for (key, value) in pairs {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    Ok(())
}

/// Settings of every namespace of a lab: addresses usable at once, nothing learnt from router advertisements, no reverse path filter.
pub const COMMON_SETTINGS: [(&str, &str); 10] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/lo/rp_filter", "0"),
];

/// Settings of a node beside the common ones.
pub const FORWARDING: [(&str, &str); 2] =
    [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

fn interface(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&flags.to_ne_bytes());
    header.extend_from_slice(&flags.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

fn octets(address: IpAddr) -> (Vec<u8>, u8) {
    match address {
        IpAddr::V4(v4) => (v4.octets().to_vec(), 32),
        IpAddr::V6(v6) => (v6.octets().to_vec(), 128),
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
