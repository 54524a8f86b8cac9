//! From the bytes of a head to a request that was checked, or to why it is refused.
//!
//! One reader: what it finds is what is answered, and nothing is handed on to another that could read it differently. It is stricter than HTTP wherever
//! two readers are known to differ, because the clients are SDKs and `curl`, which need none of it. A refused request ends its connection: where the next one
//! begins would be a guess.

use httparse::{EMPTY_HEADER, Error, Header, Status};

use crate::listener::{Hosts, Surface};
use crate::reason::Reason;
use crate::route::{LONGEST_TARGET, Route};
use crate::secret::Secret;

/// The most header lines.
pub const MOST_HEADERS: usize = 64;
/// Longer than any method there is.
const LONGEST_METHOD: usize = 32;
/// The method, the target, the version, and what stands between them.
const LONGEST_LINE: usize = LONGEST_METHOD + LONGEST_TARGET + " HTTP/1.1  ".len();

/// A method, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`: as `GET`, without the body.
    Head,
    /// `PUT`.
    Put,
    /// Any other.
    Other,
}

/// A header that may be there once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// It is not there.
    Absent,
    /// Its value. One that is no ASCII text is empty, which nothing takes for good.
    Once(Secret),
    /// It is there more than once.
    Twice,
}

/// A request without anything that could make two readers differ.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// What is asked for.
    pub route: Route,
    /// `X-aws-ec2-metadata-token`.
    pub token: Field,
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    pub ttl: Field,
    /// `Authorization`.
    pub authorization: Field,
    /// Whether there is an `X-Forwarded-For`.
    pub forwarded: bool,
    /// Whether the client wants to ask again on this connection.
    pub keep_alive: bool,
}

/// How much of a head has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Its end has not.
    Part,
    /// All of it: so many bytes.
    Whole(usize),
}

/// Finds the end of the head at the start of `bytes`, of which the first `known` were looked at before. What can only be refused is refused before it ends.
pub fn extent(bytes: &[u8], known: usize, surface: Surface) -> Result<Extent, Reason> {
    let from = known.saturating_sub(3).min(bytes.len());
    if let Some(end) = find(&bytes[from..], b"\r\n\r\n") {
        return Ok(Extent::Whole(from + end + 4));
    }
    match find(&bytes[..bytes.len().min(LONGEST_LINE + 2)], b"\r\n") {
        Some(0) => Err(Reason::BadHead),
        Some(line) if bytes.len() - (line + 2) > surface.header_limit() => {
            Err(Reason::HeadTooLarge)
        }
        Some(line) => line_so_far(&bytes[..line]),
        None => line_so_far(bytes),
    }
}

/// Judges as much of a request line as there is: its method, and how long its target is by now.
fn line_so_far(bytes: &[u8]) -> Result<Extent, Reason> {
    let method = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    let behind = &bytes[method..];
    let is_method = match behind.first() {
        None => method <= LONGEST_METHOD,
        Some(b' ') => (1..=LONGEST_METHOD).contains(&method),
        Some(_) => false,
    };
    let target = behind
        .iter()
        .skip(1)
        .take_while(|byte| **byte != b' ')
        .count();
    if !is_method {
        Err(Reason::BadHead)
    } else if target > LONGEST_TARGET {
        Err(Reason::TargetTooLong)
    } else if bytes.len() > LONGEST_LINE {
        Err(Reason::BadHead)
    } else {
        Ok(Extent::Part)
    }
}

