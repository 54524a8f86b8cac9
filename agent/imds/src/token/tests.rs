use proptest::prelude::*;

use super::*;

const POD: Attachment = Attachment([7; 16]);

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).expect("a time")
}

fn keys() -> Keys {
    Keys::new(&[1; 32], None)
}

#[test]
fn a_token_is_good_until_it_expires() {
    let token = keys().mint(POD, 60, at(0), [9; 16]);
    assert_eq!(token.len(), 82);
    assert!(keys().is_good(&token, POD, at(0)) && keys().is_good(&token, POD, at(59)));
    assert!(!keys().is_good(&token, POD, at(60)) && !keys().is_good(&token, POD, at(100_000)));
}

#[test]
fn a_token_of_another_attachment_is_not_good() {
    let token = keys().mint(POD, 60, at(0), [9; 16]);
    let mut other = POD;
    other.0[15] ^= 1;
    assert!(!keys().is_good(&token, other, at(1)));
}

#[test]
fn a_token_outlives_one_rotation_and_not_two() {
    let mut keys = keys();
    let token = keys.mint(POD, 21600, at(0), [9; 16]);
    keys.rotate(&[2; 32]);
    assert!(keys.is_good(&token, POD, at(1)));
    assert!(Keys::new(&[2; 32], Some(&[1; 32])).is_good(&token, POD, at(1)));
    keys.rotate(&[3; 32]);
    assert!(!keys.is_good(&token, POD, at(1)));
}

#[test]
fn a_token_from_the_future_is_not_good() {
    let token = keys().mint(POD, 21600, at(0), [9; 16]);
    assert!(keys().is_good(&token, POD, at(0)));
    assert!(!keys().is_good(&token, POD, at(-1)));
}

#[test]
fn every_changed_character_spoils_a_token() {
    let token = keys().mint(POD, 60, at(0), [9; 16]);
    for place in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert!(!keys().is_good(&changed, POD, at(1)), "at {place}");
    }
    for changed in [
        format!("{token}="),
        format!("{token}A"),
        token[1..].to_owned(),
        format!(" {token}"),
    ] {
        assert!(!keys().is_good(&changed, POD, at(1)), "{changed}");
    }
}

#[test]
fn a_ttl_is_one_to_21600_in_digits() {
    for (text, secs) in [("1", 1), ("300", 300), ("21600", 21600), ("007", 7)] {
        assert_eq!(ttl(text), Some(secs));
    }
    for text in [
        "",
        "0",
        "21601",
        "-1",
        "+1",
        "1.0",
        "1 ",
        "0x10",
        "99999999999",
        "sixty",
        "\u{662}",
    ] {
        assert_eq!(ttl(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_is_a_token_by_chance(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
        prop_assert!(!keys().is_good(&text, POD, at(0)));
        prop_assert!(!keys().is_good(&URL_SAFE_NO_PAD.encode(bytes), POD, at(0)));
    }
}

#[test]
fn a_token_of_another_version_is_not_good_though_it_is_signed() {
    let token = keys().mint(POD, 60, at(0), [9; 16]);
    let mut bytes = URL_SAFE_NO_PAD.decode(token).expect("base64url");
    bytes[0] = VERSION + 1;
    let key = keys().current.key;
    let tag = hmac::sign(&key, &signed(&bytes[..FIELDS], POD));
    bytes[FIELDS..].copy_from_slice(tag.as_ref());
    let token = URL_SAFE_NO_PAD.encode(&bytes);
    assert!(!keys().is_good(&token, POD, at(1)));
    bytes[0] = VERSION;
    let tag = hmac::sign(&key, &signed(&bytes[..FIELDS], POD));
    bytes[FIELDS..].copy_from_slice(tag.as_ref());
    assert!(keys().is_good(&URL_SAFE_NO_PAD.encode(&bytes), POD, at(1)));
}
