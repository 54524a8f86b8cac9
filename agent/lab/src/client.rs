//! Small clients that act from inside a namespace: they block, they have a time-out, and nothing of them stays behind.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::netns::NetNs;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Opens a TCP connection from `namespace`. The stream may be used from anywhere.
pub fn connect_tcp(namespace: &NetNs, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    namespace.run(|| Ok(TcpStream::connect_timeout(&to, timeout)?))
}

/// Opens a TCP connection and reads the line with which a lab's listener names itself.
pub fn banner(namespace: &NetNs, to: SocketAddr, timeout: Duration) -> Result<String> {
    let stream = connect_tcp(namespace, to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while (&stream).read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Sends one datagram from `namespace` and waits for the answer.
pub fn udp_exchange(
    namespace: &NetNs,
    to: SocketAddr,
    payload: &[u8],
    timeout: Duration,
) -> Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = namespace.run(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(payload)?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// One HTTP/1.1 request from `namespace`, without redirects and without keep-alive.
pub fn http(
    namespace: &NetNs,
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    timeout: Duration,
) -> Result<HttpAnswer> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect_tcp(namespace, to, timeout)?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
        host(to.ip())
    );
    for (name, value) in headers {
        request.extend([*name, ": ", *value, "\r\n"]);
    }
    request.push_str("\r\n");
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("{to} answered without an end of header")
    };
    let Some(status) = head.split(' ').nth(1).and_then(|code| code.parse().ok()) else {
        bail!("{to} answered without a status")
    };
    Ok(HttpAnswer {
        status,
        body: body.to_owned(),
    })
}

/// Opens a connection again and again until it succeeds; the time it took.
pub fn until_connected(namespace: &NetNs, to: SocketAddr, deadline: Duration) -> Result<Duration> {
    let start = Instant::now();
    loop {
        // A lost SYN is sent again by the kernel after a second; a new connection every few milliseconds measures finer.
        match connect_tcp(namespace, to, Duration::from_millis(20)) {
            Ok(_) => return Ok(start.elapsed()),
            Err(error) if start.elapsed() > deadline => {
                return Err(error.context(format!("no connection to {to} in {deadline:?}")));
            }
            Err(_) => {}
        }
    }
}

/// A mapped address is spoken to by the name of the one that it stands for.
fn host(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
