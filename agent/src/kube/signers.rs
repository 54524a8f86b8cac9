//! The keys with which the cluster signs service accounts' tokens, as the API server publishes them (KEP-1393).
//!
//! Every account may read them (`system:service-account-issuer-discovery`). They change rarely and without notice, so they are read again every hour, and
//! when somebody meets a key that is not among them, though never more often than every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Request;
use kube::Client;
use portcullis_imds::jwt::{Jwk, KeySet};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// Nobody makes us ask more often.
const FLOOR: Duration = Duration::from_secs(10);
/// How old the keys may be.
const AGAIN: Duration = Duration::from_hours(1);

/// The keys as they were read last; none before.
pub type Known = watch::Receiver<Option<Arc<KeySet>>>;

/// What can be asked for.
#[derive(Clone)]
pub struct Signers {
    /// The keys.
    pub known: Known,
    /// Wakes whoever reads them.
    pub wanted: Arc<Notify>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

/// Keys, and the task that reads them for ever.
pub fn follow(client: Client) -> (Signers, impl Future<Output = ()> + Send) {
    let (sender, known) = watch::channel(None);
    let wanted = Arc::new(Notify::new());
    let signers = Signers {
        known,
        wanted: Arc::clone(&wanted),
    };
    let task = async move {
        loop {
            let failed = match read(&client).await {
                Ok(set) => {
                    let set = Some(Arc::new(set));
                    sender.send_if_modified(|known| {
                        let changed = *known != set;
                        if changed {
                            info!("The cluster's signing keys are known");
                            *known = set;
                        }
                        changed
                    });
                    false
                }
                Err(error) => {
                    warn!(error = %format!("{error:#}"), "The cluster's signing keys cannot be read");
                    true
                }
            };
            tokio::time::sleep(FLOOR).await;
            if !failed {
                tokio::select! {
                    () = wanted.notified() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    };
    (signers, task)
}

async fn read(client: &Client) -> Result<KeySet> {
    let discovery: Discovery = get(client, "/.well-known/openid-configuration").await?;
    let published: Published = get(client, "/openid/v1/jwks").await?;
    Ok(KeySet {
        issuer: discovery.issuer,
        // A key of a kind that is not known is of no use, and harms no other.
        keys: published
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .collect(),
    })
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    let request = Request::get(path)
        .body(Vec::new())
        .context("making a request")?;
    // As text: the API server says `application/jwk-set+json`.
    let text = client
        .request_text(request)
        .await
        .with_context(|| format!("asking the API server for {path}"))?;
    serde_json::from_str(&text).with_context(|| format!("understanding {path}"))
}
