use rtnetlink::packet_route::link::{InfoKind, LinkHeader};
use rtnetlink::packet_route::route::RouteHeader;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link_message(index: u32, name: &str, kind: Option<InfoKind>, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        index,
        flags,
        ..LinkHeader::default()
    };
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
    ];
    message
        .attributes
        .extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
    message
}

fn veth(index: u32, name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(link_message(
        index,
        name,
        Some(InfoKind::Veth),
        LinkFlags::Up,
    ))
}

fn address(index: u32, text: &str, peer: Option<&str>) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.attributes = match peer {
        Some(peer) => vec![
            AddressAttribute::Address(ip(peer)),
            AddressAttribute::Local(ip(text)),
        ],
        None => vec![AddressAttribute::Address(ip(text))],
    };
    message
}

struct Route {
    to: &'static str,
    dev: u32,
    via: Option<&'static str>,
    table: u32,
    kind: RouteType,
    protocol: RouteProtocol,
}

impl Route {
    fn message(&self) -> RouteMessage {
        let (destination, length) = self.to.split_once('/').unwrap();
        let destination = ip(destination);
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: if destination.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            },
            destination_prefix_length: length.parse().unwrap(),
            // Tables above 255 only fit the attribute.
            table: u8::try_from(self.table).unwrap_or(252),
            kind: self.kind,
            protocol: self.protocol,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Oif(self.dev),
        ];
        if length != "0" {
            message
                .attributes
                .push(RouteAttribute::Destination(destination.into()));
        }
        message
            .attributes
            .extend(self.via.map(|via| RouteAttribute::Gateway(ip(via).into())));
        message
    }

    fn add(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewRoute(self.message())
    }

    fn remove(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::DelRoute(self.message())
    }
}

fn route(to: &'static str, dev: u32) -> Route {
    Route {
        to,
        dev,
        via: None,
        table: 254,
        kind: RouteType::Unicast,
        protocol: RouteProtocol::Boot,
    }
}

