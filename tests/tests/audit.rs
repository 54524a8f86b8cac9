//! Everything that pods are given and refused can be explained afterwards, and nothing that explains it is secret.
//!
//! ```text
//! pods: keys, refusals, failures --> records, events of the log, cache, metrics, file --grep--> no key, no token
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use portcullis_tests::cloud::{Cloud, LISTING, ROLE};
use portcullis_tests::scene::{Pod, SOON, admin, pod, wait_until};
use serde_json::Value;

fn pods() -> [Pod; 3] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").annotation(ROLE, "app-db"),
        pod("shop/greedy", "10.0.1.4 fd00:1::4").annotation(ROLE, "admin"),
    ]
}

/// What a command says, and that it ended well.
fn said(cloud: &Cloud, words: &[&str]) -> String {
    let record = cloud.scene.agent.record();
    let output = Command::new(&record.binary)
        .args(words)
        .arg("--socket")
        .arg(&record.socket)
        .output()
        .expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn records(cloud: &Cloud) -> Vec<Value> {
    let text = said(cloud, &["iam", "audit", "-o", "json", "--limit", "4096"]);
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    document["items"].as_array().expect("a list").clone()
}

/// Events of a pod with their reasons, as they were recorded.
fn of<'a>(records: &'a [Value], name: &str) -> BTreeSet<(&'a str, &'a str)> {
    records
        .iter()
        .filter(|record| record["pod"]["name"] == name)
        .map(|record| {
            let reason = record["decision"]["reason"].as_str().unwrap_or("");
            (record["event"].as_str().expect("a word"), reason)
        })
        .collect()
}

