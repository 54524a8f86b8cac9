//! The API server feed: one watch for each kind, each on its own.
//!
//! ```text
//! list in pages of 500 -> Reset ; watch with bookmarks -> Apply, Delete ; cut or 410 -> back off with jitter, resume or list again
//! ```
//! A list goes out when it is complete and never before (reliability-spec 4). Objects are decoded without a schema and converted one at a time, so
//! one that cannot be read stops nothing; what no feature reads is dropped right behind the decoder. While the API server is away the world keeps
//! what it has.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::convert::{convert, identify};
use super::{Batch, Change, Entry, Key, Kind};

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// How often a failing watch is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// Starts a watch for each kind. The tasks end when the receiver of the changes is gone.
pub fn spawn(client: &Client, changes: &mpsc::Sender<Batch>) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for kind in Kind::FED {
        let feed = follow(kind, client.clone(), changes.clone());
        tasks.spawn(feed.instrument(info_span!("watch", %kind)));
    }
    tasks
}

/// One kind's watch.
async fn follow(kind: Kind, client: Client, changes: mpsc::Sender<Batch>) {
    let Some(resource) = ResourceName::of(kind) else {
        return;
    };
    let api: Api<Raw> = Api::all_with(client, &resource);
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = watcher::watcher(api, config)
        .default_backoff()
        .into_stream()
        .boxed();
    let mut feed = Feed {
        kind,
        listing: Vec::new(),
        trouble: None,
    };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = changes.closed() => return,
        };
        let batch = match event {
            Some(Ok(event)) => feed.event(event),
            Some(Err(error)) => feed.failure(&error),
            None => return,
        };
        if !batch.is_empty() && changes.send(batch).await.is_err() {
            return;
        }
    }
}

/// What one watch remembers between two events.
struct Feed {
    kind: Kind,
    /// The list that is being read.
    listing: Vec<Entry>,
    /// When the running failure was last logged.
    trouble: Option<Instant>,
}

impl Feed {
    fn event(&mut self, event: Event<Raw>) -> Batch {
        let change = match event {
            Event::Init => {
                self.listing.clear();
                return Batch::new();
            }
            Event::InitApply(object) => {
                self.listing.extend(self.entry(&object));
                return Batch::new();
            }
            Event::InitDone => {
                info!(objects = self.listing.len(), "Listed");
                Some(Change::Reset {
                    kind: self.kind,
                    live: std::mem::take(&mut self.listing),
                })
            }
            Event::Apply(object) => self.entry(&object).map(Change::Apply),
            Event::Delete(object) => self.key(&object).map(|key| Change::Delete {
                key,
                uid: object.metadata.uid,
            }),
        };
        let mut batch: Batch = change.into_iter().collect();
        // Every event behind a failure means that the API server answers again.
        if self.trouble.take().is_some() {
            info!("Watch works again");
            batch.push(Change::Trouble {
                kind: self.kind,
                reason: None,
            });
        }
        batch
    }

    fn failure(&mut self, error: &watcher::Error) -> Batch {
        let due = self
            .trouble
            .is_none_or(|logged| logged.elapsed() >= LOG_EVERY);
        if !due {
            debug!(%error, "Watch failed again");
            return Batch::new();
        }
        warn!(%error, "Watch failed, the last state stays in force");
        self.trouble = Some(Instant::now());
        vec![Change::Trouble {
            kind: self.kind,
            reason: Some(error.to_string()),
        }]
    }

    fn entry(&self, object: &Raw) -> Option<Entry> {
        self.key(object).map(|key| convert(key, &object.value))
    }

    /// The API server gives every object a name; one without is not an object.
    fn key(&self, object: &Raw) -> Option<Key> {
        identify(self.kind, &object.value)
            .map_err(|error| warn!(%error, "Skipping an object without a name"))
            .ok()
    }
}

/// An object of any kind, undecoded. Decoding it cannot fail, so that a page of a list never fails because of one of its items.
#[derive(Clone, Debug)]
struct Raw {
    metadata: ObjectMeta,
    value: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let text = |name: &str| {
            value
                .pointer(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let metadata = ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            ..ObjectMeta::default()
        };
        // Often the larger half of an object; held for a whole page otherwise.
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        Ok(Self { metadata, value })
    }
}

/// How the API names a kind.
struct ResourceName {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
}

