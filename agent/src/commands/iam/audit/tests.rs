use portcullis_imds::audit::Event;
use portcullis_imds::metrics::Class;
use portcullis_imds::reason::Reason;

use super::*;
use crate::cluster::Missing;
use crate::failure::Failure;
use crate::report::{CredentialStatus, DecisionStatus, PodName, RequestStatus};

fn record(seq: u64, event: Event) -> AuditRecord {
    AuditRecord {
        ts: format!("2026-11-22T08:00:0{seq}.000Z"),
        seq,
        node: format!("n{}", seq % 2),
        event,
        count: seq,
        pod: Some(PodName {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ..PodName::default()
        }),
        origin: None,
        request: Some(RequestStatus {
            endpoint: "imds".to_owned(),
            class: Class::Credentials,
            version: ImdsVersion::V2,
            status: 200,
            duration_ms: None,
            path: "/latest".to_owned(),
        }),
        decision: DecisionStatus {
            role_arn: Some("arn:aws:iam::123456789012:role/team/app".to_owned()),
            ..DecisionStatus::default()
        },
        credential: None,
    }
}

fn issued() -> AuditRecord {
    AuditRecord {
        credential: Some(CredentialStatus {
            access_key_id: Some("ASIAEXAMPLE".to_owned()),
            expiration: Some("2026-11-22T09:00:00Z".to_owned()),
            cache: Some("miss".to_owned()),
            ..CredentialStatus::default()
        }),
        ..record(1, Event::Issued)
    }
}

fn denied() -> AuditRecord {
    AuditRecord {
        decision: DecisionStatus {
            reason: Some(Reason::RoleRefused),
            refusal: Some("role-not-allowed".to_owned()),
            ..DecisionStatus::default()
        },
        request: None,
        ..record(2, Event::Denied)
    }
}

fn node(newest: u64, items: &[AuditRecord]) -> NodeAudit {
    NodeAudit {
        newest,
        items: items.to_vec(),
        ..NodeAudit::default()
    }
}

#[test]
fn records_say_who_what_and_why_in_a_row() {
    let heard = Heard::here(node(2, &[issued(), denied()]));
    let mut out = Vec::new();
    let code = print(&heard, false, &mut out).expect("it is an answer");
    let expected = "\
TIME                      POD       EVENT   COUNT  REQUEST              DETAIL
2026-11-22T08:00:01.000Z  shop/web  issued  1      imds v2 200 /latest  role team/app, ASIAEXAMPLE, until 2026-11-22T09:00:00Z, miss
2026-11-22T08:00:02.000Z  shop/web  denied  2      <none>               role-refused, role-not-allowed
";
    assert_eq!(String::from_utf8_lossy(&out), expected);
    assert_eq!(code, 0);
}

#[test]
fn records_of_a_cluster_are_in_the_order_of_their_times_and_missing_nodes_are_named() {
    let failure = Failure::new("PC4002", "away", "gone", "wait");
    let asked = vec![
        ("n0".to_owned(), Ok(node(2, &[denied()]))),
        ("n1".to_owned(), Ok(node(1, &[issued()]))),
        ("n2".to_owned(), Err(failure)),
    ];
    let heard = Heard::everywhere(asked, &Missing::default());
    let mut out = Vec::new();
    let code = print(&heard, false, &mut out).expect("it is an answer");
    let text = String::from_utf8_lossy(&out);
    let first: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(first, ["NODE", "n1", "n0", "!"], "{text}");
    assert_eq!(code, 4);
}

#[test]
fn following_prints_each_record_once_and_begins_anew_with_a_new_agent() {
    let mut follower = Follower::new(false);
    let text = follower.next(&node(1, &[issued()])).expect("text");
    assert!(
        text.starts_with("TIME") && text.lines().count() == 2,
        "{text}"
    );
    assert_eq!(follower.after(), 1);
    assert_eq!(follower.next(&node(1, &[])).expect("text"), "");
    let text = follower.next(&node(2, &[denied()])).expect("text");
    assert!(!text.contains("TIME") && text.contains("denied"), "{text}");
    assert_eq!(follower.next(&node(1, &[])).expect("text"), "");
    assert_eq!(follower.after(), 0);
    let mut lines = Follower::new(true);
    let text = lines.next(&node(2, &[issued(), denied()])).expect("text");
    let back: Vec<AuditRecord> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    assert_eq!(back, [issued(), denied()]);
}
