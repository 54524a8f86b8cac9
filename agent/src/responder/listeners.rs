//! The responder's listeners: the agent adds its addresses to the loopback interface and opens them, the responder gets them.
//!
//! A fresh agent finds the addresses where they were. While an older one's responder still holds the ports, binding is tried again: it lets go as soon as
//! it sees that its agent is gone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_common::guard;
use tokio::net::TcpSocket;
use tracing::{info, warn};

use super::address::{Addresses, PORT};

/// Connections that wait to be accepted, at each address.
const BACKLOG: u32 = 1024;
/// How long between two tries to bind.
const RETRY: Duration = Duration::from_millis(50);

/// One listener for each guarded address of a family that the node has.
#[derive(Debug)]
pub struct Listeners {
    /// The service (index of [`guard::ADDRESSES`]) and its socket.
    pub sockets: Vec<(u16, std::net::TcpListener)>,
}

/// Adds the addresses; which of them the node took. IPv6 may be switched off.
pub async fn add(addresses: &Addresses) -> Result<Vec<IpAddr>> {
    let (loopback, netlink) = loopback()?;
    let mut added = Vec::new();
    for address in addresses.all() {
        let request = netlink.address().add(loopback, address, bits(address));
        match request.replace().execute().await {
            Ok(()) => added.push(address),
            Err(error) if address.is_ipv6() => {
                info!(%error, "No metadata over IPv6: the node has none");
            }
            Err(error) => {
                return Err(error).with_context(|| format!("adding {address} to lo"));
            }
        }
    }
    Ok(added)
}

/// Takes the addresses off, where they are there.
pub async fn remove(addresses: &Addresses) -> Result<()> {
    let (loopback, netlink) = loopback()?;
    for address in addresses.all() {
        let mut as_added = netlink.address().add(loopback, address, bits(address));
        let message = as_added.message_mut().clone();
        match netlink.address().del(message).execute().await {
            Ok(()) => {}
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -libc::EADDRNOTAVAIL => {}
            // Whoever may take the first one off may take this one off: there is no IPv6.
            Err(_) if address.is_ipv6() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("taking {address} off lo"));
            }
        }
    }
    Ok(())
}

/// The loopback interface, and a way to ask the kernel that ends with the handle.
fn loopback() -> Result<(u32, rtnetlink::Handle)> {
    let index = nix::net::if_::if_nametoindex("lo").context("finding the loopback interface")?;
    let (connection, netlink, _) =
        rtnetlink::new_connection().context("opening a netlink socket")?;
    tokio::spawn(connection);
    Ok((index, netlink))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Opens the listeners at these addresses, as soon as their ports are free.
pub async fn open(addresses: &[IpAddr]) -> Result<Listeners> {
    let mut sockets = Vec::new();
    for (service, guarded) in guard::ADDRESSES.iter().enumerate() {
        let is_v4 = portcullis_common::addr::is_v4(guarded);
        let Some(address) = addresses.iter().find(|own| own.is_ipv4() == is_v4) else {
            continue;
        };
        let at = SocketAddr::new(*address, PORT + service as u16);
        let mut told = false;
        let listener = loop {
            match listen(at) {
                Ok(listener) => break listener,
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    if !told {
                        warn!(address = %at, "Waiting for an earlier responder to let go");
                        told = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error).with_context(|| format!("listening on {at}")),
            }
        };
        sockets.push((service as u16, listener));
    }
    Ok(Listeners { sockets })
}

fn listen(at: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Past connections do not hold the port; a listener does, so nobody else's socket shares it.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)?.into_std()
}
