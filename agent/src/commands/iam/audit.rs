//! `portcullis iam audit`: what pods were given and refused, as agents recorded it.

use std::io::Write;

use anyhow::Result;
use portcullis_imds::metrics::ImdsVersion;

use super::Heard;
use crate::client::quoted;
use crate::commands::table::Table;
use crate::report::{AuditRecord, NodeAudit};

const HEADERS: [&str; 6] = ["TIME", "POD", "EVENT", "COUNT", "REQUEST", "DETAIL"];

/// Where agents answer: for one pod, `namespace/name`, or for all; behind a number.
#[must_use]
pub fn path(pod: Option<&str>, after: u64, limit: usize) -> String {
    let pod = pod.map_or_else(String::new, |pod| format!("&pod={}", quoted(pod)));
    format!("/v1/audit?after={after}&limit={limit}{pod}")
}

/// Prints records, of several nodes by time. Exit code 4 if an agent could not be asked.
pub fn print(heard: &Heard<NodeAudit>, json: bool, out: &mut dyn Write) -> Result<u8> {
    let mut records: Vec<&AuditRecord> = heard
        .documents
        .iter()
        .flat_map(|document| &document.items)
        .collect();
    // Stable: those of a node stay in the order of their numbers.
    records.sort_by(|a, b| a.ts.cmp(&b.ts));
    let text = if records.is_empty() {
        String::new()
    } else {
        let mut headers = HEADERS.to_vec();
        if heard.cluster {
            headers.insert(0, "NODE");
        }
        let mut table = Table::new(&headers);
        for record in records {
            let node = heard.cluster.then(|| record.node.clone());
            table.push(node.into_iter().chain(cells(record)));
        }
        table.to_string()
    };
    heard.print(json, &text, out)?;
    Ok(heard.code())
}

/// Prints what is new, again and again.
#[derive(Debug)]
pub struct Follower {
    json: bool,
    /// Whether the headers stand above what comes.
    begun: bool,
    widths: Vec<usize>,
    after: u64,
}

impl Follower {
    /// One that has printed nothing yet.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self {
            json,
            begun: false,
            widths: Vec::new(),
            after: 0,
        }
    }

    /// The number behind which records are new.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }

    /// What to print of the newest records: rows, or a JSON object on each line.
    pub fn next(&mut self, document: &NodeAudit) -> Result<String> {
        if document.newest < self.after {
            // Another agent, which counts anew: its records come with the next question.
            self.after = 0;
            return Ok(String::new());
        }
        self.after = document.newest;
        if self.json {
            let lines = document.items.iter().map(serde_json::to_string);
            let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
            return Ok(lines.into_iter().map(|line| line + "\n").collect());
        }
        if document.items.is_empty() {
            return Ok(String::new());
        }
        let mut table = Table::new(&HEADERS);
        for record in &document.items {
            table.push(cells(record));
        }
        let first = usize::from(std::mem::replace(&mut self.begun, true));
        Ok(table.rows_from(first, &mut self.widths))
    }
}

fn cells(record: &AuditRecord) -> [String; 6] {
    let pod = record.pod.as_ref();
    let request = record.request.as_ref().map(|request| {
        let version = match request.version {
            ImdsVersion::Neither => String::new(),
            version => format!(" {}", version.label()),
        };
        let (endpoint, status, path) = (&request.endpoint, request.status, &request.path);
        format!("{endpoint}{version} {status} {path}")
    });
    [
        record.ts.clone(),
        pod.map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .unwrap_or_default(),
        record.event.as_str().to_owned(),
        record.count.to_string(),
        request.unwrap_or_default(),
        detail(record),
    ]
}

/// Why, then which role and keys.
fn detail(record: &AuditRecord) -> String {
    let decision = &record.decision;
    let keys = record.credential.as_ref();
    let role = decision.role_arn.as_deref().map(|arn| {
        let name = arn.split_once(":role/").map_or(arn, |(_, path)| path);
        format!("role {name}")
    });
    let id = keys.and_then(|keys| keys.access_key_id.clone());
    let until = keys.and_then(|keys| Some(format!("until {}", keys.expiration.as_ref()?)));
    let parts = [
        decision.reason.map(|reason| reason.label().to_owned()),
        decision.refusal.clone(),
        keys.and_then(|keys| keys.fault.clone()),
        role,
        id,
        until,
        keys.and_then(|keys| keys.cache.clone()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
