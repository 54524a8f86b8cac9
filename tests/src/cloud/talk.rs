//! A pod's connection to a guarded address, spoken by hand and kept for as many requests as a test likes.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use portcullis_lab::NetNs;
use portcullis_lab::client::{HttpAnswer, connect_tcp};

use super::{LISTING, TOKEN, TTL};

/// An open connection.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
    host: String,
    /// What came behind an answer.
    rest: Vec<u8>,
}

impl Talk {
    /// Connects from a namespace to port 80 of a guarded address.
    pub fn open(from: &NetNs, to: IpAddr, patience: Duration) -> io::Result<Self> {
        let at = SocketAddr::new(to, 80);
        let stream = connect_tcp(from, at, patience).map_err(io::Error::other)?;
        Self::over(stream, to, patience)
    }

    /// The same from the namespace of the calling thread.
    pub fn open_here(to: IpAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(to, 80), patience)?;
        Self::over(stream, to, patience)
    }

    fn over(stream: TcpStream, to: IpAddr, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        // A mapped address stands for the IPv4 one.
        let host = match to.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Ok(Self {
            stream,
            host,
            rest: Vec::new(),
        })
    }

    /// A request, and its answer.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<HttpAnswer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request.extend([*name, ": ", *value, "\r\n"]);
        }
        request.push_str("\r\n");
        self.stream.write_all(request.as_bytes())?;
        self.answer()
    }

    /// The next answer.
    pub fn answer(&mut self) -> io::Result<HttpAnswer> {
        let mut room = [0; 4096];
        loop {
            if let Some((answer, length)) = parse(&self.rest)? {
                self.rest.drain(..length);
                return Ok(answer);
            }
            match self.stream.read(&mut room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.rest.extend_from_slice(&room[..read]),
            }
        }
    }

    /// The socket, for what else can be done with it.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// What an SDK does: session token, listing, credentials. The listing's answer if it names no role.
    pub fn dance(&mut self) -> io::Result<Danced> {
        let start = Instant::now();
        let token = self.ask("PUT", "/latest/api/token", &[(TTL, "21600")])?;
        if token.status != 200 {
            return Ok(Danced::ended(token, start));
        }
        let with = [(TOKEN, token.body.as_str())];
        let listing = self.ask("GET", LISTING, &with)?;
        if listing.status != 200 {
            return Ok(Danced::ended(listing, start));
        }
        let path = format!("{LISTING}{}", listing.body);
        Ok(Danced {
            role: Some(listing.body),
            ..Danced::ended(self.ask("GET", &path, &with)?, start)
        })
    }
}

/// How a dance ended.
#[derive(Debug, Clone)]
pub struct Danced {
    /// The role of the listing.
    pub role: Option<String>,
    /// The last answer.
    pub answer: HttpAnswer,
    /// How long it took.
    pub took: Duration,
}

impl Danced {
    fn ended(answer: HttpAnswer, start: Instant) -> Self {
        Self {
            role: None,
            answer,
            took: start.elapsed(),
        }
    }
}

/// An answer at the start of these bytes, and how long it is.
fn parse(bytes: &[u8]) -> io::Result<Option<(HttpAnswer, usize)>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let text = std::str::from_utf8(&bytes[..head]).map_err(io::Error::other)?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().ok())?
    });
    let (status, length) = status.zip(length).ok_or_else(wrong)?;
    let end = head + 4 + length;
    Ok(bytes.get(head + 4..end).map(|body| {
        let body = String::from_utf8_lossy(body).into_owned();
        (HttpAnswer { status, body }, end)
    }))
}
