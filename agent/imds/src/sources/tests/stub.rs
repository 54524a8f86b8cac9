//! STS and EKS Auth as tests need them: each role answers by a script, every call is kept, and what AWS would refuse is refused.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::jwt;
use crate::role::RoleArn;

/// What a call is answered with. Without one: credentials of an hour.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// An error, by status and code.
    Error(u16, &'static str),
    /// Credentials, after a while.
    After(Duration),
    /// Credentials that live so long.
    Life(i64),
    /// No answer: the connection is reset.
    Reset,
    /// An answer that is none.
    Nonsense,
}

/// A call as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// `Action`, or the path of a REST request.
    pub(super) action: String,
    pub(super) host: String,
    pub(super) authorization: String,
    /// Of a form; of a REST request its body under `body`.
    pub(super) fields: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    calls: Mutex<Vec<Call>>,
    scripts: Mutex<HashMap<String, VecDeque<Step>>>,
    /// What EKS Auth says of every service account; nothing is associated without it.
    associated: Mutex<Option<String>>,
    connections: AtomicUsize,
}

/// The stub. It ends with its runtime.
#[derive(Clone)]
pub(super) struct Stub {
    pub(super) url: String,
    state: Arc<State>,
}

impl Stub {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::<State>::default();
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { url, state }
    }

    /// What calls for this role are answered with, one after the other; `eks-auth` for EKS Auth.
    pub(super) fn script(&self, role: &str, steps: impl IntoIterator<Item = Step>) {
        let mut scripts = self.state.scripts.lock().expect("one test");
        scripts.entry(role.to_owned()).or_default().extend(steps);
    }

    pub(super) fn associate(&self, role: &str) {
        *self.state.associated.lock().expect("one test") = Some(role.to_owned());
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().expect("one test").clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    while let Some((call, path)) = read(&mut stream).await {
        let is_rest = !call.fields.contains_key("Action");
        let role = call
            .fields
            .get("RoleArn")
            .and_then(|arn| arn.rsplit('/').next())
            .unwrap_or("eks-auth")
            .to_owned();
        let number = {
            let mut calls = state.calls.lock().expect("one test");
            calls.push(call.clone());
            calls.len()
        };
        let step = state
            .scripts
            .lock()
            .expect("one test")
            .get_mut(&role)
            .and_then(VecDeque::pop_front);
        let mut life = 3600;
        let (status, body) = match step {
            Some(Step::Reset) => {
                let _ = stream.set_zero_linger();
                return;
            }
            Some(Step::Nonsense) => (200, "<<<".to_owned()),
            Some(Step::Error(status, code)) => (status, refusal(is_rest, code)),
            other => {
                match other {
                    Some(Step::After(pause)) => tokio::time::sleep(pause).await,
                    Some(Step::Life(secs)) => life = secs,
                    _ => {}
                }
                if is_rest {
                    let associated = state.associated.lock().expect("one test").clone();
                    rest(&call, &path, associated, number, life)
                } else {
                    query(&call, number, life)
                }
            }
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nx-amzn-RequestId: request-{number}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<(Call, String)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length")?.parse().ok()?;
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[head..].to_vec()).ok()?;
    let path = text.split(' ').nth(1)?.to_owned();
    let fields: HashMap<String, String> = if path == "/" {
        body.split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect()
    } else {
        HashMap::from([("body".to_owned(), body)])
    };
    let call = Call {
        action: fields.get("Action").unwrap_or(&path).clone(),
        host: header("host").unwrap_or_default(),
        authorization: header("authorization").unwrap_or_default(),
        fields,
    };
    Some((call, path))
}

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or("00");
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8(out).unwrap_or_default()
}

