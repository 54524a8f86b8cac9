//! Any bytes as a packet, in either family.
//!
//! | property | against |
//! |---|---|
//! | nothing panics, nothing is read beyond the packet or beyond what the kernel programs made readable | [`Buffer`] |
//! | what is accepted lies within its own lengths, and another reader finds the same in it | `packet::check` |
//! | what lies behind the packet changes nothing | the same bytes, cut and continued |
//! | what has a glance is parsed into the same tuple | `packet::check` |
//! | the quote of an ICMP error is the packet that stands there | another reader |
//!
//! Each input is tried as it is, and once more with a version and a length that do not lie: a fuzzer finds those by luck only.

use std::cell::Cell;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use portcullis_common::addr;
use portcullis_common::icmp::{self, Class};
use portcullis_common::packet::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, Header, Packet, Parsed, Quoted, check, finish_rare, fragment,
    parse, quoted,
};
use portcullis_common::reason;

/// Longer than any length field can say.
const SUPER_PACKET: u32 = 70_000;

/// Panics if the parser breaks one of its promises about these bytes.
pub fn packet(bytes: &[u8]) {
    for ethertype in [ETH_IPV4, ETH_IPV6] {
        ordinary(bytes, ethertype);
        if let Some(honest) = honest(bytes, ethertype) {
            ordinary(&honest, ethertype);
        }
        super_packet(bytes, ethertype);
    }
    let other = read(&Buffer::of(bytes), ETH_ARP);
    assert_eq!(other, Err(reason::ETHERTYPE));
}

fn ordinary(bytes: &[u8], ethertype: u16) {
    let whole = Buffer::of(bytes);
    let answer = read(&whole, ethertype);
    assert_eq!(answer, read(&bytes, ethertype), "both kinds of memory");
    if let Some(total) = check::declared(bytes, ethertype)
        && let Some(own) = bytes.get(..total as usize)
    {
        let continued = [own, &[0xff; 64]].concat();
        for (what, other) in [("cut", own), ("continued", &continued)] {
            // A header that ends in nothing may have another reason there, but the same fate.
            assert_eq!(
                answer.ok(),
                read(&Buffer::of(other), ethertype).ok(),
                "{what}"
            );
        }
    }
    if let Ok(parsed) = answer {
        check::bounds(bytes, ethertype, &parsed);
        check::by_others(bytes, &parsed);
        quote(bytes, &parsed);
    }
    check::glance(&bytes, ethertype);
}

/// A packet that a device will cut, or that says so.
fn super_packet(bytes: &[u8], ethertype: u16) {
    for len in [bytes.len() as u32, SUPER_PACKET] {
        let packet = Buffer {
            len,
            gso: true,
            ..Buffer::of(bytes)
        };
        if let Ok(parsed) = read(&packet, ethertype) {
            assert!(parsed.transport <= len, "{parsed:?}");
            let inside = parsed.fragment == fragment::WHOLE || parsed.fragment_end <= 0xffff;
            assert!(inside, "{parsed:?}");
        }
        check::glance(&packet, ethertype);
    }
}

/// The quote of an ICMP error.
fn quote(bytes: &[u8], parsed: &Parsed) {
    let is_error = parsed.is_icmp()
        && parsed.fragment < fragment::LATER
        && icmp::classify(parsed.protocol, parsed.icmp_type()) == Class::Error;
    if !is_error {
        return;
    }
    let mut found = Quoted::default();
    let answer = quoted(&Buffer::of(bytes), parsed, &mut found);
    let inner = &bytes[parsed.transport as usize + 8..];
    let expected = if parsed.family == addr::V4 as u8 {
        Ipv4HeaderSlice::from_slice(inner).ok().map(|header| {
            let (src, dst) = (header.source(), header.destination());
            (addr::mapped(src), addr::mapped(dst), header.slice().len())
        })
    } else {
        let header = Ipv6HeaderSlice::from_slice(inner).ok();
        header.map(|header| (header.source(), header.destination(), 40))
    };
    if answer.is_ok() {
        let (src, dst, header) = expected.expect("another reader finds a header there");
        assert_eq!((found.src, found.dst), (src, dst), "{found:?}");
        assert!(inner.len() >= header + 4, "{found:?}");
    }
    for end in [bytes.len() - 1, bytes.len() - inner.len() / 2] {
        let mut cut = Quoted::default();
        if quoted(&Buffer::of(&bytes[..end]), parsed, &mut cut).is_ok() {
            assert_eq!((answer, cut), (Ok(()), found));
        }
    }
}

/// The same bytes with the version of the frame and the length that they have.
fn honest(bytes: &[u8], ethertype: u16) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let len = u16::try_from(bytes.len()).ok()?;
    let version = if ethertype == ETH_IPV4 { 4 } else { 6 };
    let first = bytes.first_mut()?;
    *first = version << 4 | (*first & 0xf);
    if ethertype == ETH_IPV4 {
        bytes.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
    } else {
        let payload = len.checked_sub(40)?;
        bytes.get_mut(4..6)?.copy_from_slice(&payload.to_be_bytes());
    }
    Some(bytes)
}

fn read<P: Packet>(packet: &P, ethertype: u16) -> Result<Parsed, u8> {
    let mut parsed = Parsed::default();
    parse(packet, ethertype, &mut parsed).map(|()| parsed)
}

/// A packet as the kernel holds one: readable in place only as far as was asked for before, and longer than its first bytes if `len` says so
/// (zeros).
#[derive(Clone, Debug)]
struct Buffer<'b> {
    bytes: &'b [u8],
    len: u32,
    gso: bool,
    prepared: Cell<usize>,
}

impl<'b> Buffer<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        Self {
            bytes,
            len: bytes.len() as u32,
            gso: false,
            prepared: Cell::new(0),
        }
    }
}

impl Header for Buffer<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn fixed<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        let prepared = self.prepared.get();
        assert!(
            OFFSET + 4 * N <= prepared,
            "{OFFSET} and {N} words, of {prepared} bytes that were asked for"
        );
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = u32::from_ne_bytes(self.load((OFFSET + 4 * index) as u32)?);
        }
        Some(words)
    }
}

impl Packet for Buffer<'_> {
    fn is_gso(&self) -> bool {
        self.gso
    }

    fn prepare<const N: usize>(&self) {
        self.prepared.set(N);
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let (start, end) = (offset as usize, offset as usize + N);
        if end > self.len as usize {
            return None;
        }
        let mut loaded = [0; N];
        let there = self.bytes.get(start..).unwrap_or_default();
        for (to, from) in loaded.iter_mut().zip(there) {
            *to = *from;
        }
        Some(loaded)
    }

    fn finish_rare(&self, parsed: &mut Parsed, total: u32) -> Result<(), u8> {
        finish_rare(self, parsed, total)
    }
}
