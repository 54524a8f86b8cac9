//! A metadata service in this process: values by path, session tokens of its own, replies that are wrong on purpose, and a log of all heads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::upstream::Endpoint;

/// What is answered.
#[derive(Clone)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    after: Duration,
}

impl Reply {
    /// Status 200 with a body.
    pub(crate) fn ok(body: &str) -> Self {
        let length = body.len();
        Self::raw(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Node: node-header\r\n\r\n{body}"
            )
            .as_bytes(),
        )
    }

    /// Another status.
    pub(crate) fn status(status: u16) -> Self {
        Self::raw(format!("HTTP/1.1 {status} No\r\nContent-Length: 5\r\n\r\nerror").as_bytes())
    }

    /// These bytes, then the end of the connection.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_owned(),
            after: Duration::ZERO,
        }
    }

    /// The same, later.
    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// The service. Dropped, it listens no more.
pub(crate) struct Service {
    endpoint: Endpoint,
    inner: Arc<Mutex<Inner>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Inner {
    replies: BTreeMap<String, Reply>,
    heads: Vec<String>,
    connections: usize,
    tokens: usize,
    valid: BTreeSet<String>,
}

impl Service {
    /// A service with these values, by their paths below the version.
    pub(crate) async fn start<const N: usize>(values: [(&str, &str); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let inner = Arc::<Mutex<Inner>>::default();
        let serving = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                lock(&serving).connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        let service = Self {
            endpoint: format!("http://{address}").parse().expect("an endpoint"),
            inner,
            task: task.abort_handle(),
        };
        for (path, value) in values {
            service.set(path, Reply::ok(value));
        }
        service
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(crate) fn set(&self, path: &str, reply: Reply) {
        lock(&self.inner).replies.insert(path.to_owned(), reply);
    }

    pub(crate) fn unset(&self, path: &str) {
        lock(&self.inner).replies.remove(path);
    }

    /// Every token that was given is refused from now on.
    pub(crate) fn forget_tokens(&self) {
        lock(&self.inner).valid.clear();
    }

    /// Every head that came, in order.
    pub(crate) fn heads(&self) -> Vec<String> {
        lock(&self.inner).heads.clone()
    }

    /// Every target that was asked for, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        let heads = self.heads();
        let target = |head: &String| head.split(' ').nth(1).unwrap_or_default().to_owned();
        heads.iter().map(target).collect()
    }

    /// How often `path`, below the version, was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        let target = format!("/latest/{path}");
        self.paths()
            .iter()
            .filter(|asked| **asked == target)
            .count()
    }

    /// How many tokens were given.
    pub(crate) fn tokens(&self) -> usize {
        lock(&self.inner).tokens
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.inner).connections
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, inner: Arc<Mutex<Inner>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.extend(byte);
    }
    let reply = answer(&mut lock(&inner), &String::from_utf8(head).expect("text"));
    tokio::time::sleep(reply.after).await;
    // Whoever asked may be gone.
    let _ = stream.write_all(&reply.bytes).await;
    let _ = stream.shutdown().await;
}

fn answer(inner: &mut Inner, head: &str) -> Reply {
    inner.heads.push(head.to_owned());
    let mut words = head.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.strip_prefix("/latest/").unwrap_or("none");
    let scripted = inner.replies.get(path).cloned();
    if path == "api/token" {
        assert_eq!(method, Some("PUT"));
        return scripted.unwrap_or_else(|| {
            inner.tokens += 1;
            let token = format!("node-token-{}", inner.tokens);
            inner.valid.insert(token.clone());
            Reply::ok(&token)
        });
    }
    let token = head
        .lines()
        .find_map(|line| line.strip_prefix("X-aws-ec2-metadata-token: "));
    if !token.is_some_and(|token| inner.valid.contains(token)) {
        return Reply::status(401);
    }
    scripted.unwrap_or_else(|| Reply::status(404))
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("nobody panicked")
}
