//! Metrics of metadata and credentials: what the responder counted, as it says at each scrape, and what the agent counts itself.
//!
//! Of a responder that does not answer, the numbers are those that it said last, and `responder_connected` is 0. They start anew with its process.

use std::collections::BTreeMap;
use std::fmt;

use portcullis_imds::cache::FaultClass;
use portcullis_imds::credentials::Found;
use portcullis_imds::metrics::{
    BOUNDS, CODES, Class, ImdsVersion, Operation, PathClass, STATUSES, Seen, Snapshot, UpstreamCode,
};
use portcullis_imds::reason::Reason;
use portcullis_imds::role;
use portcullis_imds::role::SourceKind;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Counters, Labels, counter, gauge, gauges};
use crate::kube::token;
use crate::report::NodeStatus;

/// What was counted of metadata and credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Whether the responder answers.
    pub connected: bool,
    /// What it has counted.
    pub responder: Snapshot,
    /// Requests without a session token, by namespace.
    pub v1: BTreeMap<String, u64>,
    /// Web-identity tokens that the API server was asked for, by status.
    pub tokens: Vec<(&'static str, u64)>,
    /// Audit records that were never written to their file.
    pub audit_lost: u64,
}

pub(super) fn register(registry: &mut Registry, status: &NodeStatus, counted: &Counted) {
    let connected = f64::from(u8::from(counted.connected));
    let help = "Whether the responder answers its agent";
    gauge(registry, "responder_connected", help, connected);
    requests(registry, counted);
    sources(registry, counted);
    cache(registry, counted);
    decisions(registry, status, counted);
}

fn requests(registry: &mut Registry, counted: &Counted) {
    let said = &counted.responder;
    let all = Class::ALL.into_iter().flat_map(|class| {
        let labels = move |version: ImdsVersion, code: u16| -> Labels {
            vec![
                ("class", class.label().to_owned()),
                ("imds_version", version.label().to_owned()),
                ("code", code.to_string()),
            ]
        };
        let versions = ImdsVersion::ALL.into_iter();
        versions.flat_map(move |version| STATUSES.map(|code| labels(version, code)))
    });
    let seen = said.requests.iter().map(|(class, version, code, count)| {
        let labels = vec![
            ("class", class.label().to_owned()),
            ("imds_version", version.label().to_owned()),
            ("code", code.to_string()),
        ];
        (labels, *count)
    });
    let help = "Answers to pods' metadata requests";
    counters(registry, "metadata_requests", help, all, seen);
    let durations = said.durations.iter();
    times(
        registry,
        "metadata_request_duration",
        "From the end of a request's head to its answer",
        of_all("class", Class::ALL.map(Class::label), |name| {
            let mut durations = durations.clone();
            durations.find(|(class, _)| class.label() == name)
        }),
    );
    let reason = |reason: Reason| vec![("reason", reason.label().to_owned())];
    counters(
        registry,
        "metadata_blocked",
        "Metadata requests that were refused",
        Reason::ALL.map(reason),
        said.refused
            .iter()
            .map(|(why, count)| (reason(*why), *count)),
    );
    let namespaces = counted.v1.iter();
    let help = "Metadata requests without a session token";
    counters(
        registry,
        "metadata_imdsv1_requests",
        help,
        [],
        namespaces.map(|(name, count)| (vec![("namespace", name.clone())], *count)),
    );
    counter(
        registry,
        "metadata_unknown_origin",
        "Connections to the responder that were reset because nobody knew whose they were",
        said.unknown_origins,
    );
    times(
        registry,
        "metadata_identity_wait",
        "How long requests waited for the decision whose pod they are",
        vec![(Vec::new(), said.identity_wait.clone())],
    );
    gauge(
        registry,
        "metadata_connections",
        "Connections to the responder that are open",
        said.connections as f64,
    );
    let labels = |class: PathClass, code: UpstreamCode| {
        vec![
            ("path_class", class.label().to_owned()),
            ("code", code.label().to_owned()),
        ]
    };
    let all = PathClass::ALL
        .into_iter()
        .flat_map(|class| UpstreamCode::ALL.map(|code| labels(class, code)));
    let seen = said.upstream.iter();
    let help = "Requests to the node's own metadata service";
    counters(
        registry,
        "metadata_upstream_requests",
        help,
        all,
        seen.map(|(class, code, count)| (labels(*class, *code), *count)),
    );
}

