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

/// A node's row, and what is wrong there, a line each with the node's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) problems: Vec<String>,
}

impl Row {
    pub(super) fn node(&self) -> &str {
        &self.cells[0]
    }
}

/// A row for each node that was asked, and for each that is known to have no agent.
pub(super) fn rows(asked: &[Asked<NodeStatus>], missing: &Missing, wide: bool) -> Vec<Row> {
    let answered = asked.iter().map(|(node, answer)| match answer {
        Ok(status) => {
            let problems = problems(status).into_iter();
            Row {
                cells: cells(status, wide),
                problems: problems
                    .map(|problem| format!("{node}: {problem}"))
                    .collect(),
            }
        }
        Err(failure) => Row {
            cells: silent(node, wide),
            problems: vec![format!(
                "{node}: {} {}: {}",
                failure.code, failure.what, failure.why
            )],
        },
    });
    let without = named(missing).iter().map(|node| Row {
        cells: silent(node, wide),
        problems: vec![format!("{node}: no agent runs here")],
    });
    answered.chain(without).collect()
}

/// What is known of nodes without an agent that have no row.
pub(super) fn without_row(missing: &Missing) -> Option<String> {
    if missing.count <= named(missing).len() {
        return None;
    }
    Some(match missing.among.as_slice() {
        [] => format!("nodes without an agent: {}", missing.count),
        among => format!(
            "nodes without an agent: {} of {}",
            missing.count,
            among.join(" ")
        ),
    })
}

fn text(asked: &[Asked<NodeStatus>], missing: &Missing, detail: Detail, wide: bool) -> String {
    let rows = rows(asked, missing, wide);
    let mut table = table(wide);
    for row in &rows {
        table.push(row.cells.clone());
    }
    let mut text = table.to_string();
    if detail == Detail::Brief {
        return text;
    }
    let problems = rows.iter().flat_map(|row| &row.problems);
    for problem in problems.chain(&without_row(missing)) {
        let _ = writeln!(text, "! {problem}");
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

pub(super) fn list(asked: &[Asked<NodeStatus>], missing: &Missing) -> Result<Value> {
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
