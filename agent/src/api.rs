//! The admin socket: HTTP/1.1 and JSON on a Unix socket that only root may open. `curl --unix-socket` is a client like any other.
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process answers; never depends on the API server |
//! | `GET /readyz` | 200 once every local endpoint is enforced, else 503 with what is missing |
//! | `GET /metrics` | `OpenMetrics` text |
//! | `GET /v1/status` | [`NodeStatus`] |
//! | `GET /v1/explain?source=&destination=&nodes=` | [`Said`](crate::commands::explain::Said): both sides of a connection, or of one to each backend of a Service, from this agent's objects |
//! | `GET /v1/pods/NAMESPACE/NAME` | [`PodStatus`]: whether its policies are in force |
//! | `GET /v1/roles?pod=` | [`NodeRoles`]: the roles of this node's pods, or of one, and why |
//! | `GET /v1/audit?pod=&after=&limit=` | [`NodeAudit`](crate::report::NodeAudit): what was handed out and refused, the newest records |
//! | `GET /v1/cache` | [`NodeCache`]: what the responder's cache has |
//! | `GET /v1/bpf/progs`, `/v1/bpf/maps` | what is pinned |
//! | `GET /v1/bpf/maps/NAME?raw=&limit=` | entries of a map |
//! | `POST /v1/synced` | 204 once everything that was present at the call is in force in the kernel |
//!
//! Over TCP, where asked for, only the first three. Every path here only looks; one that changes something must not be among those that
//! [`bridge`](crate::bridge) passes on. What is refused is a [`Failure`] in JSON.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::audit::{Audit, RING};
use crate::commands::{bpf, explain};
use crate::failure::{Failure, exit};
use crate::kube::manifests::Rereader;
use crate::kube::token::TokenCounts;
use crate::metrics::{self, Counted};
use crate::reconcile::View;
use crate::report::{NodeCache, NodeRoles, NodeStatus, PodStatus};
use crate::responder::asked::Responder;
use crate::settings::Settings;

/// What the admin socket asks of the world task.
pub enum Request {
    /// The agent's word on itself.
    Status(oneshot::Sender<NodeStatus>),
    /// The objects, to explain from.
    View(oneshot::Sender<View>),
    /// Whether a pod's policies are in force, after everything that stood in the channels before.
    Pod(String, String, oneshot::Sender<PodStatus>),
    /// The roles of this node's pods.
    Roles(oneshot::Sender<NodeRoles>),
    /// Answered once everything that stood in the channels before is in force.
    Synced(oneshot::Sender<()>),
}

/// Explanations and dumps at a time: each may keep a processor busy for a while, and a node has other work.
const AT_A_TIME: usize = 2;

/// Who is asked about credentials.
#[derive(Clone)]
pub struct Iam {
    /// The records.
    pub audit: Audit,
    /// The responder, if there is to be one.
    pub responder: Option<Responder>,
    /// Web-identity tokens that were asked for.
    pub tokens: Option<Arc<TokenCounts>>,
}

#[derive(Clone)]
struct Context {
    requests: mpsc::Sender<Request>,
    rereader: Option<Rereader>,
    bpffs: Arc<Path>,
    turns: Arc<Semaphore>,
    iam: Iam,
    /// What the responder said last of itself.
    counted: Arc<Mutex<Counted>>,
}

/// Binds every listener, so that a wrong address is an error at start; the future serves them.
pub fn serve(
    settings: &Settings,
    requests: mpsc::Sender<Request>,
    rereader: Option<Rereader>,
    iam: Iam,
) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
    let context = Context {
        requests,
        rereader,
        bpffs: Arc::from(settings.bpffs.as_path()),
        turns: Arc::new(Semaphore::new(AT_A_TIME)),
        iam,
        counted: Arc::default(),
    };
    if let Some(parent) = settings.socket.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating {}", parent.display()))?;
    }
    // A socket file that an agent left behind, or a live one's: the newest agent of a node serves.
    let _ = std::fs::remove_file(&settings.socket);
    let listener = UnixListener::bind(&settings.socket)
        .with_context(|| format!("listening on {}", settings.socket.display()))?;
    std::fs::set_permissions(&settings.socket, std::fs::Permissions::from_mode(0o600))
        .context("closing the admin socket to others")?;
    let (metrics_at, health_at) = (settings.metrics, settings.health);
    Ok(async move {
        let admin = axum::serve(
            listener,
            health(context.clone())
                .merge(metrics_router(context.clone()))
                .merge(admin(context.clone())),
        );
        tokio::try_join!(
            async { admin.await.context("serving the admin socket") },
            tcp(metrics_at, metrics_router(context.clone())),
            tcp(health_at, health(context.clone())),
        )?;
        Ok(())
    })
}

