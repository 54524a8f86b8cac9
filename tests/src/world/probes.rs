//! Probes that are worth asking: ports at the ends of ranges, addresses at the edges of CIDRs, names' numbers, metadata, nodes.
//!
//! Left out is what no text decides: echo replies from the own node or to oneself, `ip:` of an address that several pods have, packets
//! between two such pods, tunnels.
//! For the kernel also what no sender outside of the node can send honestly: packets from a node's address by `ip:`, mapped spellings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::Audience;
use super::places::{Place, Places};
use super::rng::Rng;
use crate::oracle::METADATA_ADDRESSES;
use crate::probe::{End, Family, Probe, Protocol};

const OUTSIDE: [&str; 10] = [
    "203.0.113.9",
    "203.0.113.64",
    "203.0.113.127",
    "203.0.113.128",
    "198.51.100.7",
    "198.51.100.8",
    "2001:db8::9",
    "2001:db8:0:1::1",
    "2001:db8:0:2::1",
    "10.200.0.1",
];
/// Next to the metadata addresses, and nobody's business to block.
const NEIGHBOURS: [&str; 3] = ["169.254.169.253", "169.254.169.123", "fd00:ec2::253"];

/// 20 to 80 probes, fewer in a world without endpoints.
pub(crate) fn random(
    rng: &mut Rng,
    places: &Places,
    policies: &[Value],
    audience: Audience,
) -> Vec<Probe> {
    let wishes = Wishes::of(places, policies);
    let count = rng.between(20, 80);
    let mut probes = Vec::new();
    for _ in 0..count * 20 {
        if probes.len() == count {
            break;
        }
        if let Some(probe) = probe(rng, places, &wishes, audience, probes.len()) {
            probes.push(probe);
        }
    }
    probes
}

/// What the objects make interesting.
struct Wishes {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Wishes {
    fn of(places: &Places, policies: &[Value]) -> Self {
        let mut wishes = Self {
            addresses: places.left_behind.clone(),
            ports: vec![80, 53, 443, 1, 65535],
        };
        for object in policies.iter().chain(&places.objects) {
            wishes.walk(object);
        }
        wishes.addresses.retain(|address| is_ordinary(*address));
        wishes.addresses.extend(
            OUTSIDE
                .iter()
                .filter_map(|text| text.parse::<IpAddr>().ok()),
        );
        wishes
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if let ("port" | "endPort" | "containerPort", Some(number)) =
                        (key.as_str(), value.as_u64())
                    {
                        let around = [number.saturating_sub(1), number, number + 1];
                        self.ports.extend(
                            around
                                .iter()
                                .filter_map(|port| u16::try_from(*port).ok())
                                .filter(|port| *port > 0),
                        );
                    }
                    self.walk(value);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.walk(value)),
            Value::String(text) => self.edges(text),
            _ => {}
        }
    }

    fn edges(&mut self, text: &str) {
        if let Ok(net) = text.parse::<IpNet>() {
            let (first, last) = (net.network(), net.broadcast());
            self.addresses.extend([first, last]);
            self.addresses.extend(step(first, -1));
            self.addresses.extend(step(last, 1));
        }
    }
}

fn probe(
    rng: &mut Rng,
    places: &Places,
    wishes: &Wishes,
    audience: Audience,
    index: usize,
) -> Option<Probe> {
    let (src, dst) = ends(rng, places, wishes)?;
    let families: Vec<Family> = src
        .families()
        .into_iter()
        .filter(|family| dst.families().contains(family))
        .collect();
    if families.is_empty() {
        return None;
    }
    let family = *rng.pick(&families);
    let own_node =
        src.kind == Kind::Host && dst.kind == Kind::Endpoint && src.place.node == dst.place.node;
    let to_itself = src.kind == Kind::Endpoint && src.place.end == dst.place.end;
    let to_a_twin = src.place.shared && dst.place.shared && !to_itself;
    if to_a_twin || (to_itself && rng.percent(60)) {
        return None;
    }
    let has_a_side = src.kind == Kind::Endpoint || dst.kind == Kind::Endpoint;
    let src_end = src.spelling(rng, family, audience, true)?;
    let dst_end = dst.spelling(rng, family, audience, false)?;
    let by_address = matches!(src_end, End::Address(_)) || matches!(dst_end, End::Address(_));
    let first_of_both = [&src, &dst]
        .iter()
        .all(|end| end.families().first() == Some(&family));
    let explicit = !(by_address || first_of_both) || rng.percent(30);
    let protocol = match rng.weighted(&[55, 20, 10, 15]) {
        0 => Protocol::Tcp,
        1 => Protocol::Udp,
        2 => Protocol::Sctp,
        _ => icmp(rng, family, explicit || by_address),
    };
    let icmp_type = if protocol.is_icmp() {
        icmp_type(rng, family, has_a_side && !own_node && !to_itself)
    } else {
        None
    };
    Some(Probe {
        id: format!("probe-{index}"),
        src: src_end,
        dst: dst_end,
        protocol,
        dst_port: (!protocol.is_icmp()).then(|| *rng.pick(&wishes.ports)),
        family: explicit.then_some(family),
        src_port: (!protocol.is_icmp() && rng.percent(20)).then_some(20000 + index as u16),
        icmp_type,
        icmp_code: (icmp_type.is_some() && rng.percent(30)).then_some(0),
    })
}

