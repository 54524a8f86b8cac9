//! Tables without their numbers, to tell whether two ways lead to the same.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::addr::Addr;
use portcullis_common::policy::WORLD;

use super::super::super::state::{CellState, PolicyState, PortSet, Prefix, State};

/// Tables up to the choice of numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    identities: BTreeSet<BTreeSet<Prefix>>,
    policies: Vec<PolicyShape>,
    sets: Vec<PortSet>,
    endpoints: Vec<EndpointShape>,
    rest: String,
}

type CellShape = Result<(u32, u32), Option<PortSet>>;
type PolicyShape = (Option<CellShape>, BTreeMap<BTreeSet<Prefix>, CellShape>);
type EndpointShape = (u32, [u8; 16], [Addr; 2], u32, Vec<Result<PolicyShape, u32>>);

impl Shape {
    pub(super) fn of(state: &State) -> Self {
        let mut members: BTreeMap<u32, BTreeSet<Prefix>> = BTreeMap::new();
        // Longer than any prefix, so that an exact address is never mistaken for one.
        let exact = state
            .peers()
            .iter()
            .map(|(addr, identity)| ((129, *addr), *identity));
        for (atom, identity) in exact.chain(state.cidrs().iter().map(|(k, v)| (*k, *v))) {
            members.entry(identity).or_default().insert(atom);
        }
        members.entry(WORLD).or_default().insert((0, [0xff; 16]));
        let cell = |cell: &CellState| match cell {
            CellState::All(action, rule) => Ok((*action, *rule)),
            CellState::Ports(set) => Err(state.sets().get(set).map(|set| PortSet::clone(set))),
        };
        let policy = |policy: &PolicyState| -> PolicyShape {
            let default = policy.default.as_ref().map(cell);
            let rows = policy.rows.iter().filter_map(|(identity, row)| {
                let row = cell(row);
                // Numbers without members are what must not be left over: they show as an empty set.
                (Some(&row) != default.as_ref())
                    .then(|| (members.get(identity).cloned().unwrap_or_default(), row))
            });
            (default.clone(), rows.collect())
        };
        let endpoints = state.endpoints.iter().map(|(ifindex, endpoint)| {
            let ids = endpoint.ingress.iter().chain(&endpoint.egress);
            let obeys = ids.map(|id| state.policies().get(id).map(|of| policy(of)).ok_or(*id));
            (
                *ifindex,
                endpoint.uid,
                [endpoint.v4, endpoint.v6],
                endpoint.flags,
                obeys.collect(),
            )
        });
        let mut policies: Vec<PolicyShape> =
            state.policies().values().map(|of| policy(of)).collect();
        policies.sort();
        let mut sets: Vec<PortSet> = state
            .sets()
            .values()
            .map(|set| PortSet::clone(set))
            .collect();
        sets.sort();
        Self {
            identities: members.values().cloned().collect(),
            policies,
            sets,
            endpoints: endpoints.collect(),
            rest: format!(
                "{:?} {:?} {:?} {:?}",
                state.services, state.nodes, state.cgroups, state.config
            ),
        }
    }
}
