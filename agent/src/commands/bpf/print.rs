//! What is pinned, on a screen or as JSON: of one node as it was read, of several with a column for the node.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{MapDump, MapList, ProgramList};
use crate::commands::table::Table;

/// What the `bpf` verbs print.
pub trait Document: Serialize + DeserializeOwned + Send + 'static {
    /// Whose it is.
    fn set_node(&mut self, node: &str);

    /// For people; nodes are named where documents have one.
    fn text(documents: &[Self]) -> String;
}

impl Document for MapList {
    fn set_node(&mut self, node: &str) {
        self.node = Some(node.to_owned());
    }

    fn text(documents: &[Self]) -> String {
        let headers = ["MAP", "TYPE", "USED", "CAPACITY", "KEY", "VALUE"];
        let rows = documents.iter().flat_map(|list| {
            list.items.iter().map(|map| {
                let used = map
                    .used
                    .map_or_else(|| "-".to_owned(), |used| used.to_string());
                let capacity = match map.used {
                    Some(_) => map.capacity.to_string(),
                    None => format!("{} bytes", map.capacity),
                };
                let cells = [
                    map.name.clone(),
                    map.kind.clone(),
                    used,
                    capacity,
                    map.key.clone(),
                    map.value.clone(),
                ];
                (list.node.clone(), cells)
            })
        });
        table(headers, rows)
    }
}

impl Document for MapDump {
    fn set_node(&mut self, node: &str) {
        self.node = Some(node.to_owned());
    }

    fn text(documents: &[Self]) -> String {
        let nodes = documents.iter().filter_map(|dump| dump.node.as_deref());
        let width = nodes.map(|node| node.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for dump in documents {
            let node = dump
                .node
                .as_ref()
                .map_or_else(String::new, |node| format!("{node:<width$}  "));
            for entry in &dump.entries {
                let fields = format!("{}  {}", line(&entry.key), line(&entry.value));
                let _ = writeln!(text, "{node}{}", fields.trim());
            }
            if dump.left_out > 0 {
                let (of, shown) = (dump.left_out + dump.entries.len(), dump.entries.len());
                let _ = writeln!(
                    text,
                    "! {node}{shown} of {of} entries are shown, see --limit"
                );
            }
        }
        text
    }
}

impl Document for ProgramList {
    fn set_node(&mut self, node: &str) {
        self.node = Some(node.to_owned());
    }

    fn text(documents: &[Self]) -> String {
        let optional = |number: Option<u32>| {
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let programs = documents.iter().flat_map(|list| {
            list.items.iter().map(move |program| {
                let cells = [
                    program.name.clone(),
                    program.id.to_string(),
                    program.tag.clone(),
                    optional(program.verified),
                    optional(program.instructions),
                ];
                (list.node.clone(), cells)
            })
        });
        let headers = ["PROGRAM", "ID", "TAG", "VERIFIED", "INSTRUCTIONS"];
        let mut text = table(headers, programs);
        if documents.iter().any(|list| !list.links.is_empty()) {
            let links = documents.iter().flat_map(|list| {
                list.links.iter().map(|link| {
                    let cells = [
                        link.name.clone(),
                        link.id.to_string(),
                        link.program.clone(),
                        link.target.clone(),
                    ];
                    (list.node.clone(), cells)
                })
            });
            text.push('\n');
            text += &table(["LINK", "ID", "PROGRAM", "ATTACHED TO"], links);
        }
        text
    }
}

/// A table with a first column NODE if a row has one.
fn table<const N: usize>(
    headers: [&str; N],
    rows: impl Iterator<Item = (Option<String>, [String; N])>,
) -> String {
    let rows: Vec<_> = rows.collect();
    let several = rows.iter().any(|(node, _)| node.is_some());
    let mut all: Vec<&str> = several.then_some("NODE").into_iter().collect();
    all.extend(headers);
    let mut table = Table::new(&all);
    for (node, cells) in rows {
        let node = several.then(|| node.unwrap_or_default());
        table.push(node.into_iter().chain(cells));
    }
    table.to_string()
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
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_read_as_name_and_value() {
        let value = json!({"ifindex": 4, "flags": ["a", "b"], "none": null, "empty": [], "ranges": [{"ports": "80", "rule": 1}]});
        let fields = value.as_object().expect("an object");
        assert_eq!(line(fields), "ifindex=4 flags=a,b ranges=(ports=80 rule=1)");
        assert_eq!(
            line(json!({"key": "00ff"}).as_object().expect("an object")),
            "key=00ff"
        );
    }

    fn maps(node: Option<&str>) -> MapList {
        let mut list: MapList = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1",
            "kind": "MapList",
            "items": [
                {"name": "pc_peers", "type": "hash", "used": 3, "capacity": 9, "key": "address", "value": "identity"},
                {"name": "pc_events", "type": "ringbuf", "used": null, "capacity": 64, "key": "-", "value": "Event"},
            ],
        }))
        .expect("a list of maps");
        if let Some(node) = node {
            list.set_node(node);
        }
        list
    }

    #[test]
    fn several_nodes_have_a_column_and_one_has_none() {
        let expected = "\
MAP        TYPE     USED  CAPACITY  KEY      VALUE
pc_peers   hash     3     9         address  identity
pc_events  ringbuf  -     64 bytes  -        Event
";
        assert_eq!(MapList::text(&[maps(None)]), expected);
        let both = MapList::text(&[maps(Some("n1")), maps(Some("node2"))]);
        assert!(both.starts_with("NODE   MAP "), "{both}");
        assert!(both.contains("\nn1     pc_peers "), "{both}");
        assert!(both.contains("\nnode2  pc_events  ringbuf "), "{both}");
    }

    #[test]
    fn a_dump_says_what_it_leaves_out() {
        let dump: MapDump = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1",
            "kind": "MapDump",
            "node": "n1",
            "map": "pc_peers",
            "entries": [{"key": {"address": "10.0.0.1"}, "value": {"identity": 2}}],
            "leftOut": 7,
        }))
        .expect("a dump");
        let expected =
            "n1  address=10.0.0.1  identity=2\n! n1  1 of 8 entries are shown, see --limit\n";
        assert_eq!(MapDump::text(&[dump]), expected);
    }
}
