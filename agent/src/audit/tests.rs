//! Numbers without a gap, a ring that holds the newest, a file that never holds anybody up, and which records become events.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_imds::audit::{Asked, Credential, SourceFault, Whose};
use portcullis_imds::listener::Surface;
use portcullis_imds::metrics::{Class, ImdsVersion};
use portcullis_imds::reason::Reason;
use portcullis_imds::role::{
    Decision, Grant, Mode, Outcome, Refusal, Restriction, RoleArn, Source, SourceKind,
};

use super::*;
use crate::endpoint::scratch::Scratch;
use crate::world::PodRole;

const POD: Attachment = Attachment([1; 16]);
const UID: &str = "u1";

fn arn() -> RoleArn {
    "arn:aws:iam::123456789012:role/app"
        .parse()
        .expect("an ARN")
}

fn grant() -> Outcome {
    Outcome::Role(Box::new(Grant {
        sources: vec![SourceKind::TokenRequest],
        role: arn(),
        through: None,
        external_id: None,
        session_name: None,
        session_policy: None,
        session_policy_arns: Vec::new(),
        web: None,
    }))
}

fn role(uid: &str, outcome: Outcome, restriction: Restriction) -> Arc<PodRole> {
    Arc::new(PodRole {
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        uid: uid.to_owned(),
        service_account: "default".to_owned(),
        service_account_uid: None,
        decision: Decision {
            outcome,
            source: Source::Pod,
            restriction,
            mode: Mode::Enforce,
            association: false,
        },
        imds_v1: false,
        metadata_paths: std::collections::BTreeSet::new(),
        malformed: Vec::new(),
    })
}

fn roles(all: impl IntoIterator<Item = Arc<PodRole>>) -> PodRoles {
    let all = all.into_iter().map(|role| (role.uid.clone(), role));
    Arc::new(all.collect::<BTreeMap<_, _>>())
}

fn allowed() -> Arc<PodRole> {
    let restriction = Restriction::Matched {
        allowed_roles: Some("app*".to_owned()),
        permitted: None,
    };
    role(UID, grant(), restriction)
}

fn not_allowed() -> Refusal {
    Refusal::RoleNotAllowed(arn())
}

fn record(event: Event, reason: Option<Reason>) -> Record {
    Record {
        at: "2026-11-22T08:00:00.1239Z".parse().expect("a time"),
        event,
        whose: Whose::Attachment(POD),
        src_ip: Some("10.0.1.1".parse().expect("an address")),
        request: Some(Asked {
            endpoint: Surface::Imds,
            class: Class::Credentials,
            version: ImdsVersion::V2,
            status: 200,
            duration_micros: Some(1500),
            path: "/latest/x".to_owned(),
        }),
        reason,
        credential: None,
        fault: None,
        count: 1,
    }
}

fn issued() -> Record {
    let mut keys = Credential::without(None, None);
    keys.access_key_id = Some("ASIAEXAMPLE".to_owned());
    Record {
        credential: Some(keys),
        ..record(Event::Issued, None)
    }
}

/// An audit that knows pod `u1` behind [`POD`], and what it tells pods' owners.
fn audit(file: Option<&std::path::Path>) -> (Audit, mpsc::Receiver<Notice>) {
    let (notices, told) = mpsc::channel(100);
    let audit = Audit::new("n1", file, Some(notices));
    audit.met(&Origin {
        attachment: POD,
        ifindex: 7,
        cgroup: 0,
        uid: Some(UID.to_owned()),
    });
    audit.decided(&roles([allowed()]));
    (audit, told)
}

fn told(notices: &mut mpsc::Receiver<Notice>) -> Vec<(&'static str, String)> {
    std::iter::from_fn(|| notices.try_recv().ok())
        .map(|notice| (notice.reason, notice.note))
        .collect()
}

#[test]
fn a_record_says_who_the_pod_is_and_why_it_may() {
    let (audit, _told) = audit(None);
    audit.take(issued());
    let said = audit.records(None, 0, 10);
    let value = serde_json::to_value(&said.items[0]).expect("an object");
    let expected = serde_json::json!({
        "ts": "2026-11-22T08:00:00.123Z", "seq": 1, "node": "n1", "event": "issued", "count": 1,
        "pod": {"uid": "u1", "namespace": "shop", "name": "pod-u1", "serviceAccount": "default", "hostNetwork": false},
        "origin": {"kind": "interface", "ifindex": 7, "attachmentId": "01010101", "srcIp": "10.0.1.1"},
        "request": {
            "endpoint": "imds", "class": "credentials", "version": "v2", "status": 200, "durationMs": 1.5, "path": "/latest/x",
        },
        "decision": {
            "roleArn": "arn:aws:iam::123456789012:role/app", "source": "pod", "restriction": "app*", "reason": null, "mode": "enforce",
        },
        "credential": {
            "accessKeyId": "ASIAEXAMPLE", "expiration": null, "sessionName": null, "kind": null, "cache": null,
            "stsRequestId": null, "sharedWith": null,
        },
    });
    assert_eq!(value, expected);
}

