//! Packets as bytes: the first packet of a new connection, with a marker by which its arrival is recognised.
//!
//! The marker travels where no node changes it: TCP's sequence number, SCTP's initiate tag, and a payload of UDP and ICMP. Headers are correct and
//! checksums valid, so that nothing but policy stands in a packet's way; tests of odd packets change the bytes afterwards.

use std::net::IpAddr;

use anyhow::{Result, bail};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader, UdpHeader,
};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// First bytes of a payload of ours.
const MAGIC: [u8; 4] = *b"pcLb";
const TTL: u8 = 64;

/// IANA numbers that the lab can build.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port; the identifier of an ICMP echo.
    pub src_port: u16,
    /// Destination port; no meaning for ICMP.
    pub dst_port: u16,
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// What to recognise it by.
    pub marker: u32,
}

impl Opening {
    /// The IP packet.
    pub fn to_packet(&self) -> Result<Vec<u8>> {
        let body = self.transport()?;
        let ip = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(
                    body.len() as u16,
                    TTL,
                    IpNumber(self.protocol),
                    src.octets(),
                    dst.octets(),
                )?;
                header.identification = self.marker as u16;
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: body.len() as u16,
                    next_header: IpNumber(self.protocol),
                    hop_limit: TTL,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
            _ => bail!(
                "a packet from {} to {} has two families",
                self.src,
                self.dst
            ),
        };
        let builder = PacketBuilder::ip(ip);
        let mut bytes = Vec::with_capacity(builder.size(body.len()));
        builder.write(&mut bytes, IpNumber(self.protocol), &body)?;
        Ok(bytes)
    }

    /// The same as an Ethernet frame.
    pub fn to_frame(&self, source: [u8; 6], destination: [u8; 6]) -> Result<Vec<u8>> {
        let mut frame = Vec::with_capacity(128);
        frame.extend_from_slice(&destination);
        frame.extend_from_slice(&source);
        frame.extend_from_slice(if self.src.is_ipv4() {
            &[0x08, 0x00]
        } else {
            &[0x86, 0xdd]
        });
        frame.extend_from_slice(&self.to_packet()?);
        Ok(frame)
    }

    fn transport(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.protocol {
            TCP => {
                let mut header = TcpHeader::new(self.src_port, self.dst_port, self.marker, 64_240);
                header.syn = true;
                header.checksum = match (self.src, self.dst) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &[])?
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &[])?
                    }
                    _ => 0,
                };
                header.write(&mut bytes)?;
            }
            UDP => {
                let payload = self.payload();
                let mut header = UdpHeader {
                    source_port: self.src_port,
                    destination_port: self.dst_port,
                    length: 16,
                    checksum: 0,
                };
                header.checksum = match (self.src, self.dst) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &payload)?
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &payload)?
                    }
                    _ => 0,
                };
                header.write(&mut bytes)?;
                bytes.extend_from_slice(&payload);
            }
            SCTP => self.sctp_init(&mut bytes),
            ICMP | ICMPV6 => self.icmp(&mut bytes),
            other => bail!("the lab cannot build packets of protocol {other}"),
        }
        Ok(bytes)
    }

    /// RFC 9260 3.3.2: common header with tag 0, then an INIT chunk.
    fn sctp_init(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.src_port.to_be_bytes());
        bytes.extend_from_slice(&self.dst_port.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[1, 0, 0, 20]);
        bytes.extend_from_slice(&self.marker.to_be_bytes());
        bytes.extend_from_slice(&65_535u32.to_be_bytes());
        bytes.extend_from_slice(&[0, 10, 0, 10]);
        bytes.extend_from_slice(&self.marker.to_be_bytes());
        // RFC 9260 appendix A: the checksum stands least significant byte first.
        let checksum = crc32c(bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&checksum);
    }

    fn icmp(&self, bytes: &mut Vec<u8>) {
        let (kind, code) = self.icmp;
        bytes.extend_from_slice(&[kind, code, 0, 0]);
        bytes.extend_from_slice(&self.src_port.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&self.payload());
        // ICMPv6 covers a pseudo header (RFC 4443 2.3), ICMP does not.
        let mut covered = Vec::new();
        if let (ICMPV6, IpAddr::V6(src), IpAddr::V6(dst)) = (self.protocol, self.src, self.dst) {
            covered.extend_from_slice(&src.octets());
            covered.extend_from_slice(&dst.octets());
            covered.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            covered.extend_from_slice(&[0, 0, 0, ICMPV6]);
        }
        covered.extend_from_slice(bytes);
        bytes[2..4].copy_from_slice(&internet_checksum(&covered).to_be_bytes());
    }

    fn payload(&self) -> [u8; 8] {
        let [a, b, c, d] = MAGIC;
        let [e, f, g, h] = self.marker.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// The marker of an Ethernet frame, if it is an opening packet of ours.
#[must_use]
pub fn marker_of_frame(frame: &[u8]) -> Option<u32> {
    marker_of_packet(frame.get(ETHERNET..)?)
}

/// The marker of an IP packet, if it is an opening packet of ours.
#[must_use]
pub fn marker_of_packet(packet: &[u8]) -> Option<u32> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            marker_of_transport(*packet.get(9)?, packet.get(header..)?)
        }
        // Openings have no extension headers.
        6 => marker_of_transport(*packet.get(6)?, packet.get(40..)?),
        _ => None,
    }
}

