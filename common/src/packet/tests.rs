//! Properties of the parser, against packets that another library builds and reads.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use build::Spec;
use specs::spec;

mod specs;

fn read(bytes: &[u8], ethertype: u16) -> Result<Parsed, u8> {
    let mut parsed = Parsed::default();
    parse(&bytes, ethertype, &mut parsed).map(|()| parsed)
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(1000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_refused_or_read_within_their_bounds(
        mut bytes in prop::collection::vec(any::<u8>(), 0..160),
        ethertype in prop::sample::select(vec![ETH_IPV4, ETH_IPV6]),
        honest in 0..4_u8,
        protocol in prop::sample::select(vec![TCP, UDP, SCTP, ICMP, ICMPV6, 0, 43, 44, 60, 51, 59]),
    ) {
        // Mostly with a first word that lets the parser go on.
        if honest > 0 && bytes.len() >= 40 {
            let len = bytes.len() as u16;
            if ethertype == ETH_IPV4 {
                bytes[0] = 0x40 | (bytes[0] & 0xf).max(5);
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].copy_from_slice(if honest > 1 { &[0, 0] } else { &[0x20, 0] });
                bytes[9] = protocol;
            } else {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                bytes[6] = protocol;
            }
        }
        if let Ok(parsed) = read(&bytes, ethertype) {
            check::bounds(&bytes, ethertype, &parsed);
            check::by_others(&bytes, &parsed);
            let mut quote = Quoted::default();
            let _ = quoted(&&bytes[..], &parsed, &mut quote);
        }
        prop_assert_eq!(read(&bytes, ETH_ARP), Err(reason::ETHERTYPE));
    }

    #[test]
    fn a_packet_is_read_as_it_was_built(spec in spec()) {
        let bytes = spec.bytes();
        prop_assert_eq!(read(&bytes, spec.ethertype()), spec.expected());
    }

    #[test]
    fn a_packet_that_ends_early_is_refused(spec in spec()) {
        let bytes = spec.bytes();
        for end in 0..bytes.len() {
            prop_assert!(read(&bytes[..end], spec.ethertype()).is_err(), "{} of {}", end, bytes.len());
        }
    }

    #[test]
    fn a_packet_that_is_cut_and_says_so_keeps_its_meaning_or_is_refused(
        spec in spec(),
        end in any::<Index>(),
        rest_stays in any::<bool>(),
    ) {
        let whole = spec.bytes();
        let first = if spec.v6 { 40 } else { usize::from(whole[0] & 0xf) * 4 };
        let end = first + end.index(whole.len() - first + 1);
        let mut bytes = whole.clone();
        set_length(&mut bytes[..end], spec.v6);
        if !rest_stays {
            bytes.truncate(end);
        }
        let cut = read(&bytes, spec.ethertype());
        if let (Ok(cut), Ok(whole)) = (cut, spec.expected()) {
            check::bounds(&bytes, spec.ethertype(), &cut);
            prop_assert_eq!((cut.src, cut.dst, cut.protocol), (whole.src, whole.dst, whole.protocol));
            prop_assert_eq!((cut.sport, cut.dport, cut.tcp_flags), (whole.sport, whole.dport, whole.tcp_flags));
        }
    }

    #[test]
    fn what_lies_behind_the_packet_changes_nothing(spec in spec(), behind in prop::collection::vec(any::<u8>(), 1..60)) {
        let mut bytes = spec.bytes();
        bytes.extend(behind);
        prop_assert_eq!(read(&bytes, spec.ethertype()), spec.expected());
    }

    #[test]
    fn a_changed_byte_is_refused_or_read_as_others_read_it(spec in spec(), at in any::<Index>(), early in any::<bool>()) {
        let mut bytes = spec.bytes();
        let at = at.index(bytes.len().min(if early { 12 } else { 120 }));
        for value in 0..=255 {
            bytes[at] = value;
            if let Ok(parsed) = read(&bytes, spec.ethertype()) {
                check::bounds(&bytes, spec.ethertype(), &parsed);
                check::by_others(&bytes, &parsed);
            }
        }
    }

    #[test]
    fn ipv4_options_are_skipped_by_their_lengths_or_refused(
        options in prop::collection::vec(prop_oneof![0..8_u8, any::<u8>(), Just(131), Just(137)], 4..40),
    ) {
        let words = options.len() / 4;
        let options = &options[..words * 4];
        let mut bytes = vec![0_u8; 20];
        (bytes[0], bytes[9]) = (0x45 + words as u8, 47);
        bytes.extend(options);
        let length = bytes.len();
        set_length(&mut bytes, false);
        // What a look-up of bytes behind the header would find: a list that ends well.
        bytes.extend([0; 60]);
        prop_assert_eq!(read(&bytes, ETH_IPV4).map(|parsed| parsed.transport), check_options(options).map(|()| length as u32));
    }

    #[test]
    fn lengths_beyond_the_packet_are_refused(spec in spec(), by in 1..2000_u16) {
        let Ok(parsed) = spec.expected() else {
            return Ok(());
        };
        let bytes = spec.bytes();
        let more = |at: usize, there: usize, by: u16| {
            let mut bytes = bytes.clone();
            let length = there as u16 + by;
            bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
            read(&bytes, spec.ethertype())
        };
        let (at, there) = if spec.v6 { (4, bytes.len() - 40) } else { (2, bytes.len()) };
        for by in [1, by] {
            prop_assert_eq!(more(at, there, by), Err(reason::MALFORMED));
        }
        let transport = parsed.transport as usize;
        if parsed.fragment == fragment::WHOLE && parsed.protocol == UDP {
            prop_assert_eq!(more(transport + 4, bytes.len() - transport, 1), Err(reason::MALFORMED));
            prop_assert_eq!(more(transport + 4, bytes.len() - transport, by), Err(reason::MALFORMED));
        }
        if parsed.fragment < fragment::LATER && parsed.protocol == TCP {
            for offset in 0..16 {
                let mut bytes = bytes.clone();
                bytes[transport + 12] = offset << 4;
                let fits = (20..=bytes.len() - transport).contains(&(usize::from(offset) * 4));
                prop_assert_eq!(read(&bytes, spec.ethertype()).is_ok(), fits);
            }
        }
    }

    #[test]
    fn the_packet_that_an_icmp_error_quotes_is_read_as_it_was_built(inner in spec(), end in any::<Index>()) {
        // RFC 792: at least eight bytes behind the header.
        let payload = [&inner.payload[..], &[0; 8]].concat();
        let inner = Spec { payload, part: None, options: keep_harmless(&inner.options), extensions: Vec::new(), ..inner };
        let quote = inner.bytes();
        let mut outer = vec![0_u8; 8];
        outer.extend(&quote);
        let error = Parsed { family: u8::from(inner.v6), ..Parsed::default() };
        let mut whole = Quoted::default();
        prop_assert_eq!(quoted(&&outer[..], &error, &mut whole), Ok(()));
        let expected = inner.expected().unwrap_or_else(|_| Parsed { protocol: 59, ..whole_as_parsed(&whole) });
        prop_assert_eq!(
            (whole.src, whole.dst, whole.protocol, whole.sport, whole.dport),
            (expected.src, expected.dst, expected.protocol, expected.sport, expected.dport)
        );
        if !inner.v6 {
            let mut later = outer.clone();
            for (hi, lo) in [(0, 1), (0x1f, 0xff), (0x20, 2), (0x10, 0)] {
                later[8 + 6..8 + 8].copy_from_slice(&[hi, lo]);
                prop_assert_eq!(quoted(&&later[..], &error, &mut Quoted::default()), Err(reason::ICMP_ERROR));
            }
        }
        let end = end.index(outer.len() + 1);
        let mut cut = Quoted::default();
        if quoted(&&outer[..end], &error, &mut cut).is_ok() {
            prop_assert_eq!(cut, whole);
        }
    }
}

/// RFC 791 3.1: one byte for 0 (the end) and 1, else kind and length.
fn check_options(options: &[u8]) -> Result<(), u8> {
    match options {
        [] | [0, ..] => Ok(()),
        [1, rest @ ..] => check_options(rest),
        [131 | 137, ..] => Err(reason::SOURCE_ROUTE),
        [_] => Err(reason::MALFORMED),
        [_, length, ..] => {
            let rest = options.get(usize::from(*length)..).filter(|_| *length >= 2);
            check_options(rest.ok_or(reason::MALFORMED)?)
        }
    }
}

fn whole_as_parsed(quoted: &Quoted) -> Parsed {
    Parsed {
        src: quoted.src,
        dst: quoted.dst,
        ..Parsed::default()
    }
}

fn keep_harmless(options: &[u8]) -> Vec<u8> {
    let harmless = |kind: &&u8| !matches!(**kind, 131 | 137);
    options.iter().filter(harmless).copied().collect()
}

fn set_length(bytes: &mut [u8], v6: bool) {
    let length = bytes.len() as u16;
    if v6 {
        bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    } else {
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}
