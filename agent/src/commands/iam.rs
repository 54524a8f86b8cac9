//! `portcullis iam`: which role pods have, from which annotation, and which annotations are wrong.
//!
//! It prints what agents say ([`NodeRoles`]) and decides nothing itself. A pod that no agent knows is a negative answer only if every agent was heard.

pub mod audit;
pub mod cache;

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::API_VERSION;
use super::table::Table;
use crate::client::quoted;
use crate::cluster::{Asked, Missing};
use crate::failure::{Failure, exit};
use crate::report::{NodeRoles, RoleStatus};

/// Where agents answer: for one pod, `namespace/name`, or for all of the node.
#[must_use]
pub fn path(pod: Option<&str>) -> String {
    match pod {
        Some(pod) => format!("/v1/roles?pod={}", quoted(pod)),
        None => "/v1/roles".to_owned(),
    }
}

/// What was heard.
#[derive(Clone, Debug)]
pub struct Heard<T> {
    documents: Vec<T>,
    failures: Vec<(String, Failure)>,
    /// Nodes that are to have an agent and have none.
    without: usize,
    /// Whether the agents of a cluster were asked.
    cluster: bool,
}

impl<T> Heard<T> {
    /// Of this node's agent.
    #[must_use]
    pub fn here(document: T) -> Self {
        Self {
            documents: vec![document],
            failures: Vec::new(),
            without: 0,
            cluster: false,
        }
    }

    /// Of a cluster's agents.
    #[must_use]
    pub fn everywhere(asked: Vec<Asked<T>>, missing: &Missing) -> Self {
        let mut heard = Self {
            documents: Vec::new(),
            failures: Vec::new(),
            without: missing.count,
            cluster: true,
        };
        for (node, answer) in asked {
            match answer {
                Ok(document) => heard.documents.push(document),
                Err(failure) => heard.failures.push((node, failure)),
            }
        }
        heard
    }

    fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.without == 0
    }

    /// What is said of those that were not heard.
    fn unheard(&self) -> String {
        let mut notes = String::new();
        for (node, failure) in &self.failures {
            let Failure {
                code, what, why, ..
            } = failure;
            let _ = writeln!(notes, "! {node}: {code} {what}: {why}");
        }
        if self.without > 0 {
            let _ = writeln!(notes, "! nodes without an agent: {}", self.without);
        }
        notes
    }

    /// Prints what was heard, `text` of it if it is for people.
    fn print(&self, json: bool, text: &str, out: &mut dyn Write) -> Result<()>
    where
        T: Serialize,
    {
        let text = match (json, self.documents.as_slice()) {
            (false, _) => text.to_owned() + &self.unheard(),
            (true, [document]) if !self.cluster => serde_json::to_string_pretty(document)? + "\n",
            (true, documents) => {
                let failures = self.failures.iter();
                let failures: Vec<_> = failures
                    .map(|(node, failure)| json!({"node": node, "error": failure}))
                    .collect();
                let list = json!({"apiVersion": API_VERSION, "kind": "List", "items": documents, "failures": failures});
                serde_json::to_string_pretty(&list)? + "\n"
            }
        };
        out.write_all(text.as_bytes())?;
        Ok(())
    }

    /// The exit code of an answer that has no other.
    fn code(&self) -> u8 {
        if self.is_complete() {
            exit::DONE
        } else {
            exit::UNREACHABLE
        }
    }
}

impl Heard<NodeRoles> {
    fn keep(&mut self, wanted: impl Fn(&RoleStatus) -> bool) {
        for document in &mut self.documents {
            document.items.retain(&wanted);
        }
    }

    fn is_empty(&self) -> bool {
        let mut documents = self.documents.iter();
        documents.all(|document| document.items.is_empty())
    }

    fn text(&self) -> String {
        let mut headers = vec!["POD", "ROLE", "SOURCE", "STATE", "IMDS", "ALLOWED BY"];
        if self.cluster {
            headers.insert(0, "NODE");
        }
        let mut table = Table::new(&headers);
        let mut notes = String::new();
        for document in &self.documents {
            for role in &document.items {
                let node = self.cluster.then(|| document.node.clone());
                table.push(node.into_iter().chain(cells(role)));
                for note in role.message.iter().chain(&role.malformed) {
                    let _ = writeln!(notes, "! {}: {note}", role.pod);
                }
            }
            for problem in &document.problems {
                let _ = writeln!(notes, "! {}: {problem}", document.node);
            }
        }
        if self.is_empty() {
            notes
        } else {
            format!("{table}{notes}")
        }
    }
}