fn refusal(is_rest: bool, code: &str) -> String {
    if is_rest {
        return format!(r#"{{"__type":"com.amazonaws.eksauth#{code}","message":"by script"}}"#);
    }
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>by script</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
}

/// The limits of the STS API reference; none says that the call is good.
fn wrong(call: &Call) -> Option<&'static str> {
    let field = |name: &str| call.fields.get(name).map_or("", String::as_str);
    let name = field("RoleSessionName");
    let of_names = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let tags = call
        .fields
        .keys()
        .filter(|key| key.starts_with("Tags.member.") && key.ends_with(".Key"))
        .count();
    let too_long = |prefix: &str, most: usize| {
        call.fields.iter().any(|(key, value)| {
            key.starts_with("Tags.") && key.ends_with(prefix) && value.len() > most
        })
    };
    let duration: i64 = field("DurationSeconds").parse().unwrap_or(3600);
    let id = field("ExternalId");
    if RoleArn::parse(field("RoleArn")).is_err()
        || !(2..=64).contains(&name.len())
        || !name.chars().all(of_names)
        || !(900..=43200).contains(&duration)
        || tags > 50
        || too_long(".Key", 128)
        || too_long(".Value", 256)
        || (!id.is_empty() && !(2..=1224).contains(&id.len()))
    {
        return Some("ValidationError");
    }
    if field("Policy").len() > 2048 {
        return Some("PackedPolicyTooLarge");
    }
    let is_web = call.action == "AssumeRoleWithWebIdentity";
    if is_web {
        let Ok(claims) = jwt::claims(field("WebIdentityToken")) else {
            return Some("InvalidIdentityToken");
        };
        if !claims.is_for("sts.amazonaws.com") {
            return Some("InvalidIdentityToken");
        }
        if !claims.is_in_time(Timestamp::now()) {
            return Some("ExpiredTokenException");
        }
    }
    // Web identity is never signed, AssumeRole always.
    (is_web != call.authorization.is_empty()).then_some("AccessDenied")
}

fn query(call: &Call, number: usize, life: i64) -> (u16, String) {
    if let Some(code) = wrong(call) {
        return (400, refusal(false, code));
    }
    let action = &call.action;
    let end = Timestamp::now() + Duration::from_secs(life as u64);
    let arn = &call.fields["RoleArn"];
    let body = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>secret-{number}</SecretAccessKey>\
         <SessionToken>token-{number}</SessionToken><Expiration>{}</Expiration></Credentials>\
         <AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>AROA:x</AssumedRoleId></AssumedRoleUser>\
         </{action}Result><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>",
        crate::credentials::utc(end)
    );
    (200, body)
}

fn rest(
    call: &Call,
    path: &str,
    associated: Option<String>,
    number: usize,
    life: i64,
) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_str(&call.fields["body"]).unwrap_or_default();
    let refuse = |status, code| (status, refusal(true, code));
    if path != "/clusters/blue/assume-role-for-pod-identity" {
        return refuse(404, "ResourceNotFoundException");
    }
    let scope = "/eu-west-1/eks-auth/aws4_request";
    if !call
        .authorization
        .starts_with("AWS4-HMAC-SHA256 Credential=own/")
        || !call.authorization.contains(scope)
    {
        return refuse(403, "AccessDeniedException");
    }
    let Ok(claims) = jwt::claims(body["token"].as_str().unwrap_or_default()) else {
        return refuse(400, "InvalidTokenException");
    };
    if !claims.is_for(jwt::POD_IDENTITY_AUDIENCE) {
        return refuse(400, "InvalidTokenException");
    }
    if !claims.is_in_time(Timestamp::now()) {
        return refuse(400, "ExpiredTokenException");
    }
    let Some(role) = associated else {
        return refuse(404, "ResourceNotFoundException");
    };
    let expiration = Timestamp::now().as_second() + life;
    let body = serde_json::json!({
        "subject": {"namespace": "shop", "serviceAccount": "api"},
        "audience": jwt::POD_IDENTITY_AUDIENCE,
        "podIdentityAssociation": {"associationArn": "arn:aws:eks:x", "associationId": "a-1"},
        "assumedRoleUser": {
            "arn": format!("arn:aws:sts::123456789012:assumed-role/{role}/eks-blue-web"),
            "assumeRoleId": "AROA:x",
        },
        "credentials": {
            "accessKeyId": format!("ASIA{number}"),
            "secretAccessKey": "secret",
            "sessionToken": "token",
            "expiration": expiration as f64 + 0.5,
        },
    });
    (200, body.to_string())
}
