//! A feed against an API server that answers by a script. Time is the runtime's: it leaps over every wait.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// What the API server does with one request.
enum Reply {
    /// An answer of this code.
    Json(u16, Value),
    /// Lines of a watch, which then ends.
    Lines(Vec<Value>),
    /// Lines of a watch, which then stays open and says nothing more.
    Open(Vec<Value>),
    /// The connection is refused.
    Away,
}

/// What was asked, and the pause before it.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, Duration)>>>);

impl Asked {
    fn paths(&self) -> Vec<String> {
        let asked = self.0.lock().expect("no test panics in it");
        asked.iter().map(|(path, _)| path.clone()).collect()
    }

    fn pauses(&self) -> Vec<Duration> {
        let asked = self.0.lock().expect("no test panics in it");
        asked.iter().map(|(_, pause)| *pause).collect()
    }
}

/// Starts a feed of pods. Behind the script's end every request hangs.
fn start(script: Vec<Reply>) -> (mpsc::Receiver<Batch>, Asked) {
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let asked = Asked::default();
    let notes = asked.clone();
    let mut last = Instant::now();
    let service = tower::service_fn(move |request: Request<Body>| {
        let pause = last.elapsed();
        last = Instant::now();
        let mut notes = notes.0.lock().expect("no test panics in it");
        notes.push((request.uri().to_string(), pause));
        let reply = script.lock().expect("no test panics in it").pop_front();
        async move {
            match reply {
                Some(reply) => answer(reply),
                None => std::future::pending().await,
            }
        }
    });
    let client = Client::new(service, "default");
    let (sender, receiver) = mpsc::channel(64);
    let source = Source::new(Kind::Pod, client, Keep::nothing()).expect("pods have a path");
    tokio::spawn(Feed::new(Kind::Pod, source, sender).run());
    (receiver, asked)
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

fn answer(reply: Reply) -> std::io::Result<Response<StreamBody<Frames>>> {
    let (code, lines, open) = match reply {
        Reply::Json(code, value) => (code, vec![value], false),
        Reply::Lines(lines) => (200, lines, false),
        Reply::Open(lines) => (200, lines, true),
        Reply::Away => return Err(std::io::ErrorKind::ConnectionRefused.into()),
    };
    let frames: Vec<_> = lines
        .iter()
        .map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))))
        .collect();
    let frames = futures::stream::iter(frames);
    let frames = if open {
        frames.chain(futures::stream::pending()).boxed()
    } else {
        frames.boxed()
    };
    let response = Response::builder().status(code);
    let body = StreamBody::new(frames);
    Ok(response.body(body).expect("a code makes a response"))
}

fn pod(name: &str, version: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n1"}})
}

fn page(names: &[&str], version: u32, more: &str) -> Reply {
    let items: Vec<Value> = names.iter().map(|name| pod(name, version)).collect();
    let metadata = json!({"resourceVersion": version.to_string(), "continue": more});
    Reply::Json(200, json!({"metadata": metadata, "items": items}))
}

