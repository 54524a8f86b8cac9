//! A pod's first process: it asks for credentials the moment it starts, and again as SDKs and their users do, until it has some.

use std::io;
use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client::HttpAnswer;
use serde_json::Value;

use super::Cloud;
use super::talk::{Danced, Talk};

/// An SDK's attempt ends after it.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(20);
/// Then it has found nothing.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a pod's first process was told.
#[derive(Debug)]
pub struct Told {
    /// How each attempt ended, in their order. None with an error of the connection.
    pub attempts: Vec<Option<Danced>>,
    /// From its start to the first attempt.
    pub late: Duration,
    /// The keys.
    pub keys: Option<Value>,
}

/// Starts it in a pod.
#[must_use]
pub fn start(cloud: &Cloud, key: &str, to: IpAddr) -> JoinHandle<Told> {
    let namespace = NetNs::open(cloud.scene.netns(key).path()).expect("the pod is there");
    thread::spawn(move || {
        let told = namespace.run(|| Ok(until_keys(to)));
        told.expect("the pod can be entered")
    })
}

fn until_keys(to: IpAddr) -> Told {
    let start = Instant::now();
    let late = start.elapsed();
    let mut attempts = Vec::new();
    loop {
        let attempt = attempt(to).ok();
        let keys = attempt.as_ref().and_then(keys);
        attempts.push(attempt);
        if keys.is_some() || start.elapsed() > PATIENCE {
            return Told {
                attempts,
                late,
                keys,
            };
        }
        thread::sleep(AGAIN);
    }
}

fn attempt(to: IpAddr) -> io::Result<Danced> {
    Talk::open_here(to, ATTEMPT)?.dance()
}

/// The keys in a dance's last answer.
#[must_use]
pub fn keys(danced: &Danced) -> Option<Value> {
    let HttpAnswer { status: 200, body } = &danced.answer else {
        return None;
    };
    let document: Value = serde_json::from_str(body).ok()?;
    document["AccessKeyId"].is_string().then_some(document)
}

impl Told {
    /// Demands that nothing but this role was ever named, and that it was never said that there is none.
    pub fn never_other_than(&self, key: &str, role: &str) {
        for danced in self.attempts.iter().flatten() {
            let named = danced.role.as_deref();
            assert!(named.is_none_or(|named| named == role), "{key}: {danced:?}");
            // Keys, or "not yet".
            let status = danced.answer.status;
            assert!([200, 503].contains(&status), "{key}: {danced:?}");
        }
    }
}
