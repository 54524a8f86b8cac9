//! Whose a redirected connection is: the record that the guard made at its SYN.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use portcullis_common::abi::{HOST_ORIGINS, HOST_SLOT, ORIGINS_PER_SLOT, Origin, OriginKey};

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
        holders.iter().find_map(|holder @ (slot, generation)| {
            let way = peer.port() % ORIGINS_PER_SLOT as u16;
            let (key, origin) = self.find(OriginKey { slot: *slot, way }, peer, service)?;
            if origin.generation != *generation {
                return None;
            }
            self.forget(&key);
            Some((*holder, origin))
        })
    }

    /// The record of a connection from the host network. It stays until [`forget`](Self::forget).
    #[must_use]
    pub fn of_host(&self, peer: SocketAddr, service: u16) -> Option<(OriginKey, Origin)> {
        let (slot, way) = (HOST_SLOT, peer.port() % HOST_ORIGINS as u16);
        self.find(OriginKey { slot, way }, peer, service)
    }

    /// Takes a record out. A SYN that comes again leaves one again, which the next one from its port replaces.
    pub fn forget(&mut self, key: &OriginKey) {
        // It is gone if another SYN's has taken its place and was asked for.
        let _ = self.map.remove(key);
    }

    fn find(&self, key: OriginKey, peer: SocketAddr, service: u16) -> Option<(OriginKey, Origin)> {
        let origin = self.map.get(&key, 0).ok()?;
        let matches = origin.src == address_bytes(peer.ip())
            && origin.sport == peer.port()
            && origin.port == PORT + service;
        matches.then_some((key, origin))
    }
}
