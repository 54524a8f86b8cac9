//! The path of a request, as records show it: as it was sent, escaped, cut, and without what might be a secret in the wrong place.

/// No path in a record is longer.
pub const LONGEST_PATH: usize = 128;

/// A segment that is longer is no name of a role: whoever puts a token there does not find it in a log.
const LONGEST_SEGMENT: usize = 64;

/// The start of a request's target. Made of every request, so it is copied and nothing more.
#[derive(Clone, Copy)]
pub struct Target {
    bytes: [u8; LONGEST_PATH],
    length: usize,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            bytes: [0; LONGEST_PATH],
            length: 0,
        }
    }
}

impl Target {
    /// Of a head, whole or not. Behind `?` and `#` nothing is kept.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        let mut target = Self::default();
        let behind = head
            .iter()
            .skip_while(|byte| byte.is_ascii_uppercase())
            .skip(1);
        for byte in behind.take(LONGEST_PATH) {
            if byte.is_ascii_whitespace() || matches!(byte, b'?' | b'#') {
                break;
            }
            target.bytes[target.length] = *byte;
            target.length += 1;
        }
        target
    }

    /// As it was sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// As records show it.
    #[must_use]
    pub fn text(&self) -> String {
        let segments = self.as_bytes().split(|byte| *byte == b'/').map(|segment| {
            if segment.len() > LONGEST_SEGMENT {
                "<long>".to_owned()
            } else {
                segment.escape_ascii().to_string()
            }
        });
        let mut text = segments.collect::<Vec<_>>().join("/");
        // Escapes are ASCII.
        text.truncate(LONGEST_PATH);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &[u8]) -> String {
        Target::of(head).text()
    }

    #[test]
    fn a_path_is_shown_without_its_query_and_escaped() {
        assert_eq!(
            text(b"GET /latest/meta-data/ HTTP/1.1\r\n"),
            "/latest/meta-data/"
        );
        assert_eq!(text(b"GET /a?token=hidden HTTP/1.1\r\n"), "/a");
        assert_eq!(text(b"GET /a\"\x01\xff HTTP/1.1"), "/a\\\"\\x01\\xff");
        assert_eq!(text(b"GET\r\nHost: x"), "");
        assert_eq!(text(b""), "");
        assert_eq!(text(b"\x16\x03\x01"), "\\x03\\x01");
    }

    #[test]
    fn what_is_long_enough_to_be_a_token_is_not_shown() {
        let token = "A".repeat(80);
        assert_eq!(
            text(format!("GET /latest/{token}/x HTTP/1.1").as_bytes()),
            "/latest/<long>/x"
        );
        let name = "r".repeat(64);
        let head = format!("GET /latest/{name} HTTP/1.1");
        assert_eq!(text(head.as_bytes()), format!("/latest/{name}"));
        let odd = format!("GET /{} HTTP/1.1", "\u{1}".repeat(60));
        assert_eq!(text(odd.as_bytes()).len(), LONGEST_PATH);
    }
}
