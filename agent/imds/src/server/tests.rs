//! Real sockets on the loopback network. A pod is an address in 127/8; what the agent would say of it is said by [`Agent`].

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, OnceLock};

use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::audit::Way;
use crate::caller::{Assigned, Attachment, Caller, Pod};
use crate::credentials::{Credentials, Fetched, Found, Outcome};
use crate::facts::Facts;
use crate::listener::Service;
use crate::respond::Proof;
use crate::role::{RoleArn, SourceKind};
use crate::secret::Secret;

mod corpus;
mod limits;
mod records;
mod smuggling;
mod table;
mod times;

const SECRET: &str = "SECRET-OF-THE-ROLE";
const ROLES: &str = "/latest/meta-data/iam/security-credentials";
/// A pod with a role, one without, one of which nothing is decided, and an address that no pod has.
const APP: u8 = 2;
const BARE: u8 = 3;
const NEW: u8 = 4;
const NOBODY: u8 = 200;
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent's sides, in memory. Clones are the same agent.
#[derive(Debug, Clone, Default)]
struct Agent(Arc<Sides>);

#[derive(Debug, Default)]
struct Sides {
    callers: Mutex<HashMap<Attachment, watch::Sender<Caller>>>,
    /// What the vault does, where it is not [`ready`] at once.
    vault: Mutex<Option<(Duration, Outcome)>>,
    fetches: AtomicU64,
    /// As a cache has it: the same until it is renewed.
    ready: OnceLock<Outcome>,
}

fn attachment(pod: u8) -> Attachment {
    Attachment([pod; 16])
}

fn role(name: &str) -> RoleArn {
    RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{name}")).expect("an ARN")
}

fn known(role: Assigned) -> Caller {
    let mut facts = Facts::default();
    facts
        .insert("meta-data/placement/region", "eu-west-1")
        .expect("a plain path");
    let pod = Pod {
        role,
        imds_v1: false,
        facts: Arc::new(facts),
    };
    Caller::Known(Arc::new(pod))
}

fn ready() -> Outcome {
    let now = Timestamp::now();
    Outcome::Ready(Arc::new(Credentials {
        access_key_id: "ASIAEXAMPLE".to_owned(),
        secret_access_key: Secret::new(SECRET.to_owned()),
        token: Secret::new(SECRET.to_owned()),
        expiration: now + SignedDuration::from_hours(1),
        last_updated: now,
        account_id: "123456789012".to_owned(),
        request_id: None,
        source: SourceKind::TokenRequest,
        role: None,
    }))
}

impl Agent {
    fn new() -> Self {
        let agent = Self::default();
        agent.decide(APP, known(Assigned::Role(role("app"))));
        agent.decide(
            BARE,
            known(Assigned::None("no annotation names one".to_owned())),
        );
        agent.decide(NEW, Caller::Undecided);
        agent
    }

    fn decide(&self, pod: u8, caller: Caller) {
        let mut callers = self.0.callers.lock().expect("nobody panicked");
        match callers.get(&attachment(pod)) {
            Some(sender) => {
                sender.send_replace(caller);
            }
            None => {
                callers.insert(attachment(pod), watch::Sender::new(caller));
            }
        }
    }

    fn detach(&self, pod: u8) {
        self.0
            .callers
            .lock()
            .expect("nobody panicked")
            .remove(&attachment(pod));
    }

    fn answer_after(&self, delay: Duration, outcome: Outcome) {
        *self.0.vault.lock().expect("nobody panicked") = Some((delay, outcome));
    }

    fn watchers(&self, pod: u8) -> usize {
        let callers = self.0.callers.lock().expect("nobody panicked");
        callers
            .get(&attachment(pod))
            .map_or(0, watch::Sender::receiver_count)
    }
}

impl Origins for Agent {
    async fn take(&self, peer: SocketAddr, _service: Service) -> Option<Attachment> {
        match peer.ip() {
            std::net::IpAddr::V4(address) if address.octets()[3] < 250 => {
                Some(attachment(address.octets()[3]))
            }
            _ => None,
        }
    }
}

impl Callers for Agent {
    fn watch(&self, attachment: Attachment) -> Option<watch::Receiver<Caller>> {
        let callers = self.0.callers.lock().expect("nobody panicked");
        callers.get(&attachment).map(watch::Sender::subscribe)
    }
}

impl Proofs for Agent {
    /// The middle part of a token names its pod.
    async fn prove(&self, attachment: Attachment, token: &str) -> Proof {
        match token.split('.').nth(1) {
            Some("expired") => Proof::Bad,
            Some(pod) if pod == attachment.0[0].to_string() => Proof::Good,
            _ => Proof::Foreign,
        }
    }
}

