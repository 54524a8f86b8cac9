//! A pinned map, read and written behind the agent's back: entries counted, made older, forged.
//!
//! The layouts are `common`'s, the calls are the kernel's: nothing of the agent or of aya is between a test and what the programs see.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use portcullis_common::abi::{Flow, FlowKey};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Scene;
use super::kernel::{call, open};

/// Commands of `bpf` (`enum bpf_cmd`).
mod command {
    pub(super) const LOOKUP: i64 = 1;
    pub(super) const UPDATE: i64 = 2;
    pub(super) const NEXT_KEY: i64 = 4;
}

/// `BPF_EXIST`: a change, never a new entry.
const EXIST: u64 = 2;

/// An open map.
#[derive(Debug)]
pub struct Table {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

#[repr(C)]
struct Attributes {
    fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Table {
    /// Opens a pin. Maps with a value for each processor are not read here.
    #[must_use]
    pub fn open(pin: &Path) -> Self {
        let fd = open(pin);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
            .expect("an open descriptor has its info");
        let size = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse().ok())
                .unwrap_or_else(|| panic!("{} is no map: {info}", pin.display()))
        };
        Self {
            key_size: size("key_size:"),
            value_size: size("value_size:"),
            fd,
        }
    }

    /// All keys, those that come and go meanwhile perhaps.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0_u8; self.key_size];
            let mut attributes = Attributes {
                fd: self.fd.as_raw_fd() as u32,
                padding: 0,
                key: keys.last().map_or(0, |key| key.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            if call(command::NEXT_KEY, &mut attributes).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get<V: FromBytes>(&self, key: &[u8]) -> Option<V> {
        let mut value = vec![0_u8; self.value_size];
        let mut attributes = self.attributes(key, value.as_mut_ptr() as u64, 0);
        call(command::LOOKUP, &mut attributes).ok()?;
        Some(V::read_from_bytes(&value).expect("the record is the map's"))
    }

    /// Every entry.
    #[must_use]
    pub fn entries<K: FromBytes, V: FromBytes>(&self) -> Vec<(K, V)> {
        let entry = |key: Vec<u8>| {
            let value = self.get(&key)?;
            let key = K::read_from_bytes(&key).expect("the record is the map's");
            Some((key, value))
        };
        self.keys().into_iter().filter_map(entry).collect()
    }

    /// Changes an entry that is there; says whether it was.
    pub fn replace<K, V>(&self, key: &K, value: &V) -> bool
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        let value = value.as_bytes();
        assert_eq!(value.len(), self.value_size, "the record is the map's");
        let mut attributes = self.attributes(key.as_bytes(), value.as_ptr() as u64, EXIST);
        call(command::UPDATE, &mut attributes).is_ok()
    }

    fn attributes(&self, key: &[u8], value: u64, flags: u64) -> Attributes {
        assert_eq!(key.len(), self.key_size, "the record is the map's");
        Attributes {
            fd: self.fd.as_raw_fd() as u32,
            padding: 0,
            key: key.as_ptr() as u64,
            value,
            flags,
        }
    }
}

/// Makes the connections that `which` chooses look as if their time had been up for a while; how many there were. The agent's next sweep takes them.
pub fn expire(scene: &Scene, which: impl Fn(&FlowKey, &Flow) -> bool) -> usize {
    let table = scene.table("pc_conntrack");
    let entries = table.entries::<FlowKey, Flow>();
    let chosen = entries.into_iter().filter(|(key, flow)| which(key, flow));
    let aged = chosen.map(|(key, flow)| {
        let expires = flow.seen - 10;
        table.replace(&key, &Flow { expires, ..flow })
    });
    let count = aged.filter(|there| *there).count();
    // No connection's time is up while packets pass by a note of it: void the notes, as waiting would have done.
    let notes = scene.table("pc_epoch");
    let epoch: u32 = notes.get(&[0; 4]).expect("an array has its first entry");
    assert!(notes.replace(&0_u32, &epoch.wrapping_add(1)));
    count
}
