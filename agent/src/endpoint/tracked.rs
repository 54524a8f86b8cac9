//! The kernel's own connection tracking (nfnetlink, `ctnetlink`): what was open before our programs came, and who opened it.
//!
//! A node has it where something translates addresses, kube-proxy for one. Elsewhere the list is empty.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::dump::dump;

/// `TCP_CONNTRACK_ESTABLISHED` (`linux/netfilter/nf_conntrack_tcp.h`).
const ESTABLISHED: u8 = 3;

/// A connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// IANA protocol number.
    pub protocol: u8,
    /// As its opener sees it: from itself to whom it asked for.
    pub original: Way,
    /// As its answers go: from whom it was led to, back to whom that one sees.
    pub reply: Way,
    /// It was answered.
    pub answered: bool,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// From here.
    pub src: SocketAddr,
    /// To here.
    pub dst: SocketAddr,
}

/// All TCP connections that are established and all UDP ones, of both families, of this network namespace.
pub fn read() -> io::Result<Vec<Tracked>> {
    let mut all = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let list = NetfilterMessage::new(
            NetfilterHeader::new(family, 0, 0),
            ConntrackMessage::Get(Vec::new()),
        );
        dump(NETLINK_NETFILTER, list, |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) = message.inner {
                all.extend(tracked(&entry));
            }
        })?;
    }
    Ok(all)
}

/// What an entry says, if it is of an open connection.
fn tracked(entry: &[ConntrackAttribute]) -> Option<Tracked> {
    let (mut original, mut reply, mut established, mut answered) = (None, None, false, false);
    for attribute in entry {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = way(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = way(tuple),
            ConntrackAttribute::CtaProtoInfo(infos) => {
                established = infos.iter().any(|info| {
                    matches!(info, ProtoInfo::TCP(facts) if facts.contains(&ProtoInfoTCP::State(ESTABLISHED)))
                });
            }
            ConntrackAttribute::CtaStatus(status) => answered = status.contains(Status::SeenReply),
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    let open = match protocol {
        Protocol::Tcp => established,
        Protocol::Udp => true,
        _ => false,
    };
    open.then(|| Tracked {
        protocol: protocol.into(),
        original,
        reply,
        answered,
    })
}

fn way(tuple: &[Tuple]) -> Option<(Protocol, Way)> {
    let (mut src, mut dst) = (None::<IpAddr>, None::<IpAddr>);
    let (mut protocol, mut sport, mut dport) = (None, 0, 0);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => src = Some(*address),
                        IPTuple::DestinationAddress(address) => dst = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(*number),
                        ProtoTuple::SourcePort(port) => sport = *port,
                        ProtoTuple::DestinationPort(port) => dport = *port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let way = Way {
        src: SocketAddr::new(src?, sport),
        dst: SocketAddr::new(dst?, dport),
    };
    Some((protocol?, way))
}