async fn tcp(address: Option<SocketAddr>, router: Router) -> Result<()> {
    let Some(address) = address else {
        return std::future::pending().await;
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router)
        .await
        .with_context(|| format!("serving {address}"))
}

fn health(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(context)
}

fn metrics_router(context: Context) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(context)
}

fn admin(context: Context) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/pods/{namespace}/{name}", get(pod))
        .route("/v1/roles", get(roles))
        .route("/v1/audit", get(audit))
        .route("/v1/cache", get(cache))
        .route("/v1/bpf/progs", get(progs))
        .route("/v1/bpf/maps", get(maps))
        .route("/v1/bpf/maps/{name}", get(dump))
        .route("/v1/synced", post(synced))
        .with_state(context)
}

/// Asks the world task for its status.
async fn ask(context: &Context) -> Result<NodeStatus, Response> {
    let mut status = put(context, Request::Status).await?;
    status.problems.extend(context.iam.audit.problem());
    Ok(status)
}

/// Puts a question to the world task.
async fn put<T>(
    context: &Context,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Response> {
    let (answer, answered) = oneshot::channel();
    let sent = context.requests.send(question(answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(answer)) => Ok(answer),
        _ => Err((StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response()),
    }
}

async fn ready(State(context): State<Context>) -> Response {
    match ask(&context).await {
        Ok(status) if status.ready => "ok\n".into_response(),
        Ok(status) => (
            StatusCode::SERVICE_UNAVAILABLE,
            status.problems.join("\n") + "\n",
        )
            .into_response(),
        Err(response) => response,
    }
}

async fn scrape(State(context): State<Context>) -> Response {
    let status = ask(&context).await;
    let counted = context.counted().await;
    match status {
        Ok(status) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            metrics::render(&status, &counted),
        )
            .into_response(),
        Err(response) => response,
    }
}

async fn status(State(context): State<Context>) -> Response {
    match ask(&context).await {
        Ok(status) => axum::Json(status).into_response(),
        Err(response) => response,
    }
}

/// Reads the manifests again first: its batch stands in the channel before the question does.
async fn synced(State(context): State<Context>) -> Response {
    if let Some(rereader) = &context.rereader
        && let Err(error) = rereader.reread().await
    {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
    }
    match put(&context, Request::Synced).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(response) => response,
    }
}

/// A question about a connection, as people write its ends.
#[derive(Deserialize)]
struct Ends {
    source: String,
    destination: String,
    /// Of a Service's backends, judge only endpoints of these nodes; all if absent.
    nodes: Option<String>,
}

async fn explain(State(context): State<Context>, Query(ends): Query<Ends>) -> Response {
    match put(&context, Request::View).await {
        Ok(view) => {
            work(&context, move |_| {
                let nodes = ends.nodes.as_deref().map(|nodes| {
                    let names = nodes.split(',').filter(|name| !name.is_empty());
                    names.map(str::to_owned).collect()
                });
                explain::answer(&view, &ends.source, &ends.destination, nodes.as_ref())
            })
            .await
        }
        Err(response) => response,
    }
}

async fn pod(
    State(context): State<Context>,
    UrlPath((namespace, name)): UrlPath<(String, String)>,
) -> Response {
    match put(&context, |answer| Request::Pod(namespace, name, answer)).await {
        Ok(status) => axum::Json(status).into_response(),
        Err(response) => response,
    }
}

/// Whose roles.
#[derive(Deserialize)]
struct Whose {
    /// `namespace/name`; all pods of the node if absent.
    pod: Option<String>,
}

