use std::error::Error as _;

use jiff::SignedDuration;

use super::super::tests::service::{Reply, Service};
use super::*;

const NODE: &str = "meta-data/iam/security-credentials/node-role";
const SECRET: &str = "SECRET-OF-THE-NODE";

fn document(access_key_id: &str, left: SignedDuration) -> String {
    let expiration = crate::credentials::utc(Timestamp::now() + left);
    format!(
        r#"{{"Code":"Success","LastUpdated":"2026-11-22T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"{access_key_id}","SecretAccessKey":"{SECRET}","Token":"node-session","Expiration":"{expiration}"}}"#
    )
}

async fn service(left: SignedDuration) -> Service {
    Service::start([
        (ROLES_FOLDER, "node-role"),
        (NODE, &document("ASIANODE1", left)),
    ])
    .await
}

fn keys_of(service: &Service) -> NodeKeys {
    NodeKeys::new(Upstream::new(service.endpoint(), Arc::default()))
}

async fn id(keys: &NodeKeys) -> Result<String, String> {
    match keys.provide_credentials().await {
        Ok(found) => Ok(found.access_key_id().to_owned()),
        Err(error) => Err(error.source().map(ToString::to_string).unwrap_or_default()),
    }
}

#[tokio::test]
async fn k4_a_hundred_misses_cost_one_fetch_of_the_nodes_credentials() {
    let service = service(SignedDuration::from_hours(6)).await;
    let keys = keys_of(&service);
    // At once, then one after the other.
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let keys = keys.clone();
        asked.spawn(async move { id(&keys).await });
    }
    for answer in asked.join_all().await {
        assert_eq!(answer, Ok("ASIANODE1".to_owned()));
    }
    for _ in 0..50 {
        assert_eq!(id(&keys).await, Ok("ASIANODE1".to_owned()));
    }
    assert_eq!(
        service.paths(),
        [
            "/latest/api/token",
            "/latest/meta-data/iam/security-credentials/",
            "/latest/meta-data/iam/security-credentials/node-role"
        ]
    );
    assert_eq!(service.connections(), 3);
}

#[tokio::test]
async fn k4_a_failure_is_not_repeated_at_the_rate_of_misses() {
    let service = service(SignedDuration::from_hours(6)).await;
    service.set(ROLES_FOLDER, Reply::status(404));
    let keys = keys_of(&service);
    for _ in 0..100 {
        assert_eq!(
            id(&keys).await,
            Err("the node's credentials cannot be read".to_owned())
        );
    }
    assert_eq!(service.connections(), 2, "a token and a listing");
}

#[tokio::test]
async fn keys_are_renewed_before_their_end_without_anybody_waiting() {
    let service = service(SignedDuration::from_mins(10)).await;
    let keys = keys_of(&service);
    assert_eq!(id(&keys).await, Ok("ASIANODE1".to_owned()));
    let newer = document("ASIANODE2", SignedDuration::from_hours(6));
    service.set(NODE, Reply::ok(&newer).after(Duration::from_millis(100)));
    // Fetched a moment ago: the service has nothing newer yet.
    assert_eq!(id(&keys).await, Ok("ASIANODE1".to_owned()));
    assert_eq!(service.asked(NODE), 1);
    let now = Timestamp::now();
    let in_a_minute = now + RENEW_AGAIN;
    assert!(!keys.state.borrow().is_due(now) && keys.state.borrow().is_due(in_a_minute));
    let fresh = State {
        keys: keys.state.borrow().keys.clone(),
        ..State::default()
    };
    assert!(
        fresh.is_due(now) && fresh.answer(now).is_some(),
        "renewed behind one's back"
    );
}

#[tokio::test]
async fn keys_that_end_are_waited_for_and_used_to_their_end_if_there_are_no_others() {
    let ending = Keys {
        access_key_id: "ASIAOLD".to_owned(),
        secret_access_key: Secret::new(SECRET.to_owned()),
        token: Secret::new("t".to_owned()),
        expiration: Timestamp::now() + SignedDuration::from_secs(30),
    };
    let mut state = State {
        keys: Some(ending),
        ..State::default()
    };
    let now = Timestamp::now();
    assert!(state.answer(now).is_none() && state.is_due(now));
    state.learn(Err(NoKeys::Malformed), now);
    assert!(matches!(state.answer(now), Some(Ok(_))) && !state.is_due(now));
    let later = now + SignedDuration::from_secs(31);
    assert!(state.answer(later).is_none() && state.is_due(later));
    state.learn(Err(NoKeys::Malformed), later);
    assert!(matches!(state.answer(later), Some(Err(_))));
}

#[tokio::test]
async fn what_is_no_document_of_keys_gives_none() {
    let short = |left| document("ASIANODE1", SignedDuration::from_secs(left));
    for (text, why) in [
        (
            "",
            "the metadata service gave credentials that cannot be read",
        ),
        (
            "{}",
            "the metadata service gave credentials that cannot be read",
        ),
        (
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no"}"#,
            "the metadata service has no credentials of the node's role: AssumeRoleUnauthorizedAccess",
        ),
        (
            &short(-5),
            "the metadata service has no credentials of the node's role: they have expired",
        ),
    ] {
        let service = service(SignedDuration::from_hours(6)).await;
        service.set(NODE, Reply::ok(text));
        assert_eq!(id(&keys_of(&service)).await, Err(why.to_owned()), "{text}");
    }
    let service = service(SignedDuration::from_hours(6)).await;
    service.set(NODE, Reply::ok(&short(30)));
    assert_eq!(id(&keys_of(&service)).await, Ok("ASIANODE1".to_owned()));
}

#[tokio::test]
async fn the_nodes_keys_print_nothing_and_go_when_nobody_has_them() {
    let service = service(SignedDuration::from_hours(6)).await;
    let keys = keys_of(&service);
    id(&keys).await.expect("there are keys");
    let text = format!("{keys:?}");
    assert!(
        text.contains("ASIANODE1") && !text.contains(SECRET),
        "{text}"
    );
    let bell = Arc::downgrade(&keys.bell);
    drop(keys);
    while bell.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}
