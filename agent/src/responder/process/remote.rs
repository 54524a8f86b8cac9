//! The agent's sides as the responder sees them: questions go out on the link, answers and news come in.

mod told;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use portcullis_imds::audit::{Book, Way, way_of};
use portcullis_imds::cache::{Cache, Class, Endpoints, Fault, Key, Lease, Owner, Sessions, World};
use portcullis_imds::caller::{Assigned, Attachment, Caller, Pod};
use portcullis_imds::credentials::{Fetched, Outcome};
use portcullis_imds::eks_auth::EksAuth;
use portcullis_imds::facts::{Facts, Wanted};
use portcullis_imds::jwt::{self, KeySet, Wrong};
use portcullis_imds::link::{self, FromAgent, FromResponder, LINE, Origin};
use portcullis_imds::listener::Service;
use portcullis_imds::metrics::{Metrics, Upstream};
use portcullis_imds::node::{Callers, Origins, Proofs, Vault};
use portcullis_imds::respond::Proof;
use portcullis_imds::role::{RoleArn, SourceKind};
use portcullis_imds::secret::Secret;
use portcullis_imds::sources::{Sources, Tokens};
use portcullis_imds::sts::Sts;
use portcullis_imds::upstream::Upstream as Client;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, interval_at, timeout};

use super::node_facts::NodeFacts;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to have a token: the kubelet writes that of a pod which is starting.
const TOKEN_PATIENCE: Duration = Duration::from_secs(12);
/// How long a token that names an unknown key waits for the cluster's newest.
const KEYS_PATIENCE: Duration = Duration::from_millis(500);
/// How often records of what is alike are told.
const MINUTE: Duration = Duration::from_mins(1);
/// Questions that wait to be written.
const QUEUE: usize = 4096;

/// Everything that is asked of the agent or told by it. Clones are the same.
#[derive(Clone)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    cache: Cache<Sources<Line>>,
    endpoints: Arc<Endpoints>,
    sessions: Arc<Sessions>,
    audience: Arc<str>,
    callers: Arc<Mutex<HashMap<Attachment, Held>>>,
    /// What is told without being asked.
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    upstream: Arc<Upstream>,
    facts: Arc<NodeFacts>,
}

/// The way to ask, while there is a link.
#[derive(Clone)]
pub(super) struct Line {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// To the link's writer; none without a link.
    out: Mutex<Option<mpsc::Sender<FromResponder>>>,
    next: AtomicU64,
    origins: Mutex<HashMap<u64, oneshot::Sender<Option<Origin>>>>,
    tokens: Mutex<HashMap<u64, oneshot::Sender<Result<Secret, String>>>>,
    /// What pods' tokens are checked with, once that is known.
    keys: watch::Sender<Option<Arc<KeySet>>>,
}

/// What is known of an attachment.
struct Held {
    caller: watch::Sender<Caller>,
    /// What its namespace lets it read of the node.
    wanted: Wanted,
    /// Its claim to credentials.
    lease: Option<Arc<Lease<Sources<Line>>>>,
    /// Whose tokens are good here.
    owner: Option<Owner>,
    /// The pod, if associations say what its role is: they are asked when it comes.
    associated: Option<link::Pod>,
}

impl Remote {
    pub(super) fn new(
        endpoints: Endpoints,
        (sessions, audience): (Sessions, &str),
        (sts, eks_auth): (Sts, Option<EksAuth>),
        upstream: Client,
        counters: Arc<Upstream>,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let line = Line {
            shared: Arc::clone(&shared),
        };
        let world = World {
            now: Arc::new(Timestamp::now),
            chance: Arc::new(chance),
        };
        let (book, metrics) = (Arc::<Book>::default(), Arc::<Metrics>::default());
        let sources = Sources::new(line, sts, eks_auth, Arc::clone(&metrics));
        let cache = Cache::new(sources, world);
        cache.observe(Arc::clone(&book), Arc::clone(&metrics));
        Self {
            cache,
            shared,
            endpoints: Arc::new(endpoints),
            sessions: Arc::new(sessions),
            audience: audience.into(),
            callers: Arc::default(),
            book,
            metrics,
            upstream: counters,
            facts: Arc::new(NodeFacts::new(upstream)),
        }
    }

