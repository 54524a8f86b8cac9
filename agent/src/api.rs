//! The admin socket: HTTP/1.1 and JSON on a Unix socket that only root may open. `curl --unix-socket` is a client like any other.
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process answers; never depends on the API server |
//! | `GET /readyz` | 200 once every local endpoint is enforced, else 503 with what is missing |
//! | `GET /metrics` | `OpenMetrics` text |
//! | `GET /v1/status` | [`NodeStatus`] |
//! | `POST /v1/synced` | 204 once everything that was present at the call is in force in the kernel |
//!
//! Over TCP, where asked for, only the first three.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::kube::manifests::Rereader;
use crate::metrics;
use crate::report::NodeStatus;
use crate::settings::Settings;

/// What the admin socket asks of the world task.
pub enum Request {
    /// The agent's word on itself.
    Status(oneshot::Sender<NodeStatus>),
    /// Answered once everything that stood in the channels before is in force.
    Synced(oneshot::Sender<()>),
}

#[derive(Clone)]
struct Context {
    requests: mpsc::Sender<Request>,
    rereader: Option<Rereader>,
}

/// Binds every listener, so that a wrong address is an error at start; the future serves them.
pub fn serve(
    settings: &Settings,
    requests: mpsc::Sender<Request>,
    rereader: Option<Rereader>,
) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
    let context = Context { requests, rereader };
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
        .route("/v1/synced", post(synced))
        .with_state(context)
}

/// Asks the world task.
async fn ask(context: &Context) -> Result<NodeStatus, Response> {
    let (answer, answered) = oneshot::channel();
    let sent = context.requests.send(Request::Status(answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(status)) => Ok(status),
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
    match ask(&context).await {
        Ok(status) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            metrics::render(&status),
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
    let (answer, answered) = oneshot::channel();
    let sent = context.requests.send(Request::Synced(answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(())) => StatusCode::NO_CONTENT.into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response(),
    }
}
