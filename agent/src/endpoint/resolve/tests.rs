use std::time::Duration;

use portcullis_policy::model::Workload;

use super::*;
use crate::endpoint::Interface;
use crate::kube::{Change, Entry, Key, Kind, Object, Pod};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A local pod `shop/NAME` with the uid NAME.
fn pod(name: &str, address: &str, created_secs: Option<i64>) -> Pod {
    Pod {
        workload: Arc::new(Workload {
            uid: name.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: Arc::default(),
            service_account: "default".into(),
            node: Some("n1".into()),
            addresses: address.split_whitespace().map(ip).collect(),
            host_network: false,
            finished: false,
            ports: Arc::default(),
        }),
        created_secs,
        terminating: false,
        withdrawn: false,
        static_uid: None,
        host_ports: Box::default(),
        tokens: Box::default(),
    }
}

fn changed(mut pod: Pod, change: impl Fn(&mut Workload)) -> Pod {
    let mut workload = Workload::clone(&pod.workload);
    change(&mut workload);
    pod.workload = Arc::new(workload);
    pod
}

fn world(pods: impl IntoIterator<Item = Pod>) -> World {
    let mut world = World::new("n1");
    for pod in pods {
        let key = Key {
            kind: Kind::Pod,
            namespace: Some("shop".to_owned()),
            name: pod.workload.name.clone(),
        };
        let entry = Entry {
            key,
            object: Some(Object::Pod(pod)),
            problems: Vec::new(),
            annotations: None,
        };
        world.apply(Change::Apply(entry), SystemTime::UNIX_EPOCH);
    }
    world
}

fn record(uid: &str, addresses: &str, written: u64) -> Arc<CniRecord> {
    Arc::new(CniRecord {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: uid.to_owned(),
        container_id: format!("c{written}"),
        network: "net".to_owned(),
        interface: "eth0".to_owned(),
        host_interface: None,
        addresses: addresses.split_whitespace().map(ip).collect(),
        cgroup_path: None,
        written: SystemTime::UNIX_EPOCH + Duration::from_secs(written),
    })
}

