//! The stand-in metadata service: enough of EC2's, ECS's and EKS's endpoints for a thief to believe it.
//!
//! IMDS versions 1 and 2, the list of roles, the node role's credentials; ECS task and EKS Pod Identity credentials. Every key says that it is fake. One pure
//! function answers; it counts what it was asked, because "the real service saw nothing" is what the guard's tests assert.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Mutex;

use portcullis_common::{addr, guard};
use serde::Serialize;
use serde_json::json;

/// The node role that is there to be stolen.
pub const NODE_ROLE: &str = "portcullis-lab-node-role";
/// Its access key id.
pub const NODE_ACCESS_KEY: &str = "ASIALABNODEROLE00000";
/// Where EC2 lists the roles.
pub const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";
/// Where EC2 gives session tokens.
pub const TOKEN_PATH: &str = "/latest/api/token";
const SESSION_TOKEN: &str = "LAB-IMDS-SESSION-TOKEN";

/// A request as the stand-in saw it. Paths only, never tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The address that was asked.
    pub to: IpAddr,
    /// Who asked.
    pub from: IpAddr,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// What was answered.
    pub status: u16,
}

/// A request's head, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

/// The service and its memory.
#[derive(Debug, Default)]
pub struct Metadata {
    seen: Mutex<Vec<Seen>>,
    log: Option<Mutex<File>>,
}

impl Metadata {
    /// A service that also writes each request as a line of JSON to `log`.
    #[must_use]
    pub fn logging_to(log: File) -> Self {
        Self {
            seen: Mutex::default(),
            log: Some(Mutex::new(log)),
        }
    }

    /// Everything it was asked at the guarded addresses.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .map(|seen| seen.clone())
            .unwrap_or_default()
    }

    /// The bytes that answer `head`, asked at `to` by `from`.
    pub fn answer(&self, head: &Head, to: IpAddr, from: IpAddr) -> Vec<u8> {
        let guarded = is_guarded(to);
        let (status, body) = if guarded {
            respond(head, to)
        } else {
            (200, format!("outside {to}\n"))
        };
        if guarded {
            let seen = Seen {
                to,
                from,
                method: head.method.clone(),
                path: head.path.clone(),
                status,
            };
            if let Some(log) = &self.log
                && let (Ok(mut log), Ok(line)) = (log.lock(), serde_json::to_string(&seen))
            {
                // The log is a convenience of `lab status`; the memory below is what tests read.
                let _ = writeln!(log, "{line}");
            }
            if let Ok(mut all) = self.seen.lock() {
                all.push(seen);
            }
        }
        let reason = if status == 200 { "OK" } else { "Refused" };
        let kind = if body.starts_with('{') {
            "application/json"
        } else {
            "text/plain"
        };
        let length = body.len();
        let mut answer = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nServer: portcullis-lab\r\n"
        );
        answer.push_str("Connection: close\r\n\r\n");
        answer.push_str(&body);
        answer.into_bytes()
    }
}

