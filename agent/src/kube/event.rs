//! Denials as Kubernetes events on the pods they happened to: whoever may not look at nodes or agents can look at these.
//!
//! One series for each pod, peer and reason; a repetition is counted, and the count written once a minute. What a hostile pod can make of it is bounded:
//!
//! 1. at most 1024 series are remembered, the rest is left to log and counters;
//! 2. new ones are made out of a bucket of 25 that refills by one in ten seconds.
//!
//! An event that cannot be written is gone: nothing waits for it, and no verdict depends on it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::flowlog::Denial;

/// Denials that wait for the writer; more are left to log and counters.
pub const QUEUE: usize = 256;

const SERIES: usize = 1024;
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(10);
/// How often counts are written, and how long a series may be idle before it is over.
const WRITE: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_mins(10);

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    uid: String,
    reason: &'static str,
    egress: bool,
    peer: String,
}

#[derive(Debug)]
struct Series {
    namespace: String,
    name: String,
    count: u32,
    written: u32,
    last: Instant,
}

/// What to ask of the API server.
#[derive(Debug, PartialEq)]
enum Write {
    Create {
        namespace: String,
        event: Value,
    },
    Count {
        namespace: String,
        name: String,
        count: u32,
    },
}

/// Writes events until nobody reports denials any more.
pub async fn run(client: Client, node: String, mut denials: mpsc::Receiver<Denial>) {
    let mut book = Book::new(node);
    let mut tick = tokio::time::interval(WRITE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged: Option<Instant> = None;
    loop {
        let writes = tokio::select! {
            denial = denials.recv() => match denial {
                Some(denial) => book.note(&denial, Instant::now(), Timestamp::now()).into_iter().collect(),
                None => return,
            },
            _ = tick.tick() => book.counts(Instant::now()),
        };
        for write in writes {
            if let Err(error) = send(&client, &write).await {
                if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    // Event and pod went with their namespace, or the event grew old.
                    book.forget(&write);
                    continue;
                }
                if logged.is_some_and(|logged| logged.elapsed() < WRITE) {
                    debug!(%error, "Event is not written either");
                    continue;
                }
                logged = Some(Instant::now());
                warn!(%error, "Event is not written");
            }
        }
    }
}

/// Series by what they are about.
struct Book {
    node: String,
    series: BTreeMap<SeriesKey, Series>,
    tokens: u32,
    refilled: Option<Instant>,
}

impl Book {
    fn new(node: String) -> Self {
        Self {
            node,
            series: BTreeMap::new(),
            tokens: BURST,
            refilled: None,
        }
    }

    /// The event to make, if the denial is the first of its kind.
    fn note(&mut self, denial: &Denial, now: Instant, time: Timestamp) -> Option<Write> {
        let key = SeriesKey {
            uid: denial.uid.clone(),
            reason: denial.reason,
            egress: denial.egress,
            peer: denial.peer.clone(),
        };
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(1);
            series.last = now;
            return None;
        }
        if self.series.len() >= SERIES || !self.take(now) {
            return None;
        }
        // Names are unique in the namespace: the time makes them so, and the count tells two of one instant apart.
        let nanos = time.as_nanosecond() as u64;
        let name = format!("{}.{nanos:x}{:x}", denial.pod, self.tokens);
        let event = event(denial, &name, &self.node, time);
        let namespace = denial.namespace.clone();
        self.series.insert(
            key,
            Series {
                namespace: namespace.clone(),
                name,
                count: 1,
                written: 1,
                last: now,
            },
        );
        Some(Write::Create { namespace, event })
    }

    /// Counts that grew, and the end of what is over.
    fn counts(&mut self, now: Instant) -> Vec<Write> {
        let mut writes = Vec::new();
        self.series.retain(|_, series| {
            if series.count > series.written {
                series.written = series.count;
                writes.push(Write::Count {
                    namespace: series.namespace.clone(),
                    name: series.name.clone(),
                    count: series.count,
                });
            }
            now.duration_since(series.last) < IDLE
        });
        writes
    }

    /// The event is not there any more: a denial that comes yet makes another.
    fn forget(&mut self, write: &Write) {
        if let Write::Count {
            namespace, name, ..
        } = write
        {
            self.series
                .retain(|_, series| series.name != *name || series.namespace != *namespace);
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = *self.refilled.get_or_insert(now);
        let due = (now.duration_since(since).as_secs() / REFILL.as_secs()) as u32;
        if due > 0 {
            self.tokens = self.tokens.saturating_add(due).min(BURST);
            self.refilled = Some(since + REFILL * due);
        }
        let granted = self.tokens > 0;
        self.tokens -= u32::from(granted);
        granted
    }
}