#[test]
fn a_pod_in_the_host_network_is_known_by_its_cgroup() {
    let (audit, _told) = audit(None);
    audit.met(&Origin {
        attachment: POD,
        ifindex: 0,
        cgroup: 4711,
        uid: Some(UID.to_owned()),
    });
    audit.take(issued());
    let said = audit.records(None, 0, 1);
    assert!(
        said.items[0]
            .pod
            .as_ref()
            .expect("it is known")
            .host_network
    );
    let origin = said.items[0].origin.as_ref().expect("there was one");
    assert_eq!(
        (&*origin.kind, origin.ifindex, origin.cgroup_id),
        ("cgroup", None, Some(4711))
    );
}

#[test]
fn numbers_have_no_gap_and_the_ring_holds_the_newest() {
    let (audit, _told) = audit(None);
    for _ in 0..RING + 10 {
        audit.take(record(Event::Served, None));
    }
    let said = audit.records(None, 0, usize::MAX);
    let numbers: Vec<u64> = said.items.iter().map(|record| record.seq).collect();
    let expected: Vec<u64> = (11..=RING as u64 + 10).collect();
    assert_eq!(numbers, expected);
    assert_eq!((said.oldest, said.newest), (11, RING as u64 + 10));
    let last = audit.records(Some("shop/pod-u1"), said.newest - 5, 3);
    let numbers: Vec<u64> = last.items.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, [said.newest - 2, said.newest - 1, said.newest]);
    assert!(audit.records(Some("shop/other"), 0, 10).items.is_empty());
}

#[test]
fn a_pod_that_is_gone_is_still_named_and_an_unknown_one_is_not() {
    let (audit, _told) = audit(None);
    audit.decided(&roles([]));
    audit.take(record(Event::Served, None));
    audit.take(Record {
        whose: Whose::Attachment(Attachment([9; 16])),
        ..record(Event::Denied, Some(Reason::NoRole))
    });
    let said = audit.records(None, 0, 10);
    assert_eq!(said.items[0].pod.as_ref().expect("it is known").uid, UID);
    assert_eq!(said.items[1].pod, None);
    let origin = said.items[1].origin.as_ref().expect("there was one");
    assert_eq!((&*origin.attachment_id, origin.ifindex), ("09090909", None));
}

#[test]
fn audit_mode_is_recorded_as_what_it_would_have_denied() {
    let (audit, mut notices) = audit(None);
    let lenient = role(UID, grant(), Restriction::Denied(not_allowed()));
    audit.decided(&roles([lenient]));
    audit.take(issued());
    let said = audit.records(None, 0, 10);
    let events: Vec<Event> = said.items.iter().map(|record| record.event).collect();
    assert_eq!(events, [Event::WouldDeny, Event::Issued, Event::WouldDeny]);
    for record in &said.items {
        let refusal = record.decision.refusal.as_deref();
        assert_eq!(refusal, Some("role-not-allowed"));
        assert!(record.decision.role_arn.is_some());
    }
    // What is allowed is no warning.
    let told: Vec<_> = told(&mut notices);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "RoleAssumed");
}

