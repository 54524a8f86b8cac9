//! What roles are decided by and the node itself has to say: the base ARN, the default role.
//!
//! ```text
//! settings that are pending -> the node's metadata service, until it answers -> world task
//! ```
//! Pods that depend on it are undecided meanwhile, and wait. What was found stays: a node does not change its account.

use std::sync::Arc;
use std::time::Duration;

use portcullis_imds::role::{BaseArn, Discovered, Settings};
use portcullis_imds::upstream::node::{self, NodeError};
use portcullis_imds::upstream::{Endpoint, Upstream};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How long until the service is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is said that it does not answer.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// What was found, of what was looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The base ARN.
    pub base: Option<BaseArn>,
    /// The ARN of the default role.
    pub default_role: Option<String>,
}

impl Found {
    /// Puts what was found where it was waited for.
    pub fn apply(self, settings: &mut Settings) {
        if let (Discovered::Pending, Some(base)) = (&settings.base, self.base) {
            settings.base = Discovered::Known(base);
        }
        if let (Discovered::Pending, Some(role)) = (&settings.default_role, self.default_role) {
            settings.default_role = Discovered::Known(role);
        }
    }
}

/// Asks for what is pending until all of it is known. None: nothing is.
pub async fn discover(endpoint: Endpoint, settings: &Settings) -> Option<Found> {
    let base = settings.base == Discovered::Pending;
    let role = settings.default_role == Discovered::Pending;
    if !base && !role {
        return None;
    }
    let mut upstream = Upstream::new(endpoint, Arc::default());
    let mut told: Option<Instant> = None;
    loop {
        match ask(&mut upstream, base, role).await {
            Ok(found) => {
                info!(
                    base = found.base.as_ref().map(BaseArn::as_str),
                    default_role = found.default_role,
                    "The node's metadata service says what roles are decided by"
                );
                return Some(found);
            }
            Err(error) if told.is_none_or(|at| at.elapsed() > TELL_AGAIN) => {
                told = Some(Instant::now());
                warn!(error = %format!("{:#}", anyhow::Error::new(error)), "Cannot find out what roles are decided by; pods that need it wait");
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

async fn ask(upstream: &mut Upstream, base: bool, role: bool) -> Result<Found, NodeError> {
    let mut found = Found::default();
    if base {
        found.base = Some(node::base_arn(upstream).await?);
    }
    if role {
        found.default_role = Some(node::role_arn(upstream).await?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_replaces_only_what_was_waited_for() {
        let arn = |account| BaseArn::parse(&format!("arn:aws:iam::{account}:role/"));
        let own = arn("123456789012").expect("it is one");
        let found = Found {
            base: Some(own.clone()),
            default_role: Some("arn:aws:iam::123456789012:role/node".to_owned()),
        };
        let chosen = Settings {
            base: Discovered::Known(arn("999999999999").expect("it is one")),
            ..Settings::default()
        };
        let mut after = chosen.clone();
        found.clone().apply(&mut after);
        assert_eq!(after, chosen);
        let mut after = Settings {
            base: Discovered::Pending,
            default_role: Discovered::Pending,
            ..Settings::default()
        };
        found.clone().apply(&mut after);
        let expected = Settings {
            base: Discovered::Known(own),
            default_role: Discovered::Known("arn:aws:iam::123456789012:role/node".to_owned()),
            ..Settings::default()
        };
        assert_eq!(after, expected);
    }

    #[tokio::test]
    async fn where_nothing_is_waited_for_nobody_is_asked() {
        let nobody: Endpoint = "http://127.0.0.1:1".parse().expect("an endpoint");
        assert_eq!(discover(nobody, &Settings::default()).await, None);
    }
}
