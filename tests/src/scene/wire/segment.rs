//! Packets as little of them as matters: built from it, and read back to it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TcpHeader,
    TransportSlice, icmpv4, icmpv6,
};

/// TCP flags by name.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens.
    pub const SYN: u8 = 2;
    /// Breaks off.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// SCTP chunks by name.
pub mod chunk {
    /// Carries data.
    pub const DATA: u8 = 0;
    /// Opens.
    pub const INIT: u8 = 1;
    /// Answers to it.
    pub const INIT_ACK: u8 = 2;
}

/// What is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet with a chunk of this type.
    Sctp(u8),
    /// An echo request; its identifier stands in place of the source's port.
    Echo,
    /// An echo reply likewise.
    EchoReply,
    /// "Port unreachable" about a TCP segment or UDP datagram of this protocol, from and to.
    Unreachable(u8, SocketAddr, SocketAddr),
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// From.
    pub src: SocketAddr,
    /// To.
    pub dst: SocketAddr,
    /// Above IP.
    pub kind: Kind,
}

/// A TCP segment.
#[must_use]
pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Segment {
    segment(src, dst, Kind::Tcp(flags))
}

/// A datagram.
#[must_use]
pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Segment {
    segment(src, dst, Kind::Udp)
}

/// An SCTP packet with one chunk.
#[must_use]
pub fn sctp(src: (IpAddr, u16), dst: (IpAddr, u16), chunk: u8) -> Segment {
    segment(src, dst, Kind::Sctp(chunk))
}

/// An echo request, or the reply to one.
#[must_use]
pub fn echo(src: IpAddr, dst: IpAddr, identifier: u16, reply: bool) -> Segment {
    let kind = if reply { Kind::EchoReply } else { Kind::Echo };
    segment((src, identifier), (dst, 0), kind)
}

/// The ICMP error "port unreachable" that `src` sends to `dst` about a packet.
#[must_use]
pub fn unreachable(src: IpAddr, dst: IpAddr, about: Segment) -> Segment {
    let protocol = match about.kind {
        Kind::Tcp(_) => IpNumber::TCP.0,
        Kind::Udp => IpNumber::UDP.0,
        _ => panic!("{about:?} is not quoted here"),
    };
    let kind = Kind::Unreachable(protocol, about.src, about.dst);
    segment((src, 0), (dst, 0), kind)
}

fn segment(src: (IpAddr, u16), dst: (IpAddr, u16), kind: Kind) -> Segment {
    Segment {
        src: src.into(),
        dst: dst.into(),
        kind,
    }
}

/// The frame of a packet.
pub(super) fn frame(segment: &Segment, own: [u8; 6], other: [u8; 6]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(own, other);
    let builder = match (segment.src.ip(), segment.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{segment:?} has two families"),
    };
    let v4 = segment.src.is_ipv4();
    let (src, dst) = (segment.src.port(), segment.dst.port());
    let mut bytes = Vec::with_capacity(192);
    let written = match segment.kind {
        Kind::Udp => builder.udp(src, dst).write(&mut bytes, b"by hand"),
        Kind::Tcp(flags) => {
            let mut header = TcpHeader::new(src, dst, 1000, 64_240);
            header.fin = flags & flag::FIN != 0;
            header.syn = flags & flag::SYN != 0;
            header.rst = flags & flag::RST != 0;
            header.ack = flags & flag::ACK != 0;
            builder.tcp_header(header).write(&mut bytes, &[])
        }
        Kind::Sctp(chunk) => {
            // Ports, tag, checksum (which nobody on the way looks at); a chunk of four bytes.
            let mut packet = [0; 16];
            packet[..2].copy_from_slice(&src.to_be_bytes());
            packet[2..4].copy_from_slice(&dst.to_be_bytes());
            packet[12] = chunk;
            packet[15] = 4;
            builder.write(&mut bytes, IpNumber::SCTP, &packet)
        }
        Kind::Echo if v4 => builder
            .icmpv4_echo_request(src, 1)
            .write(&mut bytes, b"echo"),
        Kind::Echo => builder
            .icmpv6_echo_request(src, 1)
            .write(&mut bytes, b"echo"),
        Kind::EchoReply if v4 => builder.icmpv4_echo_reply(src, 1).write(&mut bytes, b"echo"),
        Kind::EchoReply => builder.icmpv6_echo_reply(src, 1).write(&mut bytes, b"echo"),
        Kind::Unreachable(protocol, src, dst) => {
            let quoted = Segment {
                src,
                dst,
                kind: if protocol == IpNumber::UDP.0 {
                    Kind::Udp
                } else {
                    Kind::Tcp(flag::ACK)
                },
            };
            let quoted = &frame(&quoted, own, other)[14..];
            if v4 {
                let error = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
                builder.icmpv4(error).write(&mut bytes, quoted)
            } else {
                let error = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
                builder.icmpv6(error).write(&mut bytes, quoted)
            }
        }
    };
    written.expect("a small packet can be built");
    bytes
}