fn observed(
    interfaces: impl IntoIterator<Item = (u32, &'static str, Option<Arc<CniRecord>>)>,
) -> Observed {
    let interfaces = interfaces.into_iter().map(|(index, routed, cni)| {
        let addresses = routed.split_whitespace().map(ip).collect();
        let interface = Interface {
            name: format!("veth{index}"),
            mac: None,
            up: true,
            link_kind: "veth".to_owned(),
            kind: InterfaceKind::Pod { addresses, cni },
        };
        (index, interface)
    });
    Observed {
        interfaces: interfaces.collect(),
        node_addresses: BTreeSet::new(),
        has_records: false,
    }
}

/// `ifindex uid addresses evidence superseded_by`, one line for each binding.
fn answer(observed: &Observed, world: &World) -> Vec<String> {
    let line = |binding: EndpointBinding| {
        let addresses: Vec<_> = binding.addresses.iter().map(ToString::to_string).collect();
        let uid = binding.uid.as_deref().unwrap_or("-");
        let lost = binding
            .superseded_by
            .map(|winner| format!(" lost to {winner}"))
            .unwrap_or_default();
        format!(
            "{} {uid} [{}] {:?}{lost}",
            binding.ifindex,
            addresses.join(" "),
            binding.evidence
        )
    };
    resolve(observed, world).into_iter().map(line).collect()
}

#[test]
fn a_record_beats_a_route_and_nothing_is_unknown() {
    let world = world([
        pod("a", "10.0.0.1", None),
        pod("b", "10.0.0.2 fd00::2", None),
    ]);
    let observed = observed([
        (3, "10.0.0.9", Some(record("a", "10.0.0.1", 1))),
        (4, "10.0.0.2 fd00::2", None),
        (5, "10.0.0.77", None),
        (6, "", None),
    ]);
    assert_eq!(
        answer(&observed, &world),
        [
            "3 a [10.0.0.1] Cni",
            "4 b [10.0.0.2 fd00::2] Route",
            "5 - [10.0.0.77] None",
            "6 - [] None"
        ]
    );
}

#[test]
fn a_pod_that_the_api_server_does_not_know_yet_is_named_all_the_same() {
    let observed = observed([(3, "", Some(record("new", "10.0.0.1", 1)))]);
    assert_eq!(answer(&observed, &world([])), ["3 new [10.0.0.1] Cni"]);
}

#[test]
fn of_several_live_pods_on_an_address_the_youngest_is_behind_the_interface() {
    let finished = changed(pod("z-done", "", Some(900)), |workload| {
        workload.finished = true;
    });
    let host = changed(pod("z-host", "", Some(900)), |workload| {
        workload.host_network = true;
    });
    let remote = changed(pod("z-far", "10.0.0.1", Some(900)), |workload| {
        workload.node = Some("n2".into());
    });
    let world = world([
        pod("old", "10.0.0.1", Some(100)),
        pod("young", "10.0.0.1", Some(200)),
        pod("undated", "10.0.0.1", None),
        finished,
        host,
        remote,
    ]);
    assert_eq!(
        answer(&observed([(3, "10.0.0.1", None)]), &world),
        ["3 young [10.0.0.1] Route"]
    );
}

#[test]
fn an_address_routed_to_a_pods_interface_that_is_not_the_pods_is_not_its() {
    let world = world([pod("a", "10.0.0.1", Some(2)), pod("b", "10.0.0.2", Some(1))]);
    assert_eq!(
        answer(&observed([(3, "10.0.0.1 10.0.0.2 10.0.0.3", None)]), &world),
        ["3 a [10.0.0.1] Route"]
    );
}

#[test]
fn the_newest_live_sandbox_wins_and_the_other_is_closed() {
    let world = world([pod("a", "10.0.0.1", None), pod("b", "10.0.0.2", None)]);
    // One pod, sandbox made anew; the old interface lingers under a higher index.
    let again = observed([
        (3, "", Some(record("a", "10.0.0.1", 9))),
        (8, "", Some(record("a", "10.0.0.5", 1))),
    ]);
    assert_eq!(
        answer(&again, &world),
        ["3 a [10.0.0.1] Cni", "8 - [10.0.0.5] None lost to 3"]
    );
    // One address, given to the next pod.
    let reused = observed([
        (3, "", Some(record("a", "10.0.0.1", 1))),
        (4, "", Some(record("new", "10.0.0.1", 2))),
    ]);
    assert_eq!(
        answer(&reused, &world),
        ["3 - [10.0.0.1] None lost to 4", "4 new [10.0.0.1] Cni"]
    );
    // A stale route beside a record.
    let stale = observed([
        (3, "", Some(record("a", "10.0.0.1", 1))),
        (4, "10.0.0.1", None),
    ]);
    assert_eq!(
        answer(&stale, &world),
        ["3 a [10.0.0.1] Cni", "4 - [10.0.0.1] None lost to 3"]
    );
    // Two routes in two tables.
    let routes = observed([(3, "10.0.0.2", None), (4, "10.0.0.2", None)]);
    assert_eq!(
        answer(&routes, &world),
        ["3 - [10.0.0.2] None lost to 4", "4 b [10.0.0.2] Route"]
    );
}

#[test]
fn a_pod_on_two_networks_has_two_interfaces() {
    let second = CniRecord {
        interface: "net1".to_owned(),
        ..CniRecord::clone(&record("a", "10.9.0.1", 2))
    };
    let observed = observed([
        (3, "", Some(record("a", "10.0.0.1", 1))),
        (4, "", Some(Arc::new(second))),
    ]);
    assert_eq!(
        answer(&observed, &world([pod("a", "10.0.0.1", None)])),
        ["3 a [10.0.0.1] Cni", "4 a [10.9.0.1] Cni"]
    );
}

#[test]
fn a_static_pod_is_known_by_its_mirror_and_no_other_pod_can_claim_it() {
    let mut mirror = pod("hash", "10.0.0.1", None);
    mirror.static_uid = Some("hash".into());
    let mirror = changed(mirror, |workload| workload.uid = "api-uid".to_owned());
    let mut thief = pod("thief", "10.0.0.6", None);
    thief.static_uid = Some("hash".into());
    let observed = observed([(3, "", Some(record("hash", "10.0.0.1", 1)))]);
    assert_eq!(
        answer(&observed, &world([mirror, thief.clone()])),
        ["3 api-uid [10.0.0.1] Cni"]
    );
    assert_eq!(
        answer(&observed, &world([thief])),
        ["3 hash [10.0.0.1] Cni"]
    );
}

#[test]
fn without_addresses_in_the_record_routes_and_then_the_api_server_are_asked() {
    let world = world([pod("a", "10.0.0.1", None)]);
    assert_eq!(
        answer(
            &observed([(3, "10.0.0.4", Some(record("a", "", 1)))]),
            &world
        ),
        ["3 a [10.0.0.4] Cni"]
    );
    assert_eq!(
        answer(&observed([(3, "", Some(record("a", "", 1)))]), &world),
        ["3 a [10.0.0.1] Cni"]
    );
}
