//! What the API server says of one kind: pages of a list, lines of a watch. Each object becomes an [`Entry`] as soon as its bytes are there, and
//! nothing of its JSON is kept; one that cannot be read stops none of the others.

use std::io;
use std::time::Duration;

use futures::io::AsyncReadExt as _;
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::pause::between;
use crate::kube::convert::{convert, identify};
use crate::kube::{Change, Entry, Keep, Key, Kind};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// How long an answer may take to begin, and a page to arrive.
const ANSWER: Duration = Duration::from_mins(1);

/// How long the API server leaves a watch open. It ends them in order, and going on costs one request.
const OPEN: (Duration, Duration) = (Duration::from_secs(200), Duration::from_secs(290));

/// How long a watch may be silent: the API server sends a bookmark every minute. Without an end of its own, a connection whose other end vanished
/// would hide every change.
const SILENCE: Duration = Duration::from_secs(100);

/// Why there is no answer, or no more of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// List again.
    #[error("the API server no longer knows that version")]
    Gone,
    /// Give the agent's service account the right.
    #[error("{message}")]
    Forbidden { right: String, message: String },
    /// See the API server's log.
    #[error("the API server answers {code}: {message}")]
    Refused {
        code: u16,
        message: String,
        wait: Duration,
    },
    /// See whether the API server runs, and what lies between it and the node.
    #[error("no answer from the API server")]
    Unreachable(#[source] kube::Error),
    /// As above.
    #[error("no answer from the API server in time")]
    TimedOut,
    /// As above.
    #[error("the API server's answer broke off")]
    Cut(#[source] io::Error),
    /// Something else answers at the API server's address.
    #[error("the answer is not that of an API server")]
    Garbled(#[source] serde_json::Error),
}

impl WatchError {
    /// With all its causes.
    pub(super) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Some errors repeat their source.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }

    /// The right that the service account lacks: `list pods`.
    pub(super) fn lacks(&self) -> Option<String> {
        match self {
            Self::Forbidden { right, .. } => Some(right.clone()),
            _ => None,
        }
    }

    /// Whether the API server answered, but not with what was asked for.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Garbled(_))
    }

    /// How long the API server asks to be left alone.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Refused { wait, .. } => *wait,
            _ => Duration::ZERO,
        }
    }
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// As of when.
    pub(super) version: String,
    /// Asks for the next part.
    pub(super) more: Option<String>,
}

/// One line of a watch; a bookmark changes nothing.
#[derive(Debug, PartialEq)]
pub(super) struct Signal {
    /// How far this leads.
    pub(super) version: String,
    pub(super) change: Option<Change>,
}

/// One kind at the API server.
pub(super) struct Source {
    kind: Kind,
    client: Client,
    keep: Keep,
    resource: &'static str,
    request: Request,
}

impl Source {
    /// None for what the API server does not have.
    pub(super) fn new(kind: Kind, client: Client, keep: Keep) -> Option<Self> {
        let (group, resource) = match kind {
            Kind::Namespace => ("/api/v1", "namespaces"),
            Kind::Node => ("/api/v1", "nodes"),
            Kind::Pod => ("/api/v1", "pods"),
            Kind::Service => ("/api/v1", "services"),
            Kind::ServiceAccount => ("/api/v1", "serviceaccounts"),
            Kind::NetworkPolicy => ("/apis/networking.k8s.io/v1", "networkpolicies"),
            Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
            Kind::Document => return None,
        };
        Some(Self {
            kind,
            client,
            keep,
            resource,
            request: Request::new(format!("{group}/{resource}")),
        })
    }

