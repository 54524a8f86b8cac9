//! Packets of every kind, built by a library that is not ours, with what a reader must find in them.
//!
//! For tests and for the seeds of the fuzzers (feature `testing`); nothing that is shipped has it.

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, TcpHeader, UdpHeader,
};

use crate::addr;
use crate::conntrack::{SCTP, TCP, UDP};
use crate::icmp::{ICMP, ICMPV6};
use crate::packet::{ETH_IPV4, ETH_IPV6, Parsed, fragment};
use crate::reason;

/// What follows the IP headers.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// As on the wire, FIN lowest.
        flags: u8,
        /// Units of 4 bytes, each four times "no operation".
        options: u8,
    },
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Type and code; the identifier is the source port.
    Icmp(u8, u8),
    /// Any protocol without ports.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub enum Extension {
    /// Hop-by-hop, destination options, routing: number, and units of 8 bytes beyond the first.
    Raw(u8, u8),
    /// Fragment header that splits nothing.
    Atomic,
    /// Fragment header that does.
    Fragment,
    /// Jumbo payload option in a hop-by-hop header.
    Jumbo,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// In units of 8 bytes.
    pub offset: u16,
    /// Whether it is not the last one.
    pub more: bool,
    /// Identification; IPv4 has room for the lower half.
    pub id: u32,
}

/// A packet to build. Building panics where a field does not fit its header.
#[derive(Clone, Debug)]
pub struct Spec {
    /// IPv6.
    pub v6: bool,
    /// Source; IPv4 has the last four bytes of it.
    pub src: [u8; 16],
    /// Destination likewise.
    pub dst: [u8; 16],
    /// Source port, or the identifier of ICMP.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// What follows the IP headers.
    pub transport: Transport,
    /// What follows that.
    pub payload: Vec<u8>,
    /// IPv4 only: options by kind, each valid.
    pub options: Vec<u8>,
    /// IPv6 only.
    pub extensions: Vec<Extension>,
    /// IPv4, and IPv6 for its [`Extension::Fragment`].
    pub part: Option<Part>,
}

