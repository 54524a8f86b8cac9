//! `GET /metrics`: the agent's [`NodeStatus`] as `OpenMetrics` text.
//!
//! A registry is built for each scrape, because the status holds totals and is true at one moment; nothing is counted here. Labels come from closed
//! sets, so the number of series does not grow with pods or policies.

mod credentials;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use portcullis_common::abi::direction;
use portcullis_common::reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::commands::status::programs;
use crate::report::NodeStatus;

pub use credentials::Counted;

/// Label names and values of one series.
type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// States of an endpoint, each with its series from the start.
const STATES: [&str; 3] = ["enforced", "closed", "failed"];
/// Kinds that objects are refused of; a document that has none is `Document`.
const KINDS: [&str; 7] = [
    "Document",
    "EndpointSlice",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "Pod",
    "Service",
];
/// Seconds from an interface's first sight to tables in force.
const READY_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The text of one scrape.
#[must_use]
pub fn render(status: &NodeStatus, counted: &Counted) -> String {
    let mut registry = Registry::with_prefix("portcullis");
    node(&mut registry, status);
    objects(&mut registry, status);
    drops(&mut registry, status);
    tables(&mut registry, status);
    credentials::register(&mut registry, status, counted);
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes every write");
    text
}

fn node(registry: &mut Registry, status: &NodeStatus) {
    let build: Labels = vec![
        ("version", status.version.clone()),
        ("kernel", status.kernel.clone()),
    ];
    registry.register(
        "build",
        "The agent's version and the kernel that it runs on",
        Info::new(build),
    );
    gauge(
        registry,
        "ready",
        "Whether everything known is in force",
        f64::from(u8::from(status.ready)),
    );
    let mut states: BTreeMap<&str, usize> = STATES.iter().map(|state| (*state, 0)).collect();
    for endpoint in &status.endpoints {
        *states
            .entry(
                STATES
                    .iter()
                    .find(|state| **state == endpoint.state)
                    .copied()
                    .unwrap_or("failed"),
            )
            .or_default() += 1;
    }
    gauges(
        registry,
        "pods",
        "Endpoints of this node by state",
        states
            .into_iter()
            .map(|(state, count)| (vec![("state", state.to_owned())], count as f64)),
    );
    let (attached, needed) = programs(status);
    let states = [("attached", attached), ("missing", needed - attached)];
    gauges(
        registry,
        "programs",
        "Program attachments by state",
        states.map(|(state, count)| (vec![("state", state.to_owned())], count as f64)),
    );
    gauges(
        registry,
        "guard_mode",
        "Mode of the metadata guard",
        [(vec![("mode", "block".to_owned())], 1.0)],
    );
    let ready = Histogram::new(READY_BUCKETS);
    for milliseconds in status
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.start_to_enforced_ms)
    {
        ready.observe(milliseconds / 1e3);
    }
    registry.register_with_unit(
        "pod_ready_duration",
        "From the first sight of an interface to tables in force",
        Unit::Seconds,
        ready,
    );
}

fn objects(registry: &mut Registry, status: &NodeStatus) {
    let policies = status.objects.get("NetworkPolicy").copied().unwrap_or(0);
    let labels = vec![
        ("kind", "NetworkPolicy".to_owned()),
        ("mode", "enforce".to_owned()),
    ];
    gauges(
        registry,
        "policies",
        "Policy objects in force",
        [(labels, policies as f64)],
    );
    let mut refused: BTreeMap<(&str, &str), usize> = KINDS
        .iter()
        .flat_map(|kind| [((*kind, "refused"), 0), ((*kind, "partly refused"), 0)])
        .collect();
    for object in &status.refused {
        let kind = object.object.split(' ').next().unwrap_or_default();
        let kind = KINDS
            .iter()
            .find(|known| **known == kind)
            .copied()
            .unwrap_or("Document");
        *refused
            .entry((
                kind,
                if object.whole {
                    "refused"
                } else {
                    "partly refused"
                },
            ))
            .or_default() += 1;
    }
    let series = refused.into_iter().map(|((kind, reason), count)| {
        (
            vec![("kind", kind.to_owned()), ("reason", reason.to_owned())],
            count as f64,
        )
    });
    gauges(
        registry,
        "policy_errors",
        "Objects refused, whole or in part",
        series,
    );
    gauge(
        registry,
        "policy_revision",
        "Grows with each set of tables put in force",
        status.revision as f64,
    );
    let last = Gauge::<f64, AtomicU64>::default();
    last.set(status.last_apply_ms / 1e3);
    registry.register_with_unit(
        "policy_apply_last",
        "How long the last compilation and application took",
        Unit::Seconds,
        last,
    );
    gauges(
        registry,
        "watch_stale_seconds",
        "Since when objects of a kind can not be followed, 0 if they are",
        status.feeds.iter().map(|feed| {
            let labels = vec![("kind", feed.kind.clone())];
            (labels, feed.stale_secs.unwrap_or(0) as f64)
        }),
    );
    counter(
        registry,
        "reconcile_errors",
        "Attempts to bring the tables up to date that failed",
        status.apply_errors,
    );
    counter(registry, "map_writes", "Map writes", status.map_writes);
}

