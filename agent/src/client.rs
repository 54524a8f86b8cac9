//! The other end of the admin API: HTTP/1.1 over a socket of this node, or over whatever else carries bytes to an agent.

use std::any::Any;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// An answer may be this long; a longer one is no agent's.
const MOST_BYTES: usize = 128 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Is the agent running, and is this its socket?
    #[error("no agent answers on the socket")]
    Unreachable(#[source] std::io::Error),
    /// The agent ended in the middle.
    #[error("the agent's answer broke off")]
    Broken(#[from] hyper::Error),
    /// The agent is another program, or a map has grown beyond all measure: narrow the question.
    #[error("the agent's answer is longer than {MOST_BYTES} bytes, or broke off")]
    Long(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Agent and client are of different versions.
    #[error("the agent's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// What the agent says of it.
    #[error("the agent answers {0}: {1}")]
    Refused(StatusCode, String),
    /// Time is up.
    #[error("no answer in time")]
    TimedOut,
}

/// A connection to an agent; questions one after the other.
pub struct Line {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
    /// What has to live as long as the bytes flow.
    _carrier: Box<dyn Any + Send>,
}

impl Line {
    /// Speaks HTTP over `stream`; `carrier` is dropped with the line.
    pub async fn over<S>(stream: S, carrier: impl Any + Send) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async {
            // Whoever asks gets the error.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            driver,
            _carrier: Box::new(carrier),
        })
    }

    /// To an agent of this node.
    pub async fn to_socket(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(ClientError::Unreachable)?;
        Self::over(stream, ()).await
    }

    /// One request; the body of a 2xx answer.
    pub async fn call(&mut self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "portcullis")
            .body(Empty::<Bytes>::new());
        let request = request.expect("method, path and host are valid");
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES);
        let body = body.collect().await.map_err(ClientError::Long)?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(ClientError::Refused(
                status,
                String::from_utf8_lossy(&body).trim().to_owned(),
            ))
        }
    }

    /// One question; its JSON answer.
    pub async fn ask<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let body = self.call(Method::GET, path).await?;
        serde_json::from_slice(&body).map_err(ClientError::Unreadable)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One question to the agent of this node; its JSON answer.
pub async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    Line::to_socket(socket).await?.ask(path).await
}

/// Waits until everything present now is in force. Keeps trying to connect; says whether it ever could if time runs out.
pub async fn wait_synced(socket: &Path, limit: Duration) -> Result<(), ClientError> {
    let deadline = Instant::now() + limit;
    let mut reached = false;
    loop {
        let attempt = async {
            let mut line = Line::to_socket(socket).await?;
            line.call(Method::POST, "/v1/synced").await
        };
        match timeout_at(deadline, attempt).await {
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

/// `text` as the value of a query: everything but letters, digits and `-._~/:` by its number.
#[must_use]
pub fn quoted(text: &str) -> String {
    let one = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_nothing_that_means_something_in_an_address() {
        assert_eq!(quoted("shop/db:5432"), "shop/db:5432");
        assert_eq!(quoted("[fd00::7]:80 &é"), "%5Bfd00::7%5D:80%20%26%C3%A9");
    }
}
