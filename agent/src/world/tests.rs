use std::time::{Duration, Instant};

use portcullis_policy::model::Labels;

use super::*;
use crate::kube::{EndpointSlice, Reason, Service, SliceEndpoint, Trouble};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: kind.namespaced().then(|| "shop".to_owned()),
        name: name.to_owned(),
    }
}

const NOWHERE: [IpAddr; 0] = [];

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn pod(name: &str, uid: &str, node: &str, address: &str) -> Pod {
    Pod {
        workload: Arc::new(Workload {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: Arc::default(),
            service_account: "default".into(),
            node: Some(node.into()),
            addresses: address.parse().into_iter().collect(),
            host_network: false,
            finished: false,
            ports: Arc::default(),
        }),
        created_secs: None,
        terminating: false,
        withdrawn: false,
        static_uid: None,
        host_ports: Box::default(),
        tokens: Box::default(),
    }
}

fn entry(name: &str, object: Object) -> Entry {
    let kind = match &object {
        Object::Pod(_) => Kind::Pod,
        Object::Service(_) => Kind::Service,
        Object::EndpointSlice(_) => Kind::EndpointSlice,
        Object::Node(_) => Kind::Node,
        Object::Namespace(_) => Kind::Namespace,
        Object::Policy(_) => Kind::NetworkPolicy,
        Object::ServiceAccount(_) => Kind::ServiceAccount,
    };
    Entry {
        key: key(kind, name),
        object: Some(object),
        problems: Vec::new(),
        annotations: None,
    }
}

pub(super) fn apply(world: &mut World, name: &str, object: Object) -> bool {
    world.apply(Change::Apply(entry(name, object)), NOW)
}

fn addresses(world: &World, uid: &str) -> Vec<IpAddr> {
    world.snapshot().workloads[uid].addresses.clone()
}

#[test]
fn the_snapshot_does_not_depend_on_the_way_there() {
    let web = || Object::Pod(pod("web", "u1", "n1", "10.0.0.5"));
    let db = || Object::Pod(pod("db", "u2", "n2", "10.0.0.6"));
    let space = || Object::Namespace(Labels::from([("a".to_owned(), "b".to_owned())]));
    let mut straight = World::new("n1");
    for (name, object) in [("web", web()), ("db", db()), ("shop", space())] {
        assert!(apply(&mut straight, name, object));
    }
    let mut around = World::new("n1");
    apply(&mut around, "shop", Object::Namespace(Labels::new()));
    apply(
        &mut around,
        "db",
        Object::Pod(pod("db", "u9", "n1", "10.0.0.9")),
    );
    apply(&mut around, "other", web());
    around.apply(
        Change::Delete {
            key: key(Kind::Pod, "other"),
            uid: None,
        },
        NOW,
    );
    apply(&mut around, "shop", space());
    apply(&mut around, "db", db());
    apply(&mut around, "web", web());
    let (a, b) = (straight.snapshot(), around.snapshot());
    assert_eq!((&a.workloads, &a.namespaces), (&b.workloads, &b.namespaces));
    assert_eq!(around.local_pods().count(), 1);
}

#[test]
fn what_changes_nothing_is_no_change() {
    let mut world = World::new("n1");
    assert!(apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5"))
    ));
    let generation = world.generation();
    assert!(!apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5"))
    ));
    assert!(!world.apply(
        Change::Delete {
            key: key(Kind::Pod, "absent"),
            uid: None
        },
        NOW
    ));
    assert!(!world.apply(
        Change::Trouble {
            kind: Kind::Pod,
            trouble: Some(Trouble {
                reason: "away".to_owned(),
                since: Instant::now(),
                lacks: None,
            }),
        },
        NOW
    ));
    assert_eq!(world.generation(), generation);
}

#[test]
fn a_snapshot_does_not_change_under_its_holder() {
    let mut world = World::new("n1");
    apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5")),
    );
    let before = world.snapshot();
    world.apply(
        Change::Delete {
            key: key(Kind::Pod, "web"),
            uid: None,
        },
        NOW,
    );
    assert_eq!(before.workloads.len(), 1);
    assert_eq!(world.snapshot().workloads.len(), 0);
}

