//! The agent's socket, spoken by hand: HTTP/1.1 over a Unix socket needs no library, and none of the agent's code.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header, lower case.
    pub head: String,
    /// Body, as text.
    pub body: String,
}

/// One request, and its whole answer within `limit`.
pub fn request(socket: &Path, method: &str, path: &str, limit: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: portcullis\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// A GET.
pub fn get(socket: &Path, path: &str) -> io::Result<Answer> {
    request(socket, "GET", path, Duration::from_secs(10))
}

/// `GET /v1/status`, read.
pub fn status(socket: &Path) -> io::Result<Value> {
    Ok(serde_json::from_str(&get(socket, "/v1/status")?.body)?)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_lowercase();
    let body = if head.contains("transfer-encoding: chunked") {
        joined(body)?
    } else {
        body.to_owned()
    };
    Some(Answer { status, head, body })
}

/// The chunks of a body without their lengths.
fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let text =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = parse(text).expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }
}
