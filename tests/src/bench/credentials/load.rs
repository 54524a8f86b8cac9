//! The client: so many kept connections from a pod's namespace, each with one request at a time, as fast as answers come.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_lab::NetNs;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What is asked, and what must come back.
pub(super) struct Load {
    pub(super) to: SocketAddr,
    pub(super) request: Vec<u8>,
    pub(super) status: u16,
}

/// What came of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Answers a second.
    pub(super) rate: f64,
    /// Microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Load {
    /// One thread, as both targets have it.
    pub(super) fn run(&self, from: &NetNs, connections: usize, each: Duration) -> Result<Figures> {
        from.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(self.ask(connections, each))
        })
    }

    async fn ask(&self, connections: usize, each: Duration) -> Result<Figures> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (to, request, status) = (self.to, self.request.clone(), self.status);
            tasks.spawn(async move { connection(to, &request, status, start + each).await });
        }
        let mut nanos: Vec<u32> = Vec::new();
        while let Some(done) = tasks.join_next().await {
            nanos.extend(done.context("a connection ended")??);
        }
        let took = start.elapsed().as_secs_f64();
        ensure!(nanos.len() > 100, "{} answers are too few", nanos.len());
        nanos.sort_unstable();
        let at = |share: f64| f64::from(nanos[(nanos.len() as f64 * share) as usize]) / 1e3;
        Ok(Figures {
            rate: nanos.len() as f64 / took,
            p50: at(0.5),
            p99: at(0.99),
        })
    }
}

/// Asks until the end; the time of each answer. Both targets close behind a thousand requests; then a new connection follows, which is not counted.
async fn connection(to: SocketAddr, request: &[u8], status: u16, end: Instant) -> Result<Vec<u32>> {
    let mut nanos = Vec::new();
    let wanted = format!("HTTP/1.1 {status} ");
    let mut buffer = Vec::with_capacity(8192);
    'connect: while Instant::now() < end {
        let mut stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        while Instant::now() < end {
            let start = Instant::now();
            if stream.write_all(request).await.is_err() {
                continue 'connect;
            }
            buffer.clear();
            let closes = loop {
                match stream.read_buf(&mut buffer).await {
                    // It may close between two requests; what was asked then is asked again.
                    Ok(0) | Err(_) if buffer.is_empty() => continue 'connect,
                    Ok(0) => bail!("{to} closed within an answer"),
                    Err(error) => return Err(error).context("reading an answer"),
                    Ok(_) => {}
                }
                if let Some(closes) = whole(&buffer) {
                    break closes;
                }
            };
            nanos.push(start.elapsed().as_nanos() as u32);
            ensure!(
                buffer.starts_with(wanted.as_bytes()),
                "{}",
                String::from_utf8_lossy(&buffer)
            );
            if closes {
                continue 'connect;
            }
        }
    }
    Ok(nanos)
}

/// Whether an answer is whole, and if so, whether its connection ends.
fn whole(bytes: &[u8]) -> Option<bool> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let header = |name: &str| {
        text.split("\r\n").find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    let length: usize = header("content-length")?.parse().ok()?;
    (bytes.len() >= head + 4 + length)
        .then(|| header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")))
}
