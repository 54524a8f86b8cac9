//! What happened to pods as Kubernetes events on them: whoever may not look at nodes or agents can look at these.
//!
//! One series for each pod, peer and reason; a repetition is counted, and the count written once a minute. What a hostile pod can make of it is bounded:
//!
//! 1. at most 1024 series are remembered, the rest is left to log, records and counters;
//! 2. new ones are made out of a bucket of 25 that refills by one in ten seconds;
//! 3. of those that a pod makes by asking for credentials and metadata, one a minute for each reason.
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

/// What waits for the writer; more is left to log, records and counters.
pub const QUEUE: usize = 256;

const SERIES: usize = 1024;
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(10);
/// How often counts are written, and how long a series may be idle before it is over.
const WRITE: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_mins(10);

/// Between two new series of a pod and a reason, where they are paced.
const PACE: Duration = Duration::from_mins(1);

/// Something that happened to a pod, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// A word in capitals, as `kubectl get events` shows it.
    pub reason: &'static str,
    /// Whether it is a warning.
    pub warns: bool,
    /// What was done.
    pub action: &'static str,
    /// The same in a sentence.
    pub note: String,
    /// What tells it from others of its reason.
    pub series: String,
    /// Whether a minute has to pass before another series of its reason.
    pub paced: bool,
}

impl From<Denial> for Notice {
    fn from(denial: Denial) -> Self {
        let by = if denial.policy.is_empty() {
            String::new()
        } else {
            format!(" by {}", denial.policy)
        };
        let way = if denial.egress { "to" } else { "from" };
        let direction = if denial.egress { "egress" } else { "ingress" };
        Self {
            reason: if denial.reason == "metadata-guard" {
                "MetadataBlocked"
            } else {
                "PolicyDenied"
            },
            warns: true,
            action: "Deny",
            note: format!(
                "denied {direction} {way} {} {}/{}: {}{by}",
                denial.peer, denial.port, denial.protocol, denial.reason
            ),
            series: format!("{} {direction} {}", denial.reason, denial.peer),
            paced: false,
            namespace: denial.namespace,
            pod: denial.pod,
            uid: denial.uid,
        }
    }
}

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    uid: String,
    reason: &'static str,
    series: String,
}

#[derive(Debug)]
struct Series {
    namespace: String,
    name: String,
    count: u32,
    written: u32,
    made: Instant,
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

/// Writes events until nobody reports anything any more.
pub async fn run(client: Client, node: String, mut notices: mpsc::Receiver<Notice>) {
    let mut book = Book::new(node);
    let mut tick = tokio::time::interval(WRITE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged: Option<Instant> = None;
    loop {
        let writes = tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => book.note(&notice, Instant::now(), Timestamp::now()).into_iter().collect(),
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

    /// The event to make, if it is the first of its kind.
    fn note(&mut self, notice: &Notice, now: Instant, time: Timestamp) -> Option<Write> {
        let key = SeriesKey {
            uid: notice.uid.clone(),
            reason: notice.reason,
            series: notice.series.clone(),
        };
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(1);
            series.last = now;
            return None;
        }
        if self.series.len() >= SERIES
            || (notice.paced && self.is_too_soon(&key, now))
            || !self.take(now)
        {
            return None;
        }
        // Names are unique in the namespace: the time makes them so, and the count tells two of one instant apart.
        let nanos = time.as_nanosecond() as u64;
        let name = format!("{}.{nanos:x}{:x}", notice.pod, self.tokens);
        let event = event(notice, &name, &self.node, time);
        let namespace = notice.namespace.clone();
        self.series.insert(
            key,
            Series {
                namespace: namespace.clone(),
                name,
                count: 1,
                written: 1,
                made: now,
                last: now,
            },
        );
        Some(Write::Create { namespace, event })
    }

    /// Whether the pod had another event with this reason a moment ago.
    fn is_too_soon(&self, key: &SeriesKey, now: Instant) -> bool {
        let first = SeriesKey {
            series: String::new(),
            ..key.clone()
        };
        self.series
            .range(first..)
            .take_while(|(known, _)| known.uid == key.uid && known.reason == key.reason)
            .any(|(_, series)| now.duration_since(series.made) < PACE)
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

fn event(notice: &Notice, name: &str, node: &str, time: Timestamp) -> Value {
    let Notice {
        namespace,
        pod,
        uid,
        reason,
        warns,
        action,
        note,
        ..
    } = notice;
    // The API server takes 1 KiB.
    let note = &note[..note.floor_char_boundary(1000)];
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": format!("{time:.6}"),
        "reportingController": "portcullis.dev/agent",
        "reportingInstance": node,
        "action": action,
        "reason": reason,
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid},
        "note": note,
        "type": if *warns { "Warning" } else { "Normal" },
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

    fn denial(peer: &str) -> Notice {
        denied(peer, "NetworkPolicy shop/lockdown").into()
    }

    fn denied(peer: &str, policy: &str) -> Denial {
        Denial {
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            uid: "u1".to_owned(),
            egress: true,
            peer: peer.to_owned(),
            port: "5432".to_owned(),
            protocol: "tcp".to_owned(),
            reason: "default-deny",
            policy: policy.to_owned(),
        }
    }

    fn paced(reason: &'static str, note: &str) -> Notice {
        Notice {
            reason,
            note: note.to_owned(),
            series: note.to_owned(),
            paced: true,
            ..denial("x")
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

    #[tokio::test(start_paused = true)]
    async fn a_pod_makes_one_event_a_minute_of_a_reason_whatever_it_asks_for() {
        let mut book = Book::new("n1".to_owned());
        let start = Instant::now();
        let mut made = Vec::new();
        for second in 0..150_u64 {
            let now = start + Duration::from_secs(second);
            let notice = paced("MetadataBlocked", &format!("/path/{second}"));
            if book.note(&notice, now, Timestamp::UNIX_EPOCH).is_some() {
                made.push(second);
            }
        }
        assert_eq!(made, [0, 60, 120]);
        let later = start + Duration::from_secs(150);
        let mut is_made =
            |notice: &Notice| book.note(notice, later, Timestamp::UNIX_EPOCH).is_some();
        assert!(is_made(&paced("RoleDenied", "another reason")));
        let other = Notice {
            uid: "u2".to_owned(),
            ..paced("MetadataBlocked", "another pod")
        };
        assert!(is_made(&other));
        // A repetition is counted, and is no event.
        assert!(!is_made(&other));
    }

    #[test]
    fn long_names_fit_into_an_event() {
        let long = denied("x", &"ä".repeat(2000)).into();
        let event = event(&long, "n", "n1", Timestamp::UNIX_EPOCH);
        assert!(event["note"].as_str().expect("it has a note").len() <= 1000);
    }
}
