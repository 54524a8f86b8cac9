//! Whose a redirected connection is: the record that the guard made at its SYN.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use portcullis_common::abi::{ORIGINS_PER_SLOT, Origin, OriginKey};

use super::address::PORT;
use crate::dataplane::pins::Pins;
use crate::dataplane::plan::address_bytes;

/// The table of origins.
pub struct Origins {
    map: HashMap<MapData, OriginKey, Origin>,
}

/// A slot and the generation that has it now.
pub type Holder = (u16, u8);

impl Origins {
    /// Opens it by its pin.
    pub fn open(pins: &Pins) -> Result<Self> {
        let path = pins.map("pc_origins");
        let data =
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        let map = HashMap::try_from(Map::HashMap(data))
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { map })
    }

    /// Takes the record of a connection out: that of the holder whose it is. Two pods may have had the address one after the other, and the record says
    /// which of them sent the SYN.
    pub fn take(
        &mut self,
        peer: SocketAddr,
        service: u16,
        holders: &[Holder],
    ) -> Option<(Holder, Origin)> {
        let src = address_bytes(peer.ip());
        for holder @ (slot, generation) in holders {
            let key = OriginKey {
                slot: *slot,
                way: peer.port() % ORIGINS_PER_SLOT as u16,
            };
            let Ok(origin) = self.map.get(&key, 0) else {
                continue;
            };
            let matches = origin.src == src
                && origin.sport == peer.port()
                && origin.port == PORT + service
                && origin.generation == *generation;
            if matches {
                // A SYN that comes again leaves a record again, which the next one from its port replaces.
                let _ = self.map.remove(&key);
                return Some((*holder, origin));
            }
        }
        None
    }
}
