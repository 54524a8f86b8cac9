//! `portcullis agent`: wires feeds, node view, dataplane, event log and admin socket. It decides nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::api::{self, Request};
use crate::audit::Audit;
use crate::dataplane::pins::this_owner;
use crate::discovery::{Found, discover};
use crate::endpoint::{Observed, observe};
use crate::failure::Failure;
use crate::flowlog;
use crate::kube::signers::{self, Signers};
use crate::kube::token::TokenMaker;
use crate::kube::{Batch, Keep, event, manifests, watch as kube_watch};
use crate::reconcile::{Callers, Node, rules_of_others};
use crate::responder::address::Addresses;
use crate::responder::asked::Responder;
use crate::responder::host::HostPods;
use crate::responder::link::{self, Link, Whose};
use crate::responder::listeners;
use crate::responder::tokens::TokenSource;
use crate::settings::Settings;

/// How often connections that are gone are collected.
const SWEEP: Duration = Duration::from_secs(1);

/// How often the node is searched for programs and rules of other tools.
const LOOK: Duration = Duration::from_secs(30);
/// Reading rules takes at most this part of a thread's time.
const RULES_SHARE: u32 = 100;

/// Runs until SIGTERM or SIGINT. Nothing is detached at the end: the pins go on guarding.
pub async fn run(settings: Settings) -> Result<()> {
    // Whatever can be wrong with the settings is found before anything is attached.
    let keep = Keep::for_roles(&settings.node, settings.roles.reader.keys.clone());
    let feed = Feed::open(&settings, keep).await?;
    let own = Addresses::of(&this_owner()?);
    let (mut observed, _observer) = observe(&settings.cni_results, own.all().into())
        .await
        .context("watching the node's interfaces")?;
    let first = observed.borrow_and_update().clone();
    let responder = match settings.responder {
        Some(_) => listeners::add(&own).await?,
        None => Vec::new(),
    };
    let opened = settings.clone();
    let at = responder.clone();
    let mut node = tokio::task::spawn_blocking(move || Node::open(opened, first, &at))
        .await
        .context("opening the dataplane")??;
    let (batches, changes) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    let notices = feed.tell_pods(&settings.node, &mut tasks);
    let audit = Audit::new(
        &settings.node,
        settings.audit_log.as_deref(),
        notices.clone(),
    );
    let feed_tokens = feed.tokens();
    let counts = feed_tokens.as_ref().map(TokenMaker::counts);
    let signers = feed.signers(&mut tasks);
    let rereader = feed.start(batches, &mut tasks);
    let (lookup, lookups) = watch::channel(node.lookup());
    let callers = watch::Sender::new(node.callers());
    let events = node.take_events()?;
    let asks = Responder::default();
    tasks.spawn(flowlog::run(events, lookups, notices));
    if let Some(path) = settings.responder.clone() {
        let (origins, lookup) = (node.origins()?, lookup.subscribe());
        let callers = callers.subscribe();
        let tokens = Arc::new(TokenSource {
            maker: feed_tokens,
            reader: settings.token_reader.clone(),
        });
        let (owner, uid) = (this_owner()?, settings.responder_uid);
        let (asks, audit) = (asks.clone(), audit.clone());
        let host = HostPods::new(node.pods_cgroup());
        tasks.spawn(async move {
            let link = Link {
                listeners: listeners::open(&responder).await?,
                whose: Arc::new(Whose {
                    origins: Mutex::new(origins),
                    host,
                    owner,
                }),
                lookup,
                callers,
                tokens,
                signers,
                uid,
                asked: asks,
                audit,
            };
            link::serve(&path, link)?.await
        });
    }
    let (requests, asked) = mpsc::channel(64);
    let iam = api::Iam {
        audit: audit.clone(),
        responder: settings.responder.is_some().then_some(asks),
        tokens: counts,
    };
    tasks.spawn(api::serve(&settings, requests, rereader, iam)?);
    let (hear, others) = mpsc::channel(1);
    tasks.spawn(read_rules(hear.clone()));
    tasks.spawn(find_out(settings.clone(), hear));
    info!(node = %settings.node, version = env!("CARGO_PKG_VERSION"), "Agent is running");

    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let decisions = settings.responder.is_some().then(|| audit.clone());
    let ended = tokio::select! {
        () = world_loop(node, observed, changes, others, asked, (lookup, callers, decisions)) => Err(anyhow!("the view of the node has ended")),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(())) => Err(anyhow!("a task has ended")),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        },
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    audit.close();
    ended
}

/// Where objects come from: files if there are any to read, else the API server.
enum Feed {
    Manifests(manifests::Feed, manifests::Rereader),
    ApiServer(kube::Client, Keep),
}

impl Feed {
    async fn open(settings: &Settings, keep: Keep) -> Result<Self> {
        if let Some(directory) = &settings.manifests {
            let (feed, rereader) = manifests::Feed::open(directory, keep)?;
            return Ok(Self::Manifests(feed, rereader));
        }
        Ok(Self::ApiServer(kube_watch::connect().await?, keep))
    }

    /// Where what happens to pods becomes events on them: at an API server only.
    fn tell_pods(
        &self,
        node: &str,
        tasks: &mut JoinSet<Result<()>>,
    ) -> Option<mpsc::Sender<event::Notice>> {
        let Self::ApiServer(client, _) = self else {
            return None;
        };
        let (sender, receiver) = mpsc::channel(event::QUEUE);
        let writer = event::run(client.clone(), node.to_owned(), receiver);
        tasks.spawn(async move {
            writer.await;
            Ok(())
        });
        Some(sender)
    }