impl ResourceName {
    fn of(kind: Kind) -> Option<Self> {
        let (group, plural) = match kind {
            Kind::Namespace => ("", "namespaces"),
            Kind::Node => ("", "nodes"),
            Kind::Pod => ("", "pods"),
            Kind::Service => ("", "services"),
            Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
            Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
            Kind::Document => return None,
        };
        Some(Self {
            group,
            kind: kind.name(),
            plural,
        })
    }
}

impl Resource for Raw {
    type DynamicType = ResourceName;
    type Scope = DynamicResourceScope;

    fn kind(name: &ResourceName) -> Cow<'_, str> {
        name.kind.into()
    }

    fn group(name: &ResourceName) -> Cow<'_, str> {
        name.group.into()
    }

    fn version(_: &ResourceName) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(name: &ResourceName) -> Cow<'_, str> {
        name.plural.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: &Value) -> Raw {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn pod(name: &str, labels: &Value) -> Raw {
        raw(
            &json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": labels,
            "managedFields": [{"manager": "x"}]}, "spec": {"nodeName": "n1"}}),
        )
    }

    fn feed() -> Feed {
        Feed {
            kind: Kind::Pod,
            listing: Vec::new(),
            trouble: None,
        }
    }

    #[test]
    fn a_list_goes_out_whole_and_one_bad_object_does_not_stop_it() {
        let mut feed = feed();
        assert!(feed.event(Event::Init).is_empty());
        for object in [
            pod("a", &json!({"x": "y"})),
            pod("b", &json!("no map")),
            raw(&json!("no object")),
        ] {
            assert!(feed.event(Event::InitApply(object)).is_empty());
        }
        let batch = feed.event(Event::InitDone);
        let [
            Change::Reset {
                kind: Kind::Pod,
                live,
            },
        ] = batch.as_slice()
        else {
            panic!("{batch:?}");
        };
        assert_eq!(live.len(), 2);
        assert!(live[0].object.is_some() && live[0].problems.is_empty());
        assert!(live[1].object.is_none());
        assert_eq!(live[1].problems[0].field, "metadata.labels");
    }

    #[test]
    fn a_list_that_is_cut_is_never_applied() {
        let mut feed = feed();
        feed.event(Event::Init);
        feed.event(Event::InitApply(pod("a", &json!({}))));
        let batch = feed.failure(&watcher::Error::NoResourceVersion);
        assert!(matches!(
            batch.as_slice(),
            [Change::Trouble {
                reason: Some(_),
                ..
            }]
        ));
        assert!(
            feed.failure(&watcher::Error::NoResourceVersion).is_empty(),
            "told once"
        );
        feed.event(Event::Init);
        feed.event(Event::InitApply(pod("b", &json!({}))));
        let batch = feed.event(Event::InitDone);
        let [
            Change::Reset { live, .. },
            Change::Trouble { reason: None, .. },
        ] = batch.as_slice()
        else {
            panic!("{batch:?}");
        };
        assert_eq!(
            live.iter()
                .map(|entry| entry.key.name.as_str())
                .collect::<Vec<_>>(),
            ["b"]
        );
    }

    #[test]
    fn a_delete_carries_the_uid_of_what_was_deleted() {
        let batch = feed().event(Event::Delete(pod("a", &json!({}))));
        let [Change::Delete { key, uid }] = batch.as_slice() else {
            panic!("{batch:?}");
        };
        assert_eq!(key.to_string(), "Pod shop/a");
        assert_eq!(uid.as_deref(), Some("uid-a"));
    }

    #[test]
    fn lists_decode_whatever_their_items_are() {
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "a", "managedFields": []}}, {"metadata": 5}, []]});
        let list: kube::core::ObjectList<Raw> = serde_json::from_value(list).unwrap();
        assert_eq!(list.items.len(), 3);
        assert!(
            list.items[0].value["metadata"]
                .get("managedFields")
                .is_none()
        );
    }

    #[test]
    fn urls_are_those_of_the_api() {
        let url = |kind| Raw::url_path(&ResourceName::of(kind).unwrap(), None);
        assert_eq!(url(Kind::Pod), "/api/v1/pods");
        assert_eq!(
            url(Kind::NetworkPolicy),
            "/apis/networking.k8s.io/v1/networkpolicies"
        );
        assert_eq!(
            url(Kind::EndpointSlice),
            "/apis/discovery.k8s.io/v1/endpointslices"
        );
    }
}
