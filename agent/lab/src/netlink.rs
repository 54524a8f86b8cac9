//! Route netlink by hand: requests as bytes, sent in batches, each one acknowledged.
//!
//! Blocking and without a runtime, because a lab is built before any runtime exists and a hundred pods want a thousand requests in a second. A netlink
//! socket belongs to the namespace it was opened in, whoever uses it later. It knows no verbs; `link` does.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const NLMSG_HEADER: usize = 16;
/// Acknowledgements of one batch must fit the receive buffer: about 1 KiB of kernel memory each, against 208 KiB by default.
const BATCH: usize = 64;

/// One request: what it is for (for error messages) and its bytes from the netlink header on.
#[derive(Debug, Clone)]
pub struct Request {
    purpose: String,
    bytes: Vec<u8>,
}

impl Request {
    /// A request of type `kind` with the fixed part `header` (`ifinfomsg`, `rtmsg`, ...) and `flags` beside `NLM_F_REQUEST | NLM_F_ACK`.
    #[must_use]
    pub fn new(purpose: impl Into<String>, kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Self {
            purpose: purpose.into(),
            bytes,
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    fn seal(&mut self, sequence: u32) {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// Appends an attribute with its padding; nested ones are attributes whose value was built by this function.
pub fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

/// A socket to the kernel's routing tables of one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )
        .context("opening a netlink socket")?;
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .context("setting the netlink time-out")?;
        Ok(Self {
            socket,
            sequence: 1,
        })
    }

    /// Sends `requests` in order; the first one that the kernel refuses is the error, after all were tried.
    pub fn send(&mut self, requests: Vec<Request>) -> Result<()> {
        let mut requests = requests;
        for batch in requests.chunks_mut(BATCH) {
            let first = self.sequence;
            let mut bytes = Vec::new();
            for request in batch.iter_mut() {
                request.seal(self.sequence);
                self.sequence += 1;
                bytes.extend_from_slice(&request.bytes);
            }
            (&self.socket)
                .write_all(&bytes)
                .context("sending to netlink")?;
            let mut pending = batch.len();
            let mut refused: Option<(usize, io::Error)> = None;
            while pending > 0 {
                self.receive(|kind, sequence, body| {
                    if i32::from(kind) != libc::NLMSG_ERROR || sequence < first {
                        return Ok(());
                    }
                    pending -= 1;
                    let index = (sequence - first) as usize;
                    if let Some(errno) = errno(body)
                        && refused.as_ref().is_none_or(|(earlier, _)| index < *earlier)
                    {
                        refused = Some((index, errno));
                    }
                    Ok(())
                })?;
            }
            if let Some((index, error)) = refused {
                let purpose = batch
                    .get(index)
                    .map_or("configuring the network", |request| {
                        request.purpose.as_str()
                    });
                return Err(error).context(purpose.to_owned());
            }
        }
        Ok(())
    }

    /// The index of the interface `name`, or `None` if there is none.
    pub fn index_of(&mut self, name: &str) -> Result<Option<u32>> {
        let value = CString::new(name).context("interface name with a zero byte")?;
        let request = Request::new(
            format!("finding interface {name}"),
            libc::RTM_GETLINK,
            0,
            &[0; 16],
        )
        .with(libc::IFLA_IFNAME, value.as_bytes_with_nul());
        let mut found = None;
        self.ask(request, libc::RTM_NEWLINK, |body| {
            found = body.get(4..8).and_then(word);
        })?;
        Ok(found)
    }

    /// Waits until the interface `index` can send.
    ///
    /// The end of a veth that is switched on first gets its carrier when the other end follows, but leaves the no-op queue, which drops everything,
    /// only when the kernel's link watch has run. Since 6.9 the question itself makes it run; before that it is a matter of milliseconds.
    pub fn wait_until_running(&mut self, index: u32) -> Result<()> {
        const OPERATIONAL: u8 = 6;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            let request = Request::new(
                format!("waiting for interface {index}"),
                libc::RTM_GETLINK,
                0,
                &header,
            );
            let mut state = None;
            self.ask(request, libc::RTM_NEWLINK, |body| {
                state = find(body.get(16..).unwrap_or_default(), libc::IFLA_OPERSTATE)
                    .and_then(|value| value.first().copied());
            })?;
            match state {
                Some(OPERATIONAL) => return Ok(()),
                _ if Instant::now() > deadline => {
                    bail!("interface {index} does not come up: its state is {state:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Waits until packets to `addresses`, which were just added, are delivered here.
    ///
    /// The kernel inserts the local route of an IPv6 address from a work queue, even without duplicate address detection.
    pub fn wait_until_all_local(&mut self, addresses: &[IpAddr]) -> Result<()> {
        addresses.iter().try_for_each(|address| match address {
            IpAddr::V4(_) => Ok(()),
            IpAddr::V6(address) => self.wait_until_local(*address),
        })
    }

    fn wait_until_local(&mut self, address: Ipv6Addr) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let header = [libc::AF_INET6 as u8, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let request = Request::new(
                format!("waiting for address {address}"),
                libc::RTM_GETROUTE,
                0,
                &header,
            )
            .with(libc::RTA_DST, &address.octets());
            let mut kind = None;
            self.ask(request, libc::RTM_NEWROUTE, |body| {
                kind = body.get(7).copied();
            })?;
            match kind {
                Some(libc::RTN_LOCAL) => return Ok(()),
                _ if Instant::now() > deadline => bail!("address {address} does not become local"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// The index of an interface that must be there.
    pub fn existing(&mut self, name: &str) -> Result<u32> {
        match self.index_of(name)? {
            Some(index) => Ok(index),
            None => bail!("interface {name} is not there"),
        }
    }

    /// Asks one question; `found` gets the body of the answer, a message of type `answer`, and is not called if there is no such thing.
    fn ask(
        &mut self,
        mut request: Request,
        answer: u16,
        mut found: impl FnMut(&[u8]),
    ) -> Result<()> {
        let sequence = self.sequence;
        self.sequence += 1;
        request.seal(sequence);
        (&self.socket)
            .write_all(&request.bytes)
            .context("sending to netlink")?;
        let mut answered = false;
        // The answer comes first, its acknowledgement after it.
        while !answered {
            self.receive(|kind, echoed, body| {
                if echoed == sequence && kind == answer {
                    found(body);
                } else if echoed == sequence && i32::from(kind) == libc::NLMSG_ERROR {
                    answered = true;
                    if let Some(error) =
                        errno(body).filter(|error| error.raw_os_error() != Some(libc::ENODEV))
                    {
                        return Err(error).context(request.purpose.clone());
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn receive(&self, mut each: impl FnMut(u16, u32, &[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0u8; 32 * 1024];
        let length = (&self.socket)
            .read(&mut buffer)
            .context("reading from netlink")?;
        let mut rest = &buffer[..length];
        while rest.len() >= NLMSG_HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            ensure!(
                (NLMSG_HEADER..=rest.len()).contains(&size),
                "netlink message with a false length"
            );
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
            each(kind, sequence, &rest[NLMSG_HEADER..size])?;
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

/// The error of an `NLMSG_ERROR` body; `None` for an acknowledgement.
fn errno(body: &[u8]) -> Option<io::Error> {
    let code = body
        .get(0..4)
        .and_then(word)
        .map_or(-libc::EIO, |code| code as i32);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// The value of the first attribute of type `kind`.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(0..2)?.try_into().ok()?));
        let this = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if this == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}
