//! An answer, and the bytes that it is on the wire: head and body in one piece, so that they leave in one write.

use std::fmt;
use std::io::Write as _;

use jiff::Timestamp;
use serde_json::json;
use zeroize::Zeroizing;

use crate::listener::Surface;
use crate::reason::Reason;

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `text/plain`, without a line end at its end.
    Text,
    /// `application/json`.
    Json,
}

/// A header that only some answers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// None.
    None,
    /// `Allow`.
    Allow(&'static str),
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    TokenTtl(u32),
    /// `Retry-After: 1`.
    RetryAfter,
}

/// An answer.
pub struct Response {
    /// The status.
    pub status: u16,
    /// Why it is not what was asked for.
    pub reason: Option<Reason>,
    /// The form of the body.
    pub form: Form,
    /// The body. May be credentials: wiped when dropped, not in `Debug`.
    pub body: Zeroizing<Vec<u8>>,
    /// One more header.
    pub extra: Extra,
}

/// What becomes of the connection behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request may follow.
    KeepAlive,
    /// It is closed.
    Close,
}

impl Response {
    /// Status 200 and a text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::ok(Form::Text, Zeroizing::new(text.into().into_bytes()))
    }

    /// Status 200 and JSON.
    #[must_use]
    pub fn json(body: Zeroizing<Vec<u8>>) -> Self {
        Self::ok(Form::Json, body)
    }

    fn ok(form: Form, body: Zeroizing<Vec<u8>>) -> Self {
        Self {
            status: 200,
            reason: None,
            form,
            body,
            extra: Extra::None,
        }
    }

    /// Says no: a line of text, or what container SDKs read.
    #[must_use]
    pub fn refuse(surface: Surface, reason: Reason) -> Self {
        Self::refuse_because(surface, reason, "")
    }

    /// Says no, and more of why.
    #[must_use]
    pub fn refuse_because(surface: Surface, reason: Reason, why: &str) -> Self {
        let mut line = format!("portcullis: {}", reason.text());
        if !why.is_empty() {
            line.push_str(": ");
            line.extend(why.chars().filter(|letter| !letter.is_control()).take(200));
        }
        match surface {
            Surface::Imds => Self::line(reason, line),
            Surface::Ecs | Surface::Eks => Self::error(reason, code(reason.status()), &line),
        }
    }

    fn line(reason: Reason, line: String) -> Self {
        Self {
            status: reason.status(),
            reason: Some(reason),
            extra: retry_after(reason),
            ..Self::text(line)
        }
    }

    /// Says no in the words of container SDKs.
    #[must_use]
    pub fn error(reason: Reason, code: &str, message: &str) -> Self {
        let body = json!({ "Code": code, "Message": message }).to_string();
        Self {
            status: reason.status(),
            reason: Some(reason),
            extra: retry_after(reason),
            ..Self::json(Zeroizing::new(body.into_bytes()))
        }
    }

    /// The bytes on the wire. A `HEAD` gets the same head and no body.
    #[must_use]
    pub fn encode(&self, is_head: bool, then: Then, now: Timestamp) -> Zeroizing<Vec<u8>> {
        // More than any head has, so that a body with keys is never moved.
        let mut bytes = Zeroizing::new(Vec::with_capacity(512 + self.body.len()));
        let form = match self.form {
            Form::Text => "text/plain",
            Form::Json => "application/json",
        };
        let extra = match self.extra {
            Extra::None => String::new(),
            Extra::Allow(methods) => format!("Allow: {methods}\r\n"),
            Extra::TokenTtl(secs) => format!("X-aws-ec2-metadata-token-ttl-seconds: {secs}\r\n"),
            Extra::RetryAfter => "Retry-After: 1\r\n".to_owned(),
        };
        let connection = match then {
            Then::KeepAlive => "keep-alive",
            Then::Close => "close",
        };
        write!(
            bytes,
            "HTTP/1.1 {} {}\r\nServer: EC2ws\r\nContent-Type: {form}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nDate: {}\r\n{extra}Connection: {connection}\r\n\r\n",
            self.status,
            phrase(self.status),
            self.body.len(),
            now.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        )
        .expect("a vector takes what is written");
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Response")
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("extra", &self.extra)
            .finish_non_exhaustive()
    }
}

fn retry_after(reason: Reason) -> Extra {
    if reason.status() == 503 {
        Extra::RetryAfter
    } else {
        Extra::None
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}

/// The `Code` of a container error.
fn code(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "AccessDenied",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        414 => "TargetTooLong",
        417 => "ExpectationFailed",
        431 => "HeadTooLarge",
        _ => "ServiceUnavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "1994-11-06T08:49:37.9Z".parse().expect("a time")
    }

    fn encoded(response: &Response, is_head: bool, then: Then) -> String {
        String::from_utf8(response.encode(is_head, then, now()).to_vec()).expect("UTF-8")
    }

    #[test]
    fn an_answer_is_its_head_and_its_body() {
        assert_eq!(
            encoded(&Response::text("app"), false, Then::KeepAlive),
            "HTTP/1.1 200 OK\r\nServer: EC2ws\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nCache-Control: no-store\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\n\r\napp"
        );
    }

    #[test]
    fn a_head_has_the_length_of_the_body_that_it_leaves_out() {
        let with_body = encoded(&Response::text("app"), false, Then::Close);
        assert_eq!(
            with_body,
            encoded(&Response::text("app"), true, Then::Close) + "app"
        );
    }

    #[test]
    fn a_temporary_refusal_says_when_to_come_back() {
        let refusal = encoded(
            &Response::refuse(Surface::Eks, Reason::Undecided),
            false,
            Then::Close,
        );
        assert!(refusal.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(
            refusal.contains("\r\nContent-Type: application/json\r\n")
                && refusal.contains("\r\nRetry-After: 1\r\n")
        );
        assert!(refusal.ends_with(r#"{"Code":"ServiceUnavailable","Message":"portcullis: this pod is not known yet, try again"}"#));
    }

    #[test]
    fn why_stays_on_one_line() {
        let refusal = Response::refuse_because(Surface::Imds, Reason::NoRole, "a\r\nb: c\0");
        assert_eq!(
            refusal.body.as_slice(),
            b"portcullis: this pod has no role: ab: c"
        );
    }

    #[test]
    fn a_response_prints_no_body() {
        assert!(!format!("{:?}", Response::text("hidden")).contains("hidden"));
    }

    #[test]
    fn no_head_outgrows_its_buffer() {
        for reason in Reason::ALL {
            for surface in [Surface::Imds, Surface::Eks] {
                let response = Response {
                    extra: Extra::TokenTtl(21600),
                    ..Response::refuse(surface, reason)
                };
                assert!(response.encode(true, Then::KeepAlive, now()).len() < 512);
            }
        }
    }
}
