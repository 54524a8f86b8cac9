//! What a question is about, among the objects: one packet, or one to each backend of a Service.
//!
//! ```text
//! Target --Resolver--> Meant::Packet
//!      \--Services: ready backends, of one family--Resolver--> Meant::Service
//! ```
//! A Service's address is judged behind its translation (policy-spec S1), so where one is typed the Service is meant. Family of a Service's packets, in
//! this order: that of the typed address; the first among the source's addresses that a backend has too.

use std::net::IpAddr;

use anyhow::Result;
use portcullis_policy::model;
use portcullis_policy::probe::{Owner, ProbeError, ProbeId, Problem, ResolvedProbe, Resolver};
use serde::{Deserialize, Serialize};

use super::target::{Destination, Target};
use crate::failure::Failure;
use crate::world::{Lacks, Services, WantedPort};

/// What a question is about.
#[derive(Clone, Debug)]
pub(super) enum Meant {
    /// One connection.
    Packet(ResolvedProbe),
    /// One to each backend of a Service, by node and address.
    Service(ServicePort, Vec<ResolvedProbe>),
}

/// A port of a Service, as `-o json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own port, not the backends'.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// What is meant among these objects.
pub(super) fn meant(model: &model::World, services: &Services, target: &Target) -> Result<Meant> {
    let resolver = Resolver::new(model);
    match &target.destination {
        Destination::Service {
            namespace,
            name,
            port,
        } => {
            let typed = Typed {
                namespace,
                name,
                port,
                address: None,
            };
            typed.backends(&resolver, services, target)
        }
        Destination::End {
            end,
            port,
            protocol,
        } => {
            if let Some((address, port)) = address(end).zip(*port)
                && let Some((namespace, name)) = services.at(address, port, *protocol)
            {
                let typed = Typed {
                    namespace,
                    name,
                    port: &WantedPort::Number(port, *protocol),
                    address: Some(address),
                };
                return typed.backends(&resolver, services, target);
            }
            let packet = resolver.resolve(&target.probe(end, *port, *protocol));
            packet
                .map(Meant::Packet)
                .map_err(|error| no_packet(error, services))
        }
    }
}

/// The Service that was typed, by name or by address.
struct Typed<'a> {
    namespace: &'a str,
    name: &'a str,
    port: &'a WantedPort,
    address: Option<IpAddr>,
}

impl Typed<'_> {
    fn backends(
        &self,
        resolver: &Resolver<'_>,
        services: &Services,
        target: &Target,
    ) -> Result<Meant> {
        let (namespace, name) = (self.namespace, self.name);
        let backends = services
            .backends(namespace, name, self.port)
            .map_err(|lacks| self.cannot_ask(&lacks))?;
        let families = match self.address {
            Some(address) => vec![address],
            None => addresses(resolver, target)?,
        };
        let has = |is_v4: bool| backends.ready.iter().any(|at| at.is_ipv4() == is_v4);
        let is_v4 = families
            .iter()
            .map(IpAddr::is_ipv4)
            .find(|is_v4| has(*is_v4));
        let Some(is_v4) = is_v4 else {
            let family = if has(true) { "IPv4" } else { "IPv6" };
            return Err(Failure::new(
                "PC5004",
                format!("cannot ask about Service {namespace}/{name}"),
                format!("its backends have {family} addresses only"),
                "ask from a source, or about an address, of that family",
            )
            .into());
        };
        let of_family = backends.ready.iter().filter(|at| at.is_ipv4() == is_v4);
        let packets: Result<Vec<ResolvedProbe>, ProbeError> = of_family
            .map(|at| {
                let end = format!("ip:{}", at.ip());
                resolver.resolve(&target.probe(&end, Some(at.port()), backends.protocol))
            })
            .collect();
        let mut packets = packets?;
        // The explainer keeps the tables of some nodes only.
        packets.sort_by_cached_key(|packet| {
            let node = node(&packet.dst.owner).map(str::to_owned);
            (node, packet.dst.address, packet.dst_port)
        });
        let service = ServicePort {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: backends.port,
            protocol: backends.protocol.to_string(),
        };
        Ok(Meant::Service(service, packets))
    }

    fn cannot_ask(&self, lacks: &Lacks) -> Failure {
        let (namespace, name) = (self.namespace, self.name);
        let remedy = match lacks {
            Lacks::Service => format!("see `kubectl get services -n {namespace}`"),
            Lacks::External => "ask about the address that the name leads to".to_owned(),
            Lacks::Port(_) | Lacks::Several(_) | Lacks::NoPort => {
                format!("name a port: svc/{namespace}/{name}:PORT or :PORT/PROTOCOL")
            }
            Lacks::Slices => format!(
                "give its EndpointSlices too, as `kubectl get endpointslices -n {namespace} -o yaml` prints them"
            ),
            Lacks::Ready(_) => format!(
                "see `kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}`, or ask about a pod by name"
            ),
        };
        Failure::new(
            "PC5004",
            format!("cannot ask about Service {namespace}/{name}"),
            lacks.to_string(),
            remedy,
        )
    }
}

/// Where an end runs; `None` for what is no endpoint.
pub(super) fn node(owner: &Owner) -> Option<&str> {
    match owner {
        Owner::Pod(pod) => pod.node.as_deref(),
        Owner::Node(_) | Owner::Address => None,
    }
}

fn address(end: &str) -> Option<IpAddr> {
    let address: IpAddr = end.strip_prefix("ip:")?.parse().ok()?;
    Some(address.to_canonical())
}

fn addresses(resolver: &Resolver<'_>, target: &Target) -> Result<Vec<IpAddr>, ProbeError> {
    resolver
        .addresses(&target.source)
        .map_err(|problem| ProbeError {
            id: ProbeId::Text(target.source.clone()),
            field: "src",
            value: target.source.clone(),
            problem,
        })
}

/// Whoever forgets `svc/` is told of it.
fn no_packet(error: ProbeError, services: &Services) -> anyhow::Error {
    if (error.field, error.problem) == ("dst", Problem::NoPod)
        && let Some((namespace, name)) = error.value.split_once('/')
        && services.has(namespace, name)
    {
        let remedy = format!("write svc/{namespace}/{name} for the Service");
        return Failure {
            do_: remedy,
            ..Failure::from(anyhow::Error::from(error))
        }
        .into();
    }
    error.into()
}

#[cfg(test)]
pub(crate) mod tests;
