//! Random tables that follow no cluster, and small edits to them: what no compiler would write comes out right too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_common::abi::endpoint_flags;
use portcullis_common::addr;
use portcullis_policy::model::{PolicyKind, PolicyRef};
use portcullis_policy::tables::{
    Cell, ClassIx, Decision, Direction, EndpointPolicies, PolicyTable, PortRange, RuleRef, Tables,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::super::names::uid_digest;
use super::super::{Desired, Want, WantPolicies, address_bytes};

pub(super) const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.1.1",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd01::1",
    "2001:db8::1",
];
const PREFIXES: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.2/31",
    "10.0.0.1/32",
    "::/0",
    "fd00::/8",
    "fd00::/64",
    "fd00::2/127",
];
pub(super) const PORTS: [(u8, u16); 3] = [(6, 80), (6, 81), (17, 53)];
pub(super) const INTERFACES: [u32; 4] = [10, 11, 12, 13];
pub(super) const PODS: [&str; 5] = ["a/x", "a/y", "b/x", "b/y", "c/x"];
const CLASSES: ClassIx = 5;
const POLICIES: usize = 4;

fn rule(index: u32) -> RuleRef {
    RuleRef {
        policy: reference("a", "p").into(),
        index,
        direction: Direction::Ingress,
    }
}

pub(super) fn reference(namespace: &str, name: &str) -> PolicyRef {
    PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    }
}

fn cells() -> Vec<Cell> {
    let allow = |index| Decision {
        allow: true,
        rule: Some(rule(index)),
    };
    let deny = |rule| Decision { allow: false, rule };
    let by_port = |ranges: &[(u8, u16, u16)], index, otherwise| Cell::ByPort {
        ranges: ranges
            .iter()
            .map(|(protocol, first, last)| PortRange {
                protocol: *protocol,
                first: *first,
                last: *last,
                decision: allow(index),
            })
            .collect(),
        otherwise,
    };
    let many: Vec<_> = (0..9)
        .map(|index| (6, 70 + 2 * index, 70 + 2 * index))
        .collect();
    vec![
        Cell::All(deny(None)),
        Cell::All(deny(Some(rule(9)))),
        Cell::All(allow(0)),
        Cell::All(allow(1)),
        by_port(&[(6, 80, 80)], 0, deny(None)),
        by_port(&[(6, 80, 81), (17, 53, 53)], 1, deny(None)),
        by_port(&many, 2, deny(None)),
        by_port(&many[..8], 3, allow(0)),
    ]
}

/// One change of tables that follow no model.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Address(usize, Option<ClassIx>),
    Prefix(usize, Option<ClassIx>),
    Row(usize, ClassIx, Index),
    Default(usize, Index),
    IsolatedBy(usize, bool),
    Obeys(usize, [Option<u32>; 4]),
    Pod(usize, Option<(usize, u8)>),
    Service(u16),
    Node(usize, Option<bool>),
}

