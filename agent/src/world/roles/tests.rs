use std::time::SystemTime;

use portcullis_imds::role::{
    BaseArn, Discovered, Outcome, Reason, Require, Restrictions, Settings, Source, Waiting,
};
use portcullis_policy::model::Labels;
use proptest::prelude::*;

use super::*;
use crate::kube::{Change, Entry, Object, Trouble};
use crate::world::tests as plain;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const ROLE: &str = "iam.amazonaws.com/role";
const ALLOWED: &str = "iam.amazonaws.com/allowed-roles";
const ROLE_ARN: &str = "eks.amazonaws.com/role-arn";

fn rules() -> Rules {
    Rules {
        decide: Settings {
            base: Discovered::Known(BaseArn::parse("arn:aws:iam::123456789012:role/").unwrap()),
            default_role: Discovered::Known("cluster-default".to_owned()),
            restrictions: Restrictions {
                classic: Require::IfPresent,
                web: Require::IfPresent,
            },
            ..Settings::default()
        },
        ..Rules::default()
    }
}

fn said(pairs: &[(&str, &str)]) -> Option<Arc<Annotations>> {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    (!pairs.is_empty()).then(|| Arc::new(owned.collect()))
}

fn entry(kind: Kind, name: &str, object: Object, pairs: &[(&str, &str)]) -> Entry {
    Entry {
        key: key(kind, name),
        object: Some(object),
        problems: Vec::new(),
        annotations: said(pairs),
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: kind.namespaced().then(|| "shop".to_owned()),
        name: name.to_owned(),
    }
}

/// A pod of n1 whose uid is its name.
fn pod(name: &str, pairs: &[(&str, &str)]) -> Entry {
    let pod = plain::pod(name, name, "n1", "");
    entry(Kind::Pod, name, Object::Pod(pod), pairs)
}

fn account(name: &str, uid: &str, pairs: &[(&str, &str)]) -> Entry {
    let account = ServiceAccount { uid: uid.into() };
    let object = Object::ServiceAccount(account);
    entry(Kind::ServiceAccount, name, object, pairs)
}

fn namespace(pairs: &[(&str, &str)]) -> Entry {
    let object = Object::Namespace(Labels::new());
    entry(Kind::Namespace, "shop", object, pairs)
}

fn reset(kind: Kind, live: Vec<Entry>) -> Change {
    Change::Reset { kind, live }
}

fn gone(kind: Kind, name: &str, uid: Option<&str>) -> Change {
    Change::Delete {
        key: key(kind, name),
        uid: uid.map(str::to_owned),
    }
}

/// Pod `web` of account `default`, and nothing annotated.
fn world() -> World {
    let mut world = World::new("n1").with_roles(rules());
    world.apply_batch(
        [
            reset(Kind::Pod, vec![pod("web", &[])]),
            reset(Kind::Namespace, vec![namespace(&[])]),
            reset(Kind::ServiceAccount, vec![account("default", "sa1", &[])]),
        ],
        NOW,
    );
    world
}

fn decision(world: &World, uid: &str) -> Decision {
    world.roles()[uid].decision.clone()
}

/// The name of the role that a pod has.
fn role(world: &World, uid: &str) -> Option<String> {
    match decision(world, uid).outcome {
        Outcome::Role(grant) => Some(grant.role.name().to_owned()),
        _ => None,
    }
}

/// Says whether roles changed; tables never do.
fn changes(world: &mut World, change: Change) -> bool {
    let (roles, tables) = (world.roles_generation(), world.generation());
    let counts = world.apply(change, NOW);
    assert!(
        !counts && world.generation() == tables,
        "tables are as they were"
    );
    world.roles_generation() > roles
}