    /// Tells pods' connections what becomes known of the node, for ever.
    pub(super) async fn follow_the_node(&self) {
        let mut known = self.facts.follow();
        while self.facts.news(&mut known).await.is_some() {
            for held in lock(&self.callers).values() {
                let facts = self.facts.table(&held.wanted);
                held.caller.send_if_modified(|caller| match caller {
                    Caller::Known(pod) if pod.facts != facts => {
                        Arc::make_mut(pod).facts = facts;
                        true
                    }
                    _ => false,
                });
            }
        }
    }

    /// Where servers count and record.
    pub(super) fn observers(&self) -> (Arc<Metrics>, Arc<Book>) {
        (Arc::clone(&self.metrics), Arc::clone(&self.book))
    }

    /// Speaks with one agent until the link ends, which it always does.
    pub(super) async fn talk(&self, stream: UnixStream) -> Result<()> {
        let (read, mut write) = stream.into_split();
        let (out, mut questions) = mpsc::channel(QUEUE);
        *lock(&self.shared.out) = Some(out);
        let book = Arc::clone(&self.book);
        let writer = async move {
            let mut minute = interval_at(Instant::now() + MINUTE, MINUTE);
            loop {
                let said = tokio::select! {
                    // A question holds a pod up, a record nobody.
                    biased;
                    question = questions.recv() => match question {
                        Some(question) => question,
                        None => return Ok(()),
                    },
                    _ = minute.tick() => {
                        book.fold(Timestamp::now());
                        continue;
                    }
                    record = book.next() => {
                        let record = Box::new(record);
                        FromResponder::Record { record }
                    }
                };
                let mut line = serde_json::to_vec(&said)?;
                line.push(b'\n');
                write.write_all(&line).await.context("asking the agent")?;
            }
        };
        let result = tokio::select! {
            result = writer => result,
            result = self.listen(BufReader::new(read)) => result,
        };
        *lock(&self.shared.out) = None;
        // Whoever waits for an answer learns that there is none, and whose connections these were nobody knows any more.
        lock(&self.shared.origins).clear();
        lock(&self.shared.tokens).clear();
        lock(&self.callers).clear();
        self.facts.want(std::iter::empty());
        result
    }

