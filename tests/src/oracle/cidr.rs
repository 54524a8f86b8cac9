//! Is an address inside a CIDR: by comparing leading bits, within one family only (A8, A9).
//!
//! Written out by hand on purpose: the compiler uses a library, and the oracle shares none of its roads to an answer.

use std::net::IpAddr;
use std::str::FromStr;

/// A prefix of one family, host bits already masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    family_bits: u8,
    bits: u128,
    length: u8,
}

impl Cidr {
    /// An IPv4-mapped address is IPv4; a CIDR written in IPv6 never holds one.
    pub(crate) fn holds(self, address: IpAddr) -> bool {
        let (family_bits, bits) = numbers(address.to_canonical());
        family_bits == self.family_bits && masked(bits, family_bits, self.length) == self.bits
    }

    /// Smaller than `outer` and inside of it (N12).
    pub(crate) fn lies_strictly_inside(self, outer: Self) -> bool {
        self.family_bits == outer.family_bits
            && self.length > outer.length
            && masked(self.bits, self.family_bits, outer.length) == outer.bits
    }
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text.split_once('/').ok_or(())?;
        let (family_bits, bits) = numbers(address.parse().ok().ok_or(())?);
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        let length: u8 = length.parse().ok().ok_or(())?;
        if length > family_bits {
            return Err(());
        }
        Ok(Self {
            family_bits,
            bits: masked(bits, family_bits, length),
            length,
        })
    }
}

fn numbers(address: IpAddr) -> (u8, u128) {
    match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    }
}

fn masked(bits: u128, family_bits: u8, length: u8) -> u128 {
    if length == 0 {
        return 0;
    }
    let host_bits = u32::from(family_bits - length);
    (bits >> host_bits) << host_bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(cidr: &str, address: &str) -> bool {
        cidr.parse::<Cidr>()
            .unwrap()
            .holds(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_inside_up_to_both_edges() {
        assert!(holds("10.1.2.0/24", "10.1.2.0"));
        assert!(holds("10.1.2.0/24", "10.1.2.255"));
        assert!(!holds("10.1.2.0/24", "10.1.1.255"));
        assert!(!holds("10.1.2.0/24", "10.1.3.0"));
        assert!(holds("fd10::/64", "fd10::ffff:ffff:ffff:ffff"));
        assert!(!holds("fd10::/64", "fd10:0:0:1::"));
        assert!(holds("10.1.2.3/32", "10.1.2.3"));
        assert!(!holds("10.1.2.3/32", "10.1.2.2"));
    }

    #[test]
    fn everything_of_one_family_is_nothing_of_the_other() {
        assert!(holds("0.0.0.0/0", "255.255.255.255"));
        assert!(!holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(!holds("::/0", "10.0.0.1"));
        assert!(!holds("::/0", "::ffff:10.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
    }

    #[test]
    fn host_bits_are_masked() {
        assert!(holds("10.1.2.3/16", "10.1.200.200"));
        assert!(holds("fd10::1/64", "fd10::2"));
    }

    #[test]
    fn an_exception_is_smaller_and_of_the_same_family() {
        let inside = |inner: &str, outer: &str| {
            inner
                .parse::<Cidr>()
                .unwrap()
                .lies_strictly_inside(outer.parse().unwrap())
        };
        assert!(inside("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!inside("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!inside("10.0.0.0/8", "10.1.0.0/16"));
        assert!(!inside("11.0.0.0/16", "10.0.0.0/8"));
        assert!(!inside("10.0.0.0/16", "::/0"));
    }

    #[test]
    fn what_is_no_cidr_does_not_parse() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "fd10::/129",
            "10.0.0.0/8/8",
            "a/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
    }
}