#[test]
fn i1_a_late_watch_is_undecided_and_never_the_default_role() {
    let lists = || {
        [
            reset(Kind::Pod, vec![pod("web", &[(ROLE, "own")])]),
            reset(Kind::Namespace, vec![namespace(&[])]),
            reset(Kind::ServiceAccount, vec![account("default", "sa1", &[])]),
        ]
    };
    // Whichever comes last, and also where the objects are known one by one before their list is complete.
    for last in 0..3 {
        for known_before in [false, true] {
            let mut world = World::new("n1").with_roles(rules());
            if known_before {
                for entry in [
                    pod("web", &[]),
                    namespace(&[]),
                    account("default", "sa1", &[]),
                ] {
                    world.apply(Change::Apply(entry), NOW);
                    let roles = world.roles();
                    let outcomes = roles.values().map(|role| &role.decision.outcome);
                    for outcome in outcomes {
                        assert_eq!(*outcome, Outcome::Undecided(Waiting::Sync));
                    }
                }
            }
            let mut lists = lists().to_vec();
            let late = lists.remove(last);
            world.apply_batch(lists, NOW);
            for role in world.roles().values() {
                let expected = Outcome::Undecided(Waiting::Sync);
                assert_eq!(role.decision.outcome, expected, "{last} {known_before}");
                assert!(!role.imds_v1);
            }
            assert!(!world.roles_in_sync());
            world.apply(late, NOW);
            assert_eq!(
                role(&world, "web").as_deref(),
                Some("own"),
                "{last} {known_before}"
            );
        }
    }
}

#[test]
fn a_feed_that_fails_later_leaves_decisions_as_they_are() {
    let mut world = world();
    let trouble = Change::Trouble {
        kind: Kind::ServiceAccount,
        trouble: Some(Trouble {
            reason: "away".to_owned(),
            since: std::time::Instant::now(),
            lacks: Some("watch serviceaccounts".to_owned()),
        }),
    };
    assert!(!changes(&mut world, trouble));
    assert_eq!(role(&world, "web").as_deref(), Some("cluster-default"));
}

#[test]
fn service_accounts_hold_back_no_tables() {
    let mut world = World::new("n1").with_roles(rules());
    for kind in Kind::FED.into_iter().filter(|kind| kind.is_in_tables()) {
        world.apply(reset(kind, Vec::new()), NOW);
    }
    assert!(world.in_sync() && !world.roles_in_sync());
    assert!(!changes(
        &mut world,
        reset(Kind::ServiceAccount, Vec::new())
    ));
    assert!(world.roles_in_sync());
}

#[test]
fn every_object_that_a_role_comes_from_decides_it_again() {
    let mut world = world();
    assert_eq!(role(&world, "web").as_deref(), Some("cluster-default"));
    for (entry, expected) in [
        (
            namespace(&[("portcullis.dev/default-role", "namespace")]),
            Some("namespace"),
        ),
        (
            account("default", "sa1", &[(ROLE, "account")]),
            Some("account"),
        ),
        (pod("web", &[(ROLE, "own")]), Some("own")),
        (namespace(&[(ALLOWED, "[\"account\"]")]), None),
        (pod("web", &[]), Some("account")),
        (account("default", "sa1", &[]), Some("cluster-default")),
    ] {
        let what = format!("{} {:?}", entry.key, entry.annotations);
        assert!(changes(&mut world, Change::Apply(entry.clone())), "{what}");
        assert_eq!(role(&world, "web").as_deref(), expected, "{what}");
        assert!(
            !changes(&mut world, Change::Apply(entry)),
            "{what}, once more"
        );
    }
}

#[test]
fn what_concerns_no_pod_of_the_node_changes_no_role() {
    let mut world = world();
    for change in [
        Change::Apply(account("other", "sa2", &[(ROLE, "x")])),
        Change::Apply(Entry {
            key: Key {
                name: "elsewhere".to_owned(),
                ..key(Kind::Namespace, "")
            },
            ..namespace(&[])
        }),
    ] {
        let before = world.roles_generation();
        world.apply(change, NOW);
        assert_eq!(world.roles_generation(), before);
    }
    let there = plain::pod("there", "there", "n2", "");
    world.apply(
        Change::Apply(entry(
            Kind::Pod,
            "there",
            Object::Pod(there),
            &[(ROLE, "x")],
        )),
        NOW,
    );
    assert_eq!(world.roles().keys().collect::<Vec<_>>(), ["web"]);
}

