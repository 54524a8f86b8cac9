//! What the agent says of itself: metrics that any collector parses and that agree with the status, health, readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portcullis_lab::client;
use portcullis_tests::scene::traffic::{is_denied, is_unanswered};
use portcullis_tests::scene::{SOON, Scene, admin, pod};

use super::{NOBODY, db, pods};

/// One family of an exposition.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// Name and labels as written, and the value.
    samples: BTreeMap<String, f64>,
}

/// Reads a whole exposition; panics at the first line that a strict collector would refuse.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("it says where it ends");
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').expect("a comment has words");
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            if name != current {
                assert!(!families.contains_key(name), "{name} comes twice");
                name.clone_into(&mut current);
            }
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "{line} comes after its samples");
            match word {
                "HELP" => value.clone_into(&mut family.help),
                "TYPE" => value.clone_into(&mut family.kind),
                "UNIT" => assert!(name.ends_with(value), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let name = series.split('{').next().expect("a series has a name");
        let family = families.get_mut(&current).expect("a family comes first");
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{current} is a {other}"),
        };
        let known = suffixes
            .iter()
            .any(|suffix| name == format!("{current}{suffix}"));
        assert!(known, "{line} is none of {current}, a {}", family.kind);
        if let Some(labels) = series
            .strip_prefix(name)
            .filter(|labels| !labels.is_empty())
        {
            let inner = labels
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            for label in inner.expect("labels stand in braces").split("\",") {
                let (name, value) = label.split_once("=\"").expect("a label has a value");
                assert!(
                    name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                    "{line}"
                );
                assert!(!value.contains('\n'), "{line}");
            }
        }
        let value = value.parse().expect("a value is a number");
        let before = family.samples.insert(series.to_owned(), value);
        assert_eq!(before, None, "{series} comes twice");
    }
    families
}

#[test]
fn metrics_parse_and_agree_with_the_status() {
    let scene = Scene::up("metrics", &pods(), &db(NOBODY));
    let web = scene.netns("shop/web");
    for address in scene.addresses("shop/db") {
        assert!(is_denied(web, (*address, 8080).into()));
        assert!(is_unanswered(web, (*address, 5353).into()));
    }
    let _ = is_denied(web, "169.254.169.254:80".parse().expect("an address"));
    // Drops that come between the two answers would make them differ.
    let (status, answer) = loop {
        let before = scene.status();
        let answer = admin::get(scene.socket(), "/metrics").expect("the agent answers");
        if scene.status()["drops"] == before["drops"] {
            break (before, answer);
        }
    };
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0")
    );
    let families = parse(&answer.body);
    assert!(families.len() > 12, "{families:?}");
    for (name, family) in &families {
        assert!(name.starts_with("portcullis_"), "{name}");
        assert!(
            !family.help.is_empty() && !family.kind.is_empty(),
            "{name}: {family:?}"
        );
        assert!(!family.samples.is_empty(), "{name} says nothing");
    }
    let drops = &families["portcullis_drops"].samples;
    let mut expected = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for drop in status["drops"].as_array().expect("a list") {
        let (direction, reason) = (drop["direction"].as_str(), drop["reason"].as_str());
        let (direction, reason) = (direction.expect("text"), reason.expect("text"));
        let packets = drop["packets"].as_f64().expect("a number");
        if packets > 0.0 {
            seen.insert((direction, reason));
        }
        let series =
            format!("portcullis_drops_total{{direction=\"{direction}\",reason=\"{reason}\"}}");
        expected.insert(series, packets);
    }
    assert_eq!(*drops, expected);
    assert!(seen.contains(&("ingress", "default-deny")), "{seen:?}");
    assert!(seen.contains(&("egress", "metadata-guard")), "{seen:?}");
    let value = |family: &str, series: &str| families[family].samples[series];
    assert!((value("portcullis_ready", "portcullis_ready") - 1.0).abs() < f64::EPSILON);
    let enforced = "portcullis_pods{state=\"enforced\"}";
    assert!((value("portcullis_pods", enforced) - 2.0).abs() < f64::EPSILON);
    let ready = &families["portcullis_pod_ready_duration_seconds"].samples;
    let infinite = ready["portcullis_pod_ready_duration_seconds_bucket{le=\"+Inf\"}"];
    let count = ready["portcullis_pod_ready_duration_seconds_count"];
    assert!((infinite - count).abs() < f64::EPSILON && (count - 2.0).abs() < f64::EPSILON);
    scene.down();
}

#[test]
fn health_is_the_process_and_readiness_is_the_node() {
    let scene = Scene::up_with("health", &pods(), &db(NOBODY), |options| {
        let extra = ["--metrics", "10.0.0.10:9441", "--health", "10.0.0.10:9440"];
        options.extra = extra.map(Into::into).to_vec();
    });
    let ask = |path: &str| {
        let answer = admin::get(scene.socket(), path).expect("the agent answers");
        (answer.status, answer.body)
    };
    assert_eq!(ask("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(ask("/nothing").0, 404);
    let wrong = admin::request(scene.socket(), "POST", "/metrics", SOON);
    assert_eq!(wrong.expect("the agent answers").status, 405);
    let mode = fs::metadata(scene.socket())
        .expect("the socket is there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "for root only");

    // Over TCP each listener has its own pages and no others.
    let tcp = |port: u16, path: &str| {
        let to = format!("10.0.0.10:{port}").parse().expect("an address");
        let answer = client::http(scene.lab.node(), to, "GET", path, &[], SOON);
        let answer = answer.expect("the agent answers");
        (answer.status, answer.body)
    };
    assert_eq!(tcp(9440, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(tcp(9440, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(
        (tcp(9441, "/metrics").0, tcp(9441, "/healthz").0),
        (200, 404)
    );
    for port in [9440, 9441] {
        assert_eq!(tcp(port, "/v1/status").0, 404);
    }

    scene.manifests.put(&pod("shop/late", "10.0.1.7"));
    // A wait has the directory read; it cannot end.
    let waiting = admin::request(
        scene.socket(),
        "POST",
        "/v1/synced",
        std::time::Duration::from_millis(300),
    );
    assert!(waiting.is_err(), "{waiting:?}");
    let (code, why) = ask("/readyz");
    assert_eq!(code, 503);
    assert!(why.contains("shop/late"), "{why}");
    assert_eq!(ask("/healthz"), (200, "ok\n".to_owned()));
    scene.manifests.remove("shop/late");
    scene.settle();
    assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
    scene.down();
}