#[test]
fn each_class_of_event_is_told_to_the_pods_owner() {
    let (audit, mut notices) = audit(None);
    audit.take(issued());
    audit.take(issued());
    audit.take(Record {
        whose: Whose::Pod(UID.to_owned()),
        request: None,
        fault: Some(SourceFault {
            class: "denied".to_owned(),
            code: "AccessDenied".to_owned(),
        }),
        ..record(Event::Failed, None)
    });
    audit.take(record(Event::BlockedPath, Some(Reason::Nothing)));
    audit.take(record(Event::Denied, Some(Reason::NoToken)));
    audit.take(record(Event::Denied, Some(Reason::ForeignWebIdentity)));
    // These are only recorded.
    audit.take(record(Event::Denied, Some(Reason::BadToken)));
    audit.take(record(Event::Served, None));
    audit.take(record(Event::BadRequest, Some(Reason::BadHead)));
    let refused = |uid, refusal| role(uid, Outcome::Refused(refusal), Restriction::NotJudged);
    let base = Refusal::NoBaseArn {
        source_line: Source::Pod,
        value: "app".to_owned(),
    };
    let now = roles([allowed(), refused("u2", not_allowed()), refused("u3", base)]);
    audit.decided(&now);
    audit.decided(&now);
    let (reasons, notes): (Vec<_>, Vec<_>) = told(&mut notices).into_iter().unzip();
    let expected = [
        "RoleAssumed",
        "CredentialError",
        "MetadataBlocked",
        "MetadataBlocked",
        "TokenMismatch",
        "RoleDenied",
        "RoleInvalid",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(notes[1], "no credentials: AccessDenied (denied)");
    assert_eq!(notes[2], "this pod may not read /latest/x");
    // And the decisions are records.
    let said = audit.records(Some("shop/pod-u2"), 0, 10);
    assert_eq!(said.items.len(), 1);
    assert_eq!(said.items[0].event, Event::Denied);
}

#[test]
fn what_a_responder_says_is_cut_to_size() {
    let (audit, _told) = audit(None);
    let mut long = issued();
    let keys = long.credential.as_mut().expect("they are there");
    keys.session_name = Some("x\n".repeat(10_000));
    if let Some(request) = &mut long.request {
        request.path = "ä".repeat(500);
    }
    audit.take(long);
    let said = audit.records(None, 0, 1);
    let keys = said.items[0].credential.as_ref().expect("they are there");
    assert_eq!(keys.session_name.as_deref(), Some(&*"x".repeat(2048)));
    let request = said.items[0].request.as_ref().expect("there was one");
    assert_eq!(request.path.len(), LONGEST_PATH);
}

#[test]
fn requests_without_a_token_are_counted_by_namespace_and_namespaces_are_bounded() {
    let (audit, _told) = audit(None);
    let many: Vec<Arc<PodRole>> = (0..NAMESPACES + 5)
        .map(|number| {
            let mut role =
                (*role(&number.to_string(), Outcome::Nobody, Restriction::NotJudged)).clone();
            role.namespace = format!("ns-{number}");
            Arc::new(role)
        })
        .collect();
    let asked: Vec<(Attachment, u64)> = (0..many.len())
        .map(|number| {
            let attachment = Attachment((number as u128).to_be_bytes());
            audit.met(&Origin {
                attachment,
                ifindex: 1,
                cgroup: 0,
                uid: Some(number.to_string()),
            });
            (attachment, 2)
        })
        .collect();
    audit.decided(&roles(many));
    let counts = audit.count_v1(&asked);
    assert_eq!(counts.len(), NAMESPACES + 1);
    assert_eq!((counts["ns-0"], counts["other"]), (2, 10));
    assert_eq!(audit.count_v1(&asked[..1])["ns-0"], 4);
}

fn lines(path: &std::path::Path) -> Vec<AuditRecord> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect()
}

fn soon(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_file_has_every_record_and_is_made_anew_when_it_was_moved_away() {
    let scratch = Scratch::new("audit-log");
    let path: PathBuf = scratch.path().join("audit.jsonl");
    let (audit, _told) = audit(Some(&path));
    for _ in 0..100 {
        audit.take(issued());
    }
    audit.close();
    assert_eq!(lines(&path), audit.records(None, 0, 200).items);
    fs::rename(&path, scratch.path().join("old")).expect("it can be moved");
    audit.take(issued());
    audit.close();
    let seqs: Vec<u64> = lines(&path).iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [101]);
    assert_eq!((audit.problem(), audit.lost()), (None, 0));
}

#[test]
fn a_file_that_cannot_be_written_is_a_problem_and_nothing_is_lost_once_it_can() {
    let scratch = Scratch::new("audit-gone");
    let directory = scratch.path().join("later");
    let path = directory.join("audit.jsonl");
    let (audit, _told) = audit(Some(&path));
    let problem = audit.problem().expect("there is no directory");
    assert!(
        problem.contains("audit records are not written to"),
        "{problem}"
    );
    audit.take(issued());
    assert_eq!(audit.records(None, 0, 10).items.len(), 1);
    fs::create_dir(&directory).expect("a directory");
    soon("it is written again", || audit.problem().is_none());
    soon("all of it", || lines(&path).len() == 1);
}
