//! The status of many nodes: a row for each, also for those whose agent does not answer and those that have none.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::{COLUMNS, Detail, Form, WIDE_COLUMNS, cells, problems, table, verbose};
use crate::cluster::{Asked, Missing};
use crate::commands::API_VERSION;
use crate::failure::exit;
use crate::report::NodeStatus;

/// Prints what every agent said. Exit code 1 if one is not ready or not there, 4 if nobody answered.
pub fn print_all(
    asked: &[Asked<NodeStatus>],
    missing: &Missing,
    detail: Detail,
    form: Form,
    out: &mut dyn Write,
) -> Result<u8> {
    let text = match form {
        Form::Json => serde_json::to_string_pretty(&list(asked, missing)?)? + "\n",
        Form::Yaml => serde_saphyr::to_string(&list(asked, missing)?)?,
        Form::Name => {
            let names = asked.iter().map(|(node, _)| format!("node/{node}"));
            names.collect::<Vec<_>>().join("\n") + "\n"
        }
        Form::Table | Form::Wide => text(asked, missing, detail, form == Form::Wide),
    };
    out.write_all(text.as_bytes())?;
    let mut answers = asked.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let ready = |status: &NodeStatus| status.ready;
    Ok(if asked.iter().all(|(_, answer)| answer.is_err()) {
        exit::UNREACHABLE
    } else if missing.count == 0
        && asked.iter().all(|(_, answer)| answer.is_ok())
        && answers.all(ready)
    {
        exit::DONE
    } else {
        exit::NEGATIVE
    })
}

/// Nodes without an agent that are known by name.
fn named(missing: &Missing) -> &[String] {
    if missing.among.len() == missing.count {
        &missing.among
    } else {
        &[]
    }
}

fn text(asked: &[Asked<NodeStatus>], missing: &Missing, detail: Detail, wide: bool) -> String {
    let mut table = table(wide);
    for (node, answer) in asked {
        match answer {
            Ok(status) => table.push(cells(status, wide)),
            Err(_) => table.push(silent(node, wide)),
        }
    }
    for node in named(missing) {
        table.push(silent(node, wide));
    }
    let mut text = table.to_string();
    if detail == Detail::Brief {
        return text;
    }
    for (node, answer) in asked {
        match answer {
            Ok(status) => {
                for problem in problems(status) {
                    let _ = writeln!(text, "! {node}: {problem}");
                }
            }
            Err(failure) => {
                let _ = writeln!(
                    text,
                    "! {node}: {} {}: {}",
                    failure.code, failure.what, failure.why
                );
            }
        }
    }
    for node in named(missing) {
        let _ = writeln!(text, "! {node}: no agent runs here");
    }
    if missing.count > named(missing).len() {
        let _ = match missing.among.as_slice() {
            [] => writeln!(text, "! nodes without an agent: {}", missing.count),
            among => writeln!(
                text,
                "! nodes without an agent: {} of {}",
                missing.count,
                among.join(" ")
            ),
        };
    }
    if detail == Detail::Verbose {
        for (node, answer) in asked {
            if let Ok(status) = answer {
                let _ = write!(text, "\n{node}\n");
                verbose(&mut text, status);
            }
        }
    }
    text
}

/// The row of a node of which nothing is known.
fn silent(node: &str, wide: bool) -> Vec<String> {
    let columns = COLUMNS.len() + if wide { WIDE_COLUMNS.len() } else { 0 };
    let mut cells = vec!["-".to_owned(); columns];
    node.clone_into(&mut cells[0]);
    "no".clone_into(&mut cells[1]);
    cells
}

fn list(asked: &[Asked<NodeStatus>], missing: &Missing) -> Result<Value> {
    let mut items = Vec::new();
    let mut failures = Vec::new();
    for (node, answer) in asked {
        match answer {
            Ok(status) => items.push(serde_json::to_value(status)?),
            Err(failure) => failures.push(json!({"node": node, "error": failure})),
        }
    }
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": "NodeStatusList",
        "items": items,
        "failures": failures,
        "withoutAgent": {"count": missing.count, "among": missing.among},
    }))
}

#[cfg(test)]
mod tests;
