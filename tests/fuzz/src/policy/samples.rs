//! Connections to ask about: those at which two answers are likely to part, about a hundred of them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use portcullis_policy::model::Workload;
use portcullis_policy::tables::{Cell, Direction};
use portcullis_tests::probe::{End, Family, Probe, Protocol};

use super::cluster::Cluster;

const MOST: usize = 120;
const MOST_PODS: usize = 10;
const MOST_PEERS: usize = 40;
const MOST_PORTS: usize = 30;

const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// Protocol and port, ICMP with type and code (`type << 8 | code`): echo requests.
const PORTS: [(u8, u16); 10] = [
    (6, 80),
    (6, 8080),
    (6, 5432),
    (6, 0),
    (17, 53),
    (17, 65535),
    (132, 3868),
    (132, 1),
    (ICMP, 8 << 8),
    (ICMPV6, 128 << 8),
];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The first packet of a connection, as the tables of `pod` see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'c> {
    pub(super) pod: &'c Workload,
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

impl Sample<'_> {
    /// The same question to the oracle.
    pub(super) fn probe(&self) -> Probe {
        let pod = End::pod(&self.pod.namespace, &self.pod.name);
        let peer = End::Address(self.peer);
        let (src, dst) = match self.direction {
            Direction::Ingress => (peer, pod),
            Direction::Egress => (pod, peer),
        };
        let (protocol, dst_port) = match self.protocol {
            6 => (Protocol::Tcp, Some(self.port)),
            17 => (Protocol::Udp, Some(self.port)),
            132 => (Protocol::Sctp, Some(self.port)),
            _ => (Protocol::Icmp, None),
        };
        Probe {
            id: String::new(),
            src,
            dst,
            protocol,
            dst_port,
            family: Some(Family::of(self.peer)),
            src_port: None,
            icmp_type: None,
            icmp_code: None,
        }
    }
}

/// Samples for the pods of `cluster`, at the borders of its tables and of the others'. `seed` chooses among too many.
pub(super) fn samples<'c>(
    cluster: &'c Cluster,
    others: &[&'c Cluster],
    seed: &[u8],
) -> Vec<Sample<'c>> {
    let mut peers: BTreeSet<IpAddr> = OUTSIDE
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut ports = BTreeSet::from(PORTS);
    for cluster in others.iter().copied().chain([cluster]) {
        peers.extend(cluster.addresses().take(MOST_PEERS));
        for tables in cluster.tables().values() {
            for net in tables.prefixes.keys().take(MOST_PEERS) {
                peers.extend([net.network(), net.broadcast()]);
                peers.extend(next(net.broadcast()));
            }
            let cells = tables
                .policies
                .iter()
                .flat_map(|table| table.cells.iter().chain([&table.default]));
            for cell in cells.take(MOST_PORTS) {
                let Cell::ByPort { ranges, .. } = &**cell else {
                    continue;
                };
                for range in ranges.iter().take(MOST_PORTS) {
                    ports.extend([(range.protocol, range.first), (range.protocol, range.last)]);
                    ports.insert((range.protocol, range.last.saturating_add(1)));
                }
            }
        }
    }
    // A packet in a pod's table is never mapped: that is another family on the wire.
    let peers: Vec<IpAddr> = peers
        .into_iter()
        .filter(|peer| *peer == peer.to_canonical())
        .collect();
    let ports: Vec<(u8, u16)> = ports.into_iter().collect();
    let mut all = Vec::new();
    for pod in cluster.endpoints().take(MOST_PODS) {
        for peer in spread(&peers, MOST_PEERS) {
            let has_family = pod
                .addresses
                .iter()
                .any(|own| own.is_ipv4() == peer.is_ipv4());
            if !has_family || pod.addresses.contains(peer) {
                continue;
            }
            let of_family = |(protocol, _): &&(u8, u16)| match *protocol {
                ICMP => peer.is_ipv4(),
                ICMPV6 => peer.is_ipv6(),
                _ => true,
            };
            for (protocol, port) in spread(&ports, MOST_PORTS).filter(of_family) {
                for direction in [Direction::Ingress, Direction::Egress] {
                    all.push(Sample {
                        pod,
                        direction,
                        peer: *peer,
                        protocol: *protocol,
                        port: *port,
                    });
                }
            }
        }
    }
    let one_of = (all.len() / MOST).max(1) as u64;
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let chosen = |index: &usize| {
        let mut hasher = hasher.clone();
        index.hash(&mut hasher);
        hasher.finish().is_multiple_of(one_of)
    };
    let numbered = all.into_iter().enumerate();
    numbered
        .filter(|(index, _)| chosen(index))
        .map(|(_, sample)| sample)
        .collect()
}

/// At most so many of them, from all over the list.
fn spread<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    all.iter().step_by(all.len() / most + 1)
}

/// The address behind this one.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}
