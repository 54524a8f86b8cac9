//! What stands behind a port of a Service: the addresses that a node's proxy may choose among.
//!
//! ```text
//! Service ports --name, protocol--> ports of its slices --ready endpoints--> address and port of each backend
//! ```
//! Every ready backend counts. Which of them the proxy of one node leaves out (`internalTrafficPolicy`, topology hints, session affinity) is not known
//! here: what is said of a backend holds if it is chosen.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use portcullis_policy::model::Protocol;

use super::services::Services;
use crate::kube::{EndpointSlice, Service, ServicePort, SlicePort, Way};

/// Which port of a Service is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedPort {
    /// The one that it has.
    Only,
    /// By name.
    Named(String),
    /// By number.
    Number(u16, Protocol),
}

/// What is behind a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends {
    /// The Service's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Ready backends, at least one.
    pub ready: BTreeSet<SocketAddr>,
}

/// Why there is nothing to be said of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lacks {
    /// Correct the name.
    #[error("there is no such Service")]
    Service,
    /// Ask about the address that the name leads to.
    #[error("its type is ExternalName: it leads to a name outside, not to backends")]
    External,
    /// Name one of those that it has.
    #[error("it has no such port; its ports are {0}")]
    Port(String),
    /// Name a port.
    #[error("it has several ports: {0}")]
    Several(String),
    /// Name a port: any may be open on its backends.
    #[error("it has no port of its own")]
    NoPort,
    /// Give the objects that say what is behind it.
    #[error("no EndpointSlice says what is behind it")]
    Slices,
    /// Wait for one of them, or ask about one of them by name.
    #[error("it has no ready backend; backends that are not ready: {0}")]
    Ready(usize),
}

impl Services {
    /// Whether there is a Service of this name.
    #[must_use]
    pub fn has(&self, namespace: &str, name: &str) -> bool {
        self.service(namespace, name).is_some()
    }

    /// The Service that is translated at this address and port: namespace and name.
    #[must_use]
    pub fn at(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<(&str, &str)> {
        let is_there = |service: &Service| {
            let is_its = |its: &ServicePort| (its.number, its.protocol) == (port, protocol);
            service.addresses.contains(&address) && service.ports.iter().any(is_its)
        };
        let mut all = self.services.iter();
        let ((namespace, name), _) = all.find(|(_, service)| is_there(service))?;
        Some((namespace, name))
    }

    /// What is behind a port of a Service.
    pub fn backends(
        &self,
        namespace: &str,
        name: &str,
        wanted: &WantedPort,
    ) -> Result<Backends, Lacks> {
        let service = self.service(namespace, name).ok_or(Lacks::Service)?;
        let port = match (service.way, wanted) {
            (Way::External, _) => return Err(Lacks::External),
            // Nothing stands between clients and backends, so every port of theirs may be asked for.
            (Way::Headless, WantedPort::Number(number, protocol)) => ServicePort {
                name: Box::default(),
                number: *number,
                protocol: *protocol,
            },
            _ => port_of(service, wanted)?.clone(),
        };
        let typed = matches!(wanted, WantedPort::Number(..)) && service.way == Way::Headless;
        let mut ready = BTreeSet::new();
        let (mut slices, mut unready) = (0, BTreeSet::new());
        for slice in self.slices_of(namespace, name) {
            slices += 1;
            let number = if typed {
                Some(port.number)
            } else {
                slice.ports.iter().find_map(|its| behind(&port, its))
            };
            let Some(number) = number else { continue };
            for endpoint in &slice.endpoints {
                let addresses = endpoint.addresses.first().into_iter();
                let at = addresses.map(|address| SocketAddr::new(*address, number));
                if endpoint.ready {
                    ready.extend(at);
                } else {
                    unready.extend(at);
                }
            }
        }
        if slices == 0 {
            return Err(Lacks::Slices);
        }
        if ready.is_empty() {
            return Err(Lacks::Ready(unready.len()));
        }
        Ok(Backends {
            port: port.number,
            protocol: port.protocol,
            ready,
        })
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        let name = (namespace.to_owned(), name.to_owned());
        self.services.get(&name).map(|service| &**service)
    }

    fn slices_of(&self, namespace: &str, name: &str) -> impl Iterator<Item = &EndpointSlice> {
        let first = (namespace.to_owned(), String::new());
        let here = self
            .slices
            .range(first..)
            .take_while(move |((at, _), _)| at == namespace);
        let slices = here.map(|(_, slice)| &**slice);
        slices.filter(move |slice| slice.service.as_deref() == Some(name))
    }
}

fn port_of<'s>(service: &'s Service, wanted: &WantedPort) -> Result<&'s ServicePort, Lacks> {
    let mut ports = service.ports.iter();
    let found = match wanted {
        WantedPort::Only => match service.ports.as_slice() {
            [] => return Err(Lacks::NoPort),
            [only] => Some(only),
            [_, ..] => return Err(Lacks::Several(list(&service.ports))),
        },
        WantedPort::Named(name) => ports.find(|port| *port.name == **name),
        WantedPort::Number(number, protocol) => {
            ports.find(|port| (port.number, port.protocol) == (*number, *protocol))
        }
    };
    found.ok_or_else(|| Lacks::Port(list(&service.ports)))
}

/// Where a slice leads for a port of its Service. A slice's port without a number is one that proxies pass over.
fn behind(port: &ServicePort, slice: &SlicePort) -> Option<u16> {
    let is_its = slice.name == *port.name && slice.protocol == port.protocol;
    slice.number.filter(|_| is_its)
}

/// `http 80/tcp, 53/udp`.
fn list(ports: &[ServicePort]) -> String {
    let each = ports.iter().map(|port| {
        let number = format!("{}/{}", port.number, port.protocol);
        match &*port.name {
            "" => number,
            name => format!("{name} {number}"),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