impl Vault for Agent {
    async fn credentials(&self, _attachment: Attachment, role: &RoleArn) -> Fetched {
        assert_eq!(role.name(), "app", "the only role there is");
        self.0.fetches.fetch_add(1, Relaxed);
        let scripted = self.0.vault.lock().expect("nobody panicked").clone();
        let outcome = match scripted {
            Some((delay, outcome)) => {
                sleep(delay).await;
                outcome
            }
            None => self.0.ready.get_or_init(ready).clone(),
        };
        let found = Some(Found::Hit);
        Fetched { outcome, found }
    }

    fn way(&self, _attachment: Attachment) -> Option<Way> {
        Some(Way {
            kind: Some(SourceKind::AssumeRole),
            session_name: "shop.app".to_owned(),
            shared_with: 0,
        })
    }
}

fn server(agent: &Agent) -> Arc<Server<Agent>> {
    let (_, keys) = watch::channel(Arc::new(Keys::new(&[7; 32], None)));
    server_with(agent, keys)
}

fn server_with(agent: &Agent, keys: watch::Receiver<Arc<Keys>>) -> Arc<Server<Agent>> {
    let settings = Settings {
        imds_v1: ImdsV1::Deny,
        keys,
        pod_requests: POD_REQUESTS,
    };
    Arc::new(Server::new(agent.clone(), settings).expect("random numbers"))
}

/// A responder on the loopback address, one port for each service.
struct Running {
    agent: Agent,
    metrics: Arc<Metrics>,
    book: Arc<Book>,
    ports: HashMap<Service, SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let agent = Agent::new();
        let server = server(&agent);
        let (mut ports, mut bound) = (HashMap::new(), Vec::new());
        for service in Service::ALL {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            ports.insert(service, listener.local_addr().expect("it is bound"));
            let hosts = Hosts::new(service, Vec::new());
            bound.push(Bound { listener, hosts });
        }
        let (stop, stopped) = oneshot::channel();
        let (metrics, book) = (server.metrics(), Arc::clone(&server.book));
        let ended = tokio::spawn(server.run(bound, async move {
            // A test that is over stops it too.
            let _ = stopped.await;
        }));
        Self {
            agent,
            metrics,
            book,
            ports,
            stop: Some(stop),
            ended,
        }
    }

    async fn connect(&self, pod: u8, service: Service) -> Client {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = Ipv4Addr::new(127, 0, 0, pod);
        socket.bind((from, 0).into()).expect("an address of 127/8");
        let stream = socket
            .connect(self.ports[&service])
            .await
            .expect("it listens");
        Client {
            stream,
            read: Vec::new(),
        }
    }

    async fn imds(&self, pod: u8) -> Client {
        self.connect(pod, Service::ImdsV4).await
    }

    /// A session token of `pod`.
    async fn token(&self, pod: u8) -> String {
        let mut client = self.imds(pod).await;
        client
            .ask(
                "PUT /latest/api/token",
                "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
            )
            .await
            .body
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key == name).then_some(value)
        });
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {}", self.head);
        value
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is open");
    }

    /// The next answer to anything but `HEAD`.
    async fn reply(&mut self) -> Reply {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some((head, behind)) = text.split_once("\r\n\r\n") {
                let mut reply = Reply {
                    status: head[9..12].parse().expect("a status"),
                    head: head.to_owned(),
                    body: String::new(),
                };
                let length: usize = reply
                    .header("Content-Length")
                    .expect("it is always there")
                    .parse()
                    .expect("a number");
                if behind.len() >= length {
                    reply.body = behind[..length].to_owned();
                    self.read.drain(..head.len() + 4 + length);
                    return reply;
                }
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
            assert_ne!(
                read.expect("in time").expect("it is open"),
                0,
                "closed after {text:?}"
            );
        }
    }

    async fn ask(&mut self, line: &str, headers: &str) -> Reply {
        self.send(format!("{line} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n").as_bytes())
            .await;
        self.reply().await
    }

    /// Everything until the other side closes, and whether it closed by RST.
    async fn rest(&mut self) -> (String, bool) {
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await;
        let is_reset = read.expect("it closes in time").is_err();
        let text = String::from_utf8_lossy(&self.read).into_owned();
        self.read.clear();
        (text, is_reset)
    }
}

fn with_token(token: &str) -> String {
    format!("X-aws-ec2-metadata-token: {token}\r\n")
}