impl Spec {
    /// The type of the frame that carries it.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        if self.v6 { ETH_IPV6 } else { ETH_IPV4 }
    }

    /// The real transport protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp => UDP,
            Transport::Sctp => SCTP,
            Transport::Icmp(..) if self.v6 => ICMPV6,
            Transport::Icmp(..) => ICMP,
            Transport::Other(protocol) => protocol,
        }
    }

    /// Transport header and payload.
    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = self.sport.to_be_bytes();
        let bytes5to8 = [id[0], id[1], 0, 7];
        match self.transport {
            Transport::Tcp { flags, options } => {
                let mut header = TcpHeader::new(self.sport, self.dport, 1, 2);
                header
                    .set_options_raw(&vec![1; usize::from(options) * 4])
                    .expect("at most 40 bytes of options");
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.psh = flags & 8 != 0;
                header.ack = flags & 16 != 0;
                header.urg = flags & 32 != 0;
                header.ece = flags & 64 != 0;
                header.cwr = flags & 128 != 0;
                header.write(&mut bytes).expect("a vector takes everything");
            }
            Transport::Udp => {
                let header = UdpHeader {
                    source_port: self.sport,
                    destination_port: self.dport,
                    length: 8 + self.payload.len() as u16,
                    checksum: 0,
                };
                header.write(&mut bytes).expect("a vector takes everything");
            }
            Transport::Sctp => {
                bytes.extend(self.sport.to_be_bytes());
                bytes.extend(self.dport.to_be_bytes());
                bytes.extend([0; 8]);
            }
            Transport::Icmp(type_u8, code_u8) if self.v6 => {
                let kind = Icmpv6Type::Unknown {
                    type_u8,
                    code_u8,
                    bytes5to8,
                };
                Icmpv6Header::new(kind)
                    .write(&mut bytes)
                    .expect("a vector takes everything");
            }
            Transport::Icmp(type_u8, code_u8) => {
                let kind = Icmpv4Type::Unknown {
                    type_u8,
                    code_u8,
                    bytes5to8,
                };
                Icmpv4Header::new(kind)
                    .write(&mut bytes)
                    .expect("a vector takes everything");
            }
            Transport::Other(_) => {}
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// What a part that is not the last one carries is a multiple of eight bytes.
    fn fitted(&self, mut body: Vec<u8>) -> Vec<u8> {
        if self.part.is_some_and(|part| part.more) {
            body.resize(body.len().next_multiple_of(8), 0);
        }
        body
    }

    /// From the IP header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.v6 {
            let (extensions, first) = self.extension_bytes();
            let payload = extensions.len() + self.fitted(self.body()).len();
            let header = Ipv6Header {
                payload_length: payload as u16,
                next_header: IpNumber(first),
                hop_limit: 64,
                source: self.src,
                destination: self.dst,
                ..Ipv6Header::default()
            };
            header.write(&mut bytes).expect("a vector takes everything");
            bytes.extend(extensions);
        } else {
            let protocol = IpNumber(self.protocol());
            let mut header = Ipv4Header::new(
                0,
                64,
                protocol,
                addr::low4(&self.src),
                addr::low4(&self.dst),
            )
            .expect("no payload is too long");
            let options = self.option_bytes();
            header.options = options
                .as_slice()
                .try_into()
                .expect("at most 40 bytes of options");
            header
                .set_payload_len(self.fitted(self.body()).len())
                .expect("a datagram has at most 65,535 bytes");
            if let Some(part) = self.part {
                header.identification = part.id as u16;
                header.fragment_offset = IpFragOffset::try_new(part.offset).expect("13 bits");
                header.more_fragments = part.more;
                header.dont_fragment = false;
            }
            header.write(&mut bytes).expect("a vector takes everything");
        }
        bytes.extend(self.fitted(self.body()));
        bytes
    }

    fn option_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for kind in &self.options {
            match kind {
                0 | 1 => bytes.push(*kind),
                _ => bytes.extend([*kind, 4, 0, 0]),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn extension_bytes(&self) -> (Vec<u8>, u8) {
        let mut bytes = Vec::new();
        let mut next = self.protocol();
        for extension in self.extensions.iter().rev() {
            let mut header = Vec::new();
            let mut raw = |payload: &[u8]| {
                let header_of = Ipv6RawExtHeader::new_raw(IpNumber(next), payload)
                    .expect("whole units of 8 bytes");
                header_of
                    .write(&mut header)
                    .expect("a vector takes everything");
            };
            let number = match extension {
                Extension::Raw(number, units) => {
                    // Options that are padding: PadN of four bytes, then Pad1s.
                    let mut payload = vec![0; 6 + 8 * usize::from(*units)];
                    payload[..2].copy_from_slice(&[1, 4]);
                    raw(&payload);
                    *number
                }
                Extension::Jumbo => {
                    raw(&[0xc2, 4, 0, 1, 0, 0]);
                    0
                }
                Extension::Atomic | Extension::Fragment => {
                    let part = self
                        .part
                        .filter(|_| matches!(extension, Extension::Fragment));
                    let header_of = Ipv6FragmentHeader::new(
                        IpNumber(next),
                        IpFragOffset::try_new(part.map_or(0, |part| part.offset)).expect("13 bits"),
                        part.is_some_and(|part| part.more),
                        part.map_or(99, |part| part.id),
                    );
                    header_of
                        .write(&mut header)
                        .expect("a vector takes everything");
                    44
                }
            };
            header.extend(bytes);
            bytes = header;
            next = number;
        }
        (bytes, next)
    }

    /// What the parser has to say, worked out from the description alone.
    pub fn expected(&self) -> Result<Parsed, u8> {
        let body = self.fitted(self.body()).len() as u32;
        let mut parsed = Parsed {
            src: if self.v6 {
                self.src
            } else {
                addr::mapped(addr::low4(&self.src))
            },
            dst: if self.v6 {
                self.dst
            } else {
                addr::mapped(addr::low4(&self.dst))
            },
            protocol: self.protocol(),
            family: u8::from(self.v6),
            ..Parsed::default()
        };
        let mut part = self.part.filter(|part| part.offset != 0 || part.more);
        if self.v6 {
            parsed.transport = 40 + self.extension_bytes().0.len() as u32;
            part = part.filter(|_| {
                self.extensions
                    .iter()
                    .any(|e| matches!(e, Extension::Fragment))
            });
            self.check_extensions(part)?;
        } else {
            parsed.transport = 20 + self.option_bytes().len() as u32;
        }
        if let Some(part) = part {
            let start = u32::from(part.offset) * 8;
            // What stands between an IPv6 fragment header and the transport header belongs to the part.
            let inside = self.behind_fragment_header();
            let length = body + inside;
            if length == 0
                || start + length > 0xffff
                || (1..20).contains(&start)
                || (part.more && !length.is_multiple_of(8))
            {
                return Err(reason::FRAGMENT);
            }
            parsed.fragment_id = if self.v6 {
                part.id
            } else {
                u32::from(part.id as u16)
            };
            (parsed.fragment_start, parsed.fragment_end) = (start, start + length);
            parsed.fragment = match (start, part.more) {
                (0, _) => fragment::FIRST,
                (_, true) => fragment::LATER,
                (_, false) => fragment::LAST,
            };
            if start != 0 {
                if self.v6 {
                    parsed.transport -= inside;
                    parsed.protocol = self.number_behind_fragment_header();
                }
                return self.check_options().map(|()| parsed);
            }
        }
        self.check_options()?;
        match self.transport {
            Transport::Tcp { flags, .. } => parsed.tcp_flags = flags,
            Transport::Icmp(kind, code) => {
                parsed.sport = self.sport;
                parsed.dport = u16::from_be_bytes([kind, code]);
                return Ok(parsed);
            }
            Transport::Other(_) => return Ok(parsed),
            Transport::Udp | Transport::Sctp => {}
        }
        (parsed.sport, parsed.dport) = (self.sport, self.dport);
        Ok(parsed)
    }

    fn check_options(&self) -> Result<(), u8> {
        // Nothing counts behind the end of the list.
        let counting = self.options.iter().take_while(|kind| **kind != 0);
        if !self.v6 && counting.into_iter().any(|kind| matches!(kind, 131 | 137)) {
            return Err(reason::SOURCE_ROUTE);
        }
        Ok(())
    }

    fn check_extensions(&self, part: Option<Part>) -> Result<(), u8> {
        for (index, extension) in self.extensions.iter().enumerate() {
            let known = match extension {
                Extension::Raw(0, _) => index == 0,
                Extension::Raw(43, _) | Extension::Jumbo => false,
                _ => true,
            };
            if index == 8 || !known {
                return Err(reason::EXTENSION_HEADER);
            }
            if matches!(extension, Extension::Fragment) && part.is_some_and(|part| part.offset != 0)
            {
                return Ok(());
            }
        }
        if self.protocol() == 59 {
            Err(reason::MALFORMED)
        } else {
            Ok(())
        }
    }

    fn behind_fragment_header(&self) -> u32 {
        let at = self
            .extensions
            .iter()
            .position(|e| matches!(e, Extension::Fragment));
        at.filter(|_| self.v6).map_or(0, |at| {
            let rest = Self {
                extensions: self.extensions[at + 1..].to_vec(),
                ..self.clone()
            };
            rest.extension_bytes().0.len() as u32
        })
    }

    fn number_behind_fragment_header(&self) -> u8 {
        let at = self
            .extensions
            .iter()
            .position(|e| matches!(e, Extension::Fragment))
            .expect("there is such a header");
        let rest = Self {
            extensions: self.extensions[at + 1..].to_vec(),
            ..self.clone()
        };
        rest.extension_bytes().1
    }
}
