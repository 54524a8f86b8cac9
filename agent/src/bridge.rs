//! `portcullis bridge`: what `kubectl portcullis` runs in an agent's pod. HTTP/1.1 comes in on standard input, the agent's answers go out on standard output.
//!
//! ```text
//! kubectl portcullis --exec through the API server--> bridge --admin socket--> agent
//! ```
//! It passes on questions and nothing else: a list of methods and paths, never a body. Whoever may run it may run other commands in that container too,
//! so the list is no wall against people; it keeps what the admin socket may learn to do one day out of a road that is made for looking.
//!
//! It ends when its caller is gone (end of input, also in the middle of an answer), when nothing was asked for `IDLE`, and after `LIFE`.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, join};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::failure::Failure;

/// How long it waits for the next question.
const IDLE: Duration = Duration::from_mins(1);

/// How long it lives, whatever is asked of it.
const LIFE: Duration = Duration::from_hours(1);

/// Room for a question's head; the smallest that hyper takes.
const MOST_HEAD: usize = 8192;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves one caller until it is gone.
pub async fn run<R, W>(input: R, output: W, socket: &Path) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MOST_HEAD)
        .serve_connection(
            TokioIo::new(join(input, output)),
            service_fn(|request| async move {
                Ok::<_, Infallible>(answer(&request, socket).await.unwrap_or_else(refusal))
            }),
        );
    match timeout(LIFE, connection).await {
        // Nobody is there to be told how it ended.
        Ok(_) => Ok(()),
        Err(elapsed) => Err(elapsed).context("this bridge has been up for too long"),
    }
}

/// Whether the question is one that only looks.
fn is_permitted(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET => {
            matches!(
                path,
                "/healthz"
                    | "/readyz"
                    | "/metrics"
                    | "/v1/status"
                    | "/v1/explain"
                    | "/v1/roles"
                    | "/v1/audit"
                    | "/v1/cache"
            ) || path.starts_with("/v1/pods/")
                || path.starts_with("/v1/bpf/")
        }
        Method::POST => path == "/v1/synced",
        _ => false,
    }
}

async fn answer(
    request: &Request<Incoming>,
    socket: &Path,
) -> Result<Response<Body>, (StatusCode, Failure)> {
    let (method, path) = (request.method(), request.uri().path());
    if !is_permitted(method, path) {
        return Err((
            StatusCode::FORBIDDEN,
            Failure::new(
                "PC4004",
                "the bridge does not pass this on",
                format!("{method} {path} is not among the questions that it knows"),
                "ask on the node itself, by the agent's socket",
            ),
        ));
    }
    let unreachable = |why: String| {
        (
            StatusCode::BAD_GATEWAY,
            Failure::new(
                "PC4002",
                "no agent answers on the socket",
                format!("{}: {why}", socket.display()),
                "see in the pod's log whether the agent has started",
            ),
        )
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let driver = tokio::spawn(async {
        // Whoever asks gets the error.
        let _ = connection.await;
    });
    // Dropped with the question when the caller goes: the agent sees its connection end.
    let driver = Driver(driver.abort_handle());
    let asked = Request::builder()
        .method(method)
        .uri(
            request
                .uri()
                .path_and_query()
                .map_or(path, |both| both.as_str()),
        )
        .header("host", "portcullis")
        .body(Empty::<Bytes>::new())
        .map_err(|error| unreachable(error.to_string()))?;
    let answered = sender
        .send_request(asked)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let (parts, body) = answered.into_parts();
    let mut response = Response::new(
        body.map_frame(move |frame| {
            let _driver = &driver;
            frame
        })
        .boxed(),
    );
    *response.status_mut() = parts.status;
    if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    Ok(response)
}

fn refusal((status, failure): (StatusCode, Failure)) -> Response<Body> {
    let body = Full::from(failure.to_json() + "\n").map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The task that drives the connection to the agent; ends with it.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
