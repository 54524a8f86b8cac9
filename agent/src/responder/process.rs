//! `portcullis responder`: answers pods' metadata requests, with nothing but what its agent hands it.
//!
//! ```text
//! agent's socket -> listeners -> server (portcullis-imds) -> cache -> STS
//!                     the node's metadata service -> facts -^
//! ```
//! While there is no agent there are no listeners: nobody could say whose a connection is. What was fetched stays, and so do session tokens.

mod connect;
mod keys;
mod node_facts;
mod remote;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use portcullis_common::guard;
use portcullis_imds::cache::{Endpoints, Sessions};
use portcullis_imds::eks_auth::{self, EksAuth};
use portcullis_imds::listener::{Hosts, Service};
use portcullis_imds::metrics::Upstream as Counters;
use portcullis_imds::respond::ImdsV1;
use portcullis_imds::server::{Bound, Server, Settings as Surface};
use portcullis_imds::sts::{self, Sts};
use portcullis_imds::upstream::{Endpoint, NodeKeys, Upstream, node};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use connect::Connected;
use remote::Remote;

/// How long until the agent is looked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long until the region is asked for again.
const REGION_AGAIN: Duration = Duration::from_secs(1);
/// How long until it is said again that there is none.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// What `portcullis responder` can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The uid that the agent runs with.
    pub agent_uid: u32,
    /// Where the keys of session tokens are kept; nowhere if absent, so that a restart voids them.
    pub keys: Option<PathBuf>,
    /// Requests of a pod in a second.
    pub pod_requests: NonZeroU32,
    /// The region in which STS is asked; the node's if absent.
    pub region: Option<String>,
    /// The node's own metadata service.
    pub upstream: Endpoint,
    /// STS elsewhere.
    pub endpoint: Option<String>,
    /// Whether metadata is answered without session tokens.
    pub imds_v1: ImdsV1,
    /// EKS Auth elsewhere.
    pub eks_auth_endpoint: Option<String>,
    /// For whom tokens have to be that pods show.
    pub audience: String,
    /// How sessions are named, tagged and shared.
    pub sessions: Sessions,
    /// Names beside the addresses that `Host` may say.
    pub extra_hosts: Vec<String>,
    /// Credentials for `AssumeRole`: access key id, secret key, session token. The node's if absent.
    pub own: Option<(String, String, Option<String>)>,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let counters = Arc::<Counters>::default();
    let upstream = || Upstream::new(settings.upstream, Arc::clone(&counters));
    let region = tokio::select! {
        region = region(&settings, upstream()) => region,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let endpoints = match &settings.endpoint {
        Some(url) => Endpoints {
            regional: url.clone(),
            global: url.clone(),
        },
        None => Endpoints {
            regional: sts::endpoint(&region, true).await?,
            global: sts::endpoint(&region, false).await?,
        },
    };
    let own = match settings.own.clone() {
        Some((id, secret, token)) => {
            SharedCredentialsProvider::new(Credentials::new(id, secret, token, None, "settings"))
        }
        None => SharedCredentialsProvider::new(NodeKeys::new(upstream())),
    };
    let keys = keys::keep(settings.keys.clone())?;
    let http = sts::http_client();
    let eks_auth = match &settings.sessions.cluster {
        Some(cluster) => {
            let endpoint = match &settings.eks_auth_endpoint {
                Some(url) => url.clone(),
                None => eks_auth::endpoint(&region).await?,
            };
            let own = Some(own.clone());
            let eks_auth = EksAuth::new(cluster, &endpoint, &region, own, http.clone());
            Some(eks_auth.context("reading --cluster-name")?)
        }
        None => None,
    };
    let sts = Sts::new(&region, Some(own), http);
    let remote = Remote::new(
        endpoints,
        (settings.sessions.clone(), &settings.audience),
        (sts, eks_auth),
        upstream(),
        counters.clone(),
    );
    tokio::select! {
        result = follow(&settings, &remote, &keys) => result,
        () = remote.follow_the_node() => Err(anyhow!("nothing more can become known of the node")),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// The region that was chosen, or the node's. Without one there is no STS to ask, and pods wait in front of the listeners.
async fn region(settings: &Settings, mut upstream: Upstream) -> String {
    if let Some(region) = &settings.region {
        return region.clone();
    }
    let mut told: Option<Instant> = None;
    loop {
        match node::region(&mut upstream).await {
            Ok(region) => {
                info!(%region, "The node's metadata service says the region");
                return region;
            }
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() > TELL_AGAIN) {
                    told = Some(Instant::now());
                    warn!(error = %format!("{:#}", anyhow::Error::new(error)), "No region yet: it is asked of the node's metadata service until --region says it");
                }
                tokio::time::sleep(REGION_AGAIN).await;
            }
        }
    }
}

/// Serves for one agent after the other.
async fn follow(
    settings: &Settings,
    remote: &Remote,
    keys: &watch::Receiver<Arc<portcullis_imds::token::Keys>>,
) -> Result<()> {
    loop {
        let connected = match connect::connect(&settings.socket, settings.agent_uid).await {
            Ok(connected) => connected,
            Err(error) => {
                warn!(error = %format!("{error:#}"), "No agent yet");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        info!(
            listeners = connected.listeners.len(),
            "The agent has handed over its listeners"
        );
        let surface = Surface {
            imds_v1: settings.imds_v1,
            keys: keys.clone(),
            pod_requests: settings.pod_requests,
        };
        if let Err(error) = serve(settings, remote, surface, connected).await {
            warn!(error = %format!("{error:#}"), "The agent is gone");
        }
    }
}

async fn serve(
    settings: &Settings,
    remote: &Remote,
    surface: Surface,
    connected: Connected,
) -> Result<()> {
    let mut bound = Vec::new();
    for (service, listener) in connected.listeners {
        let Some(service) = Service::ALL.into_iter().find(|known| {
            guard::ADDRESSES
                .get(usize::from(service))
                .is_some_and(|address| {
                    std::net::Ipv6Addr::from(*address).to_canonical() == known.address()
                })
        }) else {
            continue;
        };
        listener
            .set_nonblocking(true)
            .context("preparing a listener")?;
        bound.push(Bound {
            listener: TcpListener::from_std(listener).context("taking a listener over")?,
            hosts: Hosts::new(service, settings.extra_hosts.clone()),
        });
    }
    let server = Server::new(remote.clone(), surface).context("starting the server")?;
    let (metrics, book) = remote.observers();
    let server = server.observed(metrics, book);
    let (lost, gone) = tokio::sync::oneshot::channel();
    let talk = remote.talk(connected.stream);
    let serving = Arc::new(server).run(bound, async move {
        // Ready when the link is gone.
        let _ = gone.await;
    });
    let (result, ()) = tokio::join!(
        async move {
            let result = talk.await;
            let _ = lost.send(());
            result
        },
        serving
    );
    result
}
