//! Keeps a [`LinkTable`] equal to what the kernel has, in the network namespace that the process was started in.
//!
//! ```text
//! multicast socket --messages--> apply ---------------------> changed
//! dump socket -------------------> new table, apply what came meanwhile
//!      ^ at start, after an overrun, 100 ms after a doubtful message, every 30 s
//! ```
//! A message is applied and reported as soon as it is read; nothing is held back for a dump. Messages that arrive during a dump are applied behind
//! it: whatever the dump had seen of them, the last message about a thing decides.

use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::links::{Effect, LinkTable};

/// How often everything is read again although nothing went wrong.
const RESYNC: Duration = Duration::from_secs(30);

/// How soon after a message that the kernel may have left something out of.
const DOUBT: Duration = Duration::from_millis(100);

/// How soon after a dump that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How many dumps may fail in a row before anybody is told.
const QUIETLY: u32 = 5;

/// Bytes of unread messages that the kernel holds for us, where `net.core.rmem_max` allows.
const RECEIVE_BUFFER: usize = 4 << 20;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Netlink does not answer.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The kernel refuses a netlink socket; check seccomp and the limit of open files.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel did not list interfaces, addresses or routes.
    #[error("cannot list interfaces, addresses and routes")]
    Dump(#[source] rtnetlink::Error),
    /// The socket was closed under us; the monitor has to be started again.
    #[error("netlink socket closed")]
    Closed,
}

/// A table that follows the kernel.
pub struct LinkMonitor {
    table: LinkTable,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    dump: Handle,
    resync_at: Instant,
    /// Dumps that failed since one did not.
    failures: u32,
    tasks: [JoinHandle<()>; 2],
}

impl LinkMonitor {
    /// Subscribes, then lists: nothing is missed in between.
    pub async fn start() -> Result<Self, MonitorError> {
        let (mut events, _, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(MonitorError::Socket)?;
        if let Err(error) = events
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER)
        {
            debug!(%error, "Netlink receive buffer stays at its default");
        }
        let (requests, dump, _) = rtnetlink::new_connection().map_err(MonitorError::Socket)?;
        let tasks = [tokio::spawn(events), tokio::spawn(requests)];
        let mut monitor = Self {
            table: LinkTable::default(),
            messages,
            dump,
            resync_at: Instant::now() + RESYNC,
            failures: 0,
            tasks,
        };
        monitor.table = read(&monitor.dump).await.map_err(MonitorError::Dump)?;
        Ok(monitor)
    }

    /// What the kernel has, as of the last change reported.
    #[must_use]
    pub fn table(&self) -> &LinkTable {
        &self.table
    }

    /// Waits until something is different. May be dropped at any time: what was taken in by then is in the table, but is not reported again; a dump
    /// that was under way starts anew at the next call.
    pub async fn changed(&mut self) -> Result<(), MonitorError> {
        loop {
            // Before the messages: a flood of them must not put off the dump that an overrun asks for.
            let effect = if Instant::now() >= self.resync_at {
                self.resync().await
            } else {
                tokio::select! {
                    message = self.messages.next() => match message {
                        Some((message, _)) => self.take(&message),
                        None => return Err(MonitorError::Closed),
                    },
                    () = tokio::time::sleep_until(self.resync_at) => continue,
                }
            };
            if effect != Effect::Nothing {
                return Ok(());
            }
        }
    }

    /// Applies a message and all that are there already.
    fn take(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Effect {
        let mut all = self.take_one(message);
        while let Some(Some((message, _))) = self.messages.next().now_or_never() {
            let effect = self.take_one(&message);
            if all == Effect::Nothing {
                all = effect;
            }
        }
        all
    }

    fn take_one(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Effect {
        match &message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                let effect = self.table.apply(inner, message.header.flags);
                if effect == Effect::Doubtful {
                    self.resync_at = self.resync_at.min(Instant::now() + DOUBT);
                }
                effect
            }
            NetlinkPayload::Overrun(_) => {
                debug!("Kernel dropped netlink messages, listing everything");
                self.resync_at = Instant::now();
                Effect::Nothing
            }
            _ => Effect::Nothing,
        }
    }

    async fn resync(&mut self) -> Effect {
        // The only place to wait, and so to be dropped, while the dump is still due.
        let result = read(&self.dump).await;
        self.resync_at = Instant::now() + RESYNC;
        match result {
            Ok(table) => {
                self.failures = 0;
                let before = std::mem::replace(&mut self.table, table);
                while let Some(Some((message, _))) = self.messages.next().now_or_never() {
                    self.take_one(&message);
                }
                if self.table == before {
                    Effect::Nothing
                } else {
                    Effect::Changed
                }
            }
            // The kernel gives a list up that changes under its hands (EBUSY): while pods come and go, that is no news.
            Err(error) if self.failures < QUIETLY => {
                debug!(%error, "Listing interfaces and routes again");
                self.failures += 1;
                self.resync_at = Instant::now() + DOUBT;
                Effect::Nothing
            }
            Err(error) => {
                warn!(%error, "Listing interfaces and routes failed, the last state stays in force");
                self.resync_at = Instant::now() + RETRY;
                Effect::Nothing
            }
        }
    }
}

impl Drop for LinkMonitor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn read(handle: &Handle) -> Result<LinkTable, rtnetlink::Error> {
    let mut table = LinkTable::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        table.apply(&RouteNetlinkMessage::NewLink(link), 0);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        table.apply(&RouteNetlinkMessage::NewAddress(address), 0);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await? {
            table.apply(&RouteNetlinkMessage::NewRoute(route), 0);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_machine_has_a_loopback_interface() {
        let monitor = LinkMonitor::start().await.unwrap();
        assert!(
            monitor
                .table()
                .links()
                .values()
                .any(|link| link.loopback && link.name == "lo")
        );
    }
}
