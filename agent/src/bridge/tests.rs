use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::routing::{get, post};
use tokio::io::{DuplexStream, duplex, split};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;
use crate::client::{ClientError, Line};

/// A stand-in for the agent, which answers with `long` bytes or never.
struct StandIn {
    socket: PathBuf,
    /// The question that is never answered was given up.
    gone: Arc<AtomicBool>,
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl StandIn {
    fn new(name: &str) -> Self {
        let socket =
            std::env::temp_dir().join(format!("portcullis-bridge-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let gone = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&gone);
        let never = move || {
            let flag = SetOnDrop(Arc::clone(&flag));
            async move {
                let _flag = flag;
                std::future::pending::<()>().await;
            }
        };
        let router = Router::new()
            .route("/v1/status", get(|| async { "x".repeat(1_000_000) }))
            .route(
                "/v1/explain",
                get(|uri: axum::http::Uri| async move { uri.to_string() }),
            )
            .route("/v1/synced", post(never))
            .route("/v1/secret", get(|| async { "secret" }));
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { socket, gone }
    }

    /// A bridge to it, and the caller's end.
    fn bridge(&self) -> (DuplexStream, JoinHandle<Result<()>>) {
        bridge_to(self.socket.clone())
    }
}

fn bridge_to(socket: PathBuf) -> (DuplexStream, JoinHandle<Result<()>>) {
    let (near, far) = duplex(4096);
    let (input, output) = split(far);
    let bridge = tokio::spawn(async move { run(input, output, &socket).await });
    (near, bridge)
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[tokio::test]
async fn questions_are_passed_on_one_after_the_other() {
    let agent = StandIn::new("questions");
    let (caller, bridge) = agent.bridge();
    let mut line = Line::over(caller, ()).await.expect("a line");
    let body = line
        .call(Method::GET, "/v1/status")
        .await
        .expect("is passed on");
    assert_eq!(body.len(), 1_000_000);
    let path = "/v1/explain?source=a/b&destination=%5Bfd00::7%5D:80";
    let body = line.call(Method::GET, path).await.expect("is passed on");
    assert_eq!(body, path);
    drop(line);
    bridge.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn what_is_not_on_the_list_is_refused_even_if_the_agent_knows_it() {
    let agent = StandIn::new("list");
    let (caller, _bridge) = agent.bridge();
    let mut line = Line::over(caller, ()).await.expect("a line");
    for (method, path) in [
        (Method::GET, "/v1/secret"),
        (Method::POST, "/v1/status"),
        (Method::DELETE, "/v1/bpf/maps"),
        (Method::GET, "/v1/synced"),
        (Method::GET, "/v1/statusx"),
    ] {
        let refused = line.call(method, path).await.expect_err("is refused");
        assert!(
            matches!(&refused, ClientError::Refused(StatusCode::FORBIDDEN, text) if text.contains("PC4004")),
            "{path}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_bridge_and_the_question() {
    let agent = StandIn::new("gone");
    let (caller, bridge) = agent.bridge();
    let mut line = Line::over(caller, ()).await.expect("a line");
    let asked = timeout(
        Duration::from_millis(100),
        line.call(Method::POST, "/v1/synced"),
    );
    assert!(asked.await.is_err(), "it is never answered");
    drop(line);
    timeout(Duration::from_secs(5), bridge)
        .await
        .expect("the bridge ends")
        .expect("no panic")
        .expect("an orderly end");
    let given_up = async {
        while !agent.gone.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), given_up)
        .await
        .expect("the agent stops answering");
}

#[tokio::test]
async fn without_an_agent_the_answer_has_a_code() {
    let (caller, _bridge) = bridge_to(PathBuf::from("/nonexistent/portcullis.sock"));
    let mut line = Line::over(caller, ()).await.expect("a line");
    let refused = line
        .call(Method::GET, "/v1/status")
        .await
        .expect_err("no agent");
    assert!(
        matches!(&refused, ClientError::Refused(StatusCode::BAD_GATEWAY, text) if text.contains("PC4002")),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_nothing_is_not_waited_for() {
    let (caller, bridge) = bridge_to(PathBuf::from("/nonexistent/portcullis.sock"));
    timeout(IDLE + Duration::from_secs(1), bridge)
        .await
        .expect("it ends")
        .expect("no panic")
        .expect("an orderly end");
    drop(caller);
}
