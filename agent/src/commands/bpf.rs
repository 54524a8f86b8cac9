//! `portcullis bpf`: what is pinned, with names and types decoded. Works without the agent, by pin path only.
//!
//! Nothing is interpreted beyond its record: which policy a rule number stands for only the running agent knows.

mod decode;
mod record;

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nameindex;
use serde_json::{Map, Value, json};

use super::API_VERSION;
use super::table::Table;
use crate::dataplane::inspect::{self, LinkTarget, PinnedMap};
use crate::dataplane::pins::{Pins, this_owner};
use crate::failure::{Failure, exit};
use decode::Decoder;

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
    ("pc_owner", "0", "Owner"),
    ("pc_peers", "address", "identity"),
    ("pc_policies", "policy id", "Cell"),
    ("pc_policy", "PolicyKey", "Cell"),
    ("pc_pool", "0", "connections"),
    ("pc_services", "ServiceKey", "1"),
    ("pc_slots", "slot", "Slot"),
];

/// Every pinned map: type, how full it is, what its records are.
pub fn maps(bpffs: &Path, json: bool, out: &mut dyn Write) -> Result<u8> {
    let pins = pinned(bpffs)?;
    let mut table = Table::new(&["MAP", "TYPE", "USED", "CAPACITY", "KEY", "VALUE"]);
    let mut items = Vec::new();
    for map in inspect::maps(&pins)? {
        let used = entries(&map)?.len();
        let (_, key, value) = RECORDS
            .iter()
            .find(|(name, ..)| *name == map.name)
            .unwrap_or(&("", "bytes", "bytes"));
        items.push(json!({"name": map.name, "type": map.kind, "used": map.has_entries().then_some(used), "capacity": map.capacity, "key": key, "value": value}));
        let used = if map.has_entries() {
            used.to_string()
        } else {
            "-".to_owned()
        };
        let capacity = if map.has_entries() {
            map.capacity.to_string()
        } else {
            format!("{} bytes", map.capacity)
        };
        table.push([
            map.name,
            map.kind.to_owned(),
            used,
            capacity,
            (*key).to_owned(),
            (*value).to_owned(),
        ]);
    }
    let list = json!({"apiVersion": API_VERSION, "kind": "MapList", "items": items});
    write(json, &list, &table, out)
}

/// The entries of one map; `name` with or without `pc_`, `raw` as bytes in hex.
pub fn dump(bpffs: &Path, name: &str, raw: bool, json: bool, out: &mut dyn Write) -> Result<u8> {
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
    let decoder = Decoder {
        map: name.clone(),
        interfaces: interfaces(&pins),
        now: now(),
    };
    let mut decoded = Vec::with_capacity(entries.len());
    for (key, value) in &entries {
        let both = if raw { None } else { decoder.entry(key, value) };
        decoded.push(both.unwrap_or_else(|| (bytes("key", key), bytes("value", value))));
    }
    let mut text = String::new();
    if json {
        let entries: Vec<Value> = decoded
            .into_iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        let dump =
            json!({"apiVersion": API_VERSION, "kind": "MapDump", "map": name, "entries": entries});
        text = serde_json::to_string_pretty(&dump)? + "\n";
    } else {
        for (key, value) in &decoded {
            text += format!("{}  {}", line(key), line(value)).trim();
            text.push('\n');
        }
    }
    out.write_all(text.as_bytes())?;
    Ok(exit::DONE)
}

/// Pinned programs, and the links that hold them on their hooks.
pub fn progs(bpffs: &Path, json: bool, out: &mut dyn Write) -> Result<u8> {
    let pins = pinned(bpffs)?;
    let programs = inspect::programs(&pins)?;
    let links = inspect::links(&pins)?;
    let interfaces = interfaces(&pins);
    let optional =
        |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let mut table = Table::new(&["PROGRAM", "ID", "TAG", "VERIFIED", "INSTRUCTIONS"]);
    let mut items = Vec::new();
    for program in &programs {
        let tag = format!("{:016x}", program.tag);
        items.push(json!({"name": program.name, "id": program.id, "tag": tag, "verified": program.verified, "instructions": program.translated}));
        table.push([
            program.name.clone(),
            program.id.to_string(),
            tag,
            optional(program.verified),
            optional(program.translated),
        ]);
    }
    let mut attached = Table::new(&["LINK", "ID", "PROGRAM", "ATTACHED TO"]);
    let mut held = Vec::new();
    for link in &links {
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
        held.push(json!({"name": link.name, "id": link.id, "program": program, "target": target}));
        attached.push([link.name.clone(), link.id.to_string(), program, target]);
    }
    let list =
        json!({"apiVersion": API_VERSION, "kind": "ProgramList", "items": items, "links": held});
    if json || links.is_empty() {
        return write(json, &list, &table, out);
    }
    write!(out, "{table}\n{attached}")?;
    Ok(exit::DONE)
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

fn write(json: bool, list: &Value, table: &Table, out: &mut dyn Write) -> Result<u8> {
    let text = if json {
        serde_json::to_string_pretty(list)? + "\n"
    } else {
        table.to_string()
    };
    out.write_all(text.as_bytes())?;
    Ok(exit::DONE)
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

/// `name=value` of every field; what is empty is left out.
fn line(fields: &Map<String, Value>) -> String {
    let shown = fields
        .iter()
        .filter_map(|(name, value)| word(value).map(|word| format!("{name}={word}")));
    shown.collect::<Vec<_>>().join(" ")
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Array(list) => {
            let words: Vec<String> = list.iter().filter_map(word).collect();
            Some(words.join(",")).filter(|text| !text.is_empty())
        }
        Value::Object(fields) => Some(format!("({})", line(fields))),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_read_as_name_and_value() {
        let value = json!({"ifindex": 4, "flags": ["a", "b"], "none": null, "empty": [], "ranges": [{"ports": "80", "rule": 1}]});
        let fields = value.as_object().expect("an object");
        assert_eq!(line(fields), "ifindex=4 flags=a,b ranges=(ports=80 rule=1)");
        assert_eq!(line(&bytes("key", &[0, 255])), "key=00ff");
    }

    #[test]
    fn without_pins_the_failure_says_so() {
        let error = maps(Path::new("/nonexistent"), false, &mut Vec::new())
            .expect_err("nothing is pinned there");
        assert_eq!(Failure::from(error).code, "PC1008");
    }
}
