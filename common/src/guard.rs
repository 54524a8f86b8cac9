//! The guarded metadata addresses, and every form in which an IPv6 address can carry one of the IPv4 ones.
//!
//! Exact addresses, not the /16: the VPC's DNS and time service are neighbours of theirs (169.254.169.253, .123).
//! Source: EC2 user guide (instance metadata), ECS task role endpoint, EKS Pod Identity agent.

use crate::addr::{self, Addr};

/// EC2 instance metadata, 169.254.169.254.
pub const IMDS_V4: Addr = addr::mapped([169, 254, 169, 254]);
/// ECS task credentials, 169.254.170.2.
pub const ECS_V4: Addr = addr::mapped([169, 254, 170, 2]);
/// EKS Pod Identity, 169.254.170.23.
pub const POD_IDENTITY_V4: Addr = addr::mapped([169, 254, 170, 23]);
/// EC2 instance metadata over IPv6, `fd00:ec2::254`.
pub const IMDS_V6: Addr = [
    0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54,
];
/// EKS Pod Identity over IPv6, `fd00:ec2::23`.
pub const POD_IDENTITY_V6: Addr = [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x23];

/// All guarded addresses.
pub const ADDRESSES: [Addr; 5] = [IMDS_V4, ECS_V4, POD_IDENTITY_V4, IMDS_V6, POD_IDENTITY_V6];

/// The port of their services.
pub const PORT: u16 = 80;

/// Which of [`ADDRESSES`] `dst` is.
#[must_use]
#[inline(always)]
pub fn service(dst: &Addr) -> Option<u16> {
    let [hi, lo] = halves(dst);
    match (hi, lo) {
        (0, 0xffff_a9fe_a9fe) => Some(0),
        (0, 0xffff_a9fe_aa02) => Some(1),
        (0, 0xffff_a9fe_aa17) => Some(2),
        (0xfd00_0ec2_0000_0000, 0x254) => Some(3),
        (0xfd00_0ec2_0000_0000, 0x23) => Some(4),
        _ => None,
    }
}

/// The address of a service; what is no service's number gives the last one. By comparisons: what a program chooses from a table by a number
/// from outside, the verifier refuses to a process without `CAP_PERFMON`.
#[must_use]
#[inline(always)]
pub fn address(service: u16) -> Addr {
    match service {
        0 => IMDS_V4,
        1 => ECS_V4,
        2 => POD_IDENTITY_V4,
        3 => IMDS_V6,
        _ => POD_IDENTITY_V6,
    }
}

/// Whether `dst` is a guarded address.
#[must_use]
#[inline(always)]
pub fn is_metadata(dst: &Addr) -> bool {
    let [hi, lo] = halves(dst);
    if hi == 0 {
        return lo >> 32 == 0xffff && is_metadata_v4(lo as u32);
    }
    hi == 0xfd00_0ec2_0000_0000 && (lo == 0x254 || lo == 0x23)
}

/// Whether the IPv6 address `dst` carries a guarded IPv4 address: IPv4-compatible (RFC 4291), IPv4-mapped on the wire, 6to4 (RFC 3056), NAT64
/// (RFC 6052 well-known prefix; RFC 8215 local-use prefix with the address at the end), ISATAP (RFC 5214).
///
/// `dst` is the address as in an IPv6 header; do not ask with the mapped form of an IPv4 packet's address.
#[must_use]
#[inline(always)]
pub fn embeds_metadata(dst: &Addr) -> bool {
    let [hi, lo] = halves(dst);
    if hi >> 48 == 0x2002 && is_metadata_v4((hi >> 16) as u32) {
        return true;
    }
    if !is_metadata_v4(lo as u32) {
        return false;
    }
    let upper = lo >> 32;
    (hi == 0 && (upper == 0 || upper == 0xffff || upper == 0xffff_0000))
        || (hi == 0x0064_ff9b_0000_0000 && upper == 0)
        || hi >> 16 == 0x0064_ff9b_0001
        || upper & 0xfdff_ffff == 0x0000_5efe
}

#[inline(always)]
fn is_metadata_v4(addr: u32) -> bool {
    addr == 0xa9fe_a9fe || addr == 0xa9fe_aa02 || addr == 0xa9fe_aa17
}

#[inline(always)]
fn halves(addr: &Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v6(text: &str) -> Addr {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn exactly_the_five_addresses_are_guarded() {
        for text in ["169.254.169.254", "169.254.170.2", "169.254.170.23"] {
            assert!(
                is_metadata(&addr::mapped(text.parse::<Ipv4Addr>().unwrap().octets())),
                "{text}"
            );
        }
        assert!(is_metadata(&v6("fd00:ec2::254")) && is_metadata(&v6("fd00:ec2::23")));
        for text in [
            "169.254.169.253",
            "169.254.169.123",
            "169.254.170.3",
            "169.254.1.1",
        ] {
            assert!(
                !is_metadata(&addr::mapped(text.parse::<Ipv4Addr>().unwrap().octets())),
                "{text}"
            );
        }
        assert!(
            !is_metadata(&v6("fd00:ec2::253"))
                && !is_metadata(&v6("fd00:ec2::1:254"))
                && !is_metadata(&v6("::"))
        );
        assert!(ADDRESSES.iter().all(is_metadata));
    }

    #[test]
    fn every_guarded_address_is_one_service() {
        for (index, address) in ADDRESSES.iter().enumerate() {
            assert_eq!(service(address), Some(index as u16));
            assert_eq!(super::address(index as u16), *address);
        }
        for text in [
            "::169.254.169.254",
            "::ffff:169.254.169.253",
            "64:ff9b::169.254.169.254",
        ] {
            assert_eq!(service(&v6(text)), None, "{text}");
        }
    }

    #[test]
    fn an_embedded_metadata_address_is_found_in_every_form() {
        for text in [
            "::169.254.169.254",
            "::ffff:169.254.170.2",
            "::ffff:0:169.254.170.23",
            "2002:a9fe:a9fe::1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "fe80::5efe:169.254.169.254",
            "fe80::200:5efe:169.254.169.254",
        ] {
            assert!(embeds_metadata(&v6(text)), "{text}");
        }
        for text in [
            "::169.254.169.253",
            "64:ff9b::8.8.8.8",
            "2002:a9fe:a9fd::1",
            "2001:db8::a9fe:a9fe",
            "fd00:ec2::254",
        ] {
            assert!(!embeds_metadata(&v6(text)), "{text}");
        }
    }
}