/// Prints the role of one pod, or of all. Exit code 4 if an agent could not be asked.
pub fn whoami(
    heard: &Heard<NodeRoles>,
    pod: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8> {
    if let (Some(pod), true) = (pod, heard.is_empty()) {
        return Err(match heard.failures.first() {
            Some((_, failure)) => failure.clone(),
            None => unknown(pod, heard),
        }
        .into());
    }
    heard.print(json, &heard.text(), out)?;
    // One pod is at one node: whoever else did not answer had nothing to say of it.
    Ok(if pod.is_some() || heard.is_complete() {
        exit::DONE
    } else {
        exit::UNREACHABLE
    })
}

/// Prints the pods of which something is wrong. Exit code 1 if there is one, 4 if there is none but an agent could not be asked.
pub fn check(mut heard: Heard<NodeRoles>, json: bool, out: &mut dyn Write) -> Result<u8> {
    heard.keep(|role| role.state == "refused" || !role.malformed.is_empty());
    heard.print(json, &heard.text(), out)?;
    Ok(if !heard.is_empty() {
        exit::NEGATIVE
    } else if heard.is_complete() {
        exit::DONE
    } else {
        exit::UNREACHABLE
    })
}

fn unknown(pod: &str, heard: &Heard<NodeRoles>) -> Failure {
    let (why, todo) = if heard.without > 0 {
        (
            format!("nodes without an agent: {}", heard.without),
            "see `kubectl portcullis status`",
        )
    } else if heard.cluster {
        (
            "no agent has a live pod of that name on its node".to_owned(),
            "see with `kubectl get pod -o wide` whether it runs, and where",
        )
    } else {
        (
            "no live pod of that name is on this node".to_owned(),
            "ask the agents of a cluster with `kubectl portcullis iam whoami`",
        )
    };
    Failure::new("PC3002", format!("pod {pod} is not known"), why, todo)
}

fn cells(role: &RoleStatus) -> [String; 6] {
    let state = match (&role.reason, &role.would_deny) {
        (Some(reason), _) => format!("{}: {reason}", role.state),
        (None, Some(reason)) => format!("{}, audit: {reason}", role.state),
        (None, None) => role.state.clone(),
    };
    let imds = if role.imds_v1 { "v1, v2" } else { "v2 only" };
    // Of an ARN the name is enough for people; programs read all of it.
    let name = role.role.as_deref().map(|arn| {
        let path = arn.split_once(":role/").map_or(arn, |(_, path)| path);
        path.to_owned()
    });
    [
        role.pod.clone(),
        name.unwrap_or_default(),
        role.source.clone(),
        state,
        imds.to_owned(),
        allowed_by(role),
    ]
}

fn allowed_by(role: &RoleStatus) -> String {
    let namespace = role.pod.split('/').next().unwrap_or_default();
    let patterns = [
        ("allowed-roles", &role.allowed_roles),
        ("permitted", &role.permitted),
    ];
    let matched = patterns
        .iter()
        .filter_map(|(name, pattern)| Some(format!("{name} {:?}", pattern.as_ref()?)));
    match role.restriction.as_str() {
        "matched" => {
            let matched: Vec<String> = matched.collect();
            format!("namespace {namespace} {}", matched.join(", "))
        }
        "off" => "restrictions are off".to_owned(),
        "exempt" => "it is the cluster's default".to_owned(),
        "absent" => format!("namespace {namespace} restricts nothing"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(pod: &str, state: &str) -> RoleStatus {
        RoleStatus {
            pod: pod.to_owned(),
            state: state.to_owned(),
            source: "pod".to_owned(),
            ..RoleStatus::default()
        }
    }

    fn node(name: &str, items: &[RoleStatus]) -> NodeRoles {
        NodeRoles {
            node: name.to_owned(),
            items: items.to_vec(),
            ..NodeRoles::default()
        }
    }

    fn given() -> RoleStatus {
        RoleStatus {
            role: Some("arn:aws:iam::123456789012:role/team/batch-rw".to_owned()),
            restriction: "matched".to_owned(),
            allowed_roles: Some("batch-*".to_owned()),
            ..role("ops/batch-x1", "role")
        }
    }

    fn refused() -> RoleStatus {
        RoleStatus {
            reason: Some("role-not-allowed".to_owned()),
            message: Some("the namespace does not allow it".to_owned()),
            restriction: "denied".to_owned(),
            ..role("ops/x", "refused")
        }
    }

    fn lost() -> (String, Failure) {
        (
            "n2".to_owned(),
            Failure::new("PC4002", "away", "gone", "wait"),
        )
    }

    fn said(print: impl FnOnce(&mut Vec<u8>) -> Result<u8>) -> (String, u8) {
        let mut out = Vec::new();
        let code = print(&mut out).expect("it is an answer");
        (String::from_utf8(out).expect("it is text"), code)
    }

    #[test]
    fn a_pods_role_stands_in_one_row_with_what_allowed_it() {
        let heard = Heard::here(node("n1", &[given()]));
        let (text, code) = said(|out| whoami(&heard, Some("ops/batch-x1"), false, out));
        let expected = "\
POD           ROLE           SOURCE  STATE  IMDS     ALLOWED BY
ops/batch-x1  team/batch-rw  pod     role   v2 only  namespace ops allowed-roles \"batch-*\"
";
        assert_eq!((text.as_str(), code), (expected, exit::DONE));
    }

    #[test]
    fn a_refusal_is_told_in_a_sentence_and_fails_the_check() {
        let heard = || Heard::here(node("n1", &[given(), refused()]));
        let (text, code) = said(|out| check(heard(), false, out));
        assert!(
            text.contains("ops/x  <none>  pod     refused: role-not-allowed"),
            "{text}"
        );
        assert!(
            text.contains("! ops/x: the namespace does not allow it"),
            "{text}"
        );
        assert!(
            !text.contains("batch-x1") && code == exit::NEGATIVE,
            "{text}"
        );
        let (_, code) = said(|out| whoami(&heard(), None, false, out));
        assert_eq!(code, exit::DONE);
    }

    #[test]
    fn malformed_annotations_fail_the_check_of_a_pod_that_has_its_role() {
        let odd = RoleStatus {
            malformed: vec!["Pod ops/batch-x1: portcullis.dev/imds-v1: no word".to_owned()],
            ..given()
        };
        let (text, code) = said(|out| check(Heard::here(node("n1", &[odd])), true, out));
        assert!(text.contains("imds-v1"));
        assert_eq!(code, exit::NEGATIVE);
        let (text, code) = said(|out| check(Heard::here(node("n1", &[given()])), false, out));
        assert_eq!((text.as_str(), code), ("", exit::DONE));
    }

    #[test]
    fn what_was_not_heard_is_never_a_good_answer() {
        let asked = || {
            vec![
                ("n1".to_owned(), Ok(node("n1", &[given()]))),
                (lost().0, Err(lost().1)),
            ]
        };
        let heard = || Heard::everywhere(asked(), &Missing::default());
        let (text, code) = said(|out| whoami(&heard(), None, false, out));
        assert!(text.contains("! n2: PC4002 away: gone"), "{text}");
        assert_eq!(code, exit::UNREACHABLE);
        let (_, code) = said(|out| check(heard(), false, out));
        assert_eq!(code, exit::UNREACHABLE);
        // The pod may be where nobody answers.
        let mut out = Vec::new();
        let mut heard = heard();
        heard.keep(|role| role.pod == "ops/absent");
        let error = whoami(&heard, Some("ops/absent"), false, &mut out).expect_err("not found");
        assert_eq!(Failure::from(error).code, "PC4002");
    }

    #[test]
    fn a_pod_that_every_agent_denies_is_unknown() {
        let heard = Heard::here(node("n1", &[]));
        let mut out = Vec::new();
        let error = whoami(&heard, Some("ops/absent"), false, &mut out).expect_err("not found");
        let failure = Failure::from(error);
        assert_eq!(
            (failure.code, failure.exit_code()),
            ("PC3002", exit::NEGATIVE)
        );
    }
}
