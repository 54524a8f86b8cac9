//! `portcullis bpf`: what is pinned, with names and types decoded. Works without the agent, by pin path only; an agent answers the same over its socket.
//!
//! Nothing is interpreted beyond its record: which policy a rule number stands for only the running agent knows. `print` puts it on the screen, for one
//! node or for many.

mod decode;
mod print;
mod record;

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nameindex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::API_VERSION;
use crate::dataplane::inspect::{self, LinkTarget, PinnedMap};
use crate::dataplane::pins::{Pins, this_owner};
use crate::failure::Failure;
use decode::Decoder;

pub use print::Document;

/// Key and value record of every map.
const RECORDS: &[(&str, &str, &str)] = &[
    ("pc_cgroups", "cgroup id", "1"),
    ("pc_cidrs", "prefix", "identity"),
    ("pc_config", "0", "Config"),
    ("pc_conntrack", "FlowKey", "Flow"),
    ("pc_drops", "slot, direction, reason", "packets"),
    ("pc_endpoints", "ifindex", "Endpoint"),
    ("pc_epoch", "0", "changes when notes are forgotten"),
    ("pc_events", "-", "Event"),
    ("pc_fragments", "FragmentKey", "Fragment"),
    ("pc_l4lpm", "prefix of L4Key", "L4Value"),
    ("pc_l4sets", "set id", "L4Set"),
    ("pc_nodes", "address", "1 own, 2 other"),
    ("pc_origins", "OriginKey", "Origin"),
    ("pc_owner", "0", "Owner"),
    ("pc_peers", "address", "identity"),
    ("pc_policies", "policy id", "Cell"),
    ("pc_policy", "PolicyKey", "Cell"),
    ("pc_pool", "0", "connections"),
    ("pc_services", "ServiceKey", "1"),
    ("pc_slots", "slot", "Slot"),
];

/// Pinned maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapList {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    items: Vec<MapItem>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MapItem {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    /// Absent where entries do not exist.
    used: Option<usize>,
    capacity: u32,
    key: String,
    value: String,
}

/// Entries of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapDump {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    map: String,
    entries: Vec<Entry>,
    /// Entries beyond the limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    left_out: usize,
}

/// One of them, by fields or as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    key: Map<String, Value>,
    value: Map<String, Value>,
}

