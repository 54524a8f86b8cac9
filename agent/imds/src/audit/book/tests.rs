//! What is alike becomes one record, what finds no room is counted, what was counted is told in the end.

use super::super::{Asked, Credential, SourceFault};
use super::*;
use crate::listener::Surface;
use crate::metrics::{Class, ImdsVersion};

const POD: Attachment = Attachment([1; 16]);
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn record(event: Event, path: &str) -> Record {
    Record {
        at: NOW,
        event,
        whose: Whose::Attachment(POD),
        src_ip: None,
        request: Some(Asked {
            endpoint: Surface::Imds,
            class: Class::Other,
            version: ImdsVersion::V2,
            status: 404,
            duration_micros: Some(7),
            path: path.to_owned(),
        }),
        reason: None,
        credential: None,
        fault: None,
        count: 1,
    }
}

fn issued(id: &str) -> Record {
    let mut keys = Credential::without(None, None);
    keys.access_key_id = Some(id.to_owned());
    keys.expiration = Some(NOW + std::time::Duration::from_hours(1));
    Record {
        credential: Some(keys),
        ..record(Event::Issued, "/")
    }
}

fn refuse(book: &Book, reason: Reason, path: &str) {
    book.refuse(POD, reason, path.as_bytes(), || Record {
        reason: Some(reason),
        ..record(Event::of(reason), path)
    });
}

fn told(book: &Book) -> Vec<Record> {
    book.lock().queue.drain(..).collect()
}

#[test]
fn a_pods_keys_are_told_once_a_minute_and_by_key() {
    let book = Book::default();
    for id in ["A", "B", "A", "A"] {
        book.hand(POD, id, || issued(id));
    }
    let first = told(&book);
    assert_eq!(first, [issued("A"), issued("B")]);
    book.fold(NOW);
    let counted = told(&book);
    assert_eq!(counted.len(), 1);
    assert_eq!((counted[0].event, counted[0].count), (Event::Served, 2));
    let request = counted[0].request.as_ref().expect("somebody asked");
    assert_eq!(request.duration_micros, None);
    book.fold(NOW);
    assert!(told(&book).is_empty());
    // The next minute, and the same keys are not issued again.
    book.hand(POD, "B", || issued("B"));
    book.fold(NOW);
    assert_eq!(told(&book)[0].event, Event::Served);
}

#[test]
fn counts_of_connections_that_still_hold_ended_keys_are_not_lost() {
    let book = Book::default();
    let served = book.hand(POD, "A", || issued("A"));
    let later = NOW + std::time::Duration::from_hours(2);
    book.fold(later);
    served.again();
    told(&book);
    book.fold(later);
    assert_eq!(told(&book)[0].count, 1);
    drop(served);
    book.fold(later);
    assert!(book.lock().pods.is_empty());
}

#[test]
fn a_pod_that_asks_for_everything_makes_few_records() {
    let book = Book::default();
    for number in 0..10_000 {
        refuse(&book, Reason::Nothing, &format!("/latest/{number}"));
    }
    let first = told(&book);
    assert_eq!(first.len(), PATHS + 1);
    book.fold(NOW);
    let counted = told(&book);
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].count, 10_000 - PATHS as u64 - 1);
    let request = counted[0].request.as_ref().expect("somebody asked");
    assert_eq!(request.path, "*");
    // What is not repeated has had its minute.
    book.fold(NOW);
    refuse(&book, Reason::Nothing, "/latest/1");
    assert_eq!(told(&book)[0].count, 1);
}

#[test]
fn reasons_are_told_apart_and_repetitions_counted() {
    let book = Book::default();
    for reason in [Reason::BadToken, Reason::NoToken, Reason::BadToken] {
        refuse(&book, reason, "/");
    }
    assert_eq!(told(&book).len(), 2);
    book.forget(POD, NOW);
    let counted = told(&book);
    assert_eq!(counted.len(), 1);
    assert_eq!(
        (counted[0].reason, counted[0].count),
        (Some(Reason::BadToken), 1)
    );
    assert!(book.lock().pods.is_empty());
}

#[test]
fn a_source_that_fails_again_and_again_is_told_once_a_minute() {
    let book = Book::default();
    let failed = |code: &str| Record {
        whose: Whose::Pod("u1".to_owned()),
        request: None,
        fault: Some(SourceFault {
            class: "network".to_owned(),
            code: code.to_owned(),
        }),
        ..record(Event::Failed, "")
    };
    for code in ["NoAnswer", "NoAnswer", "Throttling", "NoAnswer"] {
        book.note(failed(code));
    }
    assert_eq!(told(&book), [failed("NoAnswer"), failed("Throttling")]);
    book.fold(NOW);
    assert_eq!(
        told(&book),
        [Record {
            count: 2,
            ..failed("NoAnswer")
        }]
    );
}

#[test]
fn what_finds_the_queue_full_is_counted_and_stops_nobody() {
    let book = Book::default();
    for number in 0..QUEUE + 10 {
        book.hand(Attachment([number as u8; 16]), &number.to_string(), || {
            issued("A")
        });
    }
    assert_eq!((told(&book).len(), book.dropped()), (QUEUE, 10));
    // There is room again.
    refuse(&book, Reason::Nothing, "/");
    assert_eq!(told(&book).len(), 1);
}

#[tokio::test]
async fn whoever_waits_for_a_record_is_woken_by_it() {
    let book = Arc::new(Book::default());
    let waits = {
        let book = Arc::clone(&book);
        tokio::spawn(async move { book.next().await })
    };
    tokio::task::yield_now().await;
    refuse(&book, Reason::Nothing, "/x");
    let record = waits.await.expect("it does not panic");
    assert_eq!(record.reason, Some(Reason::Nothing));
}

#[test]
fn requests_without_a_token_are_counted_by_pod_and_taken_once() {
    let book = Book::default();
    let other = Attachment([2; 16]);
    for attachment in [POD, other, POD] {
        book.asked_v1(attachment);
    }
    let mut counts = book.take_v1(1);
    assert_eq!(counts.len(), 1);
    counts.extend(book.take_v1(10));
    counts.sort();
    assert_eq!(counts, [(POD, 2), (other, 1)]);
    assert!(book.take_v1(10).is_empty());
}
