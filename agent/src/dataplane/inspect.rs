//! What is pinned, as the kernel describes it: for `portcullis bpf`, beside a running agent or without one.
//!
//! Objects are found by pin path alone, because walking ids needs `CAP_SYS_ADMIN`. Keys and values are bytes here: what they mean is the reader's
//! business. Nothing is written, and nobody is kept from writing: a table that changes meanwhile may show an entry twice or not at all.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapType};
use aya::programs::ProgramInfo;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

use super::pins::Pins;
use super::sys;

/// A pinned map.
pub struct PinnedMap {
    /// Its name, that of the pin.
    pub name: String,
    /// `hash`, `array`, `lpm_trie`, `ringbuf`.
    pub kind: &'static str,
    /// Most entries; of a ring buffer, bytes.
    pub capacity: u32,
    key_size: usize,
    value_size: usize,
    data: MapData,
}

/// A pinned program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedProgram {
    /// Its name, that of the pin.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Digest of its instructions.
    pub tag: u64,
    /// Instructions that the verifier walked (Linux 5.16).
    pub verified: Option<u32>,
    /// Instructions after the verifier.
    pub translated: Option<u32>,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// Name of the pin.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Id of the program behind it.
    pub program: u32,
    /// What it is attached to.
    pub target: LinkTarget,
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// An interface by index; 0 once the interface is gone.
    Interface(u32),
    /// A cgroup by id; 0 once the cgroup is gone.
    Cgroup(u64),
    /// Something that we do not attach to.
    Other,
}

/// Every pinned map by name.
pub fn maps(pins: &Pins) -> Result<Vec<PinnedMap>> {
    pins.maps().iter().map(|name| map(pins, name)).collect()
}

/// One pinned map.
pub fn map(pins: &Pins, name: &str) -> Result<PinnedMap> {
    let path = pins.map(name);
    let open = || format!("opening {}", path.display());
    let data = MapData::from_pin(&path).with_context(open)?;
    let info = data.info().with_context(open)?;
    Ok(PinnedMap {
        name: name.to_owned(),
        kind: kind(info.map_type().with_context(open)?),
        capacity: info.max_entries(),
        key_size: info.key_size() as usize,
        value_size: info.value_size() as usize,
        data,
    })
}

/// Every pinned program by name.
pub fn programs(pins: &Pins) -> Result<Vec<PinnedProgram>> {
    let one = |name: &String| {
        let path = pins.program(name);
        let info =
            ProgramInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(PinnedProgram {
            name: name.clone(),
            id: info.id(),
            tag: info.tag(),
            verified: info.verified_instruction_count(),
            translated: info.size_translated().map(|bytes| bytes / 8),
        })
    };
    pins.programs().iter().map(one).collect()
}

/// Every pinned link by name.
pub fn links(pins: &Pins) -> Result<Vec<PinnedLink>> {
    let one = |name: &String| {
        let path = pins.link(name);
        let info = sys::pinned(&path)
            .and_then(|link| link_info(link.as_fd()))
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(PinnedLink {
            name: name.clone(),
            id: info.id,
            program: info.prog_id,
            target: target(&info),
        })
    };
    pins.links().iter().map(one).collect()
}

impl PinnedMap {
    /// Whether entries can be looked up: not those of a ring buffer.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        self.key_size > 0
    }

    /// Keys and values, in the kernel's order. Of an array only elements that are not all zero, for those are the ones in use.
    pub fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        if !self.has_entries() {
            return Ok(entries);
        }
        let fd = self.data.fd().as_fd();
        let mut value = vec![0; self.value_size];
        let mut last: Option<Vec<u8>> = None;
        // A key that goes meanwhile sends the walk of a hash back to its start, so the walk is bounded.
        for _ in 0..self.capacity {
            let mut key = vec![0; self.key_size];
            if !next_key(fd, last.as_deref(), &mut key)? {
                break;
            }
            let found = lookup(fd, &key, &mut value)?;
            if found && (self.kind != "array" || value.iter().any(|byte| *byte != 0)) {
                entries.push((key.clone(), value.clone()));
            }
            last = Some(key);
        }
        Ok(entries)
    }
}

fn kind(kind: MapType) -> &'static str {
    match kind {
        MapType::Hash => "hash",
        MapType::Array => "array",
        MapType::LpmTrie => "lpm_trie",
        MapType::RingBuf => "ringbuf",
        _ => "other",
    }
}

fn target(info: &bpf_link_info) -> LinkTarget {
    let of = |kind: bpf_link_type| info.type_ == kind as u32;
    if of(bpf_link_type::BPF_LINK_TYPE_TCX) {
        // SAFETY: the kernel filled this member, for the link is of its type; all its bit patterns are values.
        LinkTarget::Interface(unsafe { info.__bindgen_anon_1.tcx.ifindex })
    } else if of(bpf_link_type::BPF_LINK_TYPE_CGROUP) {
        // SAFETY: as above.
        LinkTarget::Cgroup(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
    } else {
        LinkTarget::Other
    }
}

fn empty() -> bpf_attr {
    // SAFETY: all fields are integers; zero is their absence.
    unsafe { std::mem::zeroed() }
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: all fields are integers; zero is their absence.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = empty();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    sys::call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The key behind `key`, the first one for none; false at the end.
fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = empty();
    // SAFETY: this member of the union is the one that the command reads.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = key.map_or(0, |key| key.as_ptr() as u64);
    element.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    found(sys::call(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))
}

/// The value of a key; false if it has gone.
fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = empty();
    // SAFETY: this member of the union is the one that the command reads.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    found(sys::call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