async fn roles(State(context): State<Context>, Query(whose): Query<Whose>) -> Response {
    match put(&context, Request::Roles).await {
        Ok(mut roles) => {
            if let Some(pod) = whose.pod {
                roles.items.retain(|role| role.pod == pod);
            }
            axum::Json(roles).into_response()
        }
        Err(response) => response,
    }
}

/// Which records.
#[derive(Deserialize)]
struct Which {
    /// `namespace/name`; those of all pods if absent.
    pod: Option<String>,
    /// Only those with a higher number.
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn audit(State(context): State<Context>, Query(which): Query<Which>) -> Response {
    let most = which.limit.unwrap_or(RING);
    let records = context
        .iam
        .audit
        .records(which.pod.as_deref(), which.after, most);
    axum::Json(records).into_response()
}

async fn cache(State(context): State<Context>) -> Response {
    let Some(responder) = &context.iam.responder else {
        return refuse(&Failure::new(
            "PC3003",
            "this node has no responder",
            "its agent was started without --responder, so pods get no credentials from it",
            "see docs/metadata-guard.md for how to redirect metadata requests",
        ));
    };
    let Some(mut items) = responder.cache().await else {
        return refuse(&Failure::new(
            "PC4008",
            "the responder does not answer",
            "it is not connected to its agent, or is too busy to answer within 0.5 s",
            "see the log of the responder, a container of the agent's pod",
        ));
    };
    items.sort_by(|a, b| {
        (&a.namespace, &a.pod, &a.role, &a.session_name).cmp(&(
            &b.namespace,
            &b.pod,
            &b.role,
            &b.session_name,
        ))
    });
    let node = context.iam.audit.node().to_owned();
    axum::Json(NodeCache {
        api_version: "portcullis.dev/v1alpha1".to_owned(),
        kind: "NodeCache".to_owned(),
        node,
        asked_at: Timestamp::now(),
        items,
    })
    .into_response()
}

impl Context {
    /// What was counted of credentials. Of a responder that does not answer, what it said last.
    async fn counted(&self) -> Counted {
        let snapshot = match &self.iam.responder {
            Some(responder) => responder.snapshot().await,
            None => None,
        };
        // Nothing panics while it holds the lock.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.connected = snapshot.is_some();
        if let Some(snapshot) = snapshot {
            counted.v1 = self.iam.audit.count_v1(&snapshot.v1);
            counted.responder = snapshot;
        }
        counted.audit_lost = self.iam.audit.lost();
        counted.tokens = match &self.iam.tokens {
            Some(tokens) => tokens.all().collect(),
            None => Vec::new(),
        };
        counted.clone()
    }
}

async fn progs(State(context): State<Context>) -> Response {
    work(&context, bpf::programs).await
}

async fn maps(State(context): State<Context>) -> Response {
    work(&context, bpf::maps).await
}

/// How a map is dumped.
#[derive(Deserialize)]
struct How {
    #[serde(default)]
    raw: bool,
    limit: Option<usize>,
}

async fn dump(
    State(context): State<Context>,
    UrlPath(name): UrlPath<String>,
    Query(how): Query<How>,
) -> Response {
    work(&context, move |bpffs| {
        bpf::dump(bpffs, &name, how.raw, how.limit)
    })
    .await
}

/// Does `what` beside the runtime, when it is its turn.
async fn work<T: Serialize + Send + 'static>(
    context: &Context,
    what: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Response {
    let turn = Arc::clone(&context.turns).acquire_owned().await;
    let bpffs = Arc::clone(&context.bpffs);
    let done = tokio::task::spawn_blocking(move || {
        // Also of whoever has gone away meanwhile.
        let _turn = turn;
        what(&bpffs)
    });
    match done.await {
        Ok(Ok(value)) => axum::Json(value).into_response(),
        Ok(Err(error)) => refuse(&Failure::from(error)),
        Err(error) => refuse(&Failure::from(anyhow::Error::from(error))),
    }
}

/// A failure, with the nearest status.
fn refuse(failure: &Failure) -> Response {
    let status = match failure.exit_code() {
        exit::USAGE => StatusCode::BAD_REQUEST,
        exit::NOT_PERMITTED => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, failure.to_json() + "\n").into_response()
}
