//! Numbered traffic: datagrams at a steady rate whose answers are counted, streams that carry numbers back and forth, connections that must fail.
//!
//! The lab's listeners echo, so a number that comes back has passed both ways.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client;

/// How long a single exchange may take before it counts as cut.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits for an answer that must not come.
const DENIED: Duration = Duration::from_millis(400);

/// What a stream of datagrams came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams sent.
    pub sent: u32,
    /// Those without an answer.
    pub lost: BTreeSet<u32>,
}

/// Datagrams on one flow, one every two milliseconds, until they are stopped.
#[derive(Debug)]
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

impl Datagrams {
    /// Starts them from a namespace.
    #[must_use]
    pub fn start(from: &NetNs, to: SocketAddr) -> Self {
        let socket = datagram_socket(from, to);
        socket.set_nonblocking(true).expect("a socket takes flags");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || pump(&socket, &stopped));
        Self { stop, thread }
    }

    /// Stops them; what has not been answered a second later is lost.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sender has not panicked")
    }
}

fn pump(socket: &UdpSocket, stopped: &AtomicBool) -> Tally {
    let (mut sent, mut lost) = (0, BTreeSet::new());
    let mut next = Instant::now();
    while !stopped.load(Ordering::Relaxed) {
        // A denied datagram is sent all the same; some paths report it.
        let _ = socket.send(&u32::to_be_bytes(sent));
        lost.insert(sent);
        sent += 1;
        collect(socket, &mut lost);
        next += Duration::from_millis(2);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while !lost.is_empty() && Instant::now() < deadline {
        collect(socket, &mut lost);
        thread::sleep(Duration::from_millis(1));
    }
    Tally { sent, lost }
}

/// Takes the numbers off the list that have come back.
fn collect(socket: &UdpSocket, lost: &mut BTreeSet<u32>) {
    let mut buffer = [0; 256];
    while let Ok(length) = socket.recv(&mut buffer) {
        let number = buffer[..length].last_chunk().copied();
        lost.remove(&u32::from_be_bytes(
            number.expect("an echo ends in its number"),
        ));
    }
}

/// A connected UDP socket in a namespace.
#[must_use]
pub fn datagram_socket(from: &NetNs, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let socket = from.run(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket)
    });
    socket.expect("a socket opens")
}

/// A TCP connection to one of the lab's listeners.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    next: u64,
}

impl Stream {
    /// Opens it and reads the listener's greeting.
    #[must_use]
    pub fn open(from: &NetNs, to: SocketAddr) -> Self {
        let socket = client::connect_tcp(from, to, PATIENCE)
            .unwrap_or_else(|error| panic!("no connection to {to}: {error:#}"));
        socket.set_nodelay(true).expect("a socket takes flags");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket takes time-outs");
        let mut byte = [0];
        while byte[0] != b'\n' {
            (&socket)
                .read_exact(&mut byte)
                .expect("the listener greets");
        }
        Self { socket, next: 0 }
    }

    /// Sends the next number and waits for it to come back.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.next += 1;
        self.socket.write_all(&self.next.to_be_bytes())?;
        let mut echo = [0; 8];
        self.socket.read_exact(&mut echo)?;
        assert_eq!(u64::from_be_bytes(echo), self.next, "echoes come in order");
        Ok(())
    }

    /// Demands that it works.
    pub fn works(&mut self) {
        self.exchange().expect("an allowed connection carries data");
    }

    /// Demands that it does not.
    pub fn is_cut(&mut self) {
        self.socket
            .set_read_timeout(Some(DENIED))
            .expect("a socket takes time-outs");
        let error = self
            .exchange()
            .expect_err("a cut connection carries nothing");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    }
}

/// A stream that carries numbers back and forth until it is stopped.
#[derive(Debug)]
pub struct Conversation {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u64>>,
}

impl Conversation {
    /// Goes on with an open stream.
    #[must_use]
    pub fn start(mut stream: Stream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                stream.exchange()?;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(stream.next)
        });
        Self { stop, thread }
    }

    /// How many numbers it carried; none may have failed.
    #[must_use]
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join().expect("the stream has not panicked");
        result.expect("an allowed connection stays open")
    }
}

/// Whether a TCP connection opens.
#[must_use]
pub fn connects(from: &NetNs, to: SocketAddr) -> bool {
    client::banner(from, to, PATIENCE).is_ok()
}

/// Whether a TCP connection does not open in the time that an allowed one needs by far.
#[must_use]
pub fn is_denied(from: &NetNs, to: SocketAddr) -> bool {
    client::connect_tcp(from, to, DENIED).is_err()
}

/// Whether a datagram is answered.
#[must_use]
pub fn answers(from: &NetNs, to: SocketAddr) -> bool {
    client::udp_exchange(from, to, b"?", PATIENCE).is_ok()
}

/// Whether a datagram is not answered in the time that an allowed one needs by far.
#[must_use]
pub fn is_unanswered(from: &NetNs, to: SocketAddr) -> bool {
    client::udp_exchange(from, to, b"?", DENIED).is_err()
}
