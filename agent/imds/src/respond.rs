//! The tables: which request of which pod is answered with what. Pure: no socket, no clock, no waiting.
//!
//! What has to be waited for is said in the answer, and the question is put again: whose pod it is ([`Answer::Undecided`]), whether a web-identity token is
//! good ([`Answer::Prove`]), what the keys of a role are ([`Answer::Fetch`], then [`issue`]).

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::caller::{Assigned, Attachment, Caller, Pod};
use crate::credentials::{Outcome, utc};
use crate::facts;
use crate::listener::Surface;
use crate::metrics::{Class, ImdsVersion};
use crate::reason::Reason;
use crate::request::{Field, Method, Request};
use crate::response::{Extra, Response};
use crate::role::RoleArn;
use crate::route::Route;
use crate::token::{self, Keys};

/// Whether instance metadata answers without a session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImdsV1 {
    /// Never.
    #[default]
    Deny,
    /// To pods that may ([`Pod::imds_v1`]).
    ByPod,
}

/// What a web-identity token turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Signed by this cluster, in its time, for us, and of the connection's pod.
    Good,
    /// No web-identity token.
    Malformed,
    /// Expired, not signed by this cluster, or for somebody else.
    Bad,
    /// Another pod's.
    Foreign,
    /// The cluster's keys are not at hand.
    Unavailable,
}

