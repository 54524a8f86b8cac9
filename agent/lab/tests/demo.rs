//! The demo with a stand-in for the agent that enforces nothing: it must say so, step by step, and leave nothing. Needs root and namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use portcullis_lab::demo::{self, DemoOptions};
use portcullis_lab::teardown;
use portcullis_policy::model::{NamedPort, Protocol, Workload, World};

const NO_AGENT: &str = "#!/bin/sh
case \"$1\" in
agent) exec sleep 600 ;;
explain) echo 'VERDICT ALLOW' ;;
esac
";

fn pod(namespace: &str, name: &str, last: u8) -> Arc<Workload> {
    Arc::new(Workload {
        uid: format!("{namespace}-{name}"),
        namespace: namespace.into(),
        name: name.into(),
        labels: Arc::default(),
        service_account: "default".into(),
        node: Some("node-a".into()),
        addresses: vec![
            [10, 0, 1, last].into(),
            format!("fd00:10:1::{last}").parse().unwrap(),
        ],
        host_network: false,
        finished: false,
        ports: [NamedPort {
            name: "sql".into(),
            protocol: Protocol::TCP,
            number: 5432,
        }]
        .into(),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "a real reader can fail")]
fn load(directory: &Path) -> Result<World> {
    assert!(directory.join("node-a.yaml").exists());
    let mut world = World {
        node: "node-a".into(),
        ..World::default()
    };
    for (namespace, name, last) in [
        ("shop", "web", 11),
        ("shop", "api", 12),
        ("shop", "db", 13),
        ("ops", "batch", 14),
        ("ops", "evil", 15),
    ] {
        world
            .workloads
            .insert(format!("{namespace}-{name}"), pod(namespace, name, last));
    }
    Ok(world)
}

#[test]
fn without_enforcement_the_demo_fails_where_it_must_and_leaves_nothing() {
    let name = format!("t-demo-{}", std::process::id());
    let binary = std::env::temp_dir().join(&name);
    fs::write(&binary, NO_AGENT).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let options = DemoOptions {
        binary: binary.clone(),
        name: name.clone(),
        keep: false,
        step: false,
    };
    let mut narration = Vec::new();
    let report = demo::run(options, &load, &mut narration).unwrap();
    fs::remove_file(binary).unwrap();
    println!("{}", String::from_utf8(narration).unwrap());
    let good: Vec<usize> = report
        .steps
        .iter()
        .filter(|step| step.ok)
        .map(|step| step.step)
        .collect();
    assert_eq!(
        good,
        [1, 2, 6, 13],
        "theft, start, an allowed connection and the teardown need no enforcement; the rest does"
    );
    assert!(!report.passed());
    assert!(
        report.steps[2].got.contains("status 200")
            && report.steps[2].got.contains("the service saw 1 requests")
    );
    assert_eq!(teardown::residue(&name), Vec::<String>::new());
}