    async fn listen(&self, mut read: BufReader<tokio::net::unix::OwnedReadHalf>) -> Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = (&mut read)
                .take(LINE as u64)
                .read_until(b'\n', &mut line)
                .await
                .context("hearing the agent")?;
            if length == 0 {
                bail!("the agent hung up");
            }
            match serde_json::from_slice(&line).context("understanding the agent")? {
                FromAgent::Listeners { .. } => bail!("listeners came a second time"),
                FromAgent::Pod { attachment, pod } => self.learn(attachment, pod.as_deref()),
                FromAgent::Gone { attachment } => {
                    let mut callers = lock(&self.callers);
                    callers.remove(&attachment);
                    self.facts.want(callers.values().map(|held| &held.wanted));
                    self.book.forget(attachment, Timestamp::now());
                }
                FromAgent::Ask { id, what } => self.tell(id, what),
                FromAgent::Origin { id, origin } => {
                    if let Some(origin) = &origin {
                        // Before its first news: undecided.
                        lock(&self.callers)
                            .entry(origin.attachment)
                            .or_insert_with(Held::new);
                    }
                    let waits = lock(&self.shared.origins).remove(&id);
                    if let Some(waits) = waits {
                        // Whoever asked may be gone.
                        let _ = waits.send(origin);
                    }
                }
                FromAgent::Keys { set } => {
                    self.shared.keys.send_replace(Some(Arc::from(set)));
                }
                FromAgent::Token { id, token } => {
                    let waits = lock(&self.shared.tokens).remove(&id);
                    if let Some(waits) = waits {
                        let _ = waits.send(token);
                    }
                }
            }
        }
    }

    fn lease(&self, attachment: Attachment) -> Option<Arc<Lease<Sources<Line>>>> {
        let callers = lock(&self.callers);
        callers.get(&attachment)?.lease.clone()
    }

    /// Takes in what is known of an attachment's pod; its credentials are fetched before it asks.
    fn learn(&self, attachment: Attachment, pod: Option<&link::Pod>) {
        let key = pod.and_then(|pod| Key::of(pod, &self.endpoints, &self.sessions));
        let associated = pod.filter(|pod| pod.assigned == link::Assigned::Association);
        let mut callers = lock(&self.callers);
        let held = callers.entry(attachment).or_insert_with(Held::new);
        if held.is_anothers(pod) {
            // An interface with the number of one that went: its connections are not this pod's.
            *held = Held::new();
        }
        // The new claim before the old one goes: what both need stays.
        let known = held.lease.as_ref().map(|lease| lease.key());
        if known != key.as_ref() {
            // Associations are asked when a pod comes: most pods without a role never do.
            let prefetch = associated.is_none();
            held.lease = key.zip(pod).map(|(key, pod)| {
                let lease = self.cache.hold(&key, &pod.owner, prefetch);
                Arc::new(lease)
            });
        } else if let Some(key) = key {
            self.cache.reconsider(&key);
        }
        held.wanted = pod
            .map(|pod| pod.metadata_paths.clone())
            .unwrap_or_default();
        if let Some(pod) = pod {
            self.facts.tell_of_signatures(pod);
        }
        held.owner = pod.map(|pod| pod.owner.clone());
        held.associated = associated.cloned();
        held.caller
            .send_replace(caller(pod, self.facts.table(&held.wanted)));
        self.facts.want(callers.values().map(|held| &held.wanted));
    }

    /// Asks the cluster's associations for a pod's role, as far as they were not asked lately.
    async fn consult(self, attachment: Attachment) {
        let Some(lease) = self.lease(attachment) else {
            return;
        };
        let outcome = lease.get().await;
        let mut callers = lock(&self.callers);
        let Some(held) = callers.get_mut(&attachment) else {
            return;
        };
        // What was decided meanwhile stands.
        let is_current = held
            .lease
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &lease));
        if let (true, Some(pod)) = (is_current, &held.associated) {
            let role = match outcome {
                Outcome::Ready(keys) => keys.role.clone().map(Assigned::Role),
                Outcome::Nothing { message } => Some(Assigned::None(message)),
                Outcome::Denied { message, .. } => Some(Assigned::Refused(message)),
                Outcome::Transient => None,
            };
            if let Some(role) = role {
                let facts = self.facts.table(&held.wanted);
                held.caller.send_replace(known_as(pod, role, facts));
            }
        }
    }
}

impl Held {
    fn new() -> Self {
        Self {
            caller: watch::Sender::new(Caller::Undecided),
            wanted: Wanted::new(),
            lease: None,
            owner: None,
            associated: None,
        }
    }

    /// Whether it was a pod's and is not this one's.
    fn is_anothers(&self, pod: Option<&link::Pod>) -> bool {
        let uid = pod.map(|pod| &pod.owner.pod_uid);
        let was = self.owner.as_ref().map(|owner| &owner.pod_uid);
        was.is_some() && was != uid
    }
}

/// A pod in the words of the surface.
fn caller(pod: Option<&link::Pod>, facts: Arc<Facts>) -> Caller {
    let Some(pod) = pod else {
        return Caller::Undecided;
    };
    let role = match &pod.assigned {
        link::Assigned::Undecided | link::Assigned::Association => return Caller::Undecided,
        link::Assigned::None { why } => Assigned::None(why.clone()),
        link::Assigned::Refused { why } => Assigned::Refused(why.clone()),
        link::Assigned::Role { grant } => Assigned::Role(grant.role.clone()),
    };
    known_as(pod, role, facts)
}

fn known_as(pod: &link::Pod, role: Assigned, facts: Arc<Facts>) -> Caller {
    Caller::Known(Arc::new(Pod {
        role,
        imds_v1: pod.imds_v1,
        facts,
    }))
}