#[test]
fn what_pods_are_given_and_refused_is_recorded_and_nothing_of_it_is_secret() {
    let file: PathBuf =
        std::env::temp_dir().join(format!("portcullis-audit-{}", std::process::id()));
    let path = file.to_str().expect("it is text");
    let options = ["--audit-log", path];
    let mut cloud = Cloud::telling("au-all", &pods(), &options, "trace");
    let mut secrets: Vec<(String, String)> = Vec::new();
    let mut keep = |what: &str, secret: &Value| {
        let secret = secret.as_str().expect("it is text").to_owned();
        assert!(
            secret.len() > 15,
            "{what} {secret:?} is too short to be found"
        );
        secrets.push((what.to_owned(), secret));
    };
    for (key, role) in [("shop/web", "app-web"), ("shop/db", "app-db")] {
        let token = cloud.token(key);
        keep("session token of metadata", &Value::String(token.clone()));
        let path = format!("{LISTING}{role}");
        // STS takes its time when it is asked for the first time.
        wait_until("STS answers", SOON, || {
            cloud.get(key, &token, &path).status == 200
        });
        for _ in 0..2 {
            let answer = cloud.get(key, &token, &path);
            assert_eq!(answer.status, 200, "{answer:?}");
            let document: Value = serde_json::from_str(&answer.body).expect("it is JSON");
            keep("secret key", &document["SecretAccessKey"]);
            keep("session token", &document["Token"]);
        }
    }
    // When a pod goes, it is told how often it was served, and by its name.
    cloud.scene.remove("shop/db");
    wait_until("its count is told", SOON, || {
        let records = records(&cloud);
        let served = records.iter().find(|record| record["event"] == "served");
        served.is_some_and(|served| served["pod"]["name"] == "db" && served["count"] == 2)
    });
    // Refusals: another's role, a path, another's token, no token, no request, a role that may not be had, a token in the wrong place.
    let (web, other) = (cloud.token("shop/web"), cloud.token("shop/greedy"));
    let status = |answer: portcullis_lab::client::HttpAnswer| answer.status;
    assert_eq!(
        status(cloud.get("shop/web", &web, &format!("{LISTING}app-db"))),
        403
    );
    assert_eq!(
        status(cloud.get("shop/web", &web, "/latest/user-data")),
        404
    );
    assert_eq!(status(cloud.get("shop/web", &other, LISTING)), 401);
    assert_eq!(status(cloud.ask("shop/web", "GET", LISTING, &[])), 401);
    let misplaced = format!("/latest/meta-data/{web}?token={web}");
    assert_eq!(status(cloud.get("shop/web", &web, &misplaced)), 400);
    let misplaced = format!("/latest/meta-data/{web}");
    assert_eq!(status(cloud.get("shop/web", &web, &misplaced)), 404);
    let greedy = cloud.token("shop/greedy");
    assert_eq!(status(cloud.get("shop/greedy", &greedy, LISTING)), 404);
    for token in [web, other, greedy] {
        keep("session token of metadata", &Value::String(token));
    }
    // A source that fails: nobody is at its end any more, and the responder has no keys from before.
    cloud.sts.stop();
    cloud.restart_responder();
    let token = loop_token(&cloud, "shop/web");
    let answer = cloud.get("shop/web", &token, &format!("{LISTING}app-web"));
    assert_eq!(answer.status, 503, "{answer:?}");
    keep("session token of metadata", &Value::String(token));

    let wanted = [
        ("shop/web", "issued", ""),
        ("shop/db", "issued", ""),
        ("shop/web", "denied", "foreign-role"),
        ("shop/web", "blocked_path", "nothing"),
        ("shop/web", "denied", "bad-token"),
        ("shop/web", "denied", "no-token"),
        ("shop/web", "bad_request", "bad-target"),
        ("shop/greedy", "denied", ""),
        ("shop/greedy", "denied", "role-refused"),
        ("shop/web", "failed", "source-failing"),
        ("shop/web", "failed", ""),
    ];
    wait_until("everything is recorded", SOON, || {
        let records = records(&cloud);
        wanted.iter().all(|(pod, event, reason)| {
            of(&records, pod.trim_start_matches("shop/")).contains(&(*event, *reason))
        })
    });
    let all = records(&cloud);
    let numbers: Vec<u64> = all
        .iter()
        .map(|record| record["seq"].as_u64().expect("a number"))
        .collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "without a gap");
    let issued = all
        .iter()
        .find(|record| record["event"] == "issued" && record["pod"]["name"] == "web")
        .expect("it was issued");
    assert_eq!(issued["node"], "node-a");
    assert_eq!(issued["origin"]["kind"], "interface");
    assert_eq!(issued["origin"]["srcIp"], "10.0.1.1");
    assert_eq!(issued["decision"]["source"], "pod");
    assert_eq!(issued["decision"]["restriction"], "app-*");
    assert_eq!(issued["credential"]["sessionName"], "shop.web");
    assert_eq!(issued["credential"]["kind"], "assume-role");
    assert!(issued["credential"]["stsRequestId"].is_string(), "{issued}");
    assert!(issued["request"]["durationMs"].is_number(), "{issued}");

    let table = said(&cloud, &["iam", "audit", "shop/greedy"]);
    assert!(
        table.contains("role-not-allowed") && !table.contains("shop/web"),
        "{table}"
    );
    let cache = said(&cloud, &["iam", "cache", "-o", "json"]);
    assert!(
        cache.contains("app-web") && cache.contains("network"),
        "{cache}"
    );
    let metrics = admin::get(cloud.scene.socket(), "/metrics").expect("the agent answers");
    for series in [
        "portcullis_responder_connected 1",
        "portcullis_metadata_blocked_total{reason=\"source-failing\"} ",
        "portcullis_sts_requests_total{operation=\"AssumeRole\",code=\"NoAnswer\"} ",
        "portcullis_role_decisions_total{result=\"refused\",reason=\"role-not-allowed\"} 1",
    ] {
        assert!(
            metrics.body.contains(series),
            "{series} in {}",
            metrics.body
        );
    }
    for pid in [cloud.scene.agent.pid(), cloud.responder.pid() as i32] {
        is_sealed(pid);
    }

    cloud.scene.agent.stop().expect("it ends");
    let written = fs::read_to_string(&file).expect("the file is there");
    assert_eq!(written.lines().count(), all.len());
    let agent = fs::read_to_string(&cloud.scene.agent.record().log).expect("a log");
    let responder = cloud.responder.log();
    assert!(
        responder.contains("TRACE"),
        "the logs say everything that they may"
    );
    let places = [
        ("records", serde_json::to_string(&all).expect("JSON")),
        ("file", written),
        ("table", table),
        ("cache", cache),
        ("metrics", metrics.body),
        ("agent's log", agent),
        ("responder's log", responder),
    ];
    for (place, text) in &places {
        for (what, secret) in &secrets {
            assert!(!text.contains(secret), "a {what} is in {place}");
        }
        assert!(
            !text.contains("node-secret"),
            "the node's key is in {place}"
        );
    }
    cloud.scene.restart();
    cloud.scene.settle();
    cloud.down();
    fs::remove_file(&file).expect("it is ours");
}

/// A session token, as soon as a responder is there.
fn loop_token(cloud: &Cloud, key: &str) -> String {
    wait_until("the responder listens", SOON, || {
        let log = cloud.responder.log();
        log.matches("handed over its listeners").count() >= 2
    });
    cloud.token(key)
}

/// The kernel writes no core of the process, and its memory is root's.
fn is_sealed(pid: i32) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("it has one");
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
    // What is not dumpable is owned by root, whatever its uid (proc(5)).
    let owner = fs::metadata(format!("/proc/{pid}/mem")).expect("it runs");
    let uid = std::os::unix::fs::MetadataExt::uid(&owner);
    assert_eq!(uid, 0, "/proc/{pid}/mem");
}

#[test]
fn a_file_that_cannot_be_written_shows_in_the_status_and_holds_up_nobody() {
    let options = ["--audit-log", "/nonexistent/audit.jsonl"];
    let cloud = Cloud::up_with("au-file", &pods()[..1], &options);
    let token = cloud.token("shop/web");
    let answer = cloud.get("shop/web", &token, &format!("{LISTING}app-web"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let status = cloud.scene.status();
    assert_eq!(status["ready"], true);
    let problems = status["problems"].to_string();
    assert!(problems.contains("/nonexistent/audit.jsonl"), "{problems}");
    wait_until("it is recorded", SOON, || {
        of(&records(&cloud), "web").contains(&("issued", ""))
    });
    cloud.down();
}