/// Everything besides the request that an answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Where it was asked.
    pub surface: Surface,
    /// Whose connection it is.
    pub attachment: Attachment,
    /// What is known of that pod.
    pub caller: &'a Caller,
    /// What session tokens are made with.
    pub keys: &'a Keys,
    /// Whether session tokens are needed.
    pub imds_v1: ImdsV1,
    /// Now.
    pub now: Timestamp,
    /// Never the same twice: goes into a session token.
    pub nonce: [u8; 16],
    /// What a web-identity token turned out to be, once that was asked for.
    pub proof: Option<Proof>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Answer<'a> {
    /// Send this.
    Reply(Response),
    /// Wait until the caller is decided and ask again; send this if that takes too long.
    Undecided(Response),
    /// Have this web-identity token checked and ask again.
    Prove(&'a str),
    /// Get the role's keys and [`issue`] them.
    Fetch(&'a RoleArn),
}

/// What a request is about, for counters.
#[must_use]
pub fn class(route: &Route) -> Class {
    match route {
        Route::Token => Class::Token,
        Route::Listing => Class::Listing,
        Route::Credentials(_) | Route::Container => Class::Credentials,
        Route::Info => Class::Info,
        Route::Versions | Route::Tree(_) => Class::Metadata,
        Route::Nowhere => Class::Other,
    }
}

/// How instance metadata is asked, for counters.
#[must_use]
pub fn imds_version(surface: Surface, request: &Request) -> ImdsVersion {
    match (surface, &request.route, &request.token) {
        (Surface::Ecs | Surface::Eks, ..) => ImdsVersion::Neither,
        (Surface::Imds, Route::Token, _) => ImdsVersion::V2,
        (Surface::Imds, _, Field::Absent) => ImdsVersion::V1,
        (Surface::Imds, ..) => ImdsVersion::V2,
    }
}

/// Answers `request`.
#[must_use]
pub fn respond<'a>(request: &'a Request, situation: &Situation<'a>) -> Answer<'a> {
    let answered = match situation.surface {
        Surface::Imds => metadata(request, situation),
        Surface::Ecs | Surface::Eks => container(request, situation),
    };
    answered.unwrap_or_else(|refusal| match refusal.reason {
        Some(Reason::Undecided) => Answer::Undecided(refusal),
        _ => Answer::Reply(refusal),
    })
}

/// Answers a request for keys with what came of asking for them. Keys that have ended are none.
#[must_use]
pub fn issue(surface: Surface, outcome: &Outcome, now: Timestamp) -> Response {
    match (outcome, surface) {
        (Outcome::Ready(credentials), _) if credentials.expiration <= now => {
            Response::refuse(surface, Reason::SourceFailing)
        }
        (Outcome::Ready(credentials), Surface::Imds) => {
            Response::json(credentials.metadata_document())
        }
        (Outcome::Ready(credentials), Surface::Ecs | Surface::Eks) => {
            Response::json(credentials.container_document())
        }
        // As the real service does it: SDKs show the code and the message.
        (Outcome::Denied { code, message }, Surface::Imds) => Response {
            reason: Some(Reason::RoleDenied),
            ..json(
                &serde_json::json!({ "Code": code, "Message": message, "LastUpdated": utc(now) }),
            )
        },
        (Outcome::Denied { code, message }, Surface::Ecs | Surface::Eks) => {
            Response::error(Reason::RoleDenied, code, message)
        }
        (Outcome::Nothing { message }, _) => {
            Response::refuse_because(surface, Reason::NoRole, message)
        }
        (Outcome::Transient, _) => Response::refuse(surface, Reason::SourceFailing),
    }
}

/// 1. the session token's own path, which waits for nothing, 2. the method, 3. the session token, 4. the pod, 5. the path.
fn metadata<'a>(request: &'a Request, situation: &Situation<'a>) -> Result<Answer<'a>, Response> {
    if request.route == Route::Token {
        return give_token(request, situation).map(Answer::Reply);
    }
    check_method(request, situation)?;
    check_token(request, situation)?;
    if request.route == Route::Nowhere {
        return Err(situation.refuse(Reason::Nothing));
    }
    let pod = situation.pod()?;
    Ok(match &request.route {
        Route::Listing => Answer::Reply(Response::text(situation.role(pod)?.name())),
        Route::Credentials(name) => {
            let role = situation.role(pod)?;
            if !role.is_asked_for_by(name) {
                return Err(situation.refuse(Reason::ForeignRole));
            }
            Answer::Fetch(role)
        }
        Route::Info => Answer::Reply(info(situation.role(pod)?, situation.now)),
        Route::Versions if readable(pod).next().is_some() => {
            Answer::Reply(Response::text("1.0/\nlatest/"))
        }
        Route::Tree(path) => match tree(path, pod) {
            Ok(response) => Answer::Reply(response),
            Err(reason) => return Err(situation.refuse(reason)),
        },
        Route::Versions if pod.facts.is_expected("") => {
            return Err(situation.refuse(Reason::FactPending));
        }
        Route::Versions | Route::Token | Route::Container | Route::Nowhere => {
            return Err(situation.refuse(Reason::Nothing));
        }
    })
}

/// 1. the path, 2. the method, 3. the web-identity token's form, 4. the pod, 5. the token itself, 6. the role.
fn container<'a>(request: &'a Request, situation: &Situation<'a>) -> Result<Answer<'a>, Response> {
    let refuse = |reason| Err(situation.refuse(reason));
    if request.route != Route::Container {
        return refuse(Reason::Nothing);
    }
    check_method(request, situation)?;
    let token = match &request.authorization {
        Field::Absent if situation.surface == Surface::Ecs => None,
        Field::Absent => return refuse(Reason::NoWebIdentity),
        Field::Once(value) => match web_identity(value.expose()) {
            None => return refuse(Reason::MalformedWebIdentity),
            token => token,
        },
        Field::Twice => return refuse(Reason::MalformedWebIdentity),
    };
    let pod = situation.pod()?;
    match (token, situation.proof) {
        (None, _) | (Some(_), Some(Proof::Good)) => Ok(Answer::Fetch(situation.role(pod)?)),
        (Some(token), None) => Ok(Answer::Prove(token)),
        (Some(_), Some(Proof::Malformed)) => refuse(Reason::MalformedWebIdentity),
        (Some(_), Some(Proof::Bad)) => refuse(Reason::BadWebIdentity),
        (Some(_), Some(Proof::Foreign)) => refuse(Reason::ForeignWebIdentity),
        (Some(_), Some(Proof::Unavailable)) => refuse(Reason::KeysUnavailable),
    }
}

impl<'a> Situation<'a> {
    fn refuse(&self, reason: Reason) -> Response {
        Response::refuse(self.surface, reason)
    }

    fn pod(&self) -> Result<&'a Pod, Response> {
        match self.caller {
            Caller::Undecided => Err(self.refuse(Reason::Undecided)),
            Caller::Known(pod) => Ok(pod),
        }
    }

    fn role(&self, pod: &'a Pod) -> Result<&'a RoleArn, Response> {
        let (reason, why) = match &pod.role {
            Assigned::Role(role) => return Ok(role),
            Assigned::None(why) => (Reason::NoRole, why),
            Assigned::Refused(why) => (Reason::RoleRefused, why),
        };
        Err(Response::refuse_because(self.surface, reason, why))
    }
}

/// What is nowhere has no methods.
fn check_method(request: &Request, situation: &Situation<'_>) -> Result<(), Response> {
    match (request.method, &request.route) {
        (Method::Get | Method::Head, _) => Ok(()),
        (Method::Put | Method::Other, Route::Nowhere) => Err(situation.refuse(Reason::Nothing)),
        (Method::Put | Method::Other, _) => Err(not_allowed(situation.surface, "GET, HEAD")),
    }
}

fn not_allowed(surface: Surface, methods: &'static str) -> Response {
    Response {
        extra: Extra::Allow(methods),
        ..Response::refuse(surface, Reason::Method)
    }
}

/// At once, whoever it is: a token that is slow or refused makes SDKs fall back to v1, or fail.
fn give_token(request: &Request, situation: &Situation<'_>) -> Result<Response, Response> {
    if request.method != Method::Put {
        return Err(not_allowed(situation.surface, "PUT"));
    }
    if request.forwarded {
        return Err(situation.refuse(Reason::Forwarded));
    }
    let asked = match &request.ttl {
        Field::Once(text) => token::ttl(text.expose()),
        Field::Absent | Field::Twice => None,
    };
    let Some(ttl_secs) = asked else {
        return Err(situation.refuse(Reason::BadTtl));
    };
    let token = situation.keys.mint(
        situation.attachment,
        ttl_secs,
        situation.now,
        situation.nonce,
    );
    Ok(Response {
        extra: Extra::TokenTtl(ttl_secs),
        ..Response::text(token)
    })
}

/// A wrong token is worse than none: it is refused even to those who need none.
fn check_token(request: &Request, situation: &Situation<'_>) -> Result<(), Response> {
    let refusal = match (&request.token, situation.imds_v1) {
        (Field::Once(token), _) => {
            (!situation
                .keys
                .is_good(token.expose(), situation.attachment, situation.now))
            .then_some(Reason::BadToken)
        }
        (Field::Twice, _) => Some(Reason::BadToken),
        (Field::Absent, ImdsV1::Deny) => Some(Reason::NoToken),
        (Field::Absent, ImdsV1::ByPod) => (!situation.pod()?.imds_v1).then_some(Reason::NoToken),
    };
    refusal.map_or(Ok(()), |reason| Err(situation.refuse(reason)))
}

/// The three parts of a JWT. SDKs send it bare; `Bearer` in front is tolerated.
fn web_identity(value: &str) -> Option<&str> {
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        Some(_) => return None,
        None => value,
    };
    let mut parts = 0;
    let is_part = |part: &str| {
        parts += 1;
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (token.split('.').all(is_part) && parts == 3).then_some(token)
}

fn info(role: &RoleArn, now: Timestamp) -> Response {
    json(&serde_json::json!({
        "Code": "Success",
        "LastUpdated": utc(now),
        "InstanceProfileArn": role.instance_profile_arn(),
        "InstanceProfileId": role.instance_profile_id(),
    }))
}

/// Every path that `pod` may read. A role's name stands for what lies below the listing.
fn readable(pod: &Pod) -> impl Iterator<Item = &str> {
    let role = match pod.role {
        Assigned::Role(_) => [
            "meta-data/iam/info",
            "meta-data/iam/security-credentials/name",
        ]
        .as_slice(),
        Assigned::None(_) | Assigned::Refused(_) => &[],
    };
    pod.facts.paths().chain(role.iter().copied())
}

/// A value, or what a folder has so far. Where the only thing that could be here is not known yet, the client is to ask again.
fn tree(path: &str, pod: &Pod) -> Result<Response, Reason> {
    let Some(fact) = pod.facts.value(path) else {
        let listing = facts::listing(path, readable(pod)).map(Response::text);
        return listing.ok_or(if pod.facts.is_expected(path) {
            Reason::FactPending
        } else {
            Reason::Nothing
        });
    };
    Ok(if fact.is_json {
        Response::json(Zeroizing::new(fact.text.clone().into_bytes()))
    } else {
        Response::text(fact.text.clone())
    })
}

fn json(value: &serde_json::Value) -> Response {
    Response::json(Zeroizing::new(value.to_string().into_bytes()))
}

#[cfg(test)]
mod tests;
