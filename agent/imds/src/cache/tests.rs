//! A cache on a scripted source, in time that the tests let pass.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::role::SourceKind;
use crate::secret::Secret;

/// Answers by a script; then gives credentials of an hour. Numbers them by call.
#[derive(Default)]
struct Script {
    calls: Arc<AtomicUsize>,
    delay: Duration,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    life: Option<Duration>,
    began: Option<Instant>,
}

impl Source for Script {
    async fn fetch(&self, key: &Key, owner: &Owner) -> Result<Credentials, Fault> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        sleep(self.delay).await;
        let fault = self.faults.lock().expect("one test").pop_front();
        if let Some(fault) = fault {
            return Err(fault);
        }
        let now = time(self.began.expect("set by `cache`"));
        Ok(Credentials {
            access_key_id: format!("{} {} {call}", key.session_name, owner.pod),
            secret_access_key: Secret::new("s".to_owned()),
            token: Secret::new("t".to_owned()),
            expiration: now + self.life.unwrap_or(HOUR),
            last_updated: now,
            account_id: "123456789012".to_owned(),
            request_id: None,
            source: SourceKind::AssumeRole,
            role: None,
        })
    }
}

const HOUR: Duration = Duration::from_hours(1);

fn time(began: Instant) -> Timestamp {
    Timestamp::UNIX_EPOCH + began.elapsed()
}

