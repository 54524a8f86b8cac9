//! How often the source is asked: token buckets of the node, of each pod and of each role.
//!
//! A renewal has time, so it leaves half of a bucket to those who have nothing yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Key, Owner};

/// Calls a second, and how many at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    a_second: f64,
    burst: f64,
}

const NODE: Rate = Rate {
    a_second: 10.0,
    burst: 50.0,
};
const EACH: Rate = Rate {
    a_second: 2.0,
    burst: 5.0,
};

/// Buckets that are full say nothing, so they are thrown away when there are this many.
const TIDY: usize = 4096;

/// All buckets.
#[derive(Default)]
pub(super) struct Limits {
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    node: Option<Bucket>,
    pods: HashMap<String, Bucket>,
    roles: HashMap<String, Bucket>,
    /// Throttled by the source: nobody calls before.
    quiet_until: Option<Instant>,
}

struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Limits {
    /// Waits until a call may be made, and counts it.
    pub(super) async fn admit(&self, key: &Key, owner: &Owner, renewal: bool) {
        while let Some(wait) = self.take(key, owner, renewal) {
            tokio::time::sleep(wait).await;
        }
    }

    /// The source has had enough for a while.
    pub(super) fn quieten(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut buckets = self.buckets();
        buckets.quiet_until = Some(buckets.quiet_until.map_or(until, |known| known.max(until)));
    }

    /// Takes one token from each bucket, or from none; then says how long to wait.
    fn take(&self, key: &Key, owner: &Owner, renewal: bool) -> Option<Duration> {
        let now = Instant::now();
        let buckets = &mut *self.buckets();
        if let Some(until) = buckets.quiet_until
            && until > now
        {
            return Some(until - now);
        }
        tidy(&mut buckets.pods, now);
        tidy(&mut buckets.roles, now);
        let node = buckets.node.get_or_insert_with(|| Bucket::full(NODE, now));
        let pod = buckets
            .pods
            .entry(owner.pod_uid.clone())
            .or_insert_with(|| Bucket::full(EACH, now));
        let role = buckets
            .roles
            .entry(role_of(key, owner))
            .or_insert_with(|| Bucket::full(EACH, now));
        let all = [node, pod, role];
        let mut wait = Duration::ZERO;
        let mut all = all.map(|bucket| {
            wait = wait.max(bucket.missing(now, renewal));
            bucket
        });
        if wait > Duration::ZERO {
            return Some(wait);
        }
        for bucket in &mut all {
            bucket.tokens -= 1.0;
        }
        None
    }

    fn buckets(&self) -> std::sync::MutexGuard<'_, Buckets> {
        // Nothing panics while it holds the lock.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The role's ARN; of a pod whose role is not known before, its service account.
fn role_of(key: &Key, owner: &Owner) -> String {
    key.role.as_ref().map_or_else(
        || format!("{}/{}", owner.namespace, owner.service_account),
        ToString::to_string,
    )
}

fn tidy(buckets: &mut HashMap<String, Bucket>, now: Instant) {
    if buckets.len() > TIDY {
        buckets.retain(|_, bucket| bucket.fill(now) < bucket.rate.burst);
    }
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) -> f64 {
        let gained = (now - self.at).as_secs_f64() * self.rate.a_second;
        self.tokens = (self.tokens + gained).min(self.rate.burst);
        self.at = now;
        self.tokens
    }

    /// How long until it has a token to give.
    fn missing(&mut self, now: Instant, renewal: bool) -> Duration {
        let reserve = if renewal { self.rate.burst / 2.0 } else { 0.0 };
        let missing = 1.0 + reserve - self.fill(now);
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        // Rounded up, so that the next look finds it.
        Duration::from_secs_f64(missing / self.rate.a_second) + Duration::from_millis(1)
    }
}
