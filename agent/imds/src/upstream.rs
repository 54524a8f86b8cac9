//! The node's own instance metadata service, asked by us for what the tables need: a client, not a proxy.
//!
//! ```text
//! Path (constants, and entries of the service's own lists) -> session token -> one connection -> text of at most 16 KiB
//! ```
//! 1. A request is made of constants, of our session token and of names that the service itself listed. Nothing of a pod is ever in it.
//! 2. Only status 200 is an answer. Headers are dropped, redirects are not followed.
//! 3. An exchange takes at most [`WITHIN`], from its first packet to the last byte of the answer.
//! 4. The session token lives six hours, is renewed a while before its end, and is fetched anew once when the service refuses it.
//!
//! No lock and no pool: whoever owns an [`Upstream`] is one task, which asks for one thing after the other. What it knows others read from a channel.
//! docs/decisions.md says why there is no HTTP library.

mod endpoint;
mod exchange;
pub mod node;
mod node_keys;
mod path;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::metrics::{PathClass, Upstream as Counters, UpstreamCode};
use crate::secret::Secret;

pub use endpoint::{Endpoint, NotAnEndpoint};
pub use node_keys::{NoKeys, NodeKeys};
pub use path::{Entry, Path, entries};

/// How long one exchange may take.
pub const WITHIN: Duration = Duration::from_millis(300);
/// The longest answer, in bytes.
pub const MOST_BODY: usize = 16 * 1024;
/// How long our session token lives: the longest that there is.
const TOKEN_SECS: u64 = 21_600;
/// How long before its end a token is not used any more.
const RENEW: Duration = Duration::from_mins(5);
/// Longer than any token that the service gives.
const LONGEST_TOKEN: usize = 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// Look whether the node has a metadata service, and whether a firewall is in the way.
    #[error("the metadata service cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The same; with a hop limit of 1 the client has to be in the node's network.
    #[error("the metadata service did not answer within {} ms", WITHIN.as_millis())]
    Timeout,
    /// 404: it has no such value. Anything else: what answers is perhaps not a metadata service.
    #[error("the metadata service answered with status {0}")]
    Status(u16),
    /// What answers is not a metadata service.
    #[error("the metadata service answered with more than {MOST_BODY} bytes")]
    TooLong,
    /// What answers is not a metadata service.
    #[error("the metadata service gave an answer that cannot be read")]
    Malformed,
    /// Nothing can be asked without a session token. The cause says more.
    #[error("no session token of the metadata service")]
    Token(#[source] Box<Self>),
}

impl UpstreamError {
    /// Whether every other path would fail too.
    #[must_use]
    pub fn is_of_all_paths(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Unreachable(_))
    }

    fn code(&self) -> UpstreamCode {
        match self {
            Self::Unreachable(_) => UpstreamCode::Unreachable,
            Self::Timeout => UpstreamCode::Timeout,
            Self::Status(status) => UpstreamCode::of(*status),
            Self::TooLong | Self::Malformed => UpstreamCode::Malformed,
            Self::Token(source) => source.code(),
        }
    }
}

/// A client of the node's metadata service.
#[derive(Debug)]
pub struct Upstream {
    endpoint: Endpoint,
    counters: Arc<Counters>,
    token: Option<Token>,
}

#[derive(Debug)]
struct Token {
    text: Secret,
    /// When it is not used any more.
    until: Instant,
}

impl Upstream {
    /// A client that has asked nothing yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, counters: Arc<Counters>) -> Self {
        Self {
            endpoint,
            counters,
            token: None,
        }
    }

    /// What stands at `path`.
    pub async fn get(&mut self, path: &Path) -> Result<Zeroizing<String>, UpstreamError> {
        let answer = self.ask(path).await;
        let Err(UpstreamError::Status(401)) = answer else {
            return answer;
        };
        // The service has forgotten it, or the node was asleep. Refused a second time it is not the token.
        self.token = None;
        self.ask(path).await
    }

    async fn ask(&mut self, path: &Path) -> Result<Zeroizing<String>, UpstreamError> {
        let token = self.token().await?;
        let request = Zeroizing::new(format!(
            "GET /latest/{path} HTTP/1.1\r\nHost: {}\r\nX-aws-ec2-metadata-token: {}\r\nConnection: close\r\n\r\n",
            self.endpoint,
            token.expose(),
        ));
        self.exchange(path.class(), &request).await
    }

    /// The session token, a new one if need be.
    async fn token(&mut self) -> Result<Secret, UpstreamError> {
        let now = Instant::now();
        if let Some(token) = self.token.as_ref().filter(|token| now < token.until) {
            return Ok(token.text.clone());
        }
        let request = format!(
            "PUT /latest/api/token HTTP/1.1\r\nHost: {}\r\nX-aws-ec2-metadata-token-ttl-seconds: {TOKEN_SECS}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.endpoint,
        );
        let text = self.exchange(PathClass::Token, &request).await;
        let text = text.map_err(|error| UpstreamError::Token(Box::new(error)))?;
        // It becomes part of a header.
        if !(1..=LONGEST_TOKEN).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(UpstreamError::Token(Box::new(UpstreamError::Malformed)));
        }
        let text = Secret::from(text);
        self.token = Some(Token {
            text: text.clone(),
            until: now + Duration::from_secs(TOKEN_SECS) - RENEW,
        });
        Ok(text)
    }

    async fn exchange(
        &self,
        class: PathClass,
        request: &str,
    ) -> Result<Zeroizing<String>, UpstreamError> {
        let answer = exchange::exchange(self.endpoint.address(), request).await;
        let code = answer
            .as_ref()
            .map_or_else(UpstreamError::code, |_| UpstreamCode::Ok);
        self.counters.asked(class, code);
        answer
    }
}

#[cfg(test)]
pub(crate) mod tests;
