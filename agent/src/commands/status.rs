//! `portcullis status`: one line for the node, what is wrong with it, and with `--verbose` every endpoint.
//!
//! It reads the agent's own [`NodeStatus`] and adds nothing to it. Of many nodes, `nodes` makes one table; `watch` goes on with it.

mod nodes;
mod watch;

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;

use super::table::Table;
use crate::failure::exit;
use crate::report::{EndpointStatus, NodeStatus};

pub use nodes::print_all;
pub use watch::{Pace, watch};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The node's line only.
    Brief,
    /// With problems and refused objects.
    Normal,
    /// With every endpoint, uplink and hook too.
    Verbose,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table, and what is wrong.
    Table,
    /// The same with more columns.
    Wide,
    /// One object.
    Json,
    /// The same as YAML.
    Yaml,
    /// `node/NAME`.
    Name,
}

/// Prints the status; exit code 1 if the node is not ready.
pub fn print(status: &NodeStatus, detail: Detail, form: Form, out: &mut dyn Write) -> Result<u8> {
    let text = match form {
        Form::Json => serde_json::to_string_pretty(status)? + "\n",
        Form::Yaml => serde_saphyr::to_string(status)?,
        Form::Name => format!("node/{}\n", status.node),
        Form::Table | Form::Wide => text(status, detail, form == Form::Wide),
    };
    out.write_all(text.as_bytes())?;
    Ok(if status.ready {
        exit::DONE
    } else {
        exit::NEGATIVE
    })
}

/// Program attachments that the node has, and those that it needs: two for an endpoint, one for an uplink and a socket hook.
#[must_use]
pub fn programs(status: &NodeStatus) -> (usize, usize) {
    let attached = status
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.state != "failed")
        .count();
    let fixed = status.uplinks.len() + status.cgroup_hooks.len();
    (2 * attached + fixed, 2 * status.endpoints.len() + fixed)
}

fn text(status: &NodeStatus, detail: Detail, wide: bool) -> String {
    let mut table = table(wide);
    table.push(cells(status, wide));
    let mut text = table.to_string();
    if detail == Detail::Brief {
        return text;
    }
    for problem in problems(status) {
        let _ = writeln!(text, "! {problem}");
    }
    if detail == Detail::Verbose {
        verbose(&mut text, status);
    }
    text
}

/// What is wrong, a line each.
fn problems(status: &NodeStatus) -> Vec<String> {
    let refused = status.refused.iter().map(|object| {
        let how = if object.whole {
            "refused"
        } else {
            "partly refused"
        };
        format!("{} {how}: {}", object.object, object.problems.join("; "))
    });
    status.problems.iter().cloned().chain(refused).collect()
}

const COLUMNS: [&str; 10] = [
    "NODE", "READY", "MODE", "PODS", "PROGRAMS", "POLICIES", "SYNC", "CT", "LOST", "VERSION",
];
const WIDE_COLUMNS: [&str; 4] = ["REVISION", "APPLIED", "ATTACHED BY", "KERNEL"];

fn table(wide: bool) -> Table {
    let mut columns = COLUMNS.to_vec();
    if wide {
        columns.extend(WIDE_COLUMNS);
    }
    Table::new(&columns)
}

fn cells(status: &NodeStatus, wide: bool) -> Vec<String> {
    let enforced = status
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.state == "enforced")
        .count();
    let (attached, needed) = programs(status);
    let in_sync = status.feeds.iter().all(|feed| feed.in_sync);
    let policies = status.objects.get("NetworkPolicy").copied().unwrap_or(0);
    let mut cells = vec![
        status.node.clone(),
        if status.ready { "yes" } else { "no" }.to_owned(),
        "enforce".to_owned(),
        format!("{enforced}/{}", status.endpoints.len()),
        format!("{attached}/{needed}"),
        policies.to_string(),
        if in_sync { "yes" } else { "no" }.to_owned(),
        format!("{}/{}", status.conntrack_entries, status.conntrack_capacity),
        status.events_lost.to_string(),
        status.version.clone(),
    ];
    if wide {
        cells.extend([
            status.revision.to_string(),
            format!("{:.1}ms", status.last_apply_ms),
            status.attachment.clone(),
            status.kernel.clone(),
        ]);
    }
    cells
}