/// Named after its family, or after the other one where the family is plain.
fn icmp(rng: &mut Rng, family: Family, plain: bool) -> Protocol {
    match (family, plain && rng.percent(25)) {
        (Family::V4, false) | (Family::V6, true) => Protocol::Icmp,
        (Family::V6, false) | (Family::V4, true) => Protocol::Icmpv6,
    }
}

fn icmp_type(rng: &mut Rng, family: Family, answers_too: bool) -> Option<u8> {
    let (request, answers): (u8, &[u8]) = match family {
        Family::V4 => (8, &[0, 0, 3, 11, 12]),
        Family::V6 => (128, &[129, 129, 1, 2, 3, 4]),
    };
    match rng.weighted(&[50, 20, 30]) {
        0 => None,
        2 if answers_too => Some(*rng.pick(answers)),
        _ => Some(request),
    }
}

fn ends(rng: &mut Rng, places: &Places, wishes: &Wishes) -> Option<(Candidate, Candidate)> {
    let endpoint = |rng: &mut Rng| {
        (!places.endpoints.is_empty())
            .then(|| Candidate::new(Kind::Endpoint, rng.pick(&places.endpoints)))
    };
    let host_pod = |rng: &mut Rng| {
        (!places.host_pods.is_empty())
            .then(|| Candidate::new(Kind::Host, rng.pick(&places.host_pods)))
    };
    let node = |rng: &mut Rng| Candidate::new(Kind::Host, rng.pick(&places.nodes));
    let wanted = |rng: &mut Rng| Candidate::address(*rng.pick(&wishes.addresses));
    let metadata = |rng: &mut Rng| {
        let text = if rng.percent(75) {
            rng.pick(&METADATA_ADDRESSES)
        } else {
            rng.pick(&NEIGHBOURS)
        };
        Candidate::address(text.parse().expect("the lists hold addresses only"))
    };
    Some(match rng.weighted(&[40, 16, 17, 9, 5, 6, 2, 2, 2, 1]) {
        0 => (endpoint(rng)?, endpoint(rng)?),
        1 => (endpoint(rng)?, wanted(rng)),
        2 => (wanted(rng), endpoint(rng)?),
        3 => (node(rng), endpoint(rng)?),
        4 => (endpoint(rng)?, node(rng)),
        5 => (endpoint(rng)?, metadata(rng)),
        6 => {
            let one = endpoint(rng)?;
            (one.clone(), one)
        }
        7 => (host_pod(rng)?, endpoint(rng)?),
        8 => (endpoint(rng)?, host_pod(rng)?),
        _ => (
            node(rng),
            Candidate::address(OUTSIDE[rng.below(OUTSIDE.len())].parse().ok()?),
        ),
    })
}

/// An end before it is decided how to spell it.
#[derive(Clone)]
struct Candidate {
    kind: Kind,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Endpoint,
    Host,
    Outside,
}

impl Candidate {
    fn new(kind: Kind, place: &Place) -> Self {
        Self {
            kind,
            place: place.clone(),
        }
    }

    fn address(address: IpAddr) -> Self {
        let place = Place {
            end: End::Address(address),
            node: String::new(),
            addresses: vec![address],
            shared: false,
        };
        Self {
            kind: Kind::Outside,
            place,
        }
    }

    fn families(&self) -> Vec<Family> {
        self.place
            .addresses
            .iter()
            .copied()
            .map(Family::of)
            .collect()
    }

    /// `None`: cannot be asked of this audience.
    fn spelling(
        &self,
        rng: &mut Rng,
        family: Family,
        audience: Audience,
        is_source: bool,
    ) -> Option<End> {
        let address = *self
            .place
            .addresses
            .iter()
            .find(|address| Family::of(**address) == family)?;
        // an address says nothing about whose stack sent the packet, so a host that sends keeps its name
        let by_address = match self.kind {
            Kind::Endpoint => !self.place.shared && rng.percent(15),
            Kind::Host => !is_source && rng.percent(30),
            Kind::Outside => true,
        };
        if !by_address {
            return Some(self.place.end.clone());
        }
        match (address, audience) {
            (_, Audience::Kernel) if is_source && is_a_nodes(address) => None,
            (IpAddr::V4(v4), Audience::Compiler) if rng.percent(3) => {
                Some(End::Address(IpAddr::V6(v4.to_ipv6_mapped())))
            }
            _ => Some(End::Address(address)),
        }
    }
}

/// Unicast, routable, and no tunnel or metadata in disguise.
fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first != 0 && first != 127 && first < 224 && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            (first & 0xe000 == 0x2000 && first != 0x2002) || matches!(first, 0xfd10 | 0xfd20)
        }
    }
}

/// The plan of addresses gives these prefixes to nodes.
fn is_a_nodes(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [192, 168, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xfd20,
    }
}

fn step(address: IpAddr, by: i8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add_signed(by.into())
            .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add_signed(by.into())
            .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}
