//! The cases: a packet, the node that it meets, and what must come of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};

/// The port that the policy allows.
pub const PORT: u16 = 5432;
/// A port that it does not.
const OTHER_PORT: u16 = 9;
/// The endpoint's port of the connection that is open.
pub const OWN_PORT: u16 = 40_000;
/// First port of connections that are opened in a run.
const FIRST_NEW_PORT: u16 = 1024;
/// What a packet carries.
const PAYLOAD: [u8; 64] = [0x5a; 64];

/// Numbers of peers of which nodes are made.
pub const PEERS: [u32; 4] = [10, 1_000, 10_000, 100_000];
/// Connections of the node that has many.
pub const FLOWS: u32 = 65_536 - 1024;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `pc_from_pod`: the endpoint sends.
    FromPod,
    /// `pc_to_pod`: the endpoint receives from another node.
    ToPod,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// Name of the program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "pc_from_pod",
            Self::ToPod => "pc_to_pod",
        }
    }
}

/// Which node a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Pods elsewhere that the policy allows.
    pub peers: u32,
    /// Connections of the isolated endpoint before the run.
    pub flows: u32,
}

/// What a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// An open connection of an endpoint that nobody isolates.
    NoPolicy,
    /// An open connection of the isolated endpoint.
    Established,
    /// The next one of all its connections.
    EachEstablished,
    /// No rule.
    Denied,
    /// A rule; each packet opens a connection.
    NewFlow,
}

/// One case of one family at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// What the packet meets.
    pub path: Path,
    /// Where.
    pub size: Size,
    /// IPv6.
    pub v6: bool,
    /// Which program.
    pub hook: Hook,
}

/// Every case of the benchmark, in the order of the report.
#[must_use]
pub fn all() -> Vec<Case> {
    let few = Size {
        peers: PEERS[0],
        flows: 1,
    };
    let many_flows = Size {
        flows: FLOWS,
        ..few
    };
    let mut kinds = vec![
        (Path::NoPolicy, few),
        (Path::Established, few),
        (Path::Established, many_flows),
        (Path::EachEstablished, many_flows),
        (Path::Denied, few),
    ];
    kinds.extend(PEERS.map(|peers| (Path::NewFlow, Size { peers, flows: 1 })));
    let mut cases = Vec::new();
    for (path, size) in kinds {
        for v6 in [false, true] {
            cases.extend(Hook::ALL.map(|hook| Case {
                path,
                size,
                v6,
                hook,
            }));
        }
    }
    cases
}

impl Case {
    /// Name in the report.
    #[must_use]
    pub fn title(&self) -> String {
        match self.path {
            Path::NoPolicy => "no policy".to_owned(),
            Path::Established if self.size.flows > 1 => "established, 64k flows".to_owned(),
            Path::Established => "established".to_owned(),
            Path::EachEstablished => "each of 64k flows".to_owned(),
            Path::Denied => "denied".to_owned(),
            Path::NewFlow => format!("new flow, {} peers", thousands(self.size.peers)),
        }
    }

    /// At most this many times the empty program; `None` where nothing is promised.
    #[must_use]
    pub fn goal(&self) -> Option<f64> {
        match self.path {
            Path::NoPolicy => Some(1.7),
            Path::Established => Some(2.3),
            Path::EachEstablished => None,
            Path::Denied => Some(4.0),
            Path::NewFlow => Some(20.0),
        }
    }

    /// Whether each run has another port of the sender.
    #[must_use]
    pub fn changes_port(&self) -> bool {
        matches!(self.path, Path::NewFlow | Path::EachEstablished)
    }

    /// Whether the endpoint is the isolated one.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.path != Path::NoPolicy
    }

    /// The packet.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let own = endpoint_address(self.is_isolated(), self.v6);
        let peer = peer_address(self.size.peers / 2, self.v6);
        let (from, to) = match self.hook {
            Hook::FromPod => (own, peer),
            Hook::ToPod => (peer, own),
        };
        match self.path {
            Path::Denied => segment((from, OWN_PORT), (to, OTHER_PORT), Kind::Open),
            Path::NewFlow => segment((from, FIRST_NEW_PORT), (to, PORT), Kind::Open),
            Path::EachEstablished if self.hook == Hook::ToPod => {
                segment((from, PORT), (to, FIRST_NEW_PORT), Kind::Data)
            }
            Path::EachEstablished => segment((from, FIRST_NEW_PORT), (to, PORT), Kind::Data),
            _ if self.hook == Hook::ToPod => segment((from, PORT), (to, OWN_PORT), Kind::Data),
            _ => segment((from, OWN_PORT), (to, PORT), Kind::Data),
        }
    }

    /// Offset in the frame of the port that changes from run to run: the sender's, or the endpoint's where connections are the endpoint's own.
    #[must_use]
    pub fn port_at(&self) -> u16 {
        let transport = if self.v6 { 54 } else { 34 };
        if self.path == Path::EachEstablished && self.hook == Hook::ToPod {
            transport + 2
        } else {
            transport
        }
    }

    /// Packets in one run: enough for the clock, and fewer than the quota of half-open connections.
    #[must_use]
    pub fn repeat(&self) -> u32 {
        match self.path {
            Path::NewFlow => 4_000,
            Path::EachEstablished => 30_000,
            _ => 20_000,
        }
    }
}

/// The handshake of the connection that is open, as the endpoint opens it: hook and frame.
#[must_use]
pub fn handshake(isolated: bool, peer: u32, v6: bool) -> [(Hook, Vec<u8>); 3] {
    let own = (endpoint_address(isolated, v6), OWN_PORT);
    let peer = (peer_address(peer, v6), PORT);
    [
        (Hook::FromPod, segment(own, peer, Kind::Open)),
        (Hook::ToPod, segment(peer, own, Kind::Accept)),
        (Hook::FromPod, segment(own, peer, Kind::Data)),
    ]
}

/// Address of an endpoint.
#[must_use]
pub fn endpoint_address(isolated: bool, v6: bool) -> IpAddr {
    let last = if isolated { 3 } else { 2 };
    if v6 {
        Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, last).into()
    } else {
        Ipv4Addr::new(10, 0, 1, last as u8).into()
    }
}

/// Address of a peer.
#[must_use]
pub fn peer_address(number: u32, v6: bool) -> IpAddr {
    let v4 = Ipv4Addr::from(0x0a80_0001 + number);
    if v6 {
        let [a, b, c, d] = v4.octets().map(u16::from);
        Ipv6Addr::new(0xfd00, 0x10, 2, 0, 0, 0, a << 8 | b, c << 8 | d).into()
    } else {
        v4.into()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Accept,
    Data,
}

fn segment(from: (IpAddr, u16), to: (IpAddr, u16), kind: Kind) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip: PacketBuilderStep<IpHeaders> = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("both ends of a segment are of one family"),
    };
    let mut header = TcpHeader::new(from.1, to.1, 1, 64_240);
    header.syn = kind != Kind::Data;
    header.ack = kind != Kind::Open;
    let payload = if kind == Kind::Data {
        PAYLOAD.as_slice()
    } else {
        &[]
    };
    let step = ip.tcp_header(header);
    let mut bytes = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut bytes, payload)
        .expect("a vector takes every byte");
    bytes
}

fn thousands(number: u32) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{}k", number / 1000)
    }
}
