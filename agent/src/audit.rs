//! The agent's audit: what the responder recorded, with who that was, numbered, kept and told on.
//!
//! ```text
//! responder --Record--\
//!                      >-- seq, node, pod, decision --> ring of 4096, file (--audit-log), events on pods
//! world --decisions---/
//! ```
//! Nothing here waits: a file that is slow or cannot be written holds up nobody. What the responder says is taken for what it is, words of a process that
//! parses what pods send: who the pod is comes from the agent's own table of origins and from the watches.

mod notice;
mod sink;
mod subjects;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use portcullis_imds::audit::{Event, LONGEST_PATH, Record};
use portcullis_imds::caller::Attachment;
use portcullis_imds::link::Origin;
use tokio::sync::mpsc;

use crate::kube::event::Notice;
use crate::report::{
    AuditRecord, CredentialStatus, DecisionStatus, NodeAudit, PodName, RequestStatus,
};
use crate::world::PodRoles;

use notice::Notices;
use sink::Sink;
use subjects::{Subject, Subjects};

/// Records that are kept.
pub const RING: usize = 4096;
/// No word of a record is longer.
const LONGEST_WORD: usize = 2048;
/// Namespaces that are told apart in counters; others are one.
const NAMESPACES: usize = 1000;
/// How long the end of the agent waits for the file.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The audit. Clones are the same.
#[derive(Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    state: Mutex<State>,
    sink: Option<Sink>,
    /// Where pods' owners read of it; nowhere without an API server.
    notices: Option<mpsc::Sender<Notice>>,
}

#[derive(Default)]
struct State {
    seq: u64,
    ring: VecDeque<Arc<AuditRecord>>,
    subjects: Subjects,
    told: Notices,
    v1: BTreeMap<String, u64>,
}

