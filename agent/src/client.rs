//! The other end of the admin socket.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Is the agent running, and is this its socket?
    #[error("no agent answers on the socket")]
    Unreachable(#[source] std::io::Error),
    /// The agent ended in the middle.
    #[error("the agent's answer broke off")]
    Broken(#[from] hyper::Error),
    /// What the agent says of it.
    #[error("the agent answers {0}: {1}")]
    Refused(StatusCode, String),
    /// Time is up.
    #[error("no answer in time")]
    TimedOut,
}

/// One request; the body of a 2xx answer.
pub async fn call(socket: &Path, method: Method, path: &str) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(ClientError::Unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "portcullis")
        .body(Empty::<Bytes>::new());
    let request = request.expect("method, path and host are valid");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        Err(ClientError::Refused(
            status,
            String::from_utf8_lossy(&body).trim().to_owned(),
        ))
    }
}

/// Waits until everything present now is in force. Keeps trying to connect; says whether it ever could if time runs out.
pub async fn wait_synced(socket: &Path, limit: Duration) -> Result<(), ClientError> {
    let deadline = Instant::now() + limit;
    let mut reached = false;
    loop {
        match timeout_at(deadline, call(socket, Method::POST, "/v1/synced")).await {
            Ok(Ok(_)) => return Ok(()),
            Err(_) => return Err(ClientError::TimedOut),
            Ok(Err(error)) => {
                reached |= !matches!(error, ClientError::Unreachable(_));
                if Instant::now() + Duration::from_millis(20) >= deadline {
                    return Err(if reached {
                        ClientError::TimedOut
                    } else {
                        error
                    });
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