/// The marker of what follows the IP header.
#[must_use]
pub fn marker_of_transport(protocol: u8, bytes: &[u8]) -> Option<u32> {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let payload = || (bytes.get(8..12)? == MAGIC).then(|| word(12))?;
    match protocol {
        // A SYN without ACK.
        TCP => (bytes.get(13)? & 0x12 == 0x02).then(|| word(4))?,
        UDP | ICMP | ICMPV6 => payload(),
        SCTP => (*bytes.get(12)? == 1).then(|| word(16))?,
        _ => None,
    }
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    })
}

/// RFC 1071 over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    fn opening(protocol: u8, v6: bool) -> Opening {
        let (src, dst) = if v6 {
            ("fd00::1", "fd00::2")
        } else {
            ("10.0.0.1", "10.0.0.2")
        };
        let kind = if v6 { 128 } else { 8 };
        Opening {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            src_port: 40_000,
            dst_port: 5432,
            icmp: (kind, 0),
            marker: 0xdead_beef,
        }
    }

    #[test]
    fn every_opening_is_parsed_back_with_its_ports_checksum_and_marker() {
        for (protocol, v6) in [
            (TCP, false),
            (TCP, true),
            (UDP, false),
            (UDP, true),
            (ICMP, false),
            (ICMPV6, true),
            (SCTP, false),
            (SCTP, true),
        ] {
            let opening = opening(protocol, v6);
            let frame = opening.to_frame([2; 6], [4; 6]).unwrap();
            assert_eq!(
                marker_of_frame(&frame),
                Some(0xdead_beef),
                "{protocol} {v6}"
            );
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let net = parsed.net.as_ref().unwrap();
            let payload = net.ip_payload_ref().unwrap();
            assert_eq!(payload.ip_number, IpNumber(protocol));
            match parsed.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert_eq!(
                        (
                            tcp.source_port(),
                            tcp.destination_port(),
                            tcp.syn(),
                            tcp.ack()
                        ),
                        (40_000, 5432, true, false)
                    );
                    let right = match (opening.src, opening.dst) {
                        (IpAddr::V4(src), IpAddr::V4(dst)) => {
                            tcp.calc_checksum_ipv4(src.octets(), dst.octets()).unwrap()
                        }
                        (IpAddr::V6(src), IpAddr::V6(dst)) => {
                            tcp.calc_checksum_ipv6(src.octets(), dst.octets()).unwrap()
                        }
                        _ => unreachable!(),
                    };
                    assert_eq!(tcp.checksum(), right);
                }
                Some(TransportSlice::Udp(udp)) => {
                    assert_eq!(
                        (udp.source_port(), udp.destination_port(), udp.length()),
                        (40_000, 5432, 16)
                    );
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    assert_eq!(
                        icmp.icmp_type(),
                        etherparse::Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader {
                            id: 40_000,
                            seq: 1
                        })
                    );
                    assert_eq!(internet_checksum(icmp.slice()), 0);
                }
                Some(TransportSlice::Icmpv6(icmp)) => {
                    assert!(icmp.is_checksum_valid(
                        [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                        [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
                    ));
                }
                Some(TransportSlice::Igmp(_)) => panic!("no opening is IGMP"),
                None => assert_eq!((protocol, payload.payload.len()), (SCTP, 32)),
            }
        }
    }

    #[test]
    fn crc32c_gives_the_published_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn answers_and_strangers_have_no_marker() {
        let mut frame = opening(TCP, false).to_frame([2; 6], [4; 6]).unwrap();
        frame[ETHERNET + 20 + 13] |= 0x10;
        assert_eq!(
            marker_of_frame(&frame),
            None,
            "a SYN with ACK is no opening"
        );
        let mut frame = opening(UDP, false).to_frame([2; 6], [4; 6]).unwrap();
        frame[ETHERNET + 28] = 0;
        assert_eq!(marker_of_frame(&frame), None);
        assert_eq!(marker_of_frame(&frame[..20]), None);
    }
}