/// What moves addresses alone, so that endpoints may keep their policies.
fn a_move() -> impl Strategy<Value = Edit> {
    let class = || prop::option::of(0..CLASSES);
    let address = (0..ADDRESSES.len(), class());
    let prefix = (0..PREFIXES.len(), class());
    prop_oneof![
        address.prop_map(|(address, class)| Edit::Address(address, class)),
        prefix.prop_map(|(prefix, class)| Edit::Prefix(prefix, class)),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let policy = || prop::option::weighted(0.8, 0..POLICIES as u32);
    let row = (0..POLICIES, 0..CLASSES, any::<Index>());
    let default = (0..POLICIES, any::<Index>());
    let isolated_by = (0..POLICIES, any::<bool>());
    let obeys = (0..PODS.len(), [policy(), policy(), policy(), policy()]);
    let pod = prop::option::weighted(0.8, (0..PODS.len(), 0_u8..6));
    let node = (0..ADDRESSES.len(), prop::option::of(any::<bool>()));
    prop_oneof![
        8 => a_move(),
        2 => row.prop_map(|(policy, class, cell)| Edit::Row(policy, class, cell)),
        1 => default.prop_map(|(policy, cell)| Edit::Default(policy, cell)),
        1 => isolated_by.prop_map(|(policy, other)| Edit::IsolatedBy(policy, other)),
        2 => obeys.prop_map(|(pod, ids)| Edit::Obeys(pod, ids)),
        2 => (0..INTERFACES.len(), pod).prop_map(|(at, pod)| Edit::Pod(at, pod)),
        1 => (80_u16..83).prop_map(Edit::Service),
        1 => node.prop_map(|(address, own)| Edit::Node(address, own)),
    ]
}

/// Tables in a form that is easily changed.
#[derive(Default)]
struct Draft {
    addresses: BTreeMap<IpAddr, ClassIx>,
    prefixes: BTreeMap<IpNet, ClassIx>,
    policies: Vec<PolicyDraft>,
    endpoints: BTreeMap<String, EndpointPolicies>,
}

#[derive(Clone)]
struct PolicyDraft {
    default: Cell,
    rows: BTreeMap<ClassIx, Cell>,
    isolated_by: Vec<PolicyRef>,
}

impl Draft {
    fn tables(&self) -> Tables {
        Tables {
            classes: CLASSES,
            addresses: Arc::new(self.addresses.clone().into_iter().collect()),
            prefixes: Arc::new(self.prefixes.clone()),
            policies: self.policies.iter().map(PolicyDraft::table).collect(),
            endpoints: self.endpoints.clone(),
        }
    }
}

impl PolicyDraft {
    /// Every row has a cell of its own, equal or not.
    fn table(&self) -> Arc<PolicyTable> {
        let rows = self.rows.iter().filter(|(_, cell)| **cell != self.default);
        let (rows, cells) = rows
            .zip(0..)
            .map(|((class, cell), place)| ((*class, place), Arc::new(cell.clone())))
            .unzip();
        Arc::new(PolicyTable {
            isolated_by: self.isolated_by.clone(),
            default: Arc::new(self.default.clone()),
            rows,
            cells,
        })
    }
}

fn apply(desired: &mut Desired, tables: &mut Draft, edit: Edit) {
    match edit {
        Edit::Address(address, class) => set(&mut tables.addresses, ip(address), class),
        Edit::Prefix(prefix, class) => {
            let net: IpNet = PREFIXES[prefix].parse().unwrap();
            set(&mut tables.prefixes, net, class);
        }
        Edit::Row(policy, class, cell) => {
            drop(
                tables.policies[policy]
                    .rows
                    .insert(class, cell.get(&cells()).clone()),
            );
        }
        Edit::Default(policy, cell) => tables.policies[policy].default = cell.get(&cells()).clone(),
        Edit::IsolatedBy(policy, other) => {
            tables.policies[policy].isolated_by =
                vec![reference("a", if other { "p" } else { "q" })];
        }
        Edit::Obeys(pod, [a, b, c, d]) => {
            let obeys = EndpointPolicies {
                ingress: [a, b],
                egress: [c, d],
            };
            tables.endpoints.insert(PODS[pod].to_owned(), obeys);
        }
        Edit::Pod(at, pod) => {
            let want = pod.map(|(pod, kind)| Want {
                uid: uid_digest(PODS[pod]),
                addresses: [address_bytes(ip(pod)), addr::NONE],
                flags: if kind < 2 { endpoint_flags::UNKNOWN } else { 0 },
                policies: match kind {
                    0 => WantPolicies::Closed,
                    1 => WantPolicies::Open,
                    _ => WantPolicies::Compiled(EndpointPolicies::default()),
                },
            });
            set(&mut desired.endpoints, INTERFACES[at], want);
        }
        Edit::Service(port) => {
            let service = (address_bytes(ip(4)), port, 6);
            let services = Arc::make_mut(&mut desired.services);
            if !services.remove(&service) {
                services.insert(service);
            }
        }
        Edit::Node(address, own) => set(&mut desired.nodes, address_bytes(ip(address)), own),
    }
    let PodsOf(pods) = PodsOf::new();
    for want in desired.endpoints.values_mut() {
        if let WantPolicies::Compiled(obeys) = &mut want.policies {
            *obeys = tables
                .endpoints
                .get(pods[&want.uid])
                .copied()
                .unwrap_or_default();
        }
    }
    desired.tables = Arc::new(tables.tables());
}

struct PodsOf(BTreeMap<[u8; 16], &'static str>);

impl PodsOf {
    fn new() -> Self {
        Self(PODS.iter().map(|pod| (uid_digest(pod), *pod)).collect())
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

pub(super) fn ip(address: usize) -> IpAddr {
    ADDRESSES[address].parse().unwrap()
}

/// Tables that grow by random edits: a large first step, small ones after it.
pub(super) fn walk() -> impl Strategy<Value = Vec<Desired>> {
    let some = prop::collection::vec(edit(), 1..5);
    let moves = prop::collection::vec(a_move(), 1..7);
    let steps = prop::collection::vec(prop_oneof![some, moves], 1..5);
    (prop::collection::vec(edit(), 20..50), steps).prop_map(|(first, steps)| {
        let policy = PolicyDraft {
            default: cells()[0].clone(),
            rows: BTreeMap::new(),
            isolated_by: vec![reference("a", "p")],
        };
        let mut tables = Draft {
            policies: vec![policy; POLICIES],
            ..Draft::default()
        };
        let mut desired = Desired::default();
        let mut walk = Vec::new();
        for step in std::iter::once(first).chain(steps) {
            for edit in step {
                apply(&mut desired, &mut tables, edit);
            }
            walk.push(desired.clone());
        }
        walk
    })
}
