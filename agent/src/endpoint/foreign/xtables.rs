//! The tables of the older `iptables` and `ip6tables`, as the kernel hands them out (`linux/netfilter_ipv4/ip_tables.h` and its twin for IPv6).
//!
//! ```text
//! blob of entries: { source, destination, ...; offset of the target, of the next entry; counters; matches; target: size, name }
//! ```
//! A chain of the user's begins with an entry whose target is named `ERROR` and carries the chain's name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, RawFd};

use portcullis_common::addr::Addr;
use portcullis_common::guard;

use super::{Rule, owner};

/// Length of a table's name.
const NAME: usize = 32;
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; the same numbers for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_getinfo`: name, valid hooks, five entries of hooks, five underflows, number of entries, size.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// `struct xt_entry_target`: size, then the name.
const TARGET_NAME: usize = 2;
const TARGET_NAME_LENGTH: usize = 29;
const TARGET: usize = 32;

/// What differs between the families.
struct Family {
    tables: &'static str,
    local: &'static str,
    level: libc::c_int,
    /// Where the destination stands in an entry, and how long it is.
    destination: (usize, usize),
    /// Where the offsets of target and next entry stand.
    offsets: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        tables: "/proc/self/net/ip_tables_names",
        local: "127.0.0.1:0",
        level: libc::SOL_IP,
        destination: (4, 4),
        offsets: 88,
    },
    Family {
        tables: "/proc/self/net/ip6_tables_names",
        local: "[::1]:0",
        level: libc::SOL_IPV6,
        destination: (16, 16),
        offsets: 140,
    },
];

/// What concerns us in the tables that exist. Nothing where the kernel has no such tables.
pub(super) fn rules() -> io::Result<BTreeSet<Rule>> {
    let mut found = BTreeSet::new();
    for family in &FAMILIES {
        let names = fs::read_to_string(family.tables).unwrap_or_default();
        for table in names.lines() {
            let socket = UdpSocket::bind(family.local)?;
            let entries = entries(socket.as_raw_fd(), family.level, table)?;
            found.extend(read(&entries, family, table));
        }
    }
    Ok(found)
}

fn entries(socket: RawFd, level: libc::c_int, table: &str) -> io::Result<Vec<u8>> {
    let mut info = vec![0; INFO];
    name(&mut info, table);
    ask(socket, level, GET_INFO, &mut info)?;
    let size = word(&info, INFO - 4).unwrap_or(0);
    // `struct ipt_get_entries`: name, size, padding to eight bytes, entries.
    let header = NAME + 8;
    let mut blob = vec![0; header + size as usize];
    name(&mut blob, table);
    blob[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    ask(socket, level, GET_ENTRIES, &mut blob)?;
    Ok(blob.split_off(header))
}

fn name(blob: &mut [u8], table: &str) {
    let length = table.len().min(NAME - 1);
    blob[..length].copy_from_slice(&table.as_bytes()[..length]);
}

fn ask(socket: RawFd, level: libc::c_int, what: libc::c_int, blob: &mut [u8]) -> io::Result<()> {
    let mut length = blob.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `blob`.
    let result = unsafe {
        libc::getsockopt(
            socket,
            level,
            what,
            blob.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn read(entries: &[u8], family: &Family, table: &str) -> BTreeSet<Rule> {
    let mut found = BTreeSet::new();
    let mut rest = entries;
    let mut chain = String::from("built in");
    while let (Some(target), Some(next)) = (
        half(rest, family.offsets),
        half(rest, family.offsets + 2).filter(|next| *next > 0),
    ) {
        let (target, next) = (usize::from(target), usize::from(next));
        if text(rest, target + TARGET_NAME, TARGET_NAME_LENGTH) == "ERROR" {
            chain = text(rest, target + TARGET, TARGET_NAME_LENGTH);
            found.extend(owner(&chain).map(Rule::Agent));
        } else if destination(rest, family).is_some_and(|address| guard::is_metadata(&address)) {
            found.insert(Rule::Metadata(format!("table {table}, chain {chain}")));
        }
        rest = rest.get(next..).unwrap_or_default();
    }
    found
}

fn destination(entry: &[u8], family: &Family) -> Option<Addr> {
    let (at, length) = family.destination;
    let bytes = entry.get(at..at + length)?;
    Some(match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => portcullis_common::addr::mapped(v4),
        Err(_) => bytes.try_into().ok()?,
    })
}

fn text(bytes: &[u8], at: usize, length: usize) -> String {
    let bytes = bytes.get(at..at + length).unwrap_or_default();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