impl Request {
    /// Reads a whole head.
    ///
    /// 1. lines and characters, 2. sizes, 3. headers that say where a request ends, 4. the target, 5. `Host`. The first that is wrong is the reason.
    pub fn read(head: &[u8], hosts: &Hosts) -> Result<Self, Reason> {
        let surface = hosts.service().surface();
        if has_bare_line_end(head) {
            return Err(Reason::BadHead);
        }
        let line = find(head, b"\r\n").ok_or(Reason::BadHead)?;
        let mut space = [EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut space);
        match parsed.parse(head) {
            Ok(Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Reason::BadHead),
            Err(Error::TooManyHeaders) => return Err(Reason::HeadTooLarge),
            Err(_) => {
                return Err(line_so_far(&head[..line]).err().unwrap_or(Reason::BadHead));
            }
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Reason::BadHead);
        };
        // Leading empty lines, which httparse skips, are no part of a request here.
        if !head.starts_with(method.as_bytes())
            || !method.bytes().all(|byte| byte.is_ascii_uppercase())
        {
            return Err(Reason::BadHead);
        }
        if head.len() - (line + 2) > surface.header_limit() {
            return Err(Reason::HeadTooLarge);
        }
        let headers = Headers(parsed.headers);
        headers.refuse_bodies()?;
        let keep_alive = headers.keep_alive(minor)?;
        let route = Route::find(surface, target)?;
        headers.check_host(minor, hosts)?;
        Ok(Self {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "PUT" => Method::Put,
                _ => Method::Other,
            },
            route,
            token: headers.field("x-aws-ec2-metadata-token"),
            ttl: headers.field("x-aws-ec2-metadata-token-ttl-seconds"),
            authorization: headers.field("authorization"),
            forwarded: headers.all("x-forwarded-for").next().is_some(),
            keep_alive,
        })
    }
}

struct Headers<'a>(&'a [Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    fn field(&self, name: &'static str) -> Field {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (None, _) => Field::Absent,
            (Some(value), None) => {
                let value = std::str::from_utf8(value).unwrap_or_default().trim_ascii();
                Field::Once(Secret::new(
                    if value.is_ascii() { value } else { "" }.to_owned(),
                ))
            }
            (Some(_), Some(_)) => Field::Twice,
        }
    }

    /// Everything that says, or could be read to say, that more than the head belongs to the request.
    fn refuse_bodies(&self) -> Result<(), Reason> {
        let mut lengths = self.all("content-length");
        let no_body = match (lengths.next(), lengths.next()) {
            (None, _) => true,
            (Some(length), None) => length == b"0",
            (Some(_), Some(_)) => false,
        };
        if !no_body || self.all("transfer-encoding").next().is_some() {
            Err(Reason::Body)
        } else if self.all("upgrade").next().is_some()
            || self.all("http2-settings").next().is_some()
        {
            Err(Reason::Upgrade)
        } else if self.all("expect").next().is_some() {
            Err(Reason::Expect)
        } else {
            Ok(())
        }
    }

    /// What `Connection` asks for. HTTP/1.1 goes on unless told otherwise, HTTP/1.0 ends. Options that name other headers are for proxies: refused.
    fn keep_alive(&self, minor: u8) -> Result<bool, Reason> {
        let (mut close, mut keep) = (false, minor == 1);
        for option in self
            .all("connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
        {
            match option.trim_ascii().to_ascii_lowercase().as_slice() {
                b"close" => close = true,
                b"keep-alive" => keep = true,
                b"te" | b"" => {}
                _ => return Err(Reason::Upgrade),
            }
        }
        Ok(keep && !close)
    }

    fn check_host(&self, minor: u8, hosts: &Hosts) -> Result<(), Reason> {
        let mut values = self.all("host");
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Reason::TwoHosts),
            (None, _) if minor == 0 => Ok(()),
            (None, _) => Err(Reason::NoHost),
            (Some(host), None) => match std::str::from_utf8(host) {
                Ok(host) if hosts.admits(host) => Ok(()),
                _ => Err(Reason::ForeignHost),
            },
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A carriage return or a line feed without the other: some readers take it for the end of a line.
fn has_bare_line_end(head: &[u8]) -> bool {
    let before = std::iter::once(&0).chain(head);
    let after = head.iter().skip(1).chain(std::iter::once(&0));
    head.iter()
        .zip(before.zip(after))
        .any(|(byte, (before, after))| {
            (*byte == b'\n' && *before != b'\r') || (*byte == b'\r' && *after != b'\n')
        })
}

#[cfg(test)]
mod tests;