#[test]
fn pods_of_the_host_network_have_roles_and_finished_ones_have_none() {
    let mut world = world();
    let mut host = plain::pod("host", "host", "n1", "");
    let mut done = plain::pod("done", "done", "n1", "");
    Arc::get_mut(&mut host.workload).unwrap().host_network = true;
    Arc::get_mut(&mut done.workload).unwrap().finished = true;
    for (name, pod) in [("host", host), ("done", done.clone())] {
        world.apply(
            Change::Apply(entry(Kind::Pod, name, Object::Pod(pod), &[])),
            NOW,
        );
    }
    assert_eq!(world.roles().keys().collect::<Vec<_>>(), ["host", "web"]);
    // One that ends loses its own.
    let mut web = plain::pod("web", "web", "n1", "");
    Arc::get_mut(&mut web.workload).unwrap().finished = true;
    world.apply(
        Change::Apply(entry(Kind::Pod, "web", Object::Pod(web), &[])),
        NOW,
    );
    assert_eq!(world.roles().keys().collect::<Vec<_>>(), ["host"]);
}

#[test]
fn i12_a_role_is_bound_to_the_account_that_is_there_now() {
    let mut world = world();
    world.apply(
        Change::Apply(account(
            "default",
            "sa1",
            &[(ROLE_ARN, "arn:aws:iam::123456789012:role/bound")],
        )),
        NOW,
    );
    let bound = world.roles()["web"].clone();
    assert_eq!(bound.service_account_uid.as_deref(), Some("sa1"));
    assert_eq!(bound.decision.source, Source::ServiceAccountArn);
    // The account goes under the running pod: nothing weaker takes its place.
    assert!(changes(
        &mut world,
        gone(Kind::ServiceAccount, "default", Some("sa1"))
    ));
    let without = world.roles()["web"].clone();
    assert_eq!(
        without.decision.outcome,
        Outcome::Undecided(Waiting::ServiceAccount)
    );
    assert_eq!(without.service_account_uid, None);
    // Its successor has nothing of it, and survives the late delete of its predecessor.
    assert!(changes(
        &mut world,
        Change::Apply(account("default", "sa2", &[]))
    ));
    assert!(!changes(
        &mut world,
        gone(Kind::ServiceAccount, "default", Some("sa1"))
    ));
    assert_eq!(
        world.roles()["web"].service_account_uid.as_deref(),
        Some("sa2")
    );
    assert_eq!(role(&world, "web").as_deref(), Some("cluster-default"));
    // A namespace that takes roles from accounts only refuses what the pod writes itself.
    world.apply(
        Change::Apply(namespace(&[(
            "portcullis.dev/role-source",
            "serviceaccount",
        )])),
        NOW,
    );
    world.apply(Change::Apply(pod("web", &[(ROLE, "own")])), NOW);
    match decision(&world, "web").outcome {
        Outcome::Refused(refusal) => assert_eq!(refusal.reason(), Reason::RoleSource),
        other => panic!("{other:?}"),
    }
}

#[test]
fn i12_in_audit_mode_the_role_is_given_and_the_denial_kept() {
    let mut world = world();
    world.apply(Change::Apply(pod("web", &[(ROLE, "own")])), NOW);
    let only = (ALLOWED, "[\"other\"]");
    world.apply(Change::Apply(namespace(&[only])), NOW);
    assert_eq!(role(&world, "web"), None);
    world.apply(
        Change::Apply(namespace(&[only, ("portcullis.dev/role-mode", "audit")])),
        NOW,
    );
    assert_eq!(role(&world, "web").as_deref(), Some("own"));
    let would = decision(&world, "web")
        .would_deny()
        .map(role::Refusal::reason);
    assert_eq!(would, Some(Reason::RoleNotAllowed));
}

#[test]
fn a_successor_has_nothing_of_its_predecessors_annotations() {
    let mut world = world();
    world.apply(Change::Apply(pod("web", &[(ROLE, "own")])), NOW);
    let successor = plain::pod("web", "web-2", "n1", "");
    world.apply(
        Change::Apply(entry(Kind::Pod, "web", Object::Pod(successor), &[])),
        NOW,
    );
    assert_eq!(world.roles().keys().collect::<Vec<_>>(), ["web-2"]);
    assert_eq!(role(&world, "web-2").as_deref(), Some("cluster-default"));
    // Neither has a pod that comes to the node again under an old uid.
    world.apply(gone(Kind::Pod, "web", None), NOW);
    assert!(world.roles().is_empty());
    world.apply(Change::Apply(pod("web", &[])), NOW);
    assert_eq!(role(&world, "web").as_deref(), Some("cluster-default"));
}

