//! What is recorded of answers: each first one at once, the same again in a count.

use super::*;
use crate::audit::{Event, Record, Whose};
use crate::reason::Reason;

impl Running {
    async fn record(&self) -> Record {
        timeout(PATIENCE, self.book.next()).await.expect("in time")
    }

    async fn nothing(&self) -> bool {
        timeout(Duration::from_millis(20), self.book.next())
            .await
            .is_err()
    }
}

#[tokio::test]
async fn keys_are_issued_once_and_served_in_a_count_whatever_the_connection() {
    let running = Running::start().await;
    let token = with_token(&running.token(APP).await);
    let get = format!("GET {ROLES}/app");
    for requests in [3, 2] {
        let mut client = running.imds(APP).await;
        for _ in 0..requests {
            assert_eq!(client.ask(&get, &token).await.status, 200);
        }
    }
    let issued = running.record().await;
    assert_eq!(issued.event, Event::Issued);
    assert_eq!(issued.whose, Whose::Attachment(attachment(APP)));
    assert_eq!(
        issued.src_ip,
        Some("127.0.0.2".parse().expect("an address"))
    );
    let request = issued.request.clone().expect("somebody asked");
    assert_eq!((request.status, request.path.as_str()), (200, &get[4..]));
    assert!(request.duration_micros.is_some());
    let keys = issued.credential.clone().expect("it is about keys");
    assert_eq!(keys.access_key_id.as_deref(), Some("ASIAEXAMPLE"));
    assert_eq!(keys.session_name.as_deref(), Some("shop.app"));
    assert_eq!(keys.cache, Some(Found::Hit));
    assert!(running.nothing().await);
    running.book.fold(Timestamp::now());
    let served = running.record().await;
    assert_eq!((served.event, served.count), (Event::Served, 4));
    assert_eq!(served.credential, issued.credential);
    running.book.fold(Timestamp::now());
    assert!(running.nothing().await);
    let text = serde_json::to_string(&[issued, served]).expect("records are objects");
    assert!(!text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn every_refusal_is_recorded_with_its_reason_and_folded_when_it_repeats() {
    let running = Running::start().await;
    let token = with_token(&running.token(APP).await);
    let foreign = with_token(&running.token(BARE).await);
    let cases = [
        (
            format!("GET {ROLES}/other"),
            &token,
            Event::Denied,
            Reason::ForeignRole,
        ),
        (
            "GET /latest/user-data".to_owned(),
            &token,
            Event::BlockedPath,
            Reason::Nothing,
        ),
        (
            format!("GET {ROLES}/"),
            &foreign,
            Event::Denied,
            Reason::BadToken,
        ),
        (
            format!("GET {ROLES}?x=y"),
            &token,
            Event::BadRequest,
            Reason::BadTarget,
        ),
    ];
    for (line, headers, event, reason) in &cases {
        for _ in 0..3 {
            let mut client = running.imds(APP).await;
            assert_eq!(client.ask(line, headers).await.status, reason.status());
        }
        let record = running.record().await;
        assert_eq!((record.event, record.reason), (*event, Some(*reason)));
        assert_eq!(record.count, 1);
        let path = record.request.expect("somebody asked").path;
        assert_eq!(Some(path.as_str()), line[4..].split('?').next());
    }
    assert!(running.nothing().await);
    running.book.fold(Timestamp::now());
    for (.., reason) in cases {
        let record = running.record().await;
        assert_eq!((record.reason, record.count), (Some(reason), 2));
    }
}

#[tokio::test]
async fn a_source_that_fails_is_recorded_as_a_failure_and_counted_by_how_it_was_found() {
    let running = Running::start().await;
    running
        .agent
        .answer_after(Duration::ZERO, Outcome::Transient);
    let token = with_token(&running.token(APP).await);
    let mut client = running.imds(APP).await;
    let reply = client.ask(&format!("GET {ROLES}/app"), &token).await;
    assert_eq!(reply.status, 503);
    let record = running.record().await;
    assert_eq!(
        (record.event, record.reason),
        (Event::Failed, Some(Reason::SourceFailing))
    );
    let keys = record.credential.expect("they were asked for");
    assert_eq!((keys.access_key_id, keys.cache), (None, Some(Found::Hit)));
    assert_eq!(running.metrics.snapshot().found, [(Found::Hit, 1)]);
}