fn line(kind: &str, name: &str, version: u32) -> Value {
    json!({"type": kind, "object": pod(name, version)})
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

fn gone() -> Value {
    json!({"type": "ERROR", "object": status(410, "too old resource version")})
}

/// One change as a word or two.
fn words(change: &Change) -> String {
    match change {
        Change::Apply(entry) => format!("apply {}", entry.key.name),
        Change::Delete { key, .. } => format!("delete {}", key.name),
        Change::Reset { live, .. } => {
            let names: Vec<&str> = live.iter().map(|entry| entry.key.name.as_str()).collect();
            format!("reset {}", names.join(","))
        }
        Change::Trouble {
            trouble: Some(_), ..
        } => "trouble".to_owned(),
        Change::Trouble { trouble: None, .. } => "works".to_owned(),
    }
}

/// The next changes, as many as are expected.
async fn expect(receiver: &mut mpsc::Receiver<Batch>, expected: &[&str]) {
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let batch = receiver.recv().await.expect("the feed goes on");
        seen.extend(batch.iter().map(words));
    }
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_pages_goes_out_whole_and_the_watch_goes_on_from_it() {
    let (mut changes, asked) = start(vec![
        page(&["a", "b"], 7, "next"),
        page(&["c"], 7, ""),
        Reply::Lines(vec![
            line("ADDED", "d", 8),
            line("DELETED", "a", 9),
            line("BOOKMARK", "", 12),
        ]),
        Reply::Open(vec![line("MODIFIED", "b", 13)]),
    ]);
    expect(
        &mut changes,
        &["reset a,b,c", "apply d", "delete a", "apply b"],
    )
    .await;
    let paths = asked.paths();
    assert!(paths[0].contains("limit=500") && !paths[0].contains("resourceVersion"));
    assert!(paths[1].contains("continue=next"));
    assert!(
        paths[2].contains("resourceVersion=7") && paths[2].contains("allowWatchBookmarks=true")
    );
    assert!(paths[3].contains("resourceVersion=12"), "{}", paths[3]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_is_never_applied() {
    let (mut changes, asked) = start(vec![
        page(&["a"], 7, "next"),
        Reply::Away,
        page(&["b"], 8, ""),
        Reply::Open(Vec::new()),
    ]);
    expect(&mut changes, &["trouble", "reset b", "works"]).await;
    assert!(!asked.paths()[2].contains("continue"));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_no_trouble_and_lists_are_spread() {
    let mut script = vec![page(&["a"], 7, "")];
    for _ in 0..20 {
        script.push(Reply::Lines(vec![gone()]));
        script.push(page(&["a"], 9, ""));
    }
    script.push(Reply::Open(vec![line("ADDED", "b", 10)]));
    let (mut changes, asked) = start(script);
    let mut expected = vec!["reset a"; 21];
    expected.push("apply b");
    expect(&mut changes, &expected).await;
    let again = asked
        .paths()
        .into_iter()
        .zip(asked.pauses())
        .filter(|(path, _)| path.contains("limit="))
        .skip(1);
    for (_, pause) in again {
        assert!(pause >= Duration::from_secs(1) && pause <= Duration::from_secs(4));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_works_again_without_an_event_and_is_noticed_soon() {
    let mut script = vec![
        page(&["a"], 7, ""),
        Reply::Lines(vec![line("BOOKMARK", "", 8)]),
    ];
    script.extend((0..20).map(|_| Reply::Away));
    script.push(Reply::Open(Vec::new()));
    let (mut changes, asked) = start(script);
    expect(&mut changes, &["reset a", "trouble", "works"]).await;
    assert!(
        asked
            .paths()
            .iter()
            .skip(2)
            .all(|path| path.contains("resourceVersion=8"))
    );
    assert!(
        asked
            .pauses()
            .iter()
            .all(|pause| *pause <= Duration::from_secs(4))
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_never_heard_of_a_version_is_listed_again() {
    let mut script = vec![page(&["a"], 700, "")];
    let ahead = status(504, "Too large resource version: 700, current: 3");
    script.extend((0..STUCK).map(|_| Reply::Json(504, ahead.clone())));
    script.push(page(&["b"], 3, ""));
    script.push(Reply::Open(Vec::new()));
    let (mut changes, _) = start(script);
    let trouble = ["trouble"];
    expect(
        &mut changes,
        &[&["reset a"], &trouble[..], &["reset b", "works"]].concat(),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_named() {
    let message = "pods is forbidden: User \"x\" cannot watch resource \"pods\"";
    let (mut changes, _) = start(vec![
        page(&["a"], 7, ""),
        Reply::Json(403, status(403, message)),
        Reply::Open(Vec::new()),
    ]);
    expect(&mut changes, &["reset a"]).await;
    let batch = changes.recv().await.expect("the feed goes on");
    let [
        Change::Trouble {
            trouble: Some(trouble),
            ..
        },
    ] = batch.as_slice()
    else {
        panic!("{batch:?}");
    };
    assert_eq!(trouble.lacks.as_deref(), Some("watch pods"));
    assert_eq!(trouble.reason, message);
    assert_eq!(
        lacks("watch pods", message).to_string().lines().next(),
        Some("error PC4005: the agent may not watch pods")
    );
    expect(&mut changes, &["works"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_opened_again() {
    let (mut changes, asked) = start(vec![
        page(&["a"], 7, ""),
        Reply::Open(vec![line("ADDED", "b", 8)]),
        Reply::Open(vec![line("ADDED", "c", 9)]),
    ]);
    expect(&mut changes, &["reset a", "apply b", "apply c"]).await;
    assert!(asked.paths()[2].contains("resourceVersion=8"));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_asks_for_patience_gets_it() {
    let mut busy = status(429, "busy");
    busy["details"] = json!({"retryAfterSeconds": 9});
    let (mut changes, asked) = start(vec![Reply::Json(429, busy), page(&["a"], 7, "")]);
    expect(&mut changes, &["trouble", "reset a", "works"]).await;
    assert!(asked.pauses()[1] >= Duration::from_secs(9));
}
