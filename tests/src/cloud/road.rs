//! The way from the responder to STS: as slow as a test wants, with a count of what went over it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client::connect_tcp;

use crate::scene::{SOON, ip};

/// Its port on the node's loopback interface.
const PORT: u16 = 5001;
/// Parts of one request come closer together than this, requests on a kept connection do not.
const PAUSE: Duration = Duration::from_millis(20);

/// A road that is open. Dropping it closes it to newcomers.
#[derive(Debug)]
pub struct Road {
    shared: Arc<Shared>,
    at: SocketAddr,
}

#[derive(Debug, Default)]
struct Shared {
    delay_micros: AtomicU64,
    requests: AtomicU64,
    closed: AtomicBool,
}

impl Road {
    /// A road to a port of the node's loopback interface.
    #[must_use]
    pub fn to(node: &NetNs, port: u16) -> Self {
        let at: SocketAddr = (ip("127.0.0.1"), PORT).into();
        let to: SocketAddr = (ip("127.0.0.1"), port).into();
        let listener = node.run(|| Ok(TcpListener::bind(at)?));
        let listener = listener.expect("the port is free");
        let node = NetNs::open(node.path()).expect("the node is there");
        let shared = Arc::<Shared>::default();
        let open = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if open.closed.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(far) = connect_tcp(&node, to, SOON) else {
                    continue;
                };
                let shared = Arc::clone(&open);
                thread::spawn(move || shared.carry(near, far));
            }
        });
        Self { shared, at }
    }

    /// Where it begins.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// How long requests take on it from now on.
    pub fn delay(&self, delay: Duration) {
        let micros = delay.as_micros() as u64;
        self.shared.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// Requests that went over it so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        // Its thread sees this at the next connection, or ends with the process; the port goes with the namespace.
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Both ways, until one end has had enough.
    fn carry(&self, near: TcpStream, far: TcpStream) {
        let back = near
            .try_clone()
            .and_then(|near| Ok((far.try_clone()?, near)));
        let Ok((from, to)) = back else { return };
        thread::spawn(move || pump(from, to, || ()));
        let mut last: Option<Instant> = None;
        pump(near, far, || {
            if last.is_none_or(|last| last.elapsed() > PAUSE) {
                self.requests.fetch_add(1, Ordering::Relaxed);
                let delay = self.delay_micros.load(Ordering::Relaxed);
                thread::sleep(Duration::from_micros(delay));
            }
            last = Some(Instant::now());
        });
    }
}

/// Copies, with `before` before each part.
fn pump(mut from: TcpStream, mut to: TcpStream, mut before: impl FnMut()) {
    let mut room = [0; 16 * 1024];
    let mut step = || -> io::Result<bool> {
        let read = from.read(&mut room)?;
        if read > 0 {
            before();
            to.write_all(&room[..read])?;
        }
        Ok(read > 0)
    };
    while step().unwrap_or(false) {}
    // Either may be closed already.
    let _ = to.shutdown(Shutdown::Write);
}
