//! One form for addresses: 16 bytes in network order, IPv4 as IPv4-mapped IPv6 (RFC 4291 2.5.5.2), so that there is one path for both families.

/// An address as on the wire; IPv4 in the form `::ffff:a.b.c.d`.
pub type Addr = [u8; 16];

/// No address: the unspecified IPv6 address, which no endpoint owns.
pub const NONE: Addr = [0; 16];

/// `::1`.
pub const LOOPBACK_V6: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Index of IPv4 where a record has one field for each family.
pub const V4: usize = 0;
/// Index of IPv6 likewise.
pub const V6: usize = 1;

/// The mapped form of four bytes in network order.
#[must_use]
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Whether `addr` is the mapped form of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn is_v4(addr: &Addr) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, 0xff, 0xff, ..] = *addr else {
        return false;
    };
    a | b | c | d | e | f | g | h | i | j == 0
}

/// The last four bytes: the IPv4 address of a mapped one.
#[must_use]
#[inline(always)]
pub const fn low4(addr: &Addr) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}

/// An address from four words as on the wire.
#[must_use]
#[inline(always)]
pub const fn join(a: u32, b: u32, c: u32, d: u32) -> Addr {
    let [a0, a1, a2, a3] = a.to_ne_bytes();
    let [b0, b1, b2, b3] = b.to_ne_bytes();
    let [c0, c1, c2, c3] = c.to_ne_bytes();
    let [d0, d1, d2, d3] = d.to_ne_bytes();
    [
        a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
    ]
}

/// An address as four words, as on the wire.
#[must_use]
#[inline(always)]
pub const fn words(addr: &Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