#[test]
fn an_address_belongs_to_whoever_claimed_it_last_and_still_has_it() {
    let mut world = World::new("n1");
    let claim = |world: &mut World, name: &str, address: &str| {
        apply(world, name, Object::Pod(pod(name, name, "n1", address)));
    };
    let owner = |world: &World, address: &str| {
        let owners = world.owners();
        owners.get(&ip(address)).map(|owner| owner.name.clone())
    };
    claim(&mut world, "web", "10.0.0.5");
    claim(&mut world, "db", "10.0.0.6");
    let before = world.owners();
    claim(&mut world, "db", "10.0.0.5");
    assert_eq!(owner(&world, "10.0.0.5").as_deref(), Some("db"));
    assert_eq!(owner(&world, "10.0.0.6"), None);
    // What the one gives up meanwhile is not taken from the other.
    claim(&mut world, "web", "10.0.0.7");
    assert_eq!(owner(&world, "10.0.0.5").as_deref(), Some("db"));
    assert_eq!(owner(&world, "10.0.0.7").as_deref(), Some("web"));
    let gone = Change::Delete {
        key: key(Kind::Pod, "db"),
        uid: None,
    };
    world.apply(gone, NOW);
    assert_eq!(owner(&world, "10.0.0.5"), None);
    assert_eq!((before.len(), world.owners().len()), (2, 1));
}

#[test]
fn only_what_is_translated_counts_for_services() {
    let mut world = World::new("n1");
    let mut changes = |name: &str, object: Object| {
        let before = world.services_generation();
        apply(&mut world, name, object);
        world.services_generation() > before
    };
    let service = Service {
        addresses: vec![ip("10.96.0.1")],
        ..Service::default()
    };
    let node = |address: &str| {
        Object::Node(model::Node {
            labels: Labels::new(),
            addresses: vec![ip(address)],
        })
    };
    assert!(changes("s", Object::Service(service.clone())));
    assert!(!changes("s", Object::Service(service)));
    assert!(changes("n1", node("192.0.2.1")));
    assert!(!changes("n2", node("192.0.2.2")));
    assert!(changes("here", Object::Pod(pod("here", "u1", "n1", ""))));
    assert!(!changes("there", Object::Pod(pod("there", "u2", "n2", ""))));
    assert!(!changes("shop", Object::Namespace(Labels::new())));
}

#[test]
fn a_successor_replaces_its_predecessor_and_survives_its_late_delete() {
    let mut world = World::new("n1");
    apply(
        &mut world,
        "web-0",
        Object::Pod(pod("web-0", "old", "n1", "10.0.0.5")),
    );
    apply(
        &mut world,
        "web-0",
        Object::Pod(pod("web-0", "new", "n1", "10.0.0.5")),
    );
    assert_eq!(
        world.snapshot().workloads.keys().collect::<Vec<_>>(),
        ["new"]
    );
    assert!(world.local_pod("old").is_none() && world.local_pod("new").is_some());
    assert!(!world.apply(
        Change::Delete {
            key: key(Kind::Pod, "web-0"),
            uid: Some("old".to_owned())
        },
        NOW
    ));
    assert!(world.apply(
        Change::Delete {
            key: key(Kind::Pod, "web-0"),
            uid: Some("new".to_owned())
        },
        NOW
    ));
    assert!(world.snapshot().workloads.is_empty());
}

#[test]
fn a_reset_removes_what_it_does_not_list_and_puts_the_kind_in_sync() {
    let mut world = World::new("n1");
    apply(
        &mut world,
        "a",
        Object::Pod(pod("a", "ua", "n1", "10.0.0.5")),
    );
    apply(&mut world, "shop", Object::Namespace(Labels::new()));
    assert!(!world.in_sync());
    let live = vec![entry("b", Object::Pod(pod("b", "ub", "n1", "10.0.0.6")))];
    assert!(world.apply(
        Change::Reset {
            kind: Kind::Pod,
            live
        },
        NOW
    ));
    assert_eq!(
        world.snapshot().workloads.keys().collect::<Vec<_>>(),
        ["ub"]
    );
    assert_eq!(
        world.snapshot().namespaces.len(),
        1,
        "other kinds are left alone"
    );
    assert!(world.feeds()[&Kind::Pod].in_sync && !world.in_sync());
    for kind in Kind::FED {
        let live = Vec::new();
        world.apply(Change::Reset { kind, live }, NOW);
    }
    assert!(world.in_sync());
    assert_eq!(world.snapshot().namespaces.len(), 0);
}