#[test]
fn a_refused_object_is_as_good_as_absent() {
    for (kind, name, waits) in [
        (Kind::Namespace, "shop", Waiting::Namespace),
        (Kind::ServiceAccount, "default", Waiting::ServiceAccount),
    ] {
        let mut world = world();
        let refused = Entry {
            object: None,
            problems: vec![crate::kube::Problem {
                field: "metadata.labels".to_owned(),
                reason: crate::kube::Reason::Missing,
            }],
            ..account(name, "", &[])
        };
        let refused = Entry {
            key: key(kind, name),
            ..refused
        };
        world.apply(Change::Apply(refused), NOW);
        assert_eq!(decision(&world, "web").outcome, Outcome::Undecided(waits));
    }
}

#[test]
fn imds_v1_and_malformed_annotations_are_known_of_every_pod() {
    let mut world = world();
    assert!(!world.roles()["web"].imds_v1 && world.roles()["web"].malformed.is_empty());
    let mut open = World::new("n1").with_roles(Rules {
        imds_v1: role::Imdsv1::Allow,
        ..rules()
    });
    open.apply_batch(
        [
            reset(
                Kind::Pod,
                vec![
                    pod("web", &[]),
                    pod("db", &[("portcullis.dev/imds-v1", "deny")]),
                ],
            ),
            reset(Kind::Namespace, vec![namespace(&[])]),
            reset(Kind::ServiceAccount, vec![account("default", "sa1", &[])]),
        ],
        NOW,
    );
    assert!(open.roles()["web"].imds_v1 && !open.roles()["db"].imds_v1);
    world.apply(
        Change::Apply(pod("web", &[("portcullis.dev/imds-v1", "yes")])),
        NOW,
    );
    world.apply(
        Change::Apply(account(
            "default",
            "sa1",
            &[("eks.amazonaws.com/audience", "")],
        )),
        NOW,
    );
    world.apply(Change::Apply(namespace(&[(ALLOWED, "no list")])), NOW);
    let found: Vec<String> = world.roles()["web"]
        .malformed
        .iter()
        .map(|(object, malformed)| format!("{object} {}", malformed.key))
        .collect();
    let expected = [
        "Pod shop/web portcullis.dev/imds-v1",
        "ServiceAccount shop/default eks.amazonaws.com/audience",
        "Namespace shop iam.amazonaws.com/allowed-roles",
    ];
    assert_eq!(found, expected);
}

