//! One connection: whose it is, then request after request, each with one write.
//!
//! Times, in the order in which they begin:
//! 1. origin: 1 s, then reset. 2. first head: 5 s from the start. 3. turn of the pod's rate and decision whose pod it is: together 400 ms from the head's end.
//! 4. web-identity token and credentials: until 900 ms from the head's end. 5. write: 5 s. 6. idle: 60 s, then from the first byte 5 s for the next head.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, trace};
use zeroize::Zeroizing;

use super::pods::Taken;
use super::rate::Turn;
use super::{
    CUT, HEAD_WITHIN, HOLD, IDLE_WITHIN, LONGEST_AGE, MOST_REQUESTS, Node, ORIGIN_WITHIN, Server,
};
use crate::audit::{Asked, Credential, Event, Record, Served, Target, Whose};
use crate::caller::{Assigned, Attachment, Caller};
use crate::credentials::{Credentials, Fetched, Found, Outcome};
use crate::listener::Hosts;
use crate::metrics::{Class, ImdsVersion};
use crate::reason::Reason;
use crate::request::{Extent, Method, Request, extent};
use crate::respond::{Answer, Proof, Situation, class, imds_version, issue, respond};
use crate::response::{Response, Then};
use crate::role::RoleArn;
use crate::route::Route;

/// An answer is far smaller than a socket's buffer: who does not take it is not there.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// How long and how much is read and thrown away behind the last answer. Closed with bytes unread, the kernel would reset, and the answer might be lost.
const LINGER_WITHIN: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 * 1024;
/// What is read at a time at least, and what the buffer of an idle connection may keep.
const SMALL_BUFFER: usize = 1024;

/// A stream of bytes that can do what answers need of a socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// No waiting for acknowledgements (`TCP_NODELAY`).
    fn answer_at_once(&self) -> io::Result<()>;
    /// What is sent from now on dies behind the first router: TTL or hop limit 1.
    fn stay_on_the_node(&self) -> io::Result<()>;
    /// Dropped, it ends by RST.
    fn reset(&self);
}

/// Serves the connection of `peer` until it ends.
pub(super) async fn serve<S: Transport, N: Node>(
    stream: S,
    peer: SocketAddr,
    server: &Server<N>,
    hosts: &Hosts,
    stopped: watch::Receiver<bool>,
) {
    let metrics = &*server.metrics;
    let Ok(_slot) = server.slots.try_acquire() else {
        metrics.over_node_limit.fetch_add(1, Relaxed);
        return stream.reset();
    };
    let taken = timeout(ORIGIN_WITHIN, server.node.take(peer, hosts.service())).await;
    let known = taken.ok().flatten().and_then(|attachment| {
        let caller = server.node.watch(attachment)?;
        Some((attachment, caller))
    });
    let Some((attachment, caller)) = known else {
        metrics.unknown_origins.fetch_add(1, Relaxed);
        return stream.reset();
    };
    let Some(seat) = server.pods.enter(attachment, Instant::now()) else {
        metrics.over_pod_limit.fetch_add(1, Relaxed);
        return stream.reset();
    };
    if seat.evicted {
        metrics.evicted.fetch_add(1, Relaxed);
    }
    if stream.answer_at_once().is_err() {
        return;
    }
    metrics.connections.fetch_add(1, Relaxed);
    let _open = Open(&metrics.connections);
    let mut conversation = Conversation {
        stream,
        server,
        hosts,
        attachment,
        peer: peer.ip(),
        caller: caller.clone(),
        seat,
        stopped,
        buffer: Zeroizing::default(),
        target: Target::default(),
        handed: None,
        since: Instant::now(),
        answered: 0,
    };
    let is_gone = tokio::select! {
        biased;
        () = gone(caller) => true,
        () = conversation.hold() => false,
    };
    if is_gone {
        metrics.detached.fetch_add(1, Relaxed);
        conversation.stream.reset();
    }
}

/// Ready when the attachment is gone.
async fn gone(mut caller: watch::Receiver<Caller>) {
    while caller.changed().await.is_ok() {}
}

struct Open<'a>(&'a std::sync::atomic::AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Conversation<'a, S, N> {
    stream: S,
    server: &'a Server<N>,
    hosts: &'a Hosts,
    attachment: Attachment,
    peer: IpAddr,
    caller: watch::Receiver<Caller>,
    seat: Taken<'a>,
    stopped: watch::Receiver<bool>,
    /// What was read and not yet answered. Heads have tokens in them.
    buffer: Zeroizing<Vec<u8>>,
    /// Of the request that is answered.
    target: Target,
    /// The keys that were handed out here last, and where that is counted.
    handed: Option<(Arc<Credentials>, Arc<Served>)>,
    since: Instant,
    answered: u32,
}

/// An answer, and what is recorded of it.
struct Answered {
    response: Response,
    class: Class,
    version: ImdsVersion,
    /// What came of asking for keys, if that was done.
    fetched: Option<Fetched>,
}

/// What came of waiting for a head.
enum Heard {
    Head(Result<Request, Reason>),
    End,
}