fn verbose(text: &mut String, status: &NodeStatus) {
    let mut table = Table::new(&[
        "POD",
        "INTERFACE",
        "ADDRESSES",
        "INGRESS",
        "EGRESS",
        "METADATA",
        "STATE",
        "START-TO-ENFORCED",
    ]);
    for endpoint in &status.endpoints {
        table.push(row(endpoint));
    }
    let pods_cgroup = status.pod_cgroup.as_deref().unwrap_or("<none>");
    let _ = write!(text, "\n{table}");
    let _ = writeln!(
        text,
        "\nkernel        {}, programs attached by {}",
        status.kernel, status.attachment
    );
    let _ = writeln!(
        text,
        "revision      {}, last applied in {:.1} ms, {} map writes",
        status.revision, status.last_apply_ms, status.map_writes
    );
    let _ = writeln!(
        text,
        "start         {}",
        if status.adopted {
            "took over an earlier agent's programs and tables"
        } else {
            "with empty tables"
        }
    );
    let _ = writeln!(text, "uplinks       {}", list(&status.uplinks));
    let _ = writeln!(text, "socket hooks  {}", list(&status.cgroup_hooks));
    let _ = writeln!(text, "pods' cgroup  {pods_cgroup}");
    let mut drops = Table::new(&["DROPPED", "REASON", "PACKETS"]);
    let counted = status.drops.iter().filter(|drop| drop.packets > 0);
    let mut any = false;
    for drop in counted {
        any = true;
        drops.push([
            drop.direction.clone(),
            drop.reason.clone(),
            drop.packets.to_string(),
        ]);
    }
    if any {
        let _ = write!(text, "\n{drops}");
    }
}

fn row(endpoint: &EndpointStatus) -> [String; 8] {
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    [
        endpoint.pod.clone(),
        endpoint.interface.clone(),
        addresses.join(","),
        isolated_by(&endpoint.ingress),
        isolated_by(&endpoint.egress),
        if endpoint.metadata_allowed {
            "allowed"
        } else {
            "blocked"
        }
        .to_owned(),
        endpoint.state.clone(),
        endpoint
            .start_to_enforced_ms
            .map_or_else(String::new, |milliseconds| format!("{milliseconds:.1}ms")),
    ]
}

/// Policies by name; the kind goes without saying while there is one.
fn isolated_by(policies: &[String]) -> String {
    let names: Vec<&str> = policies
        .iter()
        .map(|policy| policy.strip_prefix("NetworkPolicy ").unwrap_or(policy))
        .collect();
    names.join(",")
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "<none>".to_owned()
    } else {
        names.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::{FeedStatus, RefusedObject};

    fn status() -> NodeStatus {
        NodeStatus {
            node: "node-a".to_owned(),
            version: "0.1.0".to_owned(),
            ready: true,
            endpoints: vec![EndpointStatus {
                pod: "shop/web".to_owned(),
                interface: "eni1".to_owned(),
                addresses: vec!["10.0.0.2".parse().expect("an address")],
                state: "enforced".to_owned(),
                ingress: vec!["NetworkPolicy shop/web".to_owned()],
                start_to_enforced_ms: Some(1.25),
                ..EndpointStatus::default()
            }],
            uplinks: vec!["eth0".to_owned()],
            objects: BTreeMap::from([("NetworkPolicy".to_owned(), 3)]),
            feeds: vec![FeedStatus {
                kind: "Pod".to_owned(),
                in_sync: true,
                ..FeedStatus::default()
            }],
            refused: vec![RefusedObject {
                object: "NetworkPolicy shop/bad".to_owned(),
                whole: false,
                problems: vec!["spec.x: unknown field".to_owned()],
            }],
            conntrack_capacity: 262_144,
            ..NodeStatus::default()
        }
    }

    fn printed(status: &NodeStatus, detail: Detail) -> (u8, String) {
        let mut out = Vec::new();
        let code = print(status, detail, Form::Table, &mut out).expect("memory can be written");
        (code, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_ready_node_is_one_line_and_its_troubles() {
        let (code, text) = printed(&status(), Detail::Normal);
        assert_eq!(
            text,
            "NODE    READY  MODE     PODS  PROGRAMS  POLICIES  SYNC  CT        LOST  VERSION\n\
             node-a  yes    enforce  1/1   3/3       3         yes   0/262144  0     0.1.0\n\
             ! NetworkPolicy shop/bad partly refused: spec.x: unknown field\n"
        );
        assert_eq!(code, exit::DONE);
    }

    #[test]
    fn a_node_that_is_not_ready_says_what_is_missing() {
        let status = NodeStatus {
            ready: false,
            problems: vec!["pod a/b has no interface yet".to_owned()],
            ..status()
        };
        let (code, text) = printed(&status, Detail::Normal);
        assert_eq!(code, exit::NEGATIVE);
        assert!(text.contains("\n! pod a/b has no interface yet\n"));
        assert_eq!(printed(&status, Detail::Brief).1.lines().count(), 2);
    }

    #[test]
    fn verbose_shows_every_endpoint() {
        let (_, text) = printed(&status(), Detail::Verbose);
        assert!(
            text.contains(
                "shop/web  eni1       10.0.0.2   shop/web  <none>  blocked   enforced  1.2ms"
            ),
            "{text}"
        );
        assert!(text.contains("\nuplinks       eth0\n"));
    }
}
