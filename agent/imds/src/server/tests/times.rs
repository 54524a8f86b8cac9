//! Writes, times and ages, on a wire in memory and a clock that jumps.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::*;
use connection::serve;

/// A wire that counts what is done to it.
#[derive(Debug)]
pub(super) struct Wire {
    wire: DuplexStream,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    writes: AtomicU64,
    local: AtomicU64,
    resets: AtomicU64,
}

impl Wire {
    pub(super) fn new(wire: DuplexStream) -> Self {
        Self {
            wire,
            seen: Arc::default(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.seen.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

impl Transport for Wire {
    fn answer_at_once(&self) -> io::Result<()> {
        Ok(())
    }

    fn stay_on_the_node(&self) -> io::Result<()> {
        self.seen.local.fetch_add(1, Relaxed);
        Ok(())
    }

    fn reset(&self) {
        self.seen.resets.fetch_add(1, Relaxed);
    }
}

/// A client at one end of a wire and a server that serves the other.
struct Line {
    agent: Agent,
    metrics: Arc<Metrics>,
    wire: DuplexStream,
    read: Vec<u8>,
    seen: Arc<Seen>,
    started: Instant,
    _stopping: watch::Sender<bool>,
}

impl Line {
    fn of(pod: u8) -> Self {
        let agent = Agent::new();
        let server = server(&agent);
        Self::to(server, agent, pod)
    }

    fn to(server: Arc<Server<Agent>>, agent: Agent, pod: u8) -> Self {
        let (wire, theirs) = tokio::io::duplex(64 * 1024);
        let transport = Wire::new(theirs);
        let seen = Arc::clone(&transport.seen);
        let (stopping, stopped) = watch::channel(false);
        let metrics = server.metrics();
        tokio::spawn(async move {
            let peer = SocketAddr::from((Ipv4Addr::new(127, 0, 0, pod), 1));
            let hosts = Hosts::new(Service::ImdsV4, Vec::new());
            serve(transport, peer, &server, &hosts, stopped).await;
        });
        Self {
            agent,
            metrics,
            wire,
            read: Vec::new(),
            seen,
            started: Instant::now(),
            _stopping: stopping,
        }
    }

    async fn send(&mut self, text: &str) {
        self.wire
            .write_all(text.as_bytes())
            .await
            .expect("it is open");
    }

    /// Sends a request; its answer, and how long that took.
    async fn ask(&mut self, line: &str, headers: &str) -> (String, Duration) {
        let asked = Instant::now();
        self.send(&format!(
            "{line} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n"
        ))
        .await;
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split("Content-Length: ").nth(1).expect("a length");
                let length: usize = length
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .parse()
                    .expect("a number");
                if body.len() == length {
                    self.read.clear();
                    return (text, asked.elapsed());
                }
            }
            assert_ne!(
                self.wire.read_buf(&mut self.read).await.expect("a wire"),
                0,
                "{text}"
            );
        }
    }

    async fn token(&mut self) -> String {
        let (reply, _) = self
            .ask(
                "PUT /latest/api/token",
                "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n",
            )
            .await;
        with_token(reply.split_once("\r\n\r\n").expect("an answer").1)
    }

    /// What is said until it ends, and when that was.
    async fn end(&mut self) -> (String, Duration) {
        self.wire.read_to_end(&mut self.read).await.expect("a wire");
        let said = String::from_utf8_lossy(&self.read).into_owned();
        (said, self.started.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn m6_an_answer_is_one_write() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    for (number, path) in [
        ROLES,
        "/latest/meta-data/iam/security-credentials/app",
        "/latest",
        "/latest/nothing",
        "/latest/meta-data/iam/info",
    ]
    .into_iter()
    .enumerate()
    {
        line.ask(&format!("GET {path}"), &token).await;
        assert_eq!(line.seen.writes.load(Relaxed), number as u64 + 2, "{path}");
    }
    line.ask("GET /latest?", &token).await;
    assert_eq!(line.seen.writes.load(Relaxed), 7);
}

#[tokio::test(start_paused = true)]
async fn only_a_put_keeps_the_socket_on_the_node() {
    let mut line = Line::of(APP);
    line.ask("GET /latest", "").await;
    line.ask("GET /latest/api/token", "").await;
    assert_eq!(line.seen.local.load(Relaxed), 0);
    line.token().await;
    assert_eq!(line.seen.local.load(Relaxed), 1);
    line.ask("PUT /latest/api/token", "").await;
    assert_eq!(line.seen.local.load(Relaxed), 2, "a refusal too");
}

#[tokio::test(start_paused = true)]
async fn a_first_head_has_five_seconds_from_the_start() {
    let mut line = Line::of(APP);
    line.send("GET / HT").await;
    let (said, after) = line.end().await;
    assert_eq!((said.as_str(), after), ("", HEAD_WITHIN));
    assert_eq!(line.metrics.slow_heads.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_trickle_win_no_time() {
    let mut line = Line::of(APP);
    for byte in "GET / HTTP/1.1\r\nHost".chars() {
        if line.wire.write_all(&[byte as u8]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(400)).await;
    }
    let (said, after) = line.end().await;
    assert!(said.is_empty() && after < HEAD_WITHIN * 2, "{after:?}");
    assert_eq!(line.metrics.slow_heads.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_a_minute() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    sleep(Duration::from_secs(59)).await;
    let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
    assert!(reply.ends_with("app") && reply.contains("Connection: keep-alive"));
    let idle = Instant::now();
    line.end().await;
    assert_eq!(idle.elapsed(), IDLE_WITHIN);
    assert_eq!(line.metrics.slow_heads.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_later_head_has_five_seconds_from_its_first_byte() {
    let mut line = Line::of(APP);
    line.token().await;
    sleep(Duration::from_secs(50)).await;
    line.send("G").await;
    let begun = Instant::now();
    line.end().await;
    assert_eq!(begun.elapsed(), HEAD_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_ten_minutes_ends_behind_its_next_answer() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    for _ in 0..11 {
        sleep(Duration::from_secs(54)).await;
        let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
        assert!(reply.contains("Connection: keep-alive"));
    }
    sleep(Duration::from_secs(54)).await;
    let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
    assert!(reply.contains("Connection: close") && reply.ends_with("app"));
    line.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_thousandth_answer_is_the_last() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    for _ in 0..998 {
        let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
        assert!(
            reply.starts_with("HTTP/1.1 200") && reply.contains("Connection: keep-alive"),
            "{reply}"
        );
    }
    let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
    assert!(reply.contains("Connection: close") && reply.ends_with("app"));
    line.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_undecided_pod_waits_400_ms_and_is_told_to_come_back() {
    let mut line = Line::of(NEW);
    let token = line.token().await;
    for path in [
        ROLES,
        "/latest/meta-data/iam/security-credentials/app",
        "/latest/meta-data/placement/region",
        "/latest",
    ] {
        let (reply, after) = line.ask(&format!("GET {path}"), &token).await;
        assert!(
            reply.starts_with("HTTP/1.1 503 ") && reply.contains("\r\nRetry-After: 1\r\n"),
            "{path}: {reply}"
        );
        assert_eq!(after, HOLD, "{path}");
    }
    assert_eq!(
        line.metrics
            .identity_wait
            .seen()
            .buckets
            .iter()
            .sum::<u64>(),
        4
    );
    let (_, after) = line.ask("GET /latest", "").await;
    assert_eq!(after, Duration::ZERO, "what needs no pod waits for none");
    assert_eq!(line.agent.0.fetches.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_decision_wakes_whoever_waits_for_it() {
    let mut line = Line::of(NEW);
    let token = line.token().await;
    let agent = line.agent.clone();
    let delay = Duration::from_millis(123);
    tokio::spawn(async move {
        sleep(delay).await;
        agent.decide(NEW, known(Assigned::Role(role("app"))));
    });
    let (reply, after) = line.ask(&format!("GET {ROLES}"), &token).await;
    assert!(reply.ends_with("\r\n\r\napp"), "{reply}");
    assert_eq!(after, delay);
}

#[tokio::test(start_paused = true)]
async fn credentials_are_waited_for_until_900_ms() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    let get = "GET /latest/meta-data/iam/security-credentials/app";
    let late = Duration::from_millis(899);
    line.agent.answer_after(late, ready());
    let (reply, after) = line.ask(get, &token).await;
    assert!(reply.contains(SECRET) && after == late, "{after:?}");
    line.agent.answer_after(Duration::from_secs(5), ready());
    let (reply, after) = line.ask(get, &token).await;
    assert!(
        reply.starts_with("HTTP/1.1 503 ") && after == CUT,
        "{after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_that_come_behind_a_change_of_role_are_not_given() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    line.agent.answer_after(Duration::from_millis(200), ready());
    let agent = line.agent.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(100)).await;
        agent.decide(APP, known(Assigned::Refused("not any more".to_owned())));
    });
    let (reply, _) = line
        .ask("GET /latest/meta-data/iam/security-credentials/app", &token)
        .await;
    assert!(reply.starts_with("HTTP/1.1 503 ") && !reply.contains(SECRET));
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_its_attachment() {
    let mut line = Line::of(APP);
    let token = line.token().await;
    line.agent.answer_after(Duration::from_millis(500), ready());
    line.send(&format!(
        "GET {ROLES}/app HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n"
    ))
    .await;
    sleep(Duration::from_millis(100)).await;
    line.agent.detach(APP);
    let (said, _) = line.end().await;
    assert_eq!(said, "", "not even the answer that was on its way");
    assert_eq!(line.seen.resets.load(Relaxed), 1);
    assert_eq!(line.metrics.detached.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_under_open_connections() {
    let agent = Agent::new();
    let first = Keys::new(&[7; 32], None);
    let (rotating, keys) = watch::channel(Arc::new(first.clone()));
    let mut line = Line::to(server_with(&agent, keys), agent, APP);
    let token = line.token().await;
    let mut second = first;
    for (key, status) in [(8, "HTTP/1.1 200 "), (9, "HTTP/1.1 401 ")] {
        second.rotate(&[key; 32]);
        rotating.send_replace(Arc::new(second.clone()));
        let (reply, _) = line.ask(&format!("GET {ROLES}"), &token).await;
        assert!(reply.starts_with(status), "{reply}");
    }
}