fn event(denial: &Denial, name: &str, node: &str, time: Timestamp) -> Value {
    let guard = denial.reason == "metadata-guard";
    let by = if denial.policy.is_empty() {
        String::new()
    } else {
        format!(" by {}", denial.policy)
    };
    let way = if denial.egress { "to" } else { "from" };
    let direction = if denial.egress { "egress" } else { "ingress" };
    let mut note = format!(
        "denied {direction} {way} {} {}/{}: {}{by}",
        denial.peer, denial.port, denial.protocol, denial.reason
    );
    // The API server takes 1 KiB.
    note.truncate(note.floor_char_boundary(1000));
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": denial.namespace},
        "eventTime": format!("{time:.6}"),
        "reportingController": "portcullis.dev/agent",
        "reportingInstance": node,
        "action": "Deny",
        "reason": if guard { "MetadataBlocked" } else { "PolicyDenied" },
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": denial.namespace, "name": denial.pod, "uid": denial.uid},
        "note": note,
        "type": "Warning",
    })
}

async fn send(client: &Client, write: &Write) -> kube::Result<()> {
    let events = |namespace: &str| {
        Request::new(format!(
            "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        ))
    };
    let request = match write {
        Write::Create { namespace, event } => {
            events(namespace).create(&PostParams::default(), event.to_string().into_bytes())
        }
        Write::Count {
            namespace,
            name,
            count,
        } => {
            let now = format!("{:.6}", Timestamp::now());
            let patch = json!({"series": {"count": count, "lastObservedTime": now}});
            events(namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch))
        }
    };
    let request = request.map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(|_event| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(peer: &str) -> Denial {
        Denial {
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            uid: "u1".to_owned(),
            egress: true,
            peer: peer.to_owned(),
            port: "5432".to_owned(),
            protocol: "tcp".to_owned(),
            reason: "default-deny",
            policy: "NetworkPolicy shop/lockdown".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repetition_is_counted_and_not_another_event() {
        let mut book = Book::new("n1".to_owned());
        let now = Instant::now();
        let first = book.note(&denial("shop/db"), now, Timestamp::UNIX_EPOCH);
        let Some(Write::Create { namespace, event }) = first else {
            panic!("{first:?}");
        };
        assert_eq!(namespace, "shop");
        assert_eq!(
            event["note"],
            "denied egress to shop/db 5432/tcp: default-deny by NetworkPolicy shop/lockdown"
        );
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
        for _ in 0..3 {
            assert_eq!(
                book.note(&denial("shop/db"), now, Timestamp::UNIX_EPOCH),
                None
            );
        }
        let name = event["metadata"]["name"].as_str().expect("it has a name");
        let expected = Write::Count {
            namespace,
            name: name.to_owned(),
            count: 4,
        };
        assert_eq!(book.counts(now), [expected]);
        assert!(book.counts(now).is_empty());
        book.forget(&Write::Count {
            namespace: "shop".to_owned(),
            name: "another".to_owned(),
            count: 1,
        });
        assert_eq!(book.series.len(), 1);
        book.counts(now + IDLE);
        assert!(book.series.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_peers_makes_few_events() {
        let mut book = Book::new("n1".to_owned());
        let start = Instant::now();
        let mut made = 0;
        for number in 0..10_000_u64 {
            let now = start + Duration::from_millis(number);
            let denial = denial(&number.to_string());
            made += u32::from(book.note(&denial, now, Timestamp::UNIX_EPOCH).is_some());
        }
        assert_eq!(made, BURST);
        let later = start + REFILL * 2;
        assert!(
            book.note(&denial("later"), later, Timestamp::UNIX_EPOCH)
                .is_some()
        );
    }

    #[test]
    fn long_names_fit_into_an_event() {
        let long = Denial {
            policy: "ä".repeat(2000),
            ..denial("x")
        };
        let event = event(&long, "n", "n1", Timestamp::UNIX_EPOCH);
        assert!(event["note"].as_str().expect("it has a note").len() <= 1000);
    }
}