/// The packet of a frame, if it is one of ours.
pub(super) fn read(frame: &[u8]) -> Option<Segment> {
    packet(&SlicedPacket::from_ethernet(frame).ok()?)
}

fn packet(packet: &SlicedPacket<'_>) -> Option<Segment> {
    let net = packet.net.as_ref()?;
    let (src, dst): (IpAddr, IpAddr) = match net {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into())
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into())
        }
        NetSlice::Arp(_) => return None,
    };
    let complaint = |quoted: &[u8]| {
        let about = self::packet(&SlicedPacket::from_ip(quoted).ok()?)?;
        Some(unreachable(src, dst, about))
    };
    match &packet.transport {
        Some(TransportSlice::Udp(header)) => Some(udp(
            (src, header.source_port()),
            (dst, header.destination_port()),
        )),
        Some(TransportSlice::Tcp(header)) => {
            let bits = [
                (header.fin(), flag::FIN),
                (header.syn(), flag::SYN),
                (header.rst(), flag::RST),
                (header.ack(), flag::ACK),
            ];
            let flags = bits
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum();
            Some(tcp(
                (src, header.source_port()),
                (dst, header.destination_port()),
                flags,
            ))
        }
        Some(TransportSlice::Icmpv4(message)) => match message.icmp_type() {
            Icmpv4Type::EchoRequest(header) => Some(echo(src, dst, header.id, false)),
            Icmpv4Type::EchoReply(header) => Some(echo(src, dst, header.id, true)),
            Icmpv4Type::DestinationUnreachable(_) => complaint(message.payload()),
            _ => None,
        },
        Some(TransportSlice::Icmpv6(message)) => match message.icmp_type() {
            Icmpv6Type::EchoRequest(header) => Some(echo(src, dst, header.id, false)),
            Icmpv6Type::EchoReply(header) => Some(echo(src, dst, header.id, true)),
            Icmpv6Type::DestinationUnreachable(_) => complaint(message.payload()),
            _ => None,
        },
        Some(TransportSlice::Igmp(_)) => None,
        None => {
            let above = net.ip_payload_ref()?;
            if above.ip_number != IpNumber::SCTP {
                return None;
            }
            let port =
                |at: usize| Some(u16::from_be_bytes(*above.payload.get(at..)?.first_chunk()?));
            let kind = *above.payload.get(12)?;
            Some(sctp((src, port(0)?), (dst, port(2)?), kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_built() {
        let pairs = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
        for (src, dst) in pairs.map(|(src, dst)| (src.parse().unwrap(), dst.parse().unwrap())) {
            let question = udp((src, 5), (dst, 6));
            for segment in [
                tcp((src, 1), (dst, 2), flag::SYN | flag::ACK),
                question,
                sctp((src, 7), (dst, 8), chunk::INIT),
                echo(src, dst, 9, false),
                echo(dst, src, 9, true),
                unreachable(dst, src, question),
                unreachable(dst, src, tcp((src, 1), (dst, 2), flag::ACK)),
            ] {
                assert_eq!(read(&frame(&segment, [2; 6], [4; 6])), Some(segment));
            }
        }
    }
}