struct Stage {
    cache: Cache<Script>,
    calls: Arc<AtomicUsize>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl Stage {
    fn of(mut script: Script) -> Self {
        let began = Instant::now();
        script.began = Some(began);
        let (calls, faults) = (Arc::clone(&script.calls), Arc::clone(&script.faults));
        let world = World {
            now: Arc::new(move || time(began)),
            chance: Arc::new(|| 0.5),
        };
        Self {
            cache: Cache::new(script, world),
            calls,
            faults,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn fail(&self, class: Class, times: usize) {
        let fault = Fault {
            class,
            code: "Code".to_owned(),
            message: "why".to_owned(),
        };
        self.faults
            .lock()
            .expect("one test")
            .extend(vec![fault; times]);
    }
}

fn key(role: &str) -> Key {
    Key {
        sources: vec![SourceKind::AssumeRole],
        endpoint: "sts.eu-west-1.amazonaws.com".to_owned(),
        role: format!("arn:aws:iam::123456789012:role/{role}")
            .parse()
            .ok(),
        through: None,
        source_identity: None,
        external_id: None,
        session_name: "shop.web".to_owned(),
        tags: Vec::new(),
        policy: None,
        policy_arns: Vec::new(),
        audience: None,
        owner: Owner {
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            service_account_uid: "sa".to_owned(),
            pod: "web".to_owned(),
            pod_uid: format!("pod of {role}"),
        },
    }
}

/// Lets time pass in small steps, so that every task sees it.
async fn pass(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        advance(Duration::from_secs(1).min(until - Instant::now())).await;
        tokio::task::yield_now().await;
    }
}

fn call_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ready(credentials) => {
            let id = &credentials.access_key_id;
            id.rsplit(' ').next().unwrap_or_default().to_owned()
        }
        Outcome::Denied { code, .. } => code.clone(),
        Outcome::Nothing { message } => message.clone(),
        Outcome::Transient => "transient".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn k2_many_cold_askers_make_one_call_and_get_its_answer_together() {
    let stage = Stage::of(Script {
        delay: Duration::from_millis(80),
        ..Script::default()
    });
    let lease = Arc::new(stage.cache.hold(&key("a"), &key("a").owner, false));
    let began = Instant::now();
    let askers: Vec<_> = (0..64)
        .map(|_| {
            let lease = Arc::clone(&lease);
            tokio::spawn(async move { (call_of(&lease.get().await), Instant::now()) })
        })
        .collect();
    for asker in askers {
        let (call, at) = asker.await.expect("it ends");
        assert_eq!(call, "1");
        assert!(at - began <= Duration::from_millis(90));
    }
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn m2_whoever_hangs_up_cancels_nobody() {
    let stage = Stage::of(Script {
        delay: Duration::from_millis(300),
        ..Script::default()
    });
    let lease = Arc::new(stage.cache.hold(&key("a"), &key("a").owner, false));
    let first = {
        let lease = Arc::clone(&lease);
        tokio::spawn(async move { lease.get().await })
    };
    sleep(Duration::from_millis(100)).await;
    first.abort();
    assert_eq!(call_of(&lease.get().await), "1");
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn k1_each_identity_has_credentials_of_its_own() {
    let stage = Stage::of(Script::default());
    let other = Key {
        external_id: Some("x".to_owned()),
        ..key("a")
    };
    let (one, two) = (
        stage.cache.hold(&key("a"), &key("a").owner, true),
        stage.cache.hold(&other, &other.owner, true),
    );
    let (one, two) = (call_of(&one.get().await), call_of(&two.get().await));
    assert_ne!(one, two);
    assert_eq!(stage.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn m5_credentials_are_renewed_with_half_an_hour_left_and_asking_never_waits_for_it() {
    let stage = Stage::of(Script {
        delay: Duration::from_secs(2),
        ..Script::default()
    });
    let lease = stage.cache.hold(&key("a"), &key("a").owner, true);
    assert_eq!(call_of(&lease.get().await), "1");
    for _ in 0..180 {
        pass(Duration::from_mins(1)).await;
        let asked = Instant::now();
        let Outcome::Ready(credentials) = lease.get().await else {
            panic!("there are always some");
        };
        assert_eq!(asked, Instant::now(), "from the cache");
        let left = credentials
            .expiration
            .duration_since((stage.cache.shared.world.now)());
        assert!(left.as_secs() >= 25 * 60, "{left}");
    }
    // Three hours, each of them good for half an hour less a few seconds.
    assert!((5..=8).contains(&stage.calls()), "{}", stage.calls());
}

#[tokio::test(start_paused = true)]
async fn k6_a_source_that_fails_is_served_stale_to_the_real_end_and_no_longer() {
    let stage = Stage::of(Script::default());
    let lease = stage.cache.hold(&key("a"), &key("a").owner, true);
    assert_eq!(call_of(&lease.get().await), "1");
    stage.fail(Class::Network, 1000);
    pass(Duration::from_mins(59)).await;
    assert_eq!(call_of(&lease.get().await), "1");
    let tries = stage.calls();
    // From 27.5 minutes on, 5 s doubling to 60 s.
    assert!((30..=45).contains(&tries), "{tries}");
    pass(Duration::from_secs(61)).await;
    assert_eq!(call_of(&lease.get().await), "transient");
}

#[tokio::test(start_paused = true)]
async fn i10_a_refusal_is_remembered_and_asked_again_ever_more_rarely() {
    let stage = Stage::of(Script::default());
    stage.fail(Class::Denied, 1000);
    let lease = stage.cache.hold(&key("a"), &key("a").owner, false);
    for _ in 0..60 * 100 {
        assert_eq!(call_of(&lease.get().await), ASSUME_ROLE_UNAUTHORIZED);
        advance(Duration::from_millis(100)).await;
    }
    // Ten minutes: 5 s, 10 s, ... up to 5 minutes.
    assert!((7..=9).contains(&stage.calls()), "{}", stage.calls());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_pod_clears_a_refusal() {
    let stage = Stage::of(Script::default());
    stage.fail(Class::Invalid, 1);
    let lease = stage.cache.hold(&key("a"), &key("a").owner, true);
    assert_eq!(call_of(&lease.get().await), "Code");
    stage.cache.reconsider(&key("a"));
    pass(Duration::from_secs(1)).await;
    assert_eq!(call_of(&lease.get().await), "2");
}

#[tokio::test(start_paused = true)]
async fn a4_nothing_is_renewed_for_pods_that_are_gone_and_their_keys_are_dropped() {
    let stage = Stage::of(Script::default());
    let leases = [
        stage.cache.hold(&key("a"), &key("a").owner, true),
        stage.cache.hold(&key("a"), &key("a").owner, true),
    ];
    assert_eq!(call_of(&leases[0].get().await), "1");
    let [first, second] = leases;
    drop(first);
    assert_eq!(stage.cache.summary().len(), 1);
    drop(second);
    assert!(stage.cache.summary().is_empty());
    pass(HOUR * 2).await;
    assert_eq!(stage.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_not_renewed_after_two_hours_until_somebody_asks() {
    let stage = Stage::of(Script::default());
    let lease = stage.cache.hold(&key("a"), &key("a").owner, true);
    assert_eq!(call_of(&lease.get().await), "1");
    pass(HOUR * 12).await;
    let calls = stage.calls();
    assert!((4..=6).contains(&calls), "{calls}");
    assert_eq!(call_of(&lease.get().await), (calls + 1).to_string());
}

#[tokio::test(start_paused = true)]
async fn m3_two_hundred_keys_of_one_age_are_renewed_without_one_going_cold() {
    let stage = Stage::of(Script {
        delay: Duration::from_millis(80),
        ..Script::default()
    });
    let leases: Vec<_> = (0..200)
        .map(|number| {
            let key = key(&format!("r{number}"));
            stage.cache.hold(&key, &key.owner, true)
        })
        .collect();
    for lease in &leases {
        call_of(&lease.get().await);
    }
    for _ in 0..60 {
        pass(Duration::from_mins(1)).await;
        let asked = Instant::now();
        for lease in &leases {
            assert!(matches!(lease.get().await, Outcome::Ready(_)));
        }
        assert_eq!(asked, Instant::now(), "all from the cache");
    }
    assert!((400..=600).contains(&stage.calls()), "{}", stage.calls());
}

#[tokio::test(start_paused = true)]
async fn credentials_that_live_shortly_are_served_and_renewed_halfway() {
    let stage = Stage::of(Script {
        life: Some(Duration::from_mins(15)),
        ..Script::default()
    });
    let lease = stage.cache.hold(&key("a"), &key("a").owner, true);
    for _ in 0..40 {
        let Outcome::Ready(credentials) = lease.get().await else {
            panic!("there are always some");
        };
        let left = credentials
            .expiration
            .duration_since((stage.cache.shared.world.now)());
        assert!(left.as_secs() >= 7 * 60, "{left}");
        pass(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a1_one_pods_calls_do_not_use_up_those_of_others() {
    let stage = Stage::of(Script::default());
    // Twenty roles of one pod: five at once, two a second.
    let flood: Vec<_> = (0..20)
        .map(|number| {
            let mut key = key(&format!("r{number}"));
            key.owner.pod_uid = "one".to_owned();
            stage.cache.hold(&key, &key.owner, true)
        })
        .collect();
    tokio::task::yield_now().await;
    let other = stage.cache.hold(&key("other"), &key("other").owner, false);
    let asked = Instant::now();
    assert!(matches!(other.get().await, Outcome::Ready(_)));
    assert_eq!(asked, Instant::now());
    pass(Duration::from_secs(2)).await;
    assert!((9..=12).contains(&stage.calls()), "{}", stage.calls());
    drop(flood);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_source_is_left_alone_by_everybody() {
    let stage = Stage::of(Script::default());
    stage.fail(Class::Throttled, 1);
    let one = stage.cache.hold(&key("a"), &key("a").owner, false);
    assert_eq!(call_of(&one.get().await), "transient");
    let other = stage.cache.hold(&key("b"), &key("b").owner, false);
    let asked = Instant::now();
    assert!(matches!(other.get().await, Outcome::Ready(_)));
    assert!(asked.elapsed() >= Duration::from_millis(800));
}

#[tokio::test(start_paused = true)]
async fn a3_a_burst_of_pods_that_share_a_session_makes_one_call() {
    let stage = Stage::of(Script::default());
    let shared = Key {
        owner: Owner {
            pod: String::new(),
            pod_uid: String::new(),
            ..key("a").owner
        },
        ..key("a")
    };
    let pod = |number: usize| Owner {
        pod: format!("job-{number}"),
        pod_uid: format!("uid-{number}"),
        ..key("a").owner
    };
    let mut leases: Vec<_> = (0..100)
        .map(|number| stage.cache.hold(&shared, &pod(number), true))
        .collect();
    for lease in &leases {
        assert_eq!(call_of(&lease.get().await), "1");
    }
    assert_eq!(stage.calls(), 1);
    // The pod in whose name it was asked is gone: another one's token is used.
    leases.drain(..60);
    pass(Duration::from_mins(40)).await;
    let Outcome::Ready(credentials) = leases[0].get().await else {
        panic!("it was renewed");
    };
    assert!(
        credentials.access_key_id.contains("job-60"),
        "{credentials:?}"
    );
    assert_eq!(stage.calls(), 2);
}