#[test]
fn pods_wait_for_what_the_node_has_to_say_and_for_nothing_else() {
    let mut world = world().with_roles(Rules {
        decide: Settings {
            base: Discovered::Pending,
            default_role: Discovered::Pending,
            ..rules().decide
        },
        ..rules()
    });
    let waits = |world: &World| match decision(world, "web").outcome {
        Outcome::Undecided(waiting) => Some(waiting),
        _ => None,
    };
    let full = "arn:aws:iam::999999999999:role/web";
    for (value, waiting) in [
        (None, Some(Waiting::DefaultRole)),
        (Some("web"), Some(Waiting::BaseArn)),
        (Some(full), None),
        (Some(""), None),
    ] {
        let annotations: Vec<_> = value.map(|value| (ROLE, value)).into_iter().collect();
        world.apply(Change::Apply(pod("web", &annotations)), NOW);
        assert_eq!(waits(&world), waiting, "{value:?}");
    }
    world.apply(Change::Apply(pod("web", &[])), NOW);
    let node = "arn:aws:iam::123456789012:role/node";
    world.discovered(Found {
        base: Some(BaseArn::parse("arn:aws:iam::123456789012:role/").unwrap()),
        default_role: Some(node.to_owned()),
    });
    let arn = |world: &World| match decision(world, "web").outcome {
        Outcome::Role(grant) => grant.role.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(arn(&world), node);
    world.apply(Change::Apply(pod("web", &[(ROLE, "web")])), NOW);
    assert_eq!(arn(&world), "arn:aws:iam::123456789012:role/web");
}

#[test]
fn what_a_namespace_lets_its_pods_read_of_the_node_is_all_of_its_list_or_nothing() {
    let paths = |world: &World| -> Vec<String> {
        let paths = &world.roles()["web"].metadata_paths;
        paths.iter().map(ToString::to_string).collect()
    };
    let key = "portcullis.dev/metadata-paths";
    let mut world = world();
    assert!(paths(&world).is_empty());
    for (value, wanted) in [
        (r#"["mac", "ami-id", "mac"]"#, &["ami-id", "mac"][..]),
        (r#"["mac", "user-data"]"#, &[]),
        (r#"["tags/instance/*"]"#, &["tags/instance/*"]),
        ("mac", &[]),
    ] {
        world.apply(Change::Apply(namespace(&[(key, value)])), NOW);
        assert_eq!(paths(&world), wanted, "{value}");
        let malformed = world.roles()["web"].malformed.len();
        assert_eq!(malformed, usize::from(wanted.is_empty()), "{value}");
    }
}

/// One of the changes that can happen to two pods, two accounts and their namespace.
fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![Just(""), Just("a"), Just("b"), Just("[\"a\"]"), Just("{")];
    let annotated = |key: &'static str| {
        proptest::option::of(value.clone()).prop_map(move |value| value.map(|value| (key, value)))
    };
    let pods = (
        0..2_usize,
        0..3_usize,
        0..2_usize,
        any::<bool>(),
        annotated(ROLE),
    )
        .prop_map(|(number, node, of, finished, pair)| {
            let name = ["web", "db"][number];
            let mut pod = plain::pod(name, name, ["n1", "n1", "n2"][node], "");
            let workload = Arc::get_mut(&mut pod.workload).expect("nobody else has it");
            workload.service_account = ["default", "api"][of].into();
            workload.finished = finished;
            let pairs: Vec<_> = pair.into_iter().collect();
            Change::Apply(entry(Kind::Pod, name, Object::Pod(pod), &pairs))
        });
    let accounts = (0..2_usize, 0..2_usize, annotated(ROLE_ARN)).prop_map(|(number, uid, pair)| {
        let pairs: Vec<_> = pair.into_iter().collect();
        Change::Apply(account(["default", "api"][number], ["1", "2"][uid], &pairs))
    });
    let namespaces = annotated(ALLOWED).prop_map(|pair| {
        let pairs: Vec<_> = pair.into_iter().collect();
        Change::Apply(namespace(&pairs))
    });
    let deletes = prop_oneof![
        Just(gone(Kind::Pod, "web", None)),
        Just(gone(Kind::ServiceAccount, "default", None)),
        Just(gone(Kind::Namespace, "shop", None)),
    ];
    let resets = prop_oneof![
        Just(reset(Kind::ServiceAccount, vec![account("api", "1", &[])])),
        Just(reset(Kind::Pod, vec![pod("web", &[(ROLE, "a")])])),
        Just(reset(Kind::Namespace, vec![namespace(&[])])),
    ];
    prop_oneof![3 => pods, 2 => accounts, 2 => namespaces, 1 => deletes, 1 => resets]
}

proptest! {
    #[test]
    fn decisions_are_those_of_a_world_that_heard_only_of_the_end(
        changes in proptest::collection::vec(change(), 0..30),
        order in Just([0_usize, 1, 2]).prop_shuffle(),
    ) {
        let mut world = World::new("n1").with_roles(rules());
        let mut last: BTreeMap<Key, Entry> = BTreeMap::new();
        for kind in Kind::OF_ROLES {
            world.apply(reset(kind, Vec::new()), NOW);
        }
        for change in changes {
            match &change {
                Change::Apply(entry) => {
                    last.insert(entry.key.clone(), entry.clone());
                }
                Change::Delete { key, .. } => {
                    last.remove(key);
                }
                Change::Reset { kind, live } => {
                    last.retain(|key, _| key.kind != *kind);
                    last.extend(live.iter().map(|entry| (entry.key.clone(), entry.clone())));
                }
                Change::Trouble { .. } => {}
            }
            world.apply(change, NOW);
        }
        let mut fresh = World::new("n1").with_roles(rules());
        for index in order {
            let kind = Kind::OF_ROLES[index];
            let live = last.values().filter(|entry| entry.key.kind == kind);
            fresh.apply(reset(kind, live.cloned().collect()), NOW);
        }
        prop_assert_eq!(world.roles(), fresh.roles());
    }
}
