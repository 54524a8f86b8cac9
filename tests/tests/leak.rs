//! What comes and goes leaves nothing: pins, kernel objects, the agent's descriptors and memory, entries of each map. And what uninstall leaves: nothing.
//!
//! Everything is counted after some rounds, so that what is allocated once is there, and again after two hundred more: equal, and memory within
//! [`MEMORY`].

#[path = "leak/uninstall.rs"]
mod uninstall;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use portcullis_common::abi::{Cell, L4Set};
use portcullis_tests::scene::kernel::{self, Kind};
use portcullis_tests::scene::table::{Table, expire};
use portcullis_tests::scene::traffic::{Stream, answers, connects};
use portcullis_tests::scene::{Pod, SOON, Scene, pod, wait_until};

/// Rounds before the first count.
const WARM_UP: usize = 20;
/// Rounds between the two.
const ROUNDS: usize = 200;
/// How much the agent may have grown meanwhile, KiB: what an allocator keeps, not what two hundred rounds would add up to.
const MEMORY: u64 = 4 * 1024;

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guests, namespace: guests}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
";

fn pods() -> [Pod; 2] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").label("app", "web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").label("app", "db"),
    ]
}

/// All that can leak, but for memory.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    pins: BTreeMap<String, u64>,
    held: Vec<(Kind, u32)>,
    descriptors: usize,
    entries: BTreeMap<String, usize>,
}

impl Count {
    fn of(scene: &Scene) -> Self {
        let pid = scene.agent.pid();
        let pins = kernel::pins(&scene.agent.record().bpffs);
        let maps = kernel::pins(&scene.pins().join("maps"));
        let entries = maps.keys().map(|path| {
            let name = path.rsplit('/').next().expect("a path has a name");
            (name.to_owned(), used(name, &Table::open(Path::new(path))))
        });
        Self {
            entries: entries.collect(),
            pins,
            held: kernel::held(pid),
            descriptors: kernel::descriptors(pid),
        }
    }
}

/// Entries in use; of arrays, where a name says how to tell.
fn used(name: &str, table: &Table) -> usize {
    match name {
        "pc_policies" => {
            let cells = table.entries::<u32, Cell>();
            cells.iter().filter(|(_, cell)| cell.valid != 0).count()
        }
        "pc_l4sets" => {
            let sets = table.entries::<u32, L4Set>();
            sets.iter().filter(|(_, set)| set.valid != 0).count()
        }
        _ => table.keys().len(),
    }
}

/// Does something over and over; what it leaves is compared.
fn rounds(scene: &mut Scene, mut round: impl FnMut(&mut Scene, usize)) {
    for number in 0..WARM_UP {
        round(scene, number);
    }
    let before = settled(scene);
    let memory = kernel::resident(scene.agent.pid());
    for number in WARM_UP..WARM_UP + ROUNDS {
        round(scene, number);
    }
    let after = settled(scene);
    assert_eq!(after, before);
    let grown = kernel::resident(scene.agent.pid());
    println!("{memory} KiB, then {grown} KiB; {:?}", after.entries);
    assert!(grown <= memory + MEMORY, "from {memory} to {grown} KiB");
    assert_eq!(scene.status()["applyErrors"], 0);
}

/// The count when no connection is left.
fn settled(scene: &Scene) -> Count {
    scene.settle();
    let connections = scene.table("pc_conntrack");
    wait_until("connections are collected", SOON, || {
        expire(scene, |_, _| true);
        connections.keys().is_empty()
    });
    let pool: Option<u64> = scene.table("pc_pool").get(&0_u32.to_ne_bytes());
    assert_eq!(pool, Some(0));
    Count::of(scene)
}

#[test]
fn pods_that_come_and_go_leave_nothing() {
    let mut scene = Scene::up("leak-pods", &pods(), POLICIES);
    rounds(&mut scene, |scene, number| {
        let key = format!("guests/guest-{number}");
        // A new name each time, addresses again and again.
        let addresses = format!("10.0.2.{0} fd00:2::{0}", number % 7 + 1);
        scene.add(&pod(&key, &addresses).label("app", "web"));
        scene.settle();
        let guest = scene.netns(&key);
        let to = (scene.address("shop/web"), 8080).into();
        if number % 8 == 0 {
            assert!(connects(guest, to));
        }
        scene.remove(&key);
        if number % 3 == 0 {
            scene.settle();
        }
    });
    scene.down();
}

#[test]
fn policies_that_change_leave_nothing() {
    let mut scene = Scene::up("leak-policies", &pods(), POLICIES);
    rounds(&mut scene, |scene, number| {
        let mut more = String::from(POLICIES);
        let ports: String = (0..number % 12).fold(String::new(), |mut text, port| {
            let _ = write!(text, "{{port: {}}}, ", 1000 + number * 20 + port * 2);
            text
        });
        let _ = write!(
            more,
            "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: more-{number}, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: {}}}}}
  policyTypes: [Egress]
  egress:
  - to: [{{ipBlock: {{cidr: 10.{number}.0.0/16, except: [10.{number}.7.0/24]}}}}, {{ipBlock: {{cidr: 'fd00:{number}::/32'}}}}]
    ports: [{ports}{{port: 8080}}]
",
            ["web", "db", "none"][number % 3],
        );
        scene.apply("policies", &more);
        if number % 5 == 0 {
            scene.apply("policies", "");
        }
        scene.apply("policies", POLICIES);
    });
    let web = scene.netns("shop/web");
    assert!(answers(web, (scene.address("shop/db"), 5353).into()));
    scene.down();
}

#[test]
fn agents_that_are_killed_leave_nothing_but_what_is_pinned() {
    let mut scene = Scene::up("leak-kills", &pods(), POLICIES);
    let mut stream = Stream::open(
        scene.netns("shop/web"),
        (scene.address("shop/db"), 8080).into(),
    );
    let mut earlier = kernel::pinned(&scene.pins());
    let first = Count::of(&scene);
    for _ in 0..5 {
        scene.kill();
        scene.restart();
        scene.settle();
        let now = kernel::pinned(&scene.pins());
        assert_eq!(now.len(), earlier.len());
        for (kind, id) in earlier.difference(&now) {
            assert_eq!(*kind, Kind::Program, "only programs are loaded anew");
            wait_until("the predecessor's program is gone", SOON, || {
                !kernel::lives(*kind, *id)
            });
        }
        earlier = now;
    }
    let last = Count::of(&scene);
    assert_eq!(
        (last.descriptors, &last.entries),
        (first.descriptors, &first.entries)
    );
    assert_eq!(last.held.len(), first.held.len());
    stream.works();
    scene.down();
}