impl Audit {
    /// Without records yet. The file, if there is to be one, is opened now and written by a thread of its own.
    #[must_use]
    pub fn new(
        node: &str,
        file: Option<&std::path::Path>,
        notices: Option<mpsc::Sender<Notice>>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                node: node.to_owned(),
                state: Mutex::default(),
                sink: file.map(Sink::open),
                notices,
            }),
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.shared.node
    }

    /// The responder was told whose a connection is.
    pub fn met(&self, origin: &Origin) {
        self.state().subjects.met(origin);
    }

    /// The roles of this node's pods are these now. What is refused, or would be, is a record; who refuses also tells the pod's owner.
    pub fn decided(&self, roles: &PodRoles) {
        let mut state = self.state();
        for role in state.subjects.decided(roles) {
            let event = match subjects::refusal(&role) {
                Some(subjects::Refused::Now(_)) => Event::Denied,
                Some(subjects::Refused::InAudit(_)) => Event::WouldDeny,
                None => continue,
            };
            let subject = Subject::of_pod(Arc::clone(&role));
            let record = self.numbered(&mut state, Timestamp::now(), event, 1, &subject);
            self.tell(Notices::decided(&role));
            self.keep(&mut state, record);
        }
        let State { told, subjects, .. } = &mut *state;
        told.forget_all_but(|uid| subjects.knows(uid));
    }

    /// The responder has recorded something.
    pub fn take(&self, record: Record) {
        let mut state = self.state();
        let subject = state.subjects.of(&record);
        let would_deny = record.event == Event::Issued
            && matches!(
                subject.role.as_deref().and_then(subjects::refusal),
                Some(subjects::Refused::InAudit(_))
            );
        let notice = state.told.recorded(&record, &subject);
        let mut full = self.numbered(&mut state, record.at, record.event, record.count, &subject);
        full.origin = subject.origin(&record);
        full.request = record.request.map(|asked| RequestStatus {
            endpoint: asked.endpoint.as_str().to_owned(),
            class: asked.class,
            version: asked.version,
            status: asked.status,
            duration_ms: asked.duration_micros.map(|micros| micros as f64 / 1e3),
            path: cut(asked.path, LONGEST_PATH),
        });
        full.decision.reason = record.reason;
        full.credential = record.credential.map(|keys| CredentialStatus {
            access_key_id: keys.access_key_id.map(word),
            expiration: keys.expiration.map(|end| format!("{end:.0}")),
            session_name: keys.session_name.map(word),
            kind: keys.kind.map(|kind| kind.as_str().to_owned()),
            cache: keys.cache.map(|found| found.as_str().to_owned()),
            sts_request_id: keys.sts_request_id.map(word),
            shared_with: keys.shared_with,
            fault: None,
        });
        if let Some(fault) = record.fault {
            let text = format!("{}: {}", word(fault.class), word(fault.code));
            full.credential.get_or_insert_default().fault = Some(text);
        }
        let denied = would_deny.then(|| AuditRecord {
            seq: 0,
            event: Event::WouldDeny,
            ..full.clone()
        });
        self.tell(notice);
        self.keep(&mut state, full);
        if let Some(mut denied) = denied {
            state.seq += 1;
            denied.seq = state.seq;
            self.keep(&mut state, denied);
        }
    }

    /// Records behind number `after`, of one pod (`namespace/name`) or of all; the newest `most` of them, oldest first.
    #[must_use]
    pub fn records(&self, pod: Option<&str>, after: u64, most: usize) -> NodeAudit {
        let state = self.state();
        let wanted = state.ring.iter().rev().filter(|record| {
            record.seq > after && pod.is_none_or(|pod| is_of(record.pod.as_ref(), pod))
        });
        let mut items: Vec<Arc<AuditRecord>> = wanted.take(most).cloned().collect();
        items.reverse();
        let (newest, oldest) = (state.seq, state.ring.front().map_or(0, |first| first.seq));
        drop(state);
        NodeAudit {
            api_version: "portcullis.dev/v1alpha1".to_owned(),
            kind: "NodeAudit".to_owned(),
            node: self.shared.node.clone(),
            newest,
            oldest,
            items: items.into_iter().map(Arc::unwrap_or_clone).collect(),
        }
    }

    /// Adds requests without a session token to their namespaces' counts, and says what these are.
    #[must_use]
    pub fn count_v1(&self, asked: &[(Attachment, u64)]) -> BTreeMap<String, u64> {
        let mut state = self.state();
        for (attachment, count) in asked {
            let role = state.subjects.role_of(*attachment);
            let mut namespace = role.map_or("unknown", |role| &role.namespace).to_owned();
            if state.v1.len() >= NAMESPACES && !state.v1.contains_key(&namespace) {
                "other".clone_into(&mut namespace);
            }
            *state.v1.entry(namespace).or_default() += count;
        }
        state.v1.clone()
    }

    /// What keeps records from their file, in a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.shared.sink.as_ref().and_then(Sink::problem)
    }

    /// Records that were never written to the file.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.sink.as_ref().map_or(0, Sink::lost)
    }

    /// Has what waits written to the file, if that takes no time.
    pub fn close(&self) {
        if let Some(sink) = &self.shared.sink {
            sink.close(CLOSE_WITHIN);
        }
    }

    /// A record with a number of its own and what the agent knows of the pod.
    fn numbered(
        &self,
        state: &mut State,
        at: Timestamp,
        event: Event,
        count: u64,
        subject: &Subject,
    ) -> AuditRecord {
        state.seq += 1;
        let role = subject.role.as_deref();
        AuditRecord {
            ts: format!("{at:.3}"),
            seq: state.seq,
            node: self.shared.node.clone(),
            event,
            count,
            pod: role.map(|role| PodName {
                uid: role.uid.clone(),
                namespace: role.namespace.clone(),
                name: role.name.clone(),
                service_account: role.service_account.clone(),
                host_network: subject.in_host_network(),
            }),
            origin: None,
            request: None,
            decision: role.map_or_else(DecisionStatus::default, subjects::decision),
            credential: None,
        }
    }

    fn keep(&self, state: &mut State, record: AuditRecord) {
        let record = Arc::new(record);
        if let Some(sink) = &self.shared.sink {
            sink.write(Arc::clone(&record));
        }
        if state.ring.len() >= RING {
            state.ring.pop_front();
        }
        state.ring.push_back(record);
    }

    fn tell(&self, notice: Option<Notice>) {
        if let (Some(notices), Some(notice)) = (&self.shared.notices, notice) {
            // Without room it stands in the records alone.
            let _ = notices.try_send(notice);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(pod: Option<&PodName>, wanted: &str) -> bool {
    pod.is_some_and(|pod| wanted.split_once('/') == Some((&*pod.namespace, &*pod.name)))
}

/// A word of the responder's: of one line and no longer than is sensible.
fn word(text: String) -> String {
    cut(text, LONGEST_WORD)
}

fn cut(mut text: String, most: usize) -> String {
    if text.chars().any(char::is_control) {
        text.retain(|letter| !letter.is_control());
    }
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests;