fn table(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> LinkTable {
    let mut table = LinkTable::default();
    for message in messages {
        table.apply(&message, 0);
    }
    table
}

fn role(messages: impl IntoIterator<Item = RouteNetlinkMessage>, index: u32) -> RouteRole {
    table(messages).roles()[&index].clone()
}

fn pods(addresses: &[&str]) -> RouteRole {
    RouteRole::Pod(addresses.iter().map(|address| ip(address)).collect())
}

#[test]
fn a_host_route_in_any_table_makes_a_pods_interface() {
    assert_eq!(
        role([veth(5, "eni1"), route("10.0.1.5/32", 5).add()], 5),
        pods(&["10.0.1.5"])
    );
    assert_eq!(
        role([veth(5, "cali1"), route("fd00::5/128", 5).add()], 5),
        pods(&["fd00::5"])
    );
    let elsewhere = Route {
        table: 1001,
        ..route("10.0.1.5/32", 5)
    };
    assert_eq!(
        role([veth(5, "vlan1"), elsewhere.add()], 5),
        pods(&["10.0.1.5"])
    );
    let dual = [
        veth(5, "a"),
        route("10.0.1.5/32", 5).add(),
        route("fd00::5/128", 5).add(),
    ];
    assert_eq!(role(dual, 5), pods(&["10.0.1.5", "fd00::5"]));
}

#[test]
fn other_routes_make_an_uplink_veth_or_not() {
    assert_eq!(
        role([veth(2, "eth0"), route("10.0.0.0/16", 2).add()], 2),
        RouteRole::Uplink
    );
    let default = Route {
        via: Some("10.0.0.1"),
        ..route("0.0.0.0/0", 2)
    };
    assert_eq!(role([veth(2, "eth0"), default.add()], 2), RouteRole::Uplink);
    let behind = Route {
        via: Some("10.0.0.1"),
        ..route("192.0.2.7/32", 2)
    };
    assert_eq!(role([veth(2, "eth0"), behind.add()], 2), RouteRole::Uplink);
    let mut multipath = route("0.0.0.0/0", 2).message();
    let mut hop = RouteNextHop::default();
    hop.interface_index = 3;
    hop.attributes = vec![RouteAttribute::Gateway(ip("10.0.0.1").into())];
    multipath.attributes = vec![RouteAttribute::MultiPath(vec![hop])];
    let multipath = RouteNetlinkMessage::NewRoute(multipath);
    assert_eq!(role([veth(3, "eth1"), multipath], 3), RouteRole::Uplink);
}

#[test]
fn an_uplink_with_host_routes_to_its_gateway_stays_an_uplink() {
    // A secondary interface as the VPC CNI and systemd-networkd set it up.
    let messages = [
        veth(2, "ens6"),
        Route {
            table: 2,
            ..route("10.0.0.1/32", 2)
        }
        .add(),
        Route {
            table: 2,
            via: Some("10.0.0.1"),
            ..route("0.0.0.0/0", 2)
        }
        .add(),
        Route {
            protocol: RouteProtocol::Dhcp,
            ..route("10.0.0.2/32", 2)
        }
        .add(),
    ];
    assert_eq!(role(messages, 2), RouteRole::Uplink);
}

#[test]
fn routes_that_every_interface_has_tell_nothing() {
    let kernel = |to, dev| Route {
        protocol: RouteProtocol::Kernel,
        ..route(to, dev)
    };
    let messages = [
        veth(5, "veth1"),
        kernel("fe80::/64", 5).add(),
        kernel("ff00::/8", 5).add(),
        kernel("169.254.0.0/16", 5).add(),
        Route {
            table: 255,
            kind: RouteType::Local,
            ..route("10.0.0.1/32", 5)
        }
        .add(),
        Route {
            kind: RouteType::BlackHole,
            ..route("10.9.0.0/16", 5)
        }
        .add(),
        // The gateway address that ptp puts on each veth, before and after its address is known.
        kernel("fd00::1/128", 5).add(),
        RouteNetlinkMessage::NewAddress(address(5, "10.0.0.254", None)),
        route("10.0.0.254/32", 5).add(),
    ];
    assert_eq!(role(messages, 5), RouteRole::Other);
    let mut cloned = route("10.0.0.5/32", 5).message();
    cloned.header.flags = RouteFlags::Cloned;
    assert_eq!(
        role([veth(5, "veth1"), RouteNetlinkMessage::NewRoute(cloned)], 5),
        RouteRole::Other
    );
}

#[test]
fn loopback_is_neither() {
    let lo = RouteNetlinkMessage::NewLink(link_message(
        1,
        "lo",
        None,
        LinkFlags::Up | LinkFlags::Loopback,
    ));
    assert_eq!(
        role(
            [
                lo,
                route("10.0.0.0/8", 1).add(),
                route("10.0.0.5/32", 1).add()
            ],
            1
        ),
        RouteRole::Other
    );
}

#[test]
fn the_nodes_addresses_are_its_own_ends_without_loopback() {
    let table = table([
        veth(2, "eth0"),
        RouteNetlinkMessage::NewAddress(address(1, "127.0.0.1", None)),
        RouteNetlinkMessage::NewAddress(address(1, "169.254.20.10", None)),
        RouteNetlinkMessage::NewAddress(address(2, "10.0.0.4", None)),
        RouteNetlinkMessage::NewAddress(address(3, "10.0.0.8", Some("10.0.0.9"))),
    ]);
    assert_eq!(
        table.node_addresses(),
        BTreeSet::from([ip("10.0.0.4"), ip("10.0.0.8"), ip("169.254.20.10")])
    );
}

#[test]
fn removals_are_followed() {
    let mut table = table([
        veth(5, "a"),
        veth(6, "b"),
        route("10.0.1.5/32", 5).add(),
        route("10.0.1.6/32", 6).add(),
    ]);
    assert_eq!(
        table.apply(&route("10.0.1.5/32", 5).add(), 0),
        Effect::Nothing
    );
    assert_eq!(
        table.apply(&route("10.0.1.5/32", 5).remove(), 0),
        Effect::Changed
    );
    assert_eq!(
        table.apply(&route("10.0.1.5/32", 5).remove(), 0),
        Effect::Nothing
    );
    assert_eq!(table.roles()[&5], RouteRole::Other);
    let gone = RouteNetlinkMessage::DelLink(link_message(6, "b", None, LinkFlags::empty()));
    assert_eq!(table.apply(&gone, 0), Effect::Changed);
    assert!(table.routes.is_empty() && !table.links.contains_key(&6));
}

#[test]
fn a_replaced_route_leaves_its_old_interface() {
    let mut table = table([veth(5, "a"), veth(6, "b"), route("10.0.1.5/32", 5).add()]);
    table.apply(&route("10.0.1.5/32", 6).add(), NLM_F_REPLACE);
    assert_eq!(
        (&table.roles()[&5], &table.roles()[&6]),
        (&RouteRole::Other, &pods(&["10.0.1.5"]))
    );
    let blackhole = Route {
        kind: RouteType::BlackHole,
        ..route("10.0.1.5/32", 6)
    };
    assert_eq!(
        table.apply(&blackhole.add(), NLM_F_REPLACE),
        Effect::Doubtful
    );
}

#[test]
fn what_the_kernel_does_not_say_makes_a_doubt() {
    let mut table = table([
        veth(5, "a"),
        RouteNetlinkMessage::NewAddress(address(5, "10.0.0.1", None)),
    ]);
    let down = RouteNetlinkMessage::NewLink(link_message(
        5,
        "a",
        Some(InfoKind::Veth),
        LinkFlags::empty(),
    ));
    assert_eq!(table.apply(&down, 0), Effect::Doubtful);
    assert_eq!(table.apply(&down, 0), Effect::Nothing);
    let removed = RouteNetlinkMessage::DelAddress(address(5, "10.0.0.1", None));
    assert_eq!(table.apply(&removed, 0), Effect::Doubtful);
}

#[test]
fn links_are_described() {
    let table = table([veth(5, "eni1")]);
    let expected = Link {
        name: "eni1".to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        kind: "veth".to_owned(),
        up: true,
        loopback: false,
        controller: None,
    };
    assert_eq!(table.links()[&5], expected);
    // A bridge's own report of a port does not overwrite it.
    let mut port = link_message(5, "eni1", None, LinkFlags::Up);
    port.header.interface_family = AddressFamily::Bridge;
    let mut table = table;
    assert_eq!(
        table.apply(&RouteNetlinkMessage::NewLink(port), 0),
        Effect::Nothing
    );
}
