use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::endpoint::scratch::Scratch;

fn cached(result: &Value) -> Vec<u8> {
    json!({
        "kind": "cniCacheV1", "containerId": "c1", "config": "e30=", "ifName": "eth0", "networkName": "net",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c1"], ["K8S_POD_UID", "u1"]],
        "capabilityArgs": {"cgroupPath": "/kubepods/podu1", "portMappings": []},
        "result": result,
    })
    .to_string()
    .into_bytes()
}

fn record(result: &Value) -> CniRecord {
    parse(&cached(result), SystemTime::UNIX_EPOCH)
        .unwrap()
        .unwrap()
}

fn found(result: &Value) -> (Option<String>, Vec<String>) {
    let record = record(result);
    (
        record.host_interface,
        record.addresses.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn the_results_of_common_plugins_are_understood() {
    let ptp = json!({"cniVersion": "1.0.0",
        "interfaces": [{"name": "veth1a2b", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/x"}],
        "ips": [{"interface": 1, "address": "10.60.1.2/24", "gateway": "10.60.1.1"}, {"interface": 1, "address": "fd00:60:1::2/64"}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {}});
    assert_eq!(
        found(&ptp),
        (
            Some("veth1a2b".to_owned()),
            vec!["10.60.1.2".to_owned(), "fd00:60:1::2".to_owned()]
        )
    );

    let bridge = json!({"interfaces": [{"name": "cni0", "mac": "x"}, {"name": "veth9", "mac": "y"}, {"name": "eth0", "sandbox": "/run/netns/x"},
            {"name": "bwp0", "mac": "z"}],
        "ips": [{"version": "4", "interface": 2, "address": "10.22.0.7/16"}]});
    assert_eq!(
        found(&bridge),
        (Some("veth9".to_owned()), vec!["10.22.0.7".to_owned()])
    );

    let vpc = json!({"interfaces": [{"name": "eni0f1e2d", "mac": "x"}, {"name": "eth0", "mac": "y", "sandbox": "/proc/1/ns/net"},
            {"name": "dummy0f1e2d", "mac": "0", "sandbox": "0"}],
        "ips": [{"interface": 1, "address": "192.168.3.4/32"}]});
    assert_eq!(
        found(&vpc),
        (Some("eni0f1e2d".to_owned()), vec!["192.168.3.4".to_owned()])
    );

    let calico = json!({"interfaces": [{"name": "cali123"}], "ips": [{"address": "10.1.2.3/32"}]});
    assert_eq!(
        found(&calico),
        (Some("cali123".to_owned()), vec!["10.1.2.3".to_owned()])
    );

    let macvlan = json!({"interfaces": [{"name": "net1", "sandbox": "/run/netns/x"}], "ips": [{"interface": 0, "address": "10.9.0.2/24"}]});
    assert_eq!(found(&macvlan), (None, vec!["10.9.0.2".to_owned()]));

    let bare = json!({"interfaces": null, "ips": null});
    assert_eq!(found(&bare), (None, vec![]));
    let odd = json!({"interfaces": [{"name": "v", "sandbox": null}], "ips": [{"interface": -1, "address": "10.0.0.1/8"}]});
    assert_eq!(
        found(&odd),
        (Some("v".to_owned()), vec!["10.0.0.1".to_owned()])
    );
}

#[test]
fn a_record_names_its_pod() {
    let record = record(&json!({"interfaces": [{"name": "v"}]}));
    assert_eq!(
        (
            record.uid.as_str(),
            record.namespace.as_str(),
            record.name.as_str()
        ),
        ("u1", "shop", "web")
    );
    assert_eq!(
        (
            record.container_id.as_str(),
            record.network.as_str(),
            record.interface.as_str()
        ),
        ("c1", "net", "eth0")
    );
    assert_eq!(record.cgroup_path.as_deref(), Some("/kubepods/podu1"));
}

#[test]
fn what_is_no_pods_result_is_told_from_garbage() {
    let plain = br#"{"kind": "cniCacheV1", "containerId": "c", "result": {"interfaces": []}}"#;
    assert_eq!(parse(plain, SystemTime::UNIX_EPOCH).unwrap(), None);
    let null_arguments = br#"{"cniArgs": null, "capabilityArgs": 5, "result": {}}"#;
    assert_eq!(parse(null_arguments, SystemTime::UNIX_EPOCH).unwrap(), None);
    for garbage in [
        &b""[..],
        b"{",
        b"[]",
        b"5",
        b"{}",
        br#"{"result": {"ips": [{"address": "nonsense"}]}}"#,
        b"\xff\xfe",
    ] {
        assert!(
            matches!(
                parse(garbage, SystemTime::UNIX_EPOCH),
                Err(CniError::Parse(_))
            ),
            "{garbage:?}"
        );
    }
}

#[test]
fn the_directory_is_followed_and_garbage_reported_once() {
    let scratch = Scratch::new("cni");
    let mut cache = CniCache::new(&scratch.path().join("results"));
    assert_eq!(cache.rescan().unwrap(), []);
    let directory = scratch.path().join("results");
    fs::create_dir(&directory).unwrap();
    let body = cached(&json!({"interfaces": [{"name": "v"}]}));
    let file = directory.join("net-c1-eth0");

    // Half-written: not reported before it had the time to become whole.
    fs::write(&file, &body[..20]).unwrap();
    assert_eq!(cache.rescan().unwrap(), []);
    assert!(cache.doubtful());
    fs::write(&file, &body).unwrap();
    assert_eq!(cache.rescan().unwrap(), []);
    assert!(!cache.doubtful());
    assert_eq!(cache.records().count(), 1);

    fs::write(directory.join("junk"), "x").unwrap();
    fs::write(directory.join(".draft"), "x").unwrap();
    cache.rescan().unwrap();
    let garbage = cache.rescan().unwrap();
    assert_eq!(garbage.len(), 1);
    assert_eq!(garbage[0].0, "junk");
    assert!(
        garbage[0].1.starts_with("is no CNI result: "),
        "{}",
        garbage[0].1
    );
    assert_eq!(cache.rescan().unwrap(), [], "once");
    assert_eq!(cache.records().count(), 1, "the others stand");

    fs::remove_file(&file).unwrap();
    cache.rescan().unwrap();
    assert_eq!(cache.records().count(), 0);
}

#[test]
fn the_time_of_a_record_is_that_of_its_file() {
    let scratch = Scratch::new("cni-time");
    let path = scratch.path().join("net-c1-eth0");
    fs::write(&path, cached(&json!({"interfaces": [{"name": "v"}]}))).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let mut cache = CniCache::new(scratch.path());
    cache.rescan().unwrap();
    assert_eq!(cache.records().next().unwrap().written, time);
}
