//! One request and its answer on a connection of its own.
//!
//! Answers of the service are small and have a length; one that ends with its connection is taken too. Chunks are not: nothing that we ask for comes in them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{MOST_BODY, UpstreamError, WITHIN};

/// The longest head, in bytes.
const MOST_HEAD: usize = 8 * 1024;
const MOST_HEADERS: usize = 64;
/// One byte more than can be right.
const MOST: usize = MOST_HEAD + MOST_BODY + 1;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Where the body begins.
    ends: usize,
    status: u16,
    length: Option<usize>,
}

/// Sends `request` to `at`; the body of an answer with status 200.
pub(super) async fn exchange(
    at: SocketAddr,
    request: &str,
) -> Result<Zeroizing<String>, UpstreamError> {
    let answer = timeout(WITHIN, talk(at, request)).await;
    answer.map_err(|_elapsed| UpstreamError::Timeout)?
}

async fn talk(at: SocketAddr, request: &str) -> Result<Zeroizing<String>, UpstreamError> {
    let mut stream = TcpStream::connect(at)
        .await
        .map_err(UpstreamError::Unreachable)?;
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(UpstreamError::Unreachable)?;
    let mut stream = stream.take(MOST as u64);
    // Room for everything: it may hold keys, and a buffer that grows leaves its old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST));
    let mut head = None;
    loop {
        if head.is_none() {
            head = read_head(&bytes)?;
        }
        match head {
            None if bytes.len() > MOST_HEAD => return Err(UpstreamError::TooLong),
            None => {}
            Some(Head { status, .. }) if status != 200 => {
                return Err(UpstreamError::Status(status));
            }
            Some(head) => {
                let wanted = head.length.unwrap_or(0);
                let have = bytes.len() - head.ends;
                if wanted.max(have) > MOST_BODY {
                    return Err(UpstreamError::TooLong);
                }
                if head.length.is_some() && have >= wanted {
                    return text(&bytes[head.ends..head.ends + wanted]);
                }
            }
        }
        let read = stream
            .read_buf(&mut *bytes)
            .await
            .map_err(UpstreamError::Unreachable)?;
        if read == 0 {
            return match head {
                Some(head) if head.length.is_none() => text(&bytes[head.ends..]),
                _ => Err(UpstreamError::Malformed),
            };
        }
    }
}

/// The head at the beginning of `bytes`; none while it is not complete.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, UpstreamError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(bytes)
        .map_err(|_error| UpstreamError::Malformed)?;
    let httparse::Status::Complete(ends) = parsed else {
        return Ok(None);
    };
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(UpstreamError::Malformed);
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let is_number = header.value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(header.value)
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|_| is_number);
            if number.is_none() || length.is_some() {
                return Err(UpstreamError::Malformed);
            }
            length = number;
        }
    }
    Ok(Some(Head {
        ends,
        status: response.code.ok_or(UpstreamError::Malformed)?,
        length,
    }))
}

fn text(body: &[u8]) -> Result<Zeroizing<String>, UpstreamError> {
    let text = std::str::from_utf8(body).map_err(|_error| UpstreamError::Malformed)?;
    Ok(Zeroizing::new(text.to_owned()))
}