    /// A page of the list as it is now, not as a cache of the API server's has it: an older one would take back what is in force.
    pub(super) async fn page(&self, more: Option<String>) -> Result<Page, WatchError> {
        let request = self.request.list(&ListParams {
            limit: Some(PAGE),
            continue_token: more,
            ..ListParams::default()
        });
        let read = async {
            let mut body = self.ask("list", request).await?;
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)
                .await
                .map_err(WatchError::Cut)?;
            page(self.kind, &self.keep, &bytes)
        };
        timeout(ANSWER, read)
            .await
            .map_err(|_elapsed| WatchError::TimedOut)?
    }

    /// What changes from `version` on.
    pub(super) async fn watch(
        &self,
        version: &str,
    ) -> Result<Lines<impl AsyncBufRead + use<>>, WatchError> {
        let request = self.request.watch(
            &WatchParams {
                bookmarks: true,
                timeout: Some(between(OPEN.0, OPEN.1).as_secs() as u32),
                ..WatchParams::default()
            },
            version,
        );
        let body = timeout(ANSWER, self.ask("watch", request)).await;
        Ok(Lines {
            kind: self.kind,
            keep: self.keep.clone(),
            body: body.map_err(|_elapsed| WatchError::TimedOut)??,
            line: Vec::new(),
        })
    }

    async fn ask<E: Into<BadRequest>>(
        &self,
        verb: &str,
        request: Result<hyper::Request<Vec<u8>>, E>,
    ) -> Result<impl AsyncBufRead + Unpin + use<E>, WatchError> {
        let request = request
            .map_err(|error| WatchError::Unreachable(kube::Error::BuildRequest(error.into())))?;
        self.client
            .request_stream(request)
            .await
            .map(Box::pin)
            .map_err(|error| self.explain(verb, error))
    }

    fn explain(&self, verb: &str, error: kube::Error) -> WatchError {
        match error {
            kube::Error::Api(status) if status.code == 403 => WatchError::Forbidden {
                right: format!("{verb} {}", self.resource),
                message: status.message.clone(),
            },
            kube::Error::Api(status) => refusal(&status),
            other => WatchError::Unreachable(other),
        }
    }
}

type BadRequest = kube::core::request::Error;

fn refusal(status: &kube::core::Status) -> WatchError {
    if status.code == 410 {
        return WatchError::Gone;
    }
    let secs = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    WatchError::Refused {
        code: status.code,
        message: status.message.clone(),
        wait: Duration::from_secs(u64::from(secs)),
    }
}

/// An open watch.
pub(super) struct Lines<Body> {
    kind: Kind,
    keep: Keep,
    body: Body,
    line: Vec<u8>,
}

impl<Body: AsyncBufRead + Unpin> Lines<Body> {
    /// The next line; `None` at the end, also at one that comes from silence.
    pub(super) async fn next(&mut self) -> Result<Option<Signal>, WatchError> {
        self.line.clear();
        match timeout(SILENCE, self.body.read_until(b'\n', &mut self.line)).await {
            Ok(Ok(0)) => Ok(None),
            Ok(Ok(_)) => signal(self.kind, &self.keep, &self.line).map(Some),
            Ok(Err(error)) => Err(WatchError::Cut(error)),
            Err(_elapsed) => {
                debug!("Watch is silent, opening it again");
                Ok(None)
            }
        }
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn page(kind: Kind, keep: &Keep, bytes: &[u8]) -> Result<Page, WatchError> {
    let list: List<'_> = serde_json::from_slice(bytes).map_err(WatchError::Garbled)?;
    let mut entries = Vec::new();
    for item in list.items.unwrap_or_default() {
        let object = parse(item)?;
        entries.extend(key(kind, &object).map(|key| convert(key, &object, keep)));
    }
    Ok(Page {
        entries,
        version: list.metadata.resource_version,
        more: Some(list.metadata.more).filter(|more| !more.is_empty()),
    })
}

fn signal(kind: Kind, keep: &Keep, bytes: &[u8]) -> Result<Signal, WatchError> {
    let line: Line<'_> = serde_json::from_slice(bytes).map_err(WatchError::Garbled)?;
    if line.r#type == "ERROR" {
        let status = serde_json::from_str(line.object.get()).map_err(WatchError::Garbled)?;
        return Err(refusal(&status));
    }
    let object = parse(line.object)?;
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/metadata/resourceVersion").ok_or(WatchError::Gone)?;
    let key = || key(kind, &object);
    Ok(Signal {
        version: version.to_owned(),
        change: match line.r#type {
            "ADDED" | "MODIFIED" => key().map(|key| Change::Apply(convert(key, &object, keep))),
            "DELETED" => key().map(|key| Change::Delete {
                key,
                uid: text("/metadata/uid").map(str::to_owned),
            }),
            // Bookmarks, and what an API server of later years may add.
            _ => None,
        },
    })
}

