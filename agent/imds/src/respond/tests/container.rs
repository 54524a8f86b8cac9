//! The container addresses, and what becomes of keys on each surface.

use super::*;
use crate::credentials::{ASSUME_ROLE_UNAUTHORIZED, Credentials};
use crate::role::SourceKind;
use crate::secret::Secret;

#[test]
fn what_came_of_asking_for_keys_is_answered() {
    let ready = |expiration: &str| {
        Outcome::Ready(Arc::new(Credentials {
            access_key_id: "ASIAEXAMPLE".to_owned(),
            secret_access_key: Secret::new("key".to_owned()),
            token: Secret::new("token".to_owned()),
            expiration: expiration.parse().expect("a time"),
            last_updated: now(),
            account_id: "123456789012".to_owned(),
            request_id: None,
            source: SourceKind::TokenRequest,
            role: None,
        }))
    };
    let denied = Outcome::Denied {
        code: ASSUME_ROLE_UNAUTHORIZED.to_owned(),
        message: "STS said \"no\"\r\nX: y".to_owned(),
    };
    let issued = |surface, outcome: &Outcome| {
        let response = issue(surface, outcome, now());
        (
            response.status,
            String::from_utf8(response.body.to_vec()).expect("UTF-8"),
        )
    };
    let later = ready("2026-11-22T13:00:00Z");
    assert!(
        issued(Surface::Imds, &later)
            .1
            .starts_with(r#"{"Code":"Success""#)
    );
    assert!(
        issued(Surface::Eks, &later)
            .1
            .starts_with(r#"{"AccessKeyId":"ASIAEXAMPLE""#)
    );
    assert_eq!(
        issued(Surface::Imds, &denied),
        (200, r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"STS said \"no\"\r\nX: y","LastUpdated":"2026-11-22T12:00:00Z"}"#.to_owned())
    );
    let (status, text) = issued(Surface::Ecs, &denied);
    assert!(
        status == 404 && text.starts_with(r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":""#)
    );
    for surface in [Surface::Imds, Surface::Ecs, Surface::Eks] {
        assert_eq!(issued(surface, &Outcome::Transient).0, 503);
        assert_eq!(
            issued(surface, &ready("2026-11-22T12:00:00Z")).0,
            503,
            "they have ended"
        );
    }
}

#[test]
fn container_addresses_answer_their_own_path_alone() {
    let eks = |line: &str, headers: &str, proof| {
        ask_with(
            Service::EksV4,
            line,
            headers,
            &with_role(),
            ImdsV1::Deny,
            proof,
        )
    };
    let arn = || Got::Fetches("arn:aws:iam::123456789012:role/team/app".to_owned());
    let (line, token) = ("GET /v1/credentials", "Authorization: aa.bb-c.d_d\r\n");
    assert_eq!(
        eks(line, token, None),
        Got::Proves("aa.bb-c.d_d".to_owned())
    );
    assert_eq!(
        eks(line, "Authorization: Bearer aa.bb-c.d_d\r\n", None),
        Got::Proves("aa.bb-c.d_d".to_owned())
    );
    assert_eq!(eks(line, token, Some(Proof::Good)), arn());
    for (proof, expected) in [
        (Proof::Malformed, 400),
        (Proof::Bad, 401),
        (Proof::Foreign, 403),
        (Proof::Unavailable, 503),
    ] {
        assert_eq!(status(&eks(line, token, Some(proof))), expected);
    }
    let malformed = [
        "",
        "a.b",
        "a..c",
        "a.b.c.d",
        "a.b.c=",
        "Basic a.b.c",
        "a.b.c d",
    ];
    for value in malformed {
        assert_eq!(
            status(&eks(
                line,
                &format!("Authorization: {value}\r\n"),
                Some(Proof::Good)
            )),
            400,
            "{value}"
        );
    }
    assert_eq!(status(&eks(line, &token.repeat(2), Some(Proof::Good))), 400);
    assert_eq!(
        eks(line, "", None),
        said(
            400,
            r#"{"Code":"BadRequest","Message":"portcullis: the Authorization header is missing"}"#
        )
    );
    assert_eq!(status(&eks("POST /v1/credentials", token, None)), 405);
    assert_eq!(status(&eks("GET /latest/meta-data", token, None)), 404);
    let ecs = |line: &str, headers: &str| {
        ask_with(
            Service::Ecs,
            line,
            headers,
            &with_role(),
            ImdsV1::Deny,
            None,
        )
    };
    assert_eq!(ecs("GET /v2/credentials/self", ""), arn());
    assert_eq!(ecs("GET /v1/credentials", ""), arn());
    assert_eq!(
        ecs("GET /v1/credentials", token),
        Got::Proves("aa.bb-c.d_d".to_owned())
    );
    assert_eq!(
        status(&ecs("GET /v1/credentials", "Authorization: x\r\n")),
        400
    );
    let nobody = |caller: &Caller| {
        ask_with(
            Service::Ecs,
            "GET /v1/credentials",
            "",
            caller,
            ImdsV1::Deny,
            None,
        )
    };
    assert_eq!(
        (
            status(&nobody(&without_role())),
            status(&nobody(&refused()))
        ),
        (404, 404)
    );
    assert_eq!(nobody(&Caller::Undecided), Got::Held(503));
}
