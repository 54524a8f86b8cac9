use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::api::Request;
use crate::cluster::stand_in::StandIn;

fn status(node: &str, problems: &[&str]) -> NodeStatus {
    NodeStatus {
        node: node.to_owned(),
        version: "0.1.0".to_owned(),
        ready: problems.is_empty(),
        problems: problems.iter().map(ToString::to_string).collect(),
        conntrack_capacity: 9,
        ..NodeStatus::default()
    }
}

fn round(statuses: Vec<NodeStatus>) -> Round {
    let asked = statuses
        .into_iter()
        .map(|status| (status.node.clone(), Ok(status)));
    (asked.collect(), Missing::default())
}

fn news(printed: &mut Printed, round: &Round) -> String {
    let document = || nodes::list(&round.0, &round.1);
    printed.news(round, document).expect("can be printed")
}

#[test]
fn only_what_changes_is_printed_again() {
    let mut printed = Printed::new(Detail::Normal, Form::Table);
    let calm = || vec![status("node-a", &[]), status("b", &[])];
    let first = news(&mut printed, &round(calm()));
    assert_eq!(first.lines().count(), 3, "{first}");
    assert_eq!(news(&mut printed, &round(calm())), "");
    let mut busy = calm();
    busy[0].conntrack_entries = 7;
    assert_eq!(news(&mut printed, &round(busy)), "");
    let trouble = || {
        vec![
            status("node-a", &[]),
            status("b", &["pod a/b has no interface yet"]),
        ]
    };
    let second = news(&mut printed, &round(trouble()));
    let expected = "\
b       no     enforce  0/0   0/0       0         yes   0/9  0     0.1.0
! b: pod a/b has no interface yet
";
    assert_eq!(second, expected);
    assert_eq!(news(&mut printed, &round(trouble())), "");
    let third = news(&mut printed, &round(calm()));
    assert_eq!(third.lines().count(), 1, "it is over: {third}");
}

#[test]
fn a_problem_that_grows_older_is_no_news() {
    let mut printed = Printed::new(Detail::Normal, Form::Table);
    let stale = |secs| {
        vec![status(
            "a",
            &[&format!("Pod objects are as of {secs} s ago: refused")],
        )]
    };
    assert!(!news(&mut printed, &round(stale(9))).is_empty());
    assert_eq!(news(&mut printed, &round(stale(11))), "");
    let other = vec![status("a", &["Pod objects are as of 13 s ago: forbidden"])];
    assert!(!news(&mut printed, &round(other)).is_empty());
}

#[test]
fn nodes_that_lose_their_agent_and_nodes_that_go_are_news() {
    let mut printed = Printed::new(Detail::Normal, Form::Table);
    let (asked, _) = round(vec![status("a", &[]), status("b", &[])]);
    let without = |count, among: &[&str]| Missing {
        count,
        among: among.iter().map(ToString::to_string).collect(),
    };
    news(&mut printed, &(asked.clone(), Missing::default()));
    let only_a = || vec![asked[0].clone()];
    let lost = news(&mut printed, &(only_a(), without(1, &["b"])));
    assert!(lost.ends_with("! b: no agent runs here\n"), "{lost}");
    let uncertain = news(&mut printed, &(only_a(), without(1, &[])));
    let expected = "! nodes without an agent: 1\n! b: has no agent any more\n";
    assert_eq!(uncertain, expected);
    assert_eq!(news(&mut printed, &(only_a(), without(1, &[]))), "");
}

#[test]
fn programs_read_one_document_a_line() {
    let mut printed = Printed::new(Detail::Normal, Form::Json);
    let first = news(&mut printed, &round(vec![status("a", &[])]));
    let second = news(&mut printed, &round(vec![status("a", &["x"])]));
    for (text, ready) in [(first, true), (second, false)] {
        assert_eq!(text.lines().count(), 1);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list["items"][0]["ready"], json!(ready));
    }
}

/// An agent that is in trouble from its third answer on.
fn agent(node: &str) -> impl Fn(Request) + Send + 'static + use<> {
    let (node, asked) = (node.to_owned(), AtomicUsize::new(0));
    move |request| {
        if let Request::Status(answer) = request {
            let problems: &[&str] = match asked.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => &[],
                _ => &["pod a/b has no interface yet"],
            };
            let _ = answer.send(status(&node, problems));
        }
    }
}

#[tokio::test]
async fn it_asks_over_lines_that_stay_open_until_its_reader_goes() {
    let cluster = StandIn::start().await;
    for node in ["n1", "n2"] {
        cluster.agent(node, agent(node));
    }
    let rounds = Arc::new(AtomicUsize::new(0));
    let pace = Pace {
        every: Duration::from_millis(10),
        limit: Duration::from_secs(20),
    };
    let is_abandoned = || rounds.fetch_add(1, Ordering::Relaxed) == 3;
    let place = Place::Cluster(cluster.access());
    let mut out = Vec::new();
    let code = watch(
        place,
        pace,
        Detail::Normal,
        Form::Table,
        is_abandoned,
        &mut out,
    )
    .await
    .expect("is an orderly end");
    assert_eq!(code, exit::DONE);
    let text = String::from_utf8(out).expect("text");
    let first: Vec<&str> = text
        .lines()
        .map(|line| line.split(' ').next().unwrap_or(""))
        .collect();
    assert_eq!(first, ["NODE", "n1", "n2", "n1", "n2", "!", "!"], "{text}");
    let execs = cluster.asked().into_iter();
    let execs = execs.filter(|asked| asked.path.contains("/exec"));
    assert_eq!(execs.count(), 2, "one for each agent, in four rounds");
}

#[tokio::test]
async fn what_fails_at_first_is_a_failure() {
    let cluster = StandIn::start().await;
    let pace = Pace {
        every: Duration::from_millis(10),
        limit: Duration::from_secs(20),
    };
    let place = Place::Cluster(cluster.access());
    let mut out = Vec::new();
    let watched = watch(place, pace, Detail::Normal, Form::Table, || false, &mut out);
    let failure = Failure::from(watched.await.expect_err("there are no agents"));
    assert_eq!(failure.code, "PC4007");
    assert!(out.is_empty());
}

#[tokio::test]
async fn what_fails_later_is_a_line_and_the_next_round_tries_again() {
    let cluster = StandIn::start().await;
    cluster.agent("n1", agent("n1"));
    let rounds = AtomicUsize::new(0);
    let pods = "/api/v1/namespaces/portcullis/pods";
    let is_abandoned = || {
        cluster.list(pods, Vec::new());
        rounds.fetch_add(1, Ordering::Relaxed) == 3
    };
    let pace = Pace {
        every: Duration::from_millis(10),
        limit: Duration::from_secs(20),
    };
    let place = Place::Cluster(cluster.access());
    let mut out = Vec::new();
    watch(
        place,
        pace,
        Detail::Normal,
        Form::Table,
        is_abandoned,
        &mut out,
    )
    .await
    .expect("is an orderly end");
    let text = String::from_utf8(out).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[2].starts_with("! PC4007 no agents were found: "),
        "{text}"
    );
}