fn sources(registry: &mut Registry, counted: &Counted) {
    let said = &counted.responder;
    let labels = |operation: Operation, code: usize| {
        vec![
            ("operation", operation.as_str().to_owned()),
            ("code", CODES.get(code).unwrap_or(&"Other").to_string()),
        ]
    };
    let all = Operation::ALL
        .into_iter()
        .flat_map(|operation| (0..CODES.len()).map(move |code| labels(operation, code)));
    let calls = said.calls.iter();
    counters(
        registry,
        "sts_requests",
        "Calls for credentials to AWS, by AWS' code",
        all,
        calls.map(|(operation, code, count)| (labels(*operation, *code), *count)),
    );
    let durations = said.call_durations.iter();
    times(
        registry,
        "sts_request_duration",
        "How long calls for credentials took, retries included",
        of_all("operation", Operation::ALL.map(Operation::as_str), |name| {
            let mut durations = durations.clone();
            durations.find(|(operation, _)| operation.as_str() == name)
        }),
    );
    gauge(
        registry,
        "sts_in_flight",
        "Calls for credentials that have no answer yet",
        said.calls_in_flight as f64,
    );
    let code = |code: &str| vec![("code", code.to_owned())];
    counters(
        registry,
        "token_requests",
        "Web-identity tokens that the API server was asked for, by its status",
        token::CODES.map(code),
        counted
            .tokens
            .iter()
            .map(|(word, count)| (code(word), *count)),
    );
}

fn cache(registry: &mut Registry, counted: &Counted) {
    let said = &counted.responder;
    let mut cached: BTreeMap<&str, u64> = SourceKind::ALL
        .map(|kind| (kind.as_str(), 0))
        .into_iter()
        .collect();
    for (kind, count) in &said.cached {
        *cached.entry(kind.as_str()).or_default() += count;
    }
    gauges(
        registry,
        "credentials_cached",
        "Roles' credentials that are held",
        cached
            .into_iter()
            .map(|(kind, count)| (vec![("kind", kind.to_owned())], count as f64)),
    );
    let result = |found: Found| vec![("result", found.as_str().to_owned())];
    counters(
        registry,
        "credentials_cache_requests",
        "Requests for credentials, by how the cache had them",
        Found::ALL.map(result),
        said.found
            .iter()
            .map(|(found, count)| (result(*found), *count)),
    );
    let reason = |class: FaultClass| vec![("reason", class.as_str().to_owned())];
    let failures = said.refresh_failures.iter();
    counters(
        registry,
        "credentials_refresh_failures",
        "Credentials that were to be renewed and could not be",
        FaultClass::ALL.map(reason),
        failures.map(|(class, count)| (reason(*class), *count)),
    );
    // Without credentials nothing ends.
    let least = said
        .min_expiry_secs
        .map_or(f64::INFINITY, |secs| secs as f64);
    let help = "How long the credentials that end first are good for yet";
    gauge(registry, "credentials_min_expiry_seconds", help, least);
    counter(
        registry,
        "audit_dropped",
        "Audit records that found the responder's queue full",
        said.audit_dropped,
    );
    counter(
        registry,
        "audit_log_lost",
        "Audit records that were never written to --audit-log",
        counted.audit_lost,
    );
}

fn decisions(registry: &mut Registry, status: &NodeStatus, _counted: &Counted) {
    let labels = |result: &str, reason: &str| {
        vec![("result", result.to_owned()), ("reason", reason.to_owned())]
    };
    let refusals = role::Reason::ALL.map(|reason| labels("refused", reason.as_str()));
    let made = status.role_decisions.iter();
    counters(
        registry,
        "role_decisions",
        "Decisions on pods' roles: why there is none, else what named it",
        refusals,
        made.map(|count| (labels(&count.result, &count.reason), count.count)),
    );
}

/// Counters of a family: all that there may be, at zero, and those that were counted.
fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    all: impl IntoIterator<Item = Labels>,
    counted: impl Iterator<Item = (Labels, u64)>,
) {
    let family = Counters::default();
    for labels in all {
        drop(family.get_or_create(&labels));
    }
    for (labels, count) in counted {
        family.get_or_create(&labels).inc_by(count);
    }
    registry.register(name, help, family);
}