impl<S: Transport, N: Node> Conversation<'_, S, N> {
    async fn hold(&mut self) {
        while let Heard::Head(read) = self.hear().await {
            let arrived = Instant::now();
            let answered = self.answer(&read, arrived).await;
            self.note(&answered, arrived.elapsed());
            let Answered {
                response, class, ..
            } = answered;
            let status = response.status;
            debug!(attachment = ?self.attachment, service = ?self.hosts.service(), class = class.label(), status, reason = response.reason.map(Reason::label), "Answered");
            self.answered += 1;
            let goes_on = read.as_ref().is_ok_and(|request| request.keep_alive)
                && self.answered < MOST_REQUESTS
                && self.since.elapsed() < LONGEST_AGE
                && !*self.stopped.borrow();
            let then = if goes_on {
                Then::KeepAlive
            } else {
                Then::Close
            };
            let is_put = read.as_ref().is_ok_and(|request| {
                request.method == Method::Put && request.route == Route::Token
            });
            if is_put && self.stream.stay_on_the_node().is_err() {
                return;
            }
            let is_head = read
                .as_ref()
                .is_ok_and(|request| request.method == Method::Head);
            let bytes = response.encode(is_head, then, Timestamp::now());
            let written = timeout(WRITE_WITHIN, self.stream.write_all(&bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
            if then == Then::Close {
                return self.linger().await;
            }
        }
    }

    /// Waits for the next whole head, or for what can only be refused.
    async fn hear(&mut self) -> Heard {
        if self.buffer.is_empty() && self.buffer.capacity() > SMALL_BUFFER {
            self.buffer = Zeroizing::default();
        }
        let is_first = self.answered == 0;
        let mut known = 0;
        let mut deadline = match (is_first, self.buffer.is_empty()) {
            (true, _) => self.since + HEAD_WITHIN,
            (false, true) => Instant::now() + IDLE_WITHIN,
            (false, false) => Instant::now() + HEAD_WITHIN,
        };
        loop {
            match extent(&self.buffer, known, self.hosts.service().surface()) {
                Ok(Extent::Whole(length)) => {
                    self.seat.work();
                    self.target = Target::of(&self.buffer);
                    let read = Request::read(&self.buffer[..length], self.hosts);
                    self.buffer.drain(..length);
                    return Heard::Head(read);
                }
                Ok(Extent::Part) => known = self.buffer.len(),
                Err(reason) => {
                    self.target = Target::of(&self.buffer);
                    return Heard::Head(Err(reason));
                }
            }
            let is_idle = self.buffer.is_empty();
            if is_idle {
                self.seat.rest(Instant::now());
            } else {
                self.seat.work();
            }
            self.buffer.reserve(SMALL_BUFFER);
            tokio::select! {
                // What is there is read before a timer is set: most heads are.
                biased;
                read = self.stream.read_buf(&mut *self.buffer) => match read {
                    Ok(0) | Err(_) => return Heard::End,
                    Ok(_) if is_idle && !is_first => deadline = Instant::now() + HEAD_WITHIN,
                    Ok(_) => {}
                },
                () = sleep_until(deadline) => {
                    if is_first || !is_idle {
                        self.server.metrics.slow_heads.fetch_add(1, Relaxed);
                    }
                    return Heard::End;
                }
                () = self.seat.asked_to_leave(), if is_idle => return Heard::End,
                _ = self.stopped.wait_for(|stop| *stop), if is_idle => return Heard::End,
            }
        }
    }

    async fn answer(&mut self, read: &Result<Request, Reason>, arrived: Instant) -> Answered {
        let surface = self.hosts.service().surface();
        // A refusal ends the connection and a session token has to be given: they wait, and are not turned away.
        let may_refuse = read
            .as_ref()
            .is_ok_and(|request| request.route != Route::Token);
        let is_turn = self.turn(arrived).await;
        match read {
            Err(reason) => {
                trace!(attachment = ?self.attachment, reason = reason.label(), "Refused what was no request");
                Answered {
                    response: Response::refuse(surface, *reason),
                    class: Class::Other,
                    version: ImdsVersion::Neither,
                    fetched: None,
                }
            }
            Ok(request) => {
                let (response, fetched) = if is_turn || !may_refuse {
                    self.resolve(request, arrived).await
                } else {
                    (Response::refuse(surface, Reason::TooFast), None)
                };
                Answered {
                    response,
                    class: class(&request.route),
                    version: imds_version(surface, request),
                    fetched,
                }
            }
        }
    }

    /// Counts an answer and records it. What is handed out again on a connection costs one addition.
    fn note(&mut self, answered: &Answered, took: Duration) {
        let Answered {
            response,
            class,
            version,
            fetched,
        } = answered;
        let (metrics, book) = (&self.server.metrics, &self.server.book);
        metrics.answered(*class, *version, response.status, response.reason, took);
        if let Some(found) = fetched.as_ref().and_then(|fetched| fetched.found) {
            metrics.found(found);
        }
        if *version == ImdsVersion::V1 {
            book.asked_v1(self.attachment);
        }
        let keys = match fetched.as_ref().map(|fetched| &fetched.outcome) {
            Some(Outcome::Ready(keys)) => Some(keys),
            _ => None,
        };
        match (response.reason, keys) {
            (Some(reason), _) => {
                let target = self.target;
                book.refuse(self.attachment, reason, target.as_bytes(), || {
                    let found = fetched.as_ref().map(|fetched| {
                        Credential::without(self.server.node.way(self.attachment), fetched.found)
                    });
                    self.record(Event::of(reason), answered, took, found)
                });
            }
            (None, Some(keys)) => {
                if let Some((last, served)) = &self.handed
                    && Arc::ptr_eq(last, keys)
                {
                    return served.again();
                }
                let found = fetched.as_ref().and_then(|fetched| fetched.found);
                let served = book.hand(self.attachment, &keys.access_key_id, || {
                    let way = self.server.node.way(self.attachment);
                    let keys = Credential::of(keys, way, found);
                    self.record(Event::Issued, answered, took, Some(keys))
                });
                self.handed = Some((Arc::clone(keys), served));
            }
            (None, None) => {}
        }
    }

    fn record(
        &self,
        event: Event,
        answered: &Answered,
        took: Duration,
        credential: Option<Credential>,
    ) -> Record {
        Record {
            at: Timestamp::now(),
            event,
            whose: Whose::Attachment(self.attachment),
            src_ip: Some(self.peer),
            request: Some(Asked {
                endpoint: self.hosts.service().surface(),
                class: answered.class,
                version: answered.version,
                status: answered.response.status,
                duration_micros: Some(took.as_micros() as u64),
                path: self.target.text(),
            }),
            reason: answered.response.reason,
            credential,
            fault: None,
            count: 1,
        }
    }

    /// Waits until the pod may have its next answer; false if it asks too fast even for that.
    async fn turn(&self, arrived: Instant) -> bool {
        let (wait, is_turn) = match self.seat.turn(arrived) {
            Turn::Now => return true,
            Turn::After(wait) => (wait, true),
            // A refusal at once would be asked for again at once.
            Turn::Never => (HOLD, false),
        };
        self.server.metrics.rate_waits.fetch_add(1, Relaxed);
        sleep(wait).await;
        is_turn
    }

    /// Asks `respond` until there is an answer, and gets what it asks for.
    async fn resolve(
        &mut self,
        request: &Request,
        arrived: Instant,
    ) -> (Response, Option<Fetched>) {
        let surface = self.hosts.service().surface();
        let mut proof = None;
        loop {
            let caller = self.caller.borrow_and_update().clone();
            let keys = self.server.settings.keys.borrow().clone();
            let situation = Situation {
                surface,
                attachment: self.attachment,
                caller: &caller,
                keys: &keys,
                imds_v1: self.server.settings.imds_v1,
                now: Timestamp::now(),
                nonce: self.server.nonces.next(),
                proof,
            };
            match respond(request, &situation) {
                Answer::Reply(response) => return (response, None),
                Answer::Undecided(response) => {
                    if !self.is_decided_by(arrived + HOLD).await {
                        return (response, None);
                    }
                }
                Answer::Prove(token) => {
                    let proving = self.server.node.prove(self.attachment, token);
                    let proved = timeout_at(arrived + CUT, proving).await;
                    proof = Some(proved.unwrap_or(Proof::Unavailable));
                }
                Answer::Fetch(role) => {
                    let fetching = self.server.node.credentials(self.attachment, role);
                    let fetched = timeout_at(arrived + CUT, fetching).await;
                    let fetched = match fetched {
                        Ok(fetched) if self.still_has(role) => fetched,
                        Ok(Fetched { found, .. }) => Fetched {
                            outcome: Outcome::Transient,
                            found,
                        },
                        // Whoever waits longer than that waited for a fetch.
                        Err(_) => Fetched {
                            outcome: Outcome::Transient,
                            found: Some(Found::Miss),
                        },
                    };
                    let response = issue(surface, &fetched.outcome, Timestamp::now());
                    return (response, Some(fetched));
                }
            }
        }
    }

    /// Woken by the decision, never looking by itself.
    async fn is_decided_by(&mut self, deadline: Instant) -> bool {
        let begun = Instant::now();
        let is_known = |caller: &Caller| matches!(caller, Caller::Known(_));
        let decided = timeout_at(deadline, self.caller.wait_for(is_known)).await;
        let is_decided = matches!(decided, Ok(Ok(_)));
        self.server.metrics.identity_wait.observe(begun.elapsed());
        is_decided
    }

    /// Whether `role`, whose keys were waited for, is the pod's yet.
    fn still_has(&self, role: &RoleArn) -> bool {
        match &*self.caller.borrow() {
            Caller::Known(pod) => pod.role == Assigned::Role(role.clone()),
            Caller::Undecided => false,
        }
    }

    /// Closes our side and lets the client's run dry.
    async fn linger(&mut self) {
        let draining = async {
            self.stream.shutdown().await?;
            let mut room = Zeroizing::new([0; SMALL_BUFFER]);
            let mut left = LINGER_BYTES;
            while left > 0 {
                match self.stream.read(&mut *room).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection ends here.
        let _ = timeout(LINGER_WITHIN, draining).await;
    }
}
