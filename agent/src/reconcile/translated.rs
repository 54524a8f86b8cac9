//! Destinations that the node translates, gathered again only when something that they come from has changed: a cluster has tens of thousands.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_common::addr::Addr;

use crate::dataplane::plan::address_bytes;
use crate::endpoint::Observed;
use crate::world::World;

/// The destinations and what they were gathered from.
#[derive(Debug, Default)]
pub(super) struct Translated {
    /// Address, port and protocol.
    pub(super) all: Arc<BTreeSet<(Addr, u16, u8)>>,
    from: Option<(u64, BTreeSet<IpAddr>)>,
}

impl Translated {
    pub(super) fn refresh(&mut self, world: &World, observed: &Observed) {
        let generation = world.services_generation();
        let node = &observed.node_addresses;
        if self.from.as_ref().map(|(of, at)| (*of, at)) == Some((generation, node)) {
            return;
        }
        let all = world.service_addresses(node).into_iter();
        let all = all.map(|at| (address_bytes(at.address), at.port, at.protocol));
        self.all = Arc::new(all.collect());
        self.from = Some((generation, node.clone()));
    }
}