/// Every reason that drops, in both directions, also those that never happened.
fn drops(registry: &mut Registry, status: &NodeStatus) {
    let counters = Counters::default();
    for (_, name) in [
        (direction::INGRESS, "ingress"),
        (direction::EGRESS, "egress"),
    ] {
        for (_, spelling, _) in reason::ALL.iter().filter(|(.., drops)| *drops) {
            drop(counters.get_or_create(&drop_labels(name, spelling)));
        }
    }
    for drop in &status.drops {
        counters
            .get_or_create(&drop_labels(&drop.direction, &drop.reason))
            .inc_by(drop.packets);
    }
    registry.register(
        "drops",
        "Packets dropped, by direction as the pod sees it and reason",
        counters,
    );
    let lost = Counters::default();
    lost.get_or_create(&vec![("ring", "pc_events".to_owned())])
        .inc_by(status.events_lost);
    registry.register(
        "events_lost",
        "Deny events that were counted but not sent",
        lost,
    );
}

fn drop_labels(direction: &str, reason: &str) -> Labels {
    vec![
        ("direction", direction.to_owned()),
        ("reason", reason.to_owned()),
    ]
}

fn tables(registry: &mut Registry, status: &NodeStatus) {
    let of = |name: &String| vec![("map", name.clone())];
    gauges(
        registry,
        "map_entries",
        "Entries in use",
        status
            .map_entries
            .iter()
            .map(|(name, fill)| (of(name), fill.used as f64)),
    );
    gauges(
        registry,
        "map_capacity",
        "Entries that fit",
        status
            .map_entries
            .iter()
            .map(|(name, fill)| (of(name), fill.capacity as f64)),
    );
    gauge(
        registry,
        "conntrack_entries",
        "Connections remembered",
        status.conntrack_entries as f64,
    );
    // An application stops at the first write that the kernel refuses, so that there is one for each that failed; the report does not say of which map.
    counter(
        registry,
        "map_update_errors",
        "Applications that a map refused",
        status.apply_errors,
    );
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauges(
    registry: &mut Registry,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, f64)>,
) {
    let family = Gauges::default();
    for (labels, value) in series {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DropCount, EndpointStatus, MapFill, RefusedObject};

    /// Series and value of every line that is no comment.
    pub(super) fn parsed(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with("# EOF\n"));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        series.collect()
    }

    #[test]
    fn every_drop_reason_has_a_series_from_the_start() {
        let series = parsed(&render(&NodeStatus::default(), &Counted::default()));
        for (_, reason, _) in reason::ALL.iter().filter(|(.., drops)| *drops) {
            for direction in ["ingress", "egress"] {
                let name = format!(
                    "portcullis_drops_total{{direction=\"{direction}\",reason=\"{reason}\"}}"
                );
                assert_eq!(series.get(&name), Some(&0.0), "{name}");
            }
        }
    }

    #[test]
    fn the_status_comes_back_from_the_text() {
        let status = NodeStatus {
            version: "0.1.0".to_owned(),
            kernel: "6.1".to_owned(),
            endpoints: vec![EndpointStatus {
                state: "enforced".to_owned(),
                start_to_enforced_ms: Some(2.0),
                ..EndpointStatus::default()
            }],
            refused: vec![RefusedObject {
                object: "NetworkPolicy shop/\"x\"".to_owned(),
                whole: true,
                problems: Vec::new(),
            }],
            drops: vec![DropCount {
                direction: "egress".to_owned(),
                reason: "metadata-guard".to_owned(),
                packets: 7,
            }],
            map_entries: BTreeMap::from([(
                "pc_peers".to_owned(),
                MapFill {
                    used: 3,
                    capacity: 10,
                },
            )]),
            last_apply_ms: 1500.0,
            ..NodeStatus::default()
        };
        let series = parsed(&render(&status, &Counted::default()));
        let expected = [
            (
                "portcullis_build_info{version=\"0.1.0\",kernel=\"6.1\"}",
                1.0,
            ),
            ("portcullis_pods{state=\"enforced\"}", 1.0),
            ("portcullis_pods{state=\"failed\"}", 0.0),
            ("portcullis_programs{state=\"attached\"}", 2.0),
            (
                "portcullis_policy_errors{kind=\"NetworkPolicy\",reason=\"refused\"}",
                1.0,
            ),
            (
                "portcullis_drops_total{direction=\"egress\",reason=\"metadata-guard\"}",
                7.0,
            ),
            ("portcullis_map_entries{map=\"pc_peers\"}", 3.0),
            ("portcullis_map_capacity{map=\"pc_peers\"}", 10.0),
            ("portcullis_policy_apply_last_seconds", 1.5),
            ("portcullis_pod_ready_duration_seconds_count", 1.0),
            ("portcullis_events_lost_total{ring=\"pc_events\"}", 0.0),
            ("portcullis_guard_mode{mode=\"block\"}", 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
    }
}
