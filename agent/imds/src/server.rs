//! Sockets: who may connect, how long a connection may take and last, and when the responder stops. What is answered stands in `respond`.
//!
//! ```text
//! accept -> slot of the node -> origin -> caller -> seat of the pod -> head -> turn -> respond -> one write -> head ...
//! ```
//! Identity belongs to the connection and is fixed when it is accepted. No origin, no live attachment, no slot: the connection is reset, without a byte.
//! HTTP is read and written by `request` and `response`; docs/decisions.md says why not by a library.

mod connection;
mod pods;
mod rate;

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::audit::Book;
use crate::listener::Hosts;
use crate::metrics::Metrics;
use crate::node::{Callers, Origins, Proofs, Vault};
use crate::respond::ImdsV1;
use crate::token::Keys;
use connection::Transport;
use pods::Pods;

/// How long a request is held for its pod's decision, or for its pod's rate.
pub const HOLD: Duration = Duration::from_millis(400);
/// When a request for credentials is answered at the latest: SDKs give up at one second.
pub const CUT: Duration = Duration::from_millis(900);
/// How long a head may take, from its first byte or from the connection's start.
pub const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may be idle between requests.
pub const IDLE_WITHIN: Duration = Duration::from_mins(1);
/// The age at which a connection is closed behind its next answer.
pub const LONGEST_AGE: Duration = Duration::from_mins(10);
/// The number of requests behind which a connection is closed.
pub const MOST_REQUESTS: u32 = 1000;
/// Requests of a pod in a second, unless told otherwise.
pub const POD_REQUESTS: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
/// Connections of a node.
pub const MOST_CONNECTIONS: usize = 4096;
/// How long answers that were begun may take when the responder stops.
pub const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long the kernel's word on a connection may take.
const ORIGIN_WITHIN: Duration = Duration::from_secs(1);
/// Behind an error of `accept`, as with too many open files: it would come back at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The agent's sides in one.
pub trait Node: Origins + Callers + Proofs + Vault {}

impl<N: Origins + Callers + Proofs + Vault> Node for N {}

/// What an operator can choose, and the keys of session tokens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether session tokens are needed.
    pub imds_v1: ImdsV1,
    /// The keys of session tokens; a new value when they are rotated.
    pub keys: watch::Receiver<Arc<Keys>>,
    /// Requests of a pod in a second; twice as many at once.
    pub pod_requests: NonZeroU32,
}

/// A socket that the guard redirects to, and what it stands for.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub listener: TcpListener,
    /// The service and what `Host` may say.
    pub hosts: Hosts,
}

/// The responder.
#[derive(Debug)]
pub struct Server<N> {
    node: N,
    settings: Settings,
    metrics: Arc<Metrics>,
    book: Arc<Book>,
    pods: Pods,
    slots: Semaphore,
    nonces: Nonces,
}

impl<N: Node> Server<N> {
    /// A responder that serves nothing yet. Fails where the system gives no random numbers.
    pub fn new(node: N, settings: Settings) -> io::Result<Self> {
        let pods = Pods::new(settings.pod_requests);
        Ok(Self {
            node,
            settings,
            metrics: Arc::default(),
            book: Arc::default(),
            pods,
            slots: Semaphore::new(MOST_CONNECTIONS),
            nonces: Nonces::new()?,
        })
    }

    /// Counts and records there: both outlive a server.
    #[must_use]
    pub fn observed(mut self, metrics: Arc<Metrics>, book: Arc<Book>) -> Self {
        self.metrics = metrics;
        self.book = book;
        self
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Serves `bound` until `stop` is ready, then finishes the answers that were begun, for at most [`STOP_WITHIN`].
    pub async fn run(self: Arc<Self>, bound: Vec<Bound>, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        for bound in bound {
            listeners.spawn(Arc::clone(&self).accept(bound, stopped.clone()));
        }
        stop.await;
        // Without receivers there is nobody to stop.
        let _ = stopping.send(true);
        while listeners.join_next().await.is_some() {}
    }

    /// Accepts until told to stop. No error of a socket ends it.
    async fn accept(self: Arc<Self>, bound: Bound, mut stopped: watch::Receiver<bool>) {
        let Bound { listener, hosts } = bound;
        let hosts = Arc::new(hosts);
        let mut connections = JoinSet::new();
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                _ = stopped.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    let (hosts, stopped) = (Arc::clone(&hosts), stopped.clone());
                    connections.spawn(async move {
                        connection::serve(stream, peer, &server, &hosts, stopped).await;
                    });
                }
                Err(error) => {
                    if complained.is_none_or(|at| at.elapsed() > Duration::from_mins(1)) {
                        complained = Some(Instant::now());
                        warn!(service = ?hosts.service(), %error, "Cannot accept connections");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        let deadline = Instant::now() + STOP_WITHIN;
        while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
        debug!(service = ?hosts.service(), left = connections.len(), "Stopped");
    }
}

impl Transport for TcpStream {
    fn answer_at_once(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }

    fn stay_on_the_node(&self) -> io::Result<()> {
        let address = self.local_addr()?.ip();
        let socket = SockRef::from(self);
        if address.is_ipv6() {
            socket.set_unicast_hops_v6(1)?;
        }
        // A socket of IPv6 that carries IPv4 has both.
        if address.to_canonical().is_ipv4() {
            socket.set_ttl_v4(1)?;
        }
        Ok(())
    }

    fn reset(&self) {
        // If it fails the connection ends by FIN instead: without an answer all the same.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// Numbers that are never the same twice on a node: random at the start, then counted.
#[derive(Debug)]
struct Nonces {
    start: [u8; 8],
    next: AtomicU64,
}

impl Nonces {
    fn new() -> io::Result<Self> {
        let mut start = [0; 8];
        SystemRandom::new()
            .fill(&mut start)
            .map_err(|_unspecified| io::Error::other("the system gives no random numbers"))?;
        Ok(Self {
            start,
            next: AtomicU64::new(0),
        })
    }

    fn next(&self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.start);
        nonce[8..].copy_from_slice(&self.next.fetch_add(1, Relaxed).to_be_bytes());
        nonce
    }
}

#[cfg(test)]
mod tests;