/// Pinned programs, and the links that hold them on their hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramList {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    items: Vec<ProgramItem>,
    links: Vec<LinkItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProgramItem {
    name: String,
    id: u32,
    tag: String,
    verified: Option<u32>,
    instructions: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LinkItem {
    name: String,
    id: u32,
    program: String,
    target: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Every pinned map: type, how full it is, what its records are.
pub fn maps(bpffs: &Path) -> Result<MapList> {
    let pins = pinned(bpffs)?;
    let mut items = Vec::new();
    for map in inspect::maps(&pins)? {
        let used = entries(&map)?.len();
        let (_, key, value) = RECORDS
            .iter()
            .find(|(name, ..)| *name == map.name)
            .unwrap_or(&("", "bytes", "bytes"));
        items.push(MapItem {
            used: map.has_entries().then_some(used),
            kind: map.kind.to_owned(),
            capacity: map.capacity,
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            name: map.name,
        });
    }
    Ok(MapList {
        api_version: API_VERSION.to_owned(),
        kind: "MapList".to_owned(),
        node: None,
        items,
    })
}

/// The entries of one map; `name` with or without `pc_`, `raw` as bytes in hex, at most `limit`.
pub fn dump(bpffs: &Path, name: &str, raw: bool, limit: Option<usize>) -> Result<MapDump> {
    let pins = pinned(bpffs)?;
    let name = if name.starts_with("pc_") {
        name.to_owned()
    } else {
        format!("pc_{name}")
    };
    if !pins.maps().contains(&name) {
        let names = pins.maps().join(" ");
        return Err(Failure::new(
            "PC5001",
            format!("no map {name:?}"),
            format!("pinned are {names}"),
            "give one of these",
        )
        .into());
    }
    let map = inspect::map(&pins, &name)?;
    if !map.has_entries() {
        return Err(Failure::new(
            "PC5001",
            format!("{name} cannot be dumped"),
            "it is a ring buffer, and the agent reads it",
            "see the agent's log for its events",
        )
        .into());
    }
    let mut entries = entries(&map)?;
    entries.sort_unstable();
    let left_out = entries.len().saturating_sub(limit.unwrap_or(usize::MAX));
    entries.truncate(entries.len() - left_out);
    let decoder = Decoder {
        map: name.clone(),
        interfaces: interfaces(&pins),
        now: now(),
    };
    let one = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let both = if raw { None } else { decoder.entry(key, value) };
        let (key, value) = both.unwrap_or_else(|| (bytes("key", key), bytes("value", value)));
        Entry { key, value }
    };
    Ok(MapDump {
        api_version: API_VERSION.to_owned(),
        kind: "MapDump".to_owned(),
        node: None,
        entries: entries.iter().map(one).collect(),
        left_out,
        map: name,
    })
}

/// Pinned programs and links.
pub fn programs(bpffs: &Path) -> Result<ProgramList> {
    let pins = pinned(bpffs)?;
    let programs = inspect::programs(&pins)?;
    let interfaces = interfaces(&pins);
    let mut links = Vec::new();
    for link in inspect::links(&pins)? {
        let owner = programs.iter().find(|program| program.id == link.program);
        let program = owner.map_or_else(
            || format!("id {}", link.program),
            |program| program.name.clone(),
        );
        let target = match link.target {
            LinkTarget::Interface(0) | LinkTarget::Cgroup(0) => "<gone>".to_owned(),
            LinkTarget::Interface(index) => {
                name_of(&interfaces, index).unwrap_or_else(|| format!("interface {index}"))
            }
            LinkTarget::Cgroup(id) => format!("cgroup {id}"),
            LinkTarget::Other => "<other>".to_owned(),
        };
        links.push(LinkItem {
            name: link.name,
            id: link.id,
            program,
            target,
        });
    }
    let item = |program: inspect::PinnedProgram| ProgramItem {
        tag: format!("{:016x}", program.tag),
        name: program.name,
        id: program.id,
        verified: program.verified,
        instructions: program.translated,
    };
    Ok(ProgramList {
        api_version: API_VERSION.to_owned(),
        kind: "ProgramList".to_owned(),
        node: None,
        items: programs.into_iter().map(item).collect(),
        links,
    })
}

/// The pins, if there are any that this user may see.
fn pinned(bpffs: &Path) -> Result<Pins> {
    let pins = Pins::new(bpffs);
    match std::fs::read_dir(pins.map("")) {
        Ok(_) => Ok(pins),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            "PC1008",
            format!("nothing is pinned below {}", bpffs.display()),
            "no agent of this version has run here, or it was uninstalled",
            "start the agent, or name its directory with --bpffs",
        )
        .into()),
        Err(error) => Err(error).with_context(|| format!("looking into {}", bpffs.display())),
    }
}

fn entries(map: &PinnedMap) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    map.entries()
        .with_context(|| format!("reading {}", map.name))
}

/// Indices and names of the interfaces that the pins are about: those of this network namespace, or none if they are another's.
fn interfaces(pins: &Pins) -> Vec<(u32, String)> {
    if pins.owner() != this_owner().ok() {
        return Vec::new();
    }
    let list = if_nameindex().ok();
    let one = |interface: &nix::net::if_::Interface| {
        (
            interface.index(),
            interface.name().to_string_lossy().into_owned(),
        )
    };
    list.iter().flat_map(|list| list.iter().map(one)).collect()
}

fn name_of(interfaces: &[(u32, String)], index: u32) -> Option<String> {
    interfaces
        .iter()
        .find(|(of, _)| *of == index)
        .map(|(_, name)| name.clone())
}

/// The tick that the programs would read now.
fn now() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| {
        portcullis_common::conntrack::tick(
            time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64,
        )
    })
}

fn bytes(name: &str, bytes: &[u8]) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), Value::String(record::hex(bytes)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_pins_the_failure_says_so() {
        let error = maps(Path::new("/nonexistent")).expect_err("nothing is pinned there");
        assert_eq!(Failure::from(error).code, "PC1008");
    }
}
