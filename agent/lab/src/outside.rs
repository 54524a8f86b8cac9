//! The namespace behind the node's uplink: every address that is not the node's or one of its pods' is local there and answers.
//!
//! Known as any-IP: a local route for everything in the table `local`, with the node's and the pods' addresses as longer prefixes in the same table. The
//! kernel then answers pings and opens connections for other nodes, their pods, the internet and the metadata addresses alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::link::{self, End, Route};
use crate::netlink::Netlink;
use crate::netns::NetNs;

/// The uplink's name in the node.
pub const NODE_INTERFACE: &str = "eth0";
/// The uplink's name outside.
pub const OUTSIDE_INTERFACE: &str = "uplink";
/// Hardware address of the node's end.
pub const NODE_MAC: [u8; 6] = [0x02, 0xff, 0, 0, 0, 1];
/// Hardware address of the outside end.
pub const OUTSIDE_MAC: [u8; 6] = [0x02, 0xff, 0, 0, 0, 2];
/// The node's IPv4 gateway. Link-local, so that it is nobody else's, and not one of the guarded addresses.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1));
/// The node's IPv6 gateway.
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Settings of the outside namespace beside the common ones: answers come from addresses that no interface carries.
pub const SETTINGS: [(&str, &str); 4] = [
    ("ipv4/ip_nonlocal_bind", "1"),
    ("ipv6/ip_nonlocal_bind", "1"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/icmp_ratelimit", "0"),
];

/// The outside namespace and the sockets that configure it.
#[derive(Debug)]
pub struct Outside {
    /// The namespace.
    pub namespace: NetNs,
    netlink: Netlink,
    uplink: u32,
}

impl Outside {
    /// Joins `namespace` to the node by the uplink; returns the uplink's index in the node too.
    pub fn join(
        namespace: NetNs,
        netlink: Netlink,
        node: &mut Netlink,
        node_addresses: &[IpAddr],
    ) -> Result<(Self, u32)> {
        let mut this = Self {
            namespace,
            netlink,
            uplink: 0,
        };
        let here = End {
            name: NODE_INTERFACE,
            mac: NODE_MAC,
        };
        let there = End {
            name: OUTSIDE_INTERFACE,
            mac: OUTSIDE_MAC,
        };
        node.send(vec![link::veth(&here, &there, &this.namespace)])?;
        let index = node.existing(NODE_INTERFACE)?;
        this.uplink = this.netlink.existing(OUTSIDE_INTERFACE)?;
        this.netlink.send(vec![
            link::up(link::LOOPBACK),
            link::up(this.uplink),
            Route::everything_local(GATEWAY_V4).add(),
            Route::everything_local(GATEWAY_V6).add(),
        ])?;
        let mut requests = vec![link::up(index)];
        requests.extend(
            node_addresses
                .iter()
                .map(|address| link::address(index, *address)),
        );
        for gateway in [GATEWAY_V4, GATEWAY_V6] {
            requests.push(link::neighbour(index, gateway, OUTSIDE_MAC));
            requests.push(Route::default_via(gateway, index).add());
        }
        node.send(requests)?;
        this.netlink.wait_until_running(this.uplink)?;
        node.wait_until_running(index)?;
        node.wait_until_all_local(node_addresses)?;
        this.behind_node(node_addresses)?;
        Ok((this, index))
    }

    /// Opens a lab's outside namespace again.
    pub fn open(namespace: NetNs) -> Result<Self> {
        let mut netlink = namespace.run(Netlink::open)?;
        let uplink = netlink.existing(OUTSIDE_INTERFACE)?;
        Ok(Self {
            namespace,
            netlink,
            uplink,
        })
    }

    /// Makes `addresses` the node's: packets for them go down the uplink.
    pub fn behind_node(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let requests = addresses.iter().flat_map(|address| {
            [
                link::neighbour(self.uplink, *address, NODE_MAC),
                Route::host(*address, self.uplink).in_local_table().add(),
            ]
        });
        self.netlink.send(requests.collect())
    }

    /// Makes `addresses` the outside's own again.
    pub fn no_longer_behind_node(&mut self, addresses: &[IpAddr]) -> Result<()> {
        self.netlink.send(
            addresses
                .iter()
                .map(|address| Route::host(*address, self.uplink).in_local_table().delete())
                .collect(),
        )
    }
}
