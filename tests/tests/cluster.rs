//! Portcullis as its DaemonSet in a real cluster: changes through the real API, real packets, real outages. `cargo xtask test cluster` runs these.

#[path = "cluster/beside.rs"]
mod beside;
#[path = "cluster/busy.rs"]
mod busy;
#[path = "cluster/churn.rs"]
mod churn;
#[path = "cluster/host_port.rs"]
mod host_port;
#[path = "cluster/lacking.rs"]
mod lacking;
#[path = "cluster/metadata.rs"]
mod metadata;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/outage.rs"]
mod outage;
#[path = "cluster/plugin.rs"]
mod plugin;
#[path = "cluster/rights.rs"]
mod rights;
#[path = "cluster/roles.rs"]
mod roles;
#[path = "cluster/rollout.rs"]
mod rollout;
#[path = "cluster/services.rs"]
mod services;
#[path = "cluster/start.rs"]
mod start;
#[path = "cluster/traffic.rs"]
mod traffic;
#[path = "cluster/uninstall.rs"]
mod uninstall;

use std::thread;
use std::time::Duration;

use portcullis_lab::NetNs;
use portcullis_tests::cluster::{Ground, Way};

/// Demands that all ways from a pod to a pod become as wanted. How long the slowest took.
fn become_all(ground: &Ground, from: &str, to: &str, open: bool, what: &str) -> Duration {
    let what = format!("{from} to {to}: {what}");
    all_become(&ground.ways_to(to), ground.netns(from), open, &what)
}

/// The same for any ways from any namespace.
fn all_become(ways: &[Way], from: &NetNs, open: bool, what: &str) -> Duration {
    thread::scope(|scope| {
        let all: Vec<_> = ways
            .iter()
            .map(|way| scope.spawn(|| way.becomes(from, open, what)))
            .collect();
        let took = all.into_iter().map(|way| {
            way.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        took.max().expect("there are ways")
    })
}

/// Demands that ways are open or closed, all at a time.
fn all_stay(ways: &[Way], from: &NetNs, open: bool, what: &str) {
    thread::scope(|scope| {
        for way in ways {
            scope.spawn(|| way.stays(from, open, what));
        }
    });
}