    /// What web-identity tokens are checked with.
    fn signers(&self, tasks: &mut JoinSet<Result<()>>) -> Option<Signers> {
        let Self::ApiServer(client, _) = self else {
            return None;
        };
        let (signers, task) = signers::follow(client.clone());
        tasks.spawn(async move {
            task.await;
            Ok(())
        });
        Some(signers)
    }

    /// Who makes web-identity tokens.
    fn tokens(&self) -> Option<TokenMaker> {
        match self {
            Self::Manifests(..) => None,
            Self::ApiServer(client, _) => Some(TokenMaker::new(client.clone())),
        }
    }

    fn start(
        self,
        batches: mpsc::Sender<Batch>,
        tasks: &mut JoinSet<Result<()>>,
    ) -> Option<manifests::Rereader> {
        match self {
            Self::Manifests(feed, rereader) => {
                tasks.spawn(async move { feed.run(batches).await.context("reading manifests") });
                Some(rereader)
            }
            Self::ApiServer(client, keep) => {
                let mut watches = kube_watch::spawn(&client, &keep, &batches);
                tasks.spawn(async move {
                    watches.join_next().await;
                    Err(anyhow!("a watch has ended"))
                });
                None
            }
        }
    }
}

/// What the world task hears beside objects and interfaces.
enum Heard {
    /// Rules of other tools.
    Rules(Vec<Failure>),
    /// What the node says of itself.
    Node(Found),
}

/// Asks the node what roles are decided by, if that was left to it.
async fn find_out(settings: Settings, hear: mpsc::Sender<Heard>) -> Result<()> {
    if let Some(found) = discover(settings.upstream, &settings.roles.decide).await {
        // Without the world task nobody needs it.
        let _ = hear.send(Heard::Node(found)).await;
    }
    // A task that ends ends the agent.
    std::future::pending().await
}

/// Reads other tools' rules again and again, away from the world task: policies do not wait for it.
async fn read_rules(hear: mpsc::Sender<Heard>) -> Result<()> {
    loop {
        let started = Instant::now();
        let found = tokio::task::spawn_blocking(rules_of_others)
            .await
            .context("reading firewall rules")?;
        let took = started.elapsed();
        if hear.send(Heard::Rules(found)).await.is_err() {
            return Ok(());
        }
        sleep(LOOK.max(took * RULES_SHARE)).await;
    }
}

/// The world task: takes in everything that waits, then makes one round.
async fn world_loop(
    mut node: Node,
    mut observed: watch::Receiver<Arc<Observed>>,
    mut changes: mpsc::Receiver<Batch>,
    mut others: mpsc::Receiver<Heard>,
    mut asked: mpsc::Receiver<Request>,
    (lookup, callers, decisions): (
        watch::Sender<flowlog::Lookup>,
        watch::Sender<Callers>,
        Option<Audit>,
    ),
) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let mut request = None;
        tokio::select! {
            Some(batch) = changes.recv() => node.changes(batch),
            // Waiting takes the change for seen, and it is looked at only below.
            seen = observed.changed() => match seen {
                Ok(()) => observed.mark_changed(),
                Err(_) => return,
            },
            Some(asks) = asked.recv() => request = Some(asks),
            _ = sweep.tick() => {
                tokio::task::block_in_place(|| node.sweep());
                continue;
            }
            _ = look.tick() => {
                tokio::task::block_in_place(|| node.look_around());
                continue;
            }
            Some(heard) = others.recv() => match heard {
                Heard::Rules(rules) => {
                    tokio::task::block_in_place(|| node.rules(rules));
                    continue;
                }
                Heard::Node(found) => node.discovered(found),
            },
        }
        // Who asked may be gone.
        match request {
            Some(Request::Status(answer)) => {
                let _ = answer.send(tokio::task::block_in_place(|| node.status()));
                continue;
            }
            Some(Request::View(answer)) => {
                let _ = answer.send(node.view());
                continue;
            }
            Some(Request::Roles(answer)) => {
                let _ = answer.send(node.roles());
                continue;
            }
            _ => {}
        }
        while let Ok(batch) = changes.try_recv() {
            node.changes(batch);
        }
        if observed.has_changed().unwrap_or(false) {
            let view = observed.borrow_and_update().clone();
            tokio::task::block_in_place(|| node.observe(view));
        }
        tokio::task::block_in_place(|| node.reconcile());
        lookup.send_replace(node.lookup());
        if let Some(audit) = &decisions {
            audit.decided(&node.role_decisions());
        }
        let now = node.callers();
        callers.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        match request {
            Some(Request::Synced(answer)) => waiting.push(answer),
            Some(Request::Pod(namespace, name, answer)) => {
                let _ = answer.send(node.pod_status(&namespace, &name));
            }
            _ => {}
        }
        if !waiting.is_empty() && node.is_synced() {
            for answer in waiting.drain(..) {
                let _ = answer.send(());
            }
        }
        waiting.retain(|answer| !answer.is_closed());
        if let (false, [missing, ..]) = (waiting.is_empty(), node.waiting_for().as_slice()) {
            warn!(%missing, "Somebody waits for the node to be in sync");
        }
    }
}