impl Shared {
    fn ask(&self, question: FromResponder) -> Option<()> {
        lock(&self.out).as_ref()?.try_send(question).ok()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Origins for Remote {
    async fn take(&self, peer: SocketAddr, service: Service) -> Option<Attachment> {
        let id = self.shared.number();
        let (answer, waits) = oneshot::channel();
        lock(&self.shared.origins).insert(id, answer);
        let index = index(service);
        let asked = self.shared.ask(FromResponder::Origin {
            id,
            peer,
            service: index,
        });
        let origin = match asked {
            Some(()) => timeout(PATIENCE, waits)
                .await
                .ok()
                .and_then(Result::ok)
                .flatten(),
            None => None,
        };
        lock(&self.shared.origins).remove(&id);
        origin.map(|origin| origin.attachment)
    }
}

impl Callers for Remote {
    fn watch(&self, attachment: Attachment) -> Option<watch::Receiver<Caller>> {
        let callers = lock(&self.callers);
        let held = callers.get(&attachment)?;
        if held.associated.is_some() {
            tokio::spawn(self.clone().consult(attachment));
        }
        Some(held.caller.subscribe())
    }
}

impl Proofs for Remote {
    async fn prove(&self, attachment: Attachment, token: &str) -> Proof {
        let owner = lock(&self.callers)
            .get(&attachment)
            .and_then(|held| held.owner.clone());
        let Some(owner) = owner else {
            return Proof::Unavailable;
        };
        let mut keys = self.shared.keys.subscribe();
        let check = |set: Option<Arc<KeySet>>| {
            let set = set?;
            Some(jwt::check(
                token,
                &set,
                &self.audience,
                &owner,
                Timestamp::now(),
            ))
        };
        let known = keys.borrow_and_update().clone();
        let mut checked = check(known);
        // The cluster may have a new key since.
        if checked == Some(Err(Wrong::UnknownKey))
            && self.shared.ask(FromResponder::Keys).is_some()
            && let Ok(Ok(())) = timeout(KEYS_PATIENCE, keys.changed()).await
        {
            let newest = keys.borrow_and_update().clone();
            checked = check(newest);
        }
        match checked {
            None => Proof::Unavailable,
            Some(Ok(())) => Proof::Good,
            Some(Err(Wrong::Form)) => Proof::Malformed,
            Some(Err(Wrong::Owner)) => Proof::Foreign,
            Some(Err(_)) => Proof::Bad,
        }
    }
}

impl Vault for Remote {
    async fn credentials(&self, attachment: Attachment, role: &RoleArn) -> Fetched {
        let changed = Fetched {
            outcome: Outcome::Transient,
            found: None,
        };
        let Some(lease) = self.lease(attachment) else {
            return changed;
        };
        match &lease.key().role {
            Some(known) if known == role => lease.find().await,
            None => match lease.find().await {
                // The association has changed since the request was read.
                Fetched {
                    outcome: Outcome::Ready(keys),
                    ..
                } if keys.role.as_ref() != Some(role) => changed,
                fetched => fetched,
            },
            // So has the decision.
            Some(_) => changed,
        }
    }

    fn way(&self, attachment: Attachment) -> Option<Way> {
        let lease = self.lease(attachment)?;
        Some(way_of(lease.key(), lease.holders()))
    }
}

impl Tokens for Line {
    async fn token(
        &self,
        owner: &Owner,
        audience: &str,
        source: SourceKind,
    ) -> Result<Secret, Fault> {
        let id = self.shared.number();
        let (answer, waits) = oneshot::channel();
        lock(&self.shared.tokens).insert(id, answer);
        let asked = self.shared.ask(FromResponder::Token {
            id,
            pod_uid: owner.pod_uid.clone(),
            audience: audience.to_owned(),
            source,
        });
        let token = match asked {
            Some(()) => timeout(TOKEN_PATIENCE, waits)
                .await
                .ok()
                .and_then(Result::ok),
            None => None,
        };
        lock(&self.shared.tokens).remove(&id);
        let fault = |message: String| Fault {
            class: Class::NoToken,
            code: "NoToken".to_owned(),
            message,
        };
        match token {
            Some(token) => token.map_err(fault),
            None => Err(fault("the agent does not answer".to_owned())),
        }
    }
}

fn index(service: Service) -> u16 {
    match service {
        Service::ImdsV4 => 0,
        Service::Ecs => 1,
        Service::EksV4 => 2,
        Service::ImdsV6 => 3,
        Service::EksV6 => 4,
    }
}

/// For jitter alone.
fn chance() -> f64 {
    let nanos = Timestamp::now().subsec_nanosecond();
    f64::from(nanos.unsigned_abs() % 1000) / 1000.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