impl Head {
    /// Takes a head apart once it is complete; `None` while it is not.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, _) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Self {
            method,
            path,
            headers: headers.collect(),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Whether `address` is one of the guarded metadata addresses.
#[must_use]
pub fn is_guarded(address: IpAddr) -> bool {
    guard::is_metadata(&match address {
        IpAddr::V4(v4) => addr::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    })
}

fn respond(head: &Head, to: IpAddr) -> (u16, String) {
    let bytes = match to {
        IpAddr::V4(v4) => addr::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    match bytes {
        guard::IMDS_V4 | guard::IMDS_V6 => instance(head),
        guard::ECS_V4 => container(
            head,
            "ASIALABECSTASK000000",
            "arn:aws:iam::000000000000:role/portcullis-lab-task-role",
        ),
        _ => container(
            head,
            "ASIALABPODIDENTITY00",
            "arn:aws:sts::000000000000:assumed-role/portcullis-lab-pod-identity/lab",
        ),
    }
}

/// EC2: v2 with a session token, v1 without one.
fn instance(head: &Head) -> (u16, String) {
    if head.path == TOKEN_PATH {
        let ttl = head
            .header("x-aws-ec2-metadata-token-ttl-seconds")
            .and_then(|ttl| ttl.parse::<u32>().ok());
        return match (head.method.as_str(), ttl) {
            ("PUT", _) if head.header("x-forwarded-for").is_some() => (403, String::new()),
            ("PUT", Some(1..=21_600)) => (200, SESSION_TOKEN.into()),
            ("PUT", _) => (400, String::new()),
            _ => (405, String::new()),
        };
    }
    if head.method != "GET" {
        return (405, String::new());
    }
    if head
        .header("x-aws-ec2-metadata-token")
        .is_some_and(|token| token != SESSION_TOKEN)
    {
        return (401, String::new());
    }
    match head.path.as_str() {
        "/latest/meta-data/instance-id" => (200, "i-00000000000000lab".into()),
        "/latest/meta-data/placement/region" => (200, "eu-lab-1".into()),
        path if path == ROLES_PATH || path == ROLES_PATH.trim_end_matches('/') => (200, NODE_ROLE.into()),
        path if path.strip_prefix(ROLES_PATH) == Some(NODE_ROLE) => (
            200,
            json!({
                "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": NODE_ACCESS_KEY,
                "SecretAccessKey": "lab-fake-secret-of-the-node-role", "Token": "lab-fake-session-token", "Expiration": "2036-01-01T00:00:00Z",
            })
            .to_string(),
        ),
        _ => (404, String::new()),
    }
}

/// ECS task credentials and EKS Pod Identity: one document, whatever the path below `/v1` or `/v2`.
fn container(head: &Head, access_key: &str, role: &str) -> (u16, String) {
    if head.method != "GET" {
        return (405, String::new());
    }
    if !head.path.starts_with("/v1/credentials") && !head.path.starts_with("/v2/credentials") {
        return (404, String::new());
    }
    let body = json!({
        "RoleArn": role, "AccessKeyId": access_key, "SecretAccessKey": "lab-fake-secret-of-a-task", "Token": "lab-fake-session-token",
        "Expiration": "2036-01-01T00:00:00Z",
    });
    (200, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(service: &Metadata, to: &str, request: &str) -> String {
        let head = Head::parse(format!("{request}\r\n\r\n").as_bytes()).unwrap();
        let bytes = service.answer(&head, to.parse().unwrap(), "10.0.0.1".parse().unwrap());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn both_versions_give_the_node_role_and_a_wrong_token_does_not() {
        let service = Metadata::default();
        let roles = format!("GET {ROLES_PATH} HTTP/1.1");
        assert!(ask(&service, "169.254.169.254", &roles).ends_with(NODE_ROLE));
        let put = format!("PUT {TOKEN_PATH} HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60");
        assert!(ask(&service, "fd00:ec2::254", &put).ends_with(SESSION_TOKEN));
        let with = |token: &str| {
            format!("GET {ROLES_PATH}{NODE_ROLE} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}")
        };
        assert!(ask(&service, "169.254.169.254", &with(SESSION_TOKEN)).contains(NODE_ACCESS_KEY));
        assert!(ask(&service, "169.254.169.254", &with("guess")).starts_with("HTTP/1.1 401"));
        assert!(
            ask(&service, "169.254.170.23", "GET /v1/credentials HTTP/1.1").contains("PODIDENTITY")
        );
        assert!(ask(&service, "192.0.2.1", "GET / HTTP/1.1").ends_with("outside 192.0.2.1\n"));
        assert_eq!(
            service.seen().len(),
            5,
            "only guarded addresses are counted"
        );
    }

    #[test]
    fn a_head_is_complete_only_with_its_empty_line() {
        assert_eq!(Head::parse(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(Head::parse(b"\xff\xfe\r\n\r\n"), None);
    }
}
