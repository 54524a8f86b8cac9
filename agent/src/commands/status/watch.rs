//! `portcullis status --watch`: the table once, then the rows that have changed, until whoever reads has enough.
//!
//! ```text
//! each round: ask all --> (row, problems) of each node --what is new since it was last printed--> out
//! ```
//! Numbers that are never still (conntrack entries, ages in problems) are no change. Agents are asked over lines that stay open. What fails at first is
//! a failure; what fails later is a line, and the next round tries again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::nodes::{self, Row};
use super::{COLUMNS, Detail, Form, WIDE_COLUMNS, table};
use crate::client::{self, ClientError};
use crate::cluster::{Asked, Cluster, Lines, Missing};
use crate::commands::place::Place;
use crate::failure::{Failure, exit};
use crate::report::NodeStatus;

/// How often agents are asked, and how long each may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two rounds.
    pub every: Duration,
    /// For each agent.
    pub limit: Duration,
}

/// One round of answers.
type Round = (Vec<Asked<NodeStatus>>, Missing);

/// Prints what changes until `is_abandoned`, or until the person may not ask any more.
pub async fn watch(
    place: Place,
    pace: Pace,
    detail: Detail,
    form: Form,
    is_abandoned: impl Fn() -> bool,
    out: &mut dyn Write,
) -> Result<u8> {
    let mut source = match place {
        Place::Here(socket) => Source::Here(socket),
        Place::Cluster(access) => {
            Source::Cluster(Box::new(access.connect().await?), Lines::default())
        }
    };
    let mut printed = Printed::new(detail, form);
    let mut trouble = None;
    loop {
        let text = match source.round(pace.limit).await {
            Ok(round) => {
                trouble = None;
                printed.news(&round, || source.document(&round))?
            }
            Err(failure) if printed.is_empty() || !may_pass(&failure) => return Err(failure.into()),
            Err(failure) if trouble.as_ref() == Some(&failure) => String::new(),
            Err(failure) => {
                let text = printed.trouble(&failure);
                trouble = Some(failure);
                text
            }
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
        if is_abandoned() {
            return Ok(exit::DONE);
        }
        sleep(pace.every).await;
    }
}

/// Whether it may be otherwise in the next round.
fn may_pass(failure: &Failure) -> bool {
    matches!(failure.exit_code(), exit::UNREACHABLE | exit::TIMED_OUT)
}

enum Source {
    Here(PathBuf),
    Cluster(Box<Cluster>, Lines),
}

impl Source {
    async fn round(&mut self, limit: Duration) -> Result<Round, Failure> {
        let late = |_| Failure::from(ClientError::TimedOut);
        match self {
            Self::Here(socket) => {
                let asked = client::ask::<NodeStatus>(socket, "/v1/status");
                let status = timeout(limit, asked).await.map_err(late)??;
                Ok((vec![(status.node.clone(), Ok(status))], Missing::default()))
            }
            Self::Cluster(cluster, lines) => {
                let fleet = timeout(limit, cluster.fleet()).await.map_err(late)??;
                let asked = lines.ask(cluster, &fleet.agents, limit, "/v1/status");
                let asked = asked.await;
                let refused = asked.iter().find_map(|(_, answer)| {
                    let failure = answer.as_ref().err()?;
                    (failure.code == "PC4006").then(|| failure.clone())
                });
                refused.map_or(Ok((asked, fleet.missing)), Err)
            }
        }
    }

    /// The same as without `--watch`: one node's own word, or the list.
    fn document(&self, (asked, missing): &Round) -> Result<Value> {
        match (self, asked.as_slice()) {
            (Self::Here(_), [(_, Ok(status))]) => Ok(serde_json::to_value(status)?),
            _ => nodes::list(asked, missing),
        }
    }
}

/// What has been printed.
struct Printed {
    detail: Detail,
    form: Form,
    widths: Vec<usize>,
    /// Nodes with their last rows, and the line on those that have none; `None` before the first round.
    last: Option<(BTreeMap<String, Row>, Option<String>)>,
}

impl Printed {
    fn new(detail: Detail, form: Form) -> Self {
        Self {
            detail,
            form,
            widths: Vec::new(),
            last: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// What is to be printed of a round; empty if nothing has changed.
    fn news(
        &mut self,
        (asked, missing): &Round,
        document: impl FnOnce() -> Result<Value>,
    ) -> Result<String> {
        let rows = nodes::rows(asked, missing, self.form == Form::Wide);
        let without = nodes::without_row(missing);
        let last = self.last.take();
        let is_first = last.is_none();
        let (known, last_without) = last.unwrap_or_default();
        let is_new = |row: &&Row| {
            let known = known.get(row.node());
            known.is_none_or(|known| self.is_news(known, row))
        };
        let new: Vec<&Row> = rows.iter().filter(is_new).collect();
        let gone: Vec<&String> = known
            .keys()
            .filter(|node| !rows.iter().any(|row| row.node() == *node))
            .collect();
        let other = without.as_ref().filter(|_| without != last_without);
        let changed = is_first || !new.is_empty() || !gone.is_empty() || without != last_without;
        let text = match self.form {
            _ if !changed => String::new(),
            Form::Json => serde_json::to_string(&document()?)? + "\n",
            Form::Yaml if is_first => serde_saphyr::to_string(&document()?)?,
            Form::Yaml => format!("---\n{}", serde_saphyr::to_string(&document()?)?),
            Form::Name => {
                let names: Vec<String> = new
                    .iter()
                    .map(|row| format!("node/{}\n", row.node()))
                    .collect();
                names.concat()
            }
            Form::Table | Form::Wide => {
                let mut text = self.rows(&new, is_first);
                if self.detail != Detail::Brief {
                    let problems = new.iter().flat_map(|row| &row.problems);
                    for problem in problems.chain(other) {
                        let _ = writeln!(text, "! {problem}");
                    }
                    for node in gone {
                        let _ = writeln!(text, "! {node}: has no agent any more");
                    }
                }
                text
            }
        };
        let rows = rows.into_iter().map(|row| (row.node().to_owned(), row));
        self.last = Some((rows.collect(), without));
        Ok(text)
    }

    fn rows(&mut self, new: &[&Row], is_first: bool) -> String {
        let mut table = table(self.form == Form::Wide);
        for row in new {
            table.push(row.cells.clone());
        }
        table.rows_from(usize::from(!is_first), &mut self.widths)
    }

    /// Whether the second row says more than that time has passed.
    fn is_news(&self, known: &Row, now: &Row) -> bool {
        let columns = COLUMNS.iter().chain(&WIDE_COLUMNS);
        let cells = known.cells.iter().zip(&now.cells);
        let mut still = columns.zip(cells).filter(|(name, _)| **name != "CT");
        let problems = |row: &Row| -> Vec<String> {
            let lines = row.problems.iter();
            lines.map(|line| without_age(line)).collect()
        };
        still.any(|(_, (known, now))| known != now)
            || (self.detail != Detail::Brief && problems(known) != problems(now))
    }

    /// A line for people; programs have none, and get the next document when there is one.
    fn trouble(&self, failure: &Failure) -> String {
        match self.form {
            Form::Table | Form::Wide => {
                format!("! {} {}: {}\n", failure.code, failure.what, failure.why)
            }
            Form::Json | Form::Yaml | Form::Name => String::new(),
        }
    }
}

/// A problem without the number of seconds that it says it is old.
fn without_age(problem: &str) -> String {
    match problem.split_once(" s ago") {
        Some((before, after)) => {
            let before = before.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{before} s ago{after}")
        }
        None => problem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
