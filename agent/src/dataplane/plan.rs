//! From the tables in force to the tables wanted: which writes, in which order. Pure; an action is data.
//!
//! An address has an identity, a policy has a cell for each identity. Rows change one by one, so the order makes the change atomic for each endpoint:
//!
//! ```text
//!    barrier, what a plan that was cut short has left behind
//! 0. endpoints that are gone
//! 1. port sets, services, nodes, cgroups          nothing refers to them yet
//! 2. rows for new identities under old policies   each with its parent's cell
//! 3. addresses move to new identities             no verdict changes: step 2
//! 4. new policies, then endpoints                 one write swaps an endpoint from all of the old to all of the new
//!    barrier
//! 5. addresses move to their final identities     no verdict changes: the policies in force treat both alike
//!    barrier
//! 6. rows, policies, port sets without use go
//! ```
//! An identity keeps its number when all its addresses go on together; a part that goes another way gets a new number that starts with the old
//! verdicts (2, 3) and joins others with the same meaning only when every policy in force treats the two alike (5). So every packet meets the old
//! verdict or the new one, and never a mixture that no snapshot of the cluster gives.
//!
//! Where no endpoint's policy changes (pods come, go, change labels), 2-5 shrink to one write for each address: it moves straight to its identity,
//! which is the change itself, and endpoints whose policy allows less than before get a new revision, so that their open connections are judged again.
//! `config_flags::MOVING` stands in the kernel between the two, so that whoever comes after an agent that died there raises the revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_common::abi::Config;
use portcullis_common::addr::{self, Addr};
use portcullis_policy::tables::{EndpointPolicies, Tables};

use super::names::Names;
use super::state::{Action, Prefix, State};
use atoms::Atoms;
use cells::{Cells, Forms, SetIds};
use matching::{keep_policies, match_policies};
use numbering::Numbering;
use writer::Writer;

mod atoms;
mod cells;
mod matching;
mod numbering;
mod settle;
mod writer;

#[cfg(test)]
mod tests;

/// What the node should look like.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The compiler's tables.
    pub tables: Arc<Tables>,
    /// Endpoints by ifindex.
    pub endpoints: BTreeMap<u32, Want>,
    /// Destinations that the node translates.
    pub services: Arc<BTreeSet<(Addr, u16, u8)>>,
    /// Addresses of nodes; whether it is this one.
    pub nodes: BTreeMap<Addr, bool>,
    /// Cgroups of host-network pods on the allow list.
    pub cgroups: BTreeSet<u64>,
    /// Node-wide settings; the flags for services and CIDRs are the planner's.
    pub config: Config,
}

/// What one endpoint should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// `names::uid_digest` of the pod's uid, or of the interface's name for an unknown one.
    pub uid: [u8; 16],
    /// Its addresses, [`addr::NONE`] where it has none.
    pub addresses: [Addr; 2],
    /// `abi::endpoint_flags`.
    pub flags: u32,
    /// What it obeys.
    pub policies: WantPolicies,
}

/// What an endpoint obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantPolicies {
    /// Compiled policies.
    Compiled(EndpointPolicies),
    /// Nothing passes but its node: no pod is known.
    Closed,
    /// Everything passes but metadata: no pod is known, and `--unknown-pod=open`.
    Open,
}

/// What is remembered from one plan to the next. Forgetting it changes no plan.
#[derive(Debug, Default)]
pub struct Memory {
    /// Numbers that were given out.
    pub names: Names,
    forms: Forms,
}

/// The writes that lead from `state` to `desired`.
#[must_use]
pub fn plan(state: &State, memory: &mut Memory, desired: &Desired) -> Vec<Action> {
    let Memory { names, forms } = memory;
    let mut writer = Writer::new(state);
    writer.leftovers();
    let state = &writer.after.clone();
    let atoms = Atoms::new(state, &desired.tables);
    let mut sets = SetIds::new(state);
    let direct = Numbering::direct(state, &atoms);
    let cells = Cells::new(names, forms, &mut sets, desired, &direct);
    let (numbering, cells, ids) =
        if let Some(ids) = keep_policies(state, names, desired, &direct, &cells) {
            (direct, cells, ids)
        } else {
            let staged = Numbering::staged(state, &atoms);
            let cells = Cells::new(names, forms, &mut sets, desired, &staged);
            let ids = match_policies(state, names, desired, &staged, &cells);
            (staged, cells, ids)
        };
    forms.tidy();
    for (index, id) in &ids {
        names.set_isolated_by(*id, &desired.tables.policies[*index as usize].isolated_by);
    }
    writer.endpoints_gone(desired);
    writer.leaves(desired, &sets.new);
    writer.rows_of_fresh_identities(state, &numbering, &cells, &ids);
    let stale = writer.stale(&atoms, &numbering);
    writer.moving(&stale);
    writer.addresses(&atoms, &numbering);
    writer.config(desired, true);
    writer.policies(state, &cells, &ids);
    writer.endpoints(state, desired, &ids, &stale);
    writer.settle(desired, &atoms, &numbering);
    writer.actions
}

/// The writes that close what a plan that failed has left without tables of its own. Each may fail without harm: an interface without an endpoint is
/// closed too, for its node as well.
#[must_use]
pub fn lock_down(state: &State, desired: &Desired) -> Vec<Action> {
    let mut writer = Writer::new(state);
    writer.lock_down(desired);
    writer.actions
}

/// The kernel's form of an address.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => addr::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The kernel's form of a prefix.
#[must_use]
pub fn prefix(net: &IpNet) -> Prefix {
    match net {
        IpNet::V4(net) => (
            96 + u32::from(net.prefix_len()),
            addr::mapped(net.network().octets()),
        ),
        IpNet::V6(net) => (u32::from(net.prefix_len()), net.network().octets()),
    }
}