/// A series for each value of a label, at zero where nothing was counted.
fn of_all<'a, T: 'a, const N: usize>(
    label: &'static str,
    values: [&'static str; N],
    find: impl Fn(&str) -> Option<&'a (T, Seen)>,
) -> Vec<(Labels, Seen)> {
    let series = values.map(|value| {
        let seen = find(value).map(|(_, seen)| seen.clone());
        (vec![(label, value.to_owned())], seen.unwrap_or_default())
    });
    series.into()
}

fn times(registry: &mut Registry, name: &str, help: &str, series: Vec<(Labels, Seen)>) {
    registry.register_with_unit(name, help, Unit::Seconds, Histograms(series));
}

/// Histograms that were counted elsewhere.
#[derive(Debug)]
struct Histograms(Vec<(Labels, Seen)>);

impl EncodeMetric for Histograms {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, seen) in &self.0 {
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
            let buckets: Vec<(f64, u64)> = bounds
                .chain([f64::INFINITY])
                .zip(seen.buckets.iter().copied())
                .collect();
            let (sum, count) = (seen.micros as f64 / 1e6, seen.buckets.iter().sum());
            if labels.is_empty() {
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            } else {
                let mut encoder = encoder.encode_family(labels)?;
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use portcullis_imds::metrics::Metrics;

    use super::*;
    use crate::metrics::render;
    use crate::metrics::tests::parsed;

    /// The names of credentials-spec 6.3.
    const NAMES: [&str; 17] = [
        "metadata_requests_total",
        "metadata_request_duration_seconds_count",
        "metadata_blocked_total",
        "metadata_imdsv1_requests_total",
        "metadata_unknown_origin_total",
        "metadata_identity_wait_seconds_count",
        "metadata_connections",
        "metadata_upstream_requests_total",
        "role_decisions_total",
        "sts_requests_total",
        "sts_request_duration_seconds_count",
        "sts_in_flight",
        "credentials_cached",
        "credentials_cache_requests_total",
        "credentials_refresh_failures_total",
        "credentials_min_expiry_seconds",
        "token_requests_total",
    ];

    #[test]
    fn every_name_is_there_from_the_start() {
        let mut counted = Counted::default();
        counted.v1.insert("shop".to_owned(), 1);
        let series = parsed(&render(&NodeStatus::default(), &counted));
        for name in NAMES {
            let name = format!("portcullis_{name}");
            let is_it = |series: &String| series.split('{').next() == Some(&name);
            assert!(series.keys().any(is_it), "{name}");
        }
    }

    #[test]
    fn what_the_responder_counted_comes_back_from_the_text() {
        let metrics = Metrics::default();
        let took = std::time::Duration::from_millis(3);
        metrics.answered(Class::Credentials, ImdsVersion::V2, 200, None, took);
        let refused = Some(Reason::BadToken);
        metrics.answered(Class::Listing, ImdsVersion::V2, 401, refused, took);
        metrics.found(Found::Joined);
        metrics.refresh_failed(FaultClass::Denied);
        let counted = Counted {
            connected: true,
            responder: Snapshot {
                min_expiry_secs: Some(1900),
                cached: vec![(SourceKind::AssumeRole, 2)],
                ..metrics.snapshot()
            },
            tokens: vec![("403", 4)],
            ..Counted::default()
        };
        let series = parsed(&render(&NodeStatus::default(), &counted));
        for (name, value) in [
            ("responder_connected", 1.0),
            (
                "metadata_requests_total{class=\"credentials\",imds_version=\"v2\",code=\"200\"}",
                1.0,
            ),
            (
                "metadata_requests_total{class=\"token\",imds_version=\"v2\",code=\"200\"}",
                0.0,
            ),
            (
                "metadata_request_duration_seconds_bucket{le=\"0.0025\",class=\"listing\"}",
                0.0,
            ),
            (
                "metadata_request_duration_seconds_bucket{le=\"0.005\",class=\"listing\"}",
                1.0,
            ),
            (
                "metadata_request_duration_seconds_bucket{le=\"+Inf\",class=\"listing\"}",
                1.0,
            ),
            ("metadata_blocked_total{reason=\"bad-token\"}", 1.0),
            ("credentials_cache_requests_total{result=\"joined\"}", 1.0),
            ("credentials_refresh_failures_total{reason=\"denied\"}", 1.0),
            ("credentials_cached{kind=\"assume-role\"}", 2.0),
            ("credentials_min_expiry_seconds", 1900.0),
            ("token_requests_total{code=\"403\"}", 4.0),
        ] {
            let name = format!("portcullis_{name}");
            assert_eq!(series.get(&name), Some(&value), "{name} in {series:#?}");
        }
    }
}
