//! Where the node translates addresses: every address and port of every Service, and the ports that pods of this node take on it.
//!
//! A packet to one of these is judged behind the translation (design 1, "why deferred"). Headless and `ExternalName` Services translate nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Name, World};
use crate::kube::{EndpointSlice, Pod, Service};

/// All Services, and the slices that say what is behind them.
#[derive(Clone, Debug, Default)]
pub struct Services {
    pub(super) services: BTreeMap<Name, Arc<Service>>,
    pub(super) slices: BTreeMap<Name, Arc<EndpointSlice>>,
}

/// One destination that the node may translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// Destination address.
    pub address: IpAddr,
    /// Destination port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

impl World {
    /// Every destination that is translated on this node. Node ports and host ports stand on `node_addresses` (what the node's interfaces have) and
    /// on what the API server says of the node: a load balancer may send to an address that no interface has. Node ports of other nodes are not
    /// here: what leaves for them is an ordinary destination.
    #[must_use]
    pub fn service_addresses(&self, node_addresses: &BTreeSet<IpAddr>) -> BTreeSet<ServiceAddress> {
        let mut node: BTreeSet<IpAddr> = node_addresses.clone();
        if let Some(own) = self.model.nodes.get(&self.model.node) {
            node.extend(&own.addresses);
        }
        let mut all = BTreeSet::new();
        for service in self.services.services.values() {
            for port in &service.ports {
                let entry = |address| ServiceAddress {
                    address,
                    port: port.number,
                    protocol: port.protocol.0,
                };
                all.extend(service.addresses.iter().copied().map(entry));
            }
            for (port, protocol) in &service.node_ports {
                let entry = |address| ServiceAddress {
                    address,
                    port: *port,
                    protocol: protocol.0,
                };
                all.extend(node.iter().copied().map(entry));
            }
        }
        for host in self
            .local_pods()
            .filter(|pod| Pod::is_endpoint(pod))
            .flat_map(|pod| pod.host_ports.iter())
        {
            let entry = |address| ServiceAddress {
                address,
                port: host.port,
                protocol: host.protocol.0,
            };
            match host.address {
                Some(address) => all.extend([entry(address)]),
                None => all.extend(node.iter().copied().map(entry)),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use portcullis_policy::model::{Labels, Node, Protocol};

    use super::*;
    use crate::kube::{HostPort, Object, Service, ServicePort};
    use crate::world::tests::{apply, ip, pod};

    #[test]
    fn service_addresses_are_those_that_this_node_translates() {
        let mut world = World::new("n1");
        apply(
            &mut world,
            "n1",
            Object::Node(Node {
                labels: Labels::new(),
                addresses: vec![ip("192.0.2.1")],
            }),
        );
        apply(
            &mut world,
            "n2",
            Object::Node(Node {
                labels: Labels::new(),
                addresses: vec![ip("192.0.2.2")],
            }),
        );
        let port = |number| ServicePort {
            name: Box::default(),
            number,
            protocol: Protocol::TCP,
        };
        let service = Service {
            addresses: vec![ip("10.96.0.1"), ip("fd96::1")],
            ports: vec![port(80)],
            node_ports: vec![(30080, Protocol::TCP)],
            ..Service::default()
        };
        apply(&mut world, "s", Object::Service(service));
        apply(
            &mut world,
            "headless",
            Object::Service(Service {
                ports: vec![port(81)],
                ..Service::default()
            }),
        );
        let host_port = |name: &str, node: &str, address: Option<&str>, port| {
            let mut pod = pod(name, name, node, "");
            pod.host_ports = [HostPort {
                address: address.map(ip),
                port,
                protocol: Protocol::UDP,
            }]
            .into();
            Object::Pod(pod)
        };
        apply(&mut world, "here", host_port("here", "n1", None, 5353));
        apply(
            &mut world,
            "bound",
            host_port("bound", "n1", Some("192.0.2.77"), 7),
        );
        apply(&mut world, "there", host_port("there", "n2", None, 9));
        let all: Vec<String> = world
            .service_addresses(&BTreeSet::from([ip("fd00::1")]))
            .into_iter()
            .map(|at| format!("{} {} {}", at.address, at.port, at.protocol))
            .collect();
        assert_eq!(
            all,
            [
                "10.96.0.1 80 6",
                "192.0.2.1 5353 17",
                "192.0.2.1 30080 6",
                "192.0.2.77 7 17",
                "fd00::1 5353 17",
                "fd00::1 30080 6",
                "fd96::1 80 6",
            ]
        );
    }
}