fn parse(object: &RawValue) -> Result<Value, WatchError> {
    serde_json::from_str(object.get()).map_err(WatchError::Garbled)
}

/// The API server gives every object a name; one without is not an object.
fn key(kind: Kind, object: &Value) -> Option<Key> {
    identify(kind, object)
        .map_err(|error| warn!(%error, "Skipping an object without a name"))
        .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        serde_json::to_vec(value).expect("a value is JSON")
    }

    #[test]
    fn one_bad_object_does_not_stop_a_page() {
        let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "7", "continue": "next"}, "items": [
            {"metadata": {"name": "a", "namespace": "shop", "labels": {"x": "y"}}},
            {"metadata": {"name": "b", "namespace": "shop", "labels": "no map"}},
            {"metadata": 5}, [], null]});
        let page = page(Kind::Pod, &Keep::nothing(), &bytes(&list)).expect("it is a list");
        assert_eq!(
            (page.version.as_str(), page.more.as_deref()),
            ("7", Some("next"))
        );
        let [good, bad] = page.entries.as_slice() else {
            panic!("{page:?}");
        };
        assert!(good.object.is_some() && good.problems.is_empty());
        assert!(bad.object.is_none());
        assert_eq!(bad.problems[0].field, "metadata.labels");
    }

    #[test]
    fn a_list_without_items_is_empty_and_an_error_page_is_none() {
        for items in [json!([]), Value::Null] {
            let list = json!({"metadata": {"resourceVersion": "7"}, "items": items});
            let page = page(Kind::Pod, &Keep::nothing(), &bytes(&list)).expect("it is a list");
            assert!(page.entries.is_empty() && page.more.is_none());
        }
        assert!(matches!(
            page(Kind::Pod, &Keep::nothing(), b"<html>"),
            Err(WatchError::Garbled(_))
        ));
    }

    #[test]
    fn lines_say_what_changed_and_how_far_they_lead() {
        let object = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "8"}});
        let line = |kind: &str| {
            signal(
                Kind::Pod,
                &Keep::nothing(),
                &bytes(&json!({"type": kind, "object": object})),
            )
        };
        let added = line("ADDED").expect("it is a line");
        assert_eq!(added.version, "8");
        assert!(matches!(added.change, Some(Change::Apply(_))));
        let deleted = line("DELETED").expect("it is a line").change;
        let Some(Change::Delete { key, uid }) = deleted else {
            panic!("{deleted:?}");
        };
        assert_eq!(
            (key.to_string().as_str(), uid.as_deref()),
            ("Pod shop/a", Some("u"))
        );
        for kind in ["BOOKMARK", "INVENTED"] {
            let expected = Signal {
                version: "8".to_owned(),
                change: None,
            };
            assert_eq!(line(kind).expect("it is a line"), expected);
        }
    }

    #[test]
    fn errors_within_a_watch_are_told_apart() {
        let line = |status: Value| {
            signal(
                Kind::Pod,
                &Keep::nothing(),
                &bytes(&json!({"type": "ERROR", "object": status})),
            )
        };
        assert!(matches!(
            line(json!({"kind": "Status", "code": 410, "message": "too old"})),
            Err(WatchError::Gone)
        ));
        let busy = line(
            json!({"kind": "Status", "code": 429, "message": "busy", "details": {"retryAfterSeconds": 3}}),
        );
        let Err(error) = busy else {
            panic!("{busy:?}");
        };
        assert_eq!(error.wait(), Duration::from_secs(3));
        assert_eq!(error.in_full(), "the API server answers 429: busy");
    }
}
