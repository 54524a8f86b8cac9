//! The node's own credentials, for `AssumeRole` where nobody gave us others. They sign calls to STS and go nowhere else.
//!
//! ```text
//! AssumeRole -> NodeKeys: what is there, or the task's next word <- task: role name, document <- Upstream
//! ```
//! 1. Who asks gets what is there, as long as it has more than [`LEAST_LEFT`] left; else all who wait get what one fetch brings.
//! 2. From [`RENEW`] before the end whoever asks has it renewed behind its back, once a minute at most: the service brings new ones when it likes.
//! 3. A failure stands for [`STANDS`]; keys that have not ended are used meanwhile.
//! 4. Nobody asks, nothing is fetched: where pods' credentials come from elsewhere, the node's are never touched.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::node::{NodeError, ROLES, no_profile};
use super::{Path, Upstream, entries};
use crate::metrics::PathClass;
use crate::secret::Secret;

const ROLES_FOLDER: &str = "meta-data/iam/security-credentials/";
/// Keys with less left are not used while there may be newer ones.
const LEAST_LEFT: Duration = Duration::from_mins(1);
/// EC2 has new keys at least five minutes before the old ones end.
const RENEW: Duration = Duration::from_mins(15);
/// How long until keys that are still good are asked for again.
const RENEW_AGAIN: Duration = Duration::from_mins(1);
/// How long a failure stands.
const STANDS: Duration = Duration::from_secs(5);

/// Why the node has no credentials.
#[derive(Debug, Error)]
pub enum NoKeys {
    /// The source says what to look at.
    #[error("the node's credentials cannot be read")]
    Node(#[from] NodeError),
    /// The instance profile's role is gone or does not trust EC2.
    #[error("the metadata service has no credentials of the node's role: {0}")]
    Refused(String),
    /// What answers is not a metadata service.
    #[error("the metadata service gave credentials that cannot be read")]
    Malformed,
}

/// The node's credentials. Clones are the same.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    state: watch::Receiver<State>,
    bell: Arc<Notify>,
}

#[derive(Debug, Clone, Default)]
struct State {
    keys: Option<Keys>,
    failed: Option<Failed>,
    /// When something was fetched last.
    tried: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Keys {
    access_key_id: String,
    secret_access_key: Secret,
    token: Secret,
    expiration: Timestamp,
}

#[derive(Debug, Clone)]
struct Failed {
    error: Arc<NoKeys>,
    until: Timestamp,
}

/// `Code` is no word of success where there are none.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    token: Option<Secret>,
    expiration: Option<String>,
}

impl NodeKeys {
    /// Of the node whose metadata service this is. The task ends with the last clone.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        let (sender, state) = watch::channel(State::default());
        let bell = Arc::<Notify>::default();
        tokio::spawn(keep(upstream, sender, Arc::clone(&bell)));
        Self { state, bell }
    }

    async fn keys(&self) -> Result<Keys, Arc<NoKeys>> {
        let mut state = self.state.clone();
        loop {
            {
                let (seen, now) = (state.borrow_and_update(), Timestamp::now());
                if seen.is_due(now) {
                    self.bell.notify_one();
                }
                if let Some(answer) = seen.answer(now) {
                    return answer;
                }
            }
            if state.changed().await.is_err() {
                return Err(Arc::new(NoKeys::Malformed));
            }
        }
    }
}

impl ProvideCredentials for NodeKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            match self.keys().await {
                Ok(keys) => Ok(keys.for_the_sdk()),
                Err(error) => provider::Result::Err(CredentialsError::provider_error(error)),
            }
        })
    }
}

impl State {
    /// What is answered now; none if the task has to be waited for.
    fn answer(&self, now: Timestamp) -> Option<Result<Keys, Arc<NoKeys>>> {
        let failed = self.failed.as_ref().filter(|failed| now < failed.until);
        match (&self.keys, failed) {
            (Some(keys), _) if keys.left(now) > LEAST_LEFT => Some(Ok(keys.clone())),
            (Some(keys), Some(_)) if !keys.left(now).is_zero() => Some(Ok(keys.clone())),
            (_, Some(failed)) => Some(Err(Arc::clone(&failed.error))),
            (_, None) => None,
        }
    }