#[test]
fn a_refused_object_is_not_in_force_and_is_remembered_since_when() {
    let mut world = World::new("n1");
    let refused = || Entry {
        key: key(Kind::Pod, "web"),
        object: None,
        problems: vec![Problem {
            field: "metadata.labels".to_owned(),
            reason: Reason::Missing,
        }],
        annotations: None,
    };
    apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5")),
    );
    assert!(world.apply(Change::Apply(refused()), NOW));
    assert!(world.snapshot().workloads.is_empty());
    world.apply(Change::Apply(refused()), NOW + Duration::from_secs(9));
    let refusal = &world.refused()[&key(Kind::Pod, "web")];
    assert_eq!((refusal.whole, refusal.since), (true, NOW));
    apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5")),
    );
    assert!(world.refused().is_empty());
    world.apply(Change::Apply(refused()), NOW);
    world.apply(
        Change::Reset {
            kind: Kind::Pod,
            live: Vec::new(),
        },
        NOW,
    );
    assert!(world.refused().is_empty());
}

#[test]
fn the_cni_knows_an_address_until_the_api_server_does() {
    let mut world = World::new("n1");
    let given = |uid: &str| BTreeMap::from([(uid.to_owned(), vec![ip("10.0.0.7")])]);
    assert!(
        !world.set_cni_addresses(given("u1")),
        "nobody knows the pod yet"
    );
    apply(&mut world, "web", Object::Pod(pod("web", "u1", "n1", "")));
    assert_eq!(addresses(&world, "u1"), [ip("10.0.0.7")]);
    apply(
        &mut world,
        "web",
        Object::Pod(pod("web", "u1", "n1", "10.0.0.5")),
    );
    assert_eq!(addresses(&world, "u1"), [ip("10.0.0.5")]);
    // The other way round: the pod first, the record later, and gone again.
    apply(&mut world, "db", Object::Pod(pod("db", "u2", "n1", "")));
    assert!(world.set_cni_addresses(given("u2")));
    assert_eq!(addresses(&world, "u2"), [ip("10.0.0.7")]);
    assert!(world.set_cni_addresses(BTreeMap::new()));
    assert_eq!(addresses(&world, "u2"), NOWHERE);
}

#[test]
fn the_cni_gives_nothing_to_other_nodes_finished_host_and_withdrawn_pods() {
    let changed = |change: &dyn Fn(&mut Pod)| {
        let mut pod = pod("web", "u1", "n1", "");
        change(&mut pod);
        pod
    };
    let workload = |pod: &mut Pod, change: &dyn Fn(&mut Workload)| {
        let mut workload = Workload::clone(&pod.workload);
        change(&mut workload);
        pod.workload = Arc::new(workload);
    };
    let pods = [
        changed(&|pod| workload(pod, &|workload| workload.node = Some("n2".into()))),
        changed(&|pod| workload(pod, &|workload| workload.finished = true)),
        changed(&|pod| workload(pod, &|workload| workload.host_network = true)),
        changed(&|pod| pod.withdrawn = true),
    ];
    for pod in pods {
        let mut world = World::new("n1");
        world.set_cni_addresses(BTreeMap::from([("u1".to_owned(), vec![ip("10.0.0.7")])]));
        apply(&mut world, "web", Object::Pod(pod.clone()));
        assert_eq!(addresses(&world, "u1"), NOWHERE, "{pod:?}");
    }
    let mut world = World::new("n1");
    world.set_cni_addresses(BTreeMap::from([(
        "config-hash".to_owned(),
        vec![ip("10.0.0.7")],
    )]));
    apply(
        &mut world,
        "static",
        Object::Pod(changed(&|pod| {
            pod.static_uid = Some("config-hash".into());
        })),
    );
    assert_eq!(
        addresses(&world, "u1"),
        [ip("10.0.0.7")],
        "a static pod is known by the kubelet's uid"
    );
}

#[test]
fn counts_count_what_is_in_force() {
    let mut world = World::new("n1");
    apply(
        &mut world,
        "a",
        Object::Pod(pod("a", "ua", "n1", "10.0.0.5")),
    );
    apply(
        &mut world,
        "b",
        Object::Pod(pod("b", "ub", "n2", "10.0.0.6")),
    );
    let end = |ready| SliceEndpoint {
        addresses: vec![ip("10.0.0.5")],
        ready,
    };
    let slice = EndpointSlice {
        endpoints: vec![end(true), end(false)],
        ..EndpointSlice::default()
    };
    apply(&mut world, "s", Object::EndpointSlice(slice));
    let counts = world.counts();
    assert_eq!(
        (counts.pods, counts.local_pods, counts.ready_backends),
        (2, 1, 1)
    );
}