    /// Whether something is to be fetched, now that somebody asks.
    fn is_due(&self, now: Timestamp) -> bool {
        let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        let tried = |least| self.tried.is_none_or(|at| since(at) >= least);
        if self
            .failed
            .as_ref()
            .is_some_and(|failed| now < failed.until)
        {
            return false;
        }
        let left = self
            .keys
            .as_ref()
            .map_or(Duration::ZERO, |keys| keys.left(now));
        left <= LEAST_LEFT || (left <= RENEW && tried(RENEW_AGAIN))
    }
}

impl Keys {
    fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.expiration.duration_since(now)).unwrap_or_default()
    }

    fn for_the_sdk(&self) -> Credentials {
        Credentials::new(
            &self.access_key_id,
            self.secret_access_key.expose(),
            Some(self.token.expose().to_owned()),
            Some(SystemTime::from(self.expiration)),
            "node",
        )
    }
}

/// Fetches whenever the bell rings and something is due. One thing after the other, so that many who wait cost one fetch.
async fn keep(mut upstream: Upstream, state: watch::Sender<State>, bell: Arc<Notify>) {
    loop {
        tokio::select! {
            () = bell.notified() => {}
            () = state.closed() => return,
        }
        if !state.borrow().is_due(Timestamp::now()) {
            continue;
        }
        let fetched = fetch(&mut upstream).await;
        if let Err(error) = &fetched {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            warn!(%error, cause, "Cannot get the node's credentials");
        }
        state.send_modify(|state| state.learn(fetched, Timestamp::now()));
    }
}

impl State {
    fn learn(&mut self, fetched: Result<Keys, NoKeys>, now: Timestamp) {
        self.tried = Some(now);
        // What the service still has although it has ended is none.
        let fetched = fetched.and_then(|keys| match keys.left(now) {
            Duration::ZERO => Err(NoKeys::Refused("they have expired".to_owned())),
            _ => Ok(keys),
        });
        match fetched {
            Ok(keys) => {
                // Few seconds left and nothing newer to be had: as good as a failure for whoever asks next.
                let short = keys.left(now) <= LEAST_LEFT;
                self.failed = short.then(|| Failed {
                    error: Arc::new(NoKeys::Refused("they are about to expire".to_owned())),
                    until: now + STANDS,
                });
                self.keys = Some(keys);
            }
            Err(error) => {
                self.failed = Some(Failed {
                    error: Arc::new(error),
                    until: now + STANDS,
                });
            }
        }
    }
}

async fn fetch(upstream: &mut Upstream) -> Result<Keys, NoKeys> {
    let names = upstream.get(&ROLES).await.map_err(no_profile)?;
    let names = entries(&names);
    let [name] = names.as_slice() else {
        return Err(NodeError::Role.into());
    };
    let path = Path::below(ROLES_FOLDER, name, "", PathClass::Credentials);
    let text = upstream.get(&path).await.map_err(NodeError::from)?;
    let document: Document = serde_json::from_str(&text).map_err(|_error| NoKeys::Malformed)?;
    if let Some(code) = document.code.filter(|code| code != "Success") {
        let shown = code.chars().filter(|letter| !letter.is_control()).take(64);
        return Err(NoKeys::Refused(shown.collect()));
    }
    let found = (
        document.access_key_id,
        document.secret_access_key,
        document.token,
        document.expiration,
    );
    let (Some(access_key_id), Some(secret_access_key), Some(token), Some(expiration)) = found
    else {
        return Err(NoKeys::Malformed);
    };
    Ok(Keys {
        access_key_id,
        secret_access_key,
        token,
        expiration: expiration.parse().map_err(|_error| NoKeys::Malformed)?,
    })
}

#[cfg(test)]
mod tests;
