use std::sync::Arc;

use super::*;
use crate::facts::{Facts, IdentityDocument};
use crate::listener::{Hosts, Service};

mod container;
mod crawl;
mod tokens;

const POD: Attachment = Attachment([1; 16]);
const ROLES: &str = "/latest/meta-data/iam/security-credentials";

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("a time")
}

fn keys() -> Keys {
    Keys::new(&[5; 32], None)
}

fn role() -> RoleArn {
    RoleArn::parse("arn:aws:iam::123456789012:role/team/app").expect("an ARN")
}

/// The table that is on by default.
fn facts() -> Facts {
    let mut facts = Facts::default();
    for (path, value) in [
        ("instance-id", "i-0123456789abcdef0"),
        ("instance-type", "m7g.large"),
        ("placement/region", "eu-west-1"),
        ("placement/availability-zone", "eu-west-1a"),
        ("placement/availability-zone-id", "euw1-az1"),
        ("services/domain", "amazonaws.com"),
        ("services/partition", "aws"),
    ] {
        facts
            .insert(&format!("meta-data/{path}"), value)
            .expect("a plain path");
    }
    facts.set_document(&IdentityDocument {
        account_id: "123456789012".to_owned(),
        architecture: "arm64".to_owned(),
        availability_zone: "eu-west-1a".to_owned(),
        instance_type: "m7g.large".to_owned(),
        region: "eu-west-1".to_owned(),
        version: "2017-09-30".to_owned(),
    });
    facts
}

fn known(role: Assigned) -> Caller {
    let pod = Pod {
        role,
        imds_v1: false,
        facts: Arc::new(facts()),
    };
    Caller::Known(Arc::new(pod))
}

fn with_role() -> Caller {
    known(Assigned::Role(role()))
}

fn without_role() -> Caller {
    known(Assigned::None("no annotation names one".to_owned()))
}

fn refused() -> Caller {
    known(Assigned::Refused(
        "its namespace does not allow it".to_owned(),
    ))
}

/// What an answer comes down to.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Said(u16, String),
    Held(u16),
    Proves(String),
    Fetches(String),
}

fn read(service: Service, line: &str, headers: &str) -> Request {
    let host = match service.address() {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    Request::read(head.as_bytes(), &Hosts::new(service, Vec::new())).expect("a plain request")
}

fn ask_with(
    service: Service,
    line: &str,
    headers: &str,
    caller: &Caller,
    v1: ImdsV1,
    proof: Option<Proof>,
) -> Got {
    let request = read(service, line, headers);
    let keys = keys();
    let situation = Situation {
        surface: service.surface(),
        attachment: POD,
        caller,
        keys: &keys,
        imds_v1: v1,
        now: now(),
        nonce: [3; 16],
        proof,
    };
    let body = |response: &Response| String::from_utf8(response.body.to_vec()).expect("UTF-8");
    match respond(&request, &situation) {
        Answer::Reply(response) => Got::Said(response.status, body(&response)),
        Answer::Undecided(response) => Got::Held(response.status),
        Answer::Prove(token) => Got::Proves(token.to_owned()),
        Answer::Fetch(role) => Got::Fetches(role.as_str().to_owned()),
    }
}

fn token_line() -> String {
    format!(
        "X-aws-ec2-metadata-token: {}\r\n",
        keys().mint(POD, 60, now(), [3; 16])
    )
}

/// Asks with a good session token.
fn ask(line: &str, caller: &Caller) -> Got {
    ask_with(
        Service::ImdsV4,
        line,
        &token_line(),
        caller,
        ImdsV1::Deny,
        None,
    )
}

fn said(status: u16, text: &str) -> Got {
    Got::Said(status, text.to_owned())
}

fn status(got: &Got) -> u16 {
    match got {
        Got::Said(status, _) | Got::Held(status) => *status,
        Got::Proves(_) | Got::Fetches(_) => 0,
    }
}

#[test]
fn the_listing_is_one_name_or_no_role_or_not_yet() {
    let line = format!("GET {ROLES}/");
    assert_eq!(ask(&line, &with_role()), said(200, "app"));
    assert_eq!(
        ask(&line, &without_role()),
        said(
            404,
            "portcullis: this pod has no role: no annotation names one"
        )
    );
    assert_eq!(
        ask(&line, &refused()),
        said(
            404,
            "portcullis: this pod's role was refused: its namespace does not allow it"
        )
    );
    assert_eq!(ask(&line, &Caller::Undecided), Got::Held(503));
}

#[test]
fn k5_a_pod_without_a_role_gets_404_and_no_empty_listing() {
    for caller in [
        without_role(),
        refused(),
        known(Assigned::None(String::new())),
    ] {
        for path in ["", "/", "/app", "/app/"] {
            assert_eq!(status(&ask(&format!("GET {ROLES}{path}"), &caller)), 404);
        }
        assert_eq!(status(&ask("GET /latest/meta-data/iam", &caller)), 404);
        assert_eq!(status(&ask("GET /latest/meta-data/iam/info", &caller)), 404);
        let Got::Said(200, listing) = ask("GET /latest/meta-data/", &caller) else {
            panic!("there are facts to list");
        };
        assert!(!listing.contains("iam"), "{listing}");
    }
}

#[test]
fn credentials_are_fetched_for_the_pods_own_role_by_any_of_its_names() {
    for name in [
        "app",
        "app/",
        "team/app",
        "arn:aws:iam::123456789012:role/team/app",
        "%61pp",
    ] {
        assert_eq!(
            ask(&format!("GET {ROLES}/{name}"), &with_role()),
            Got::Fetches("arn:aws:iam::123456789012:role/team/app".to_owned()),
            "{name}"
        );
    }
    for name in [
        "App",
        "app2",
        "other/app",
        "team/team/app",
        "arn:aws:iam::123456789012:role/app",
    ] {
        assert_eq!(
            ask(&format!("GET {ROLES}/{name}"), &with_role()),
            said(403, "portcullis: this is not this pod's role"),
            "{name}"
        );
    }
    assert_eq!(
        ask(&format!("GET {ROLES}/app"), &Caller::Undecided),
        Got::Held(503)
    );
    assert_eq!(status(&ask(&format!("HEAD {ROLES}/app"), &with_role())), 0);
}

#[test]
fn m6_a_refusal_of_policy_is_404_and_nothing_is_redirected() {
    assert_eq!(status(&ask(&format!("GET {ROLES}"), &refused())), 404);
    assert_eq!(
        ask(&format!("GET {ROLES}"), &with_role()),
        ask(&format!("GET {ROLES}/"), &with_role())
    );
    assert_eq!(
        ask("GET /latest/meta-data", &with_role()),
        ask("GET /latest/meta-data/", &with_role())
    );
}

#[test]
fn other_methods_are_told_which_ones_there_are() {
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PUT"] {
        for path in ["/", "/latest/meta-data", ROLES, "/latest/nothing"] {
            assert_eq!(
                status(&ask(&format!("{method} {path}"), &with_role())),
                405,
                "{method} {path}"
            );
        }
        assert_eq!(status(&ask(&format!("{method} /v9"), &with_role())), 404);
    }
    for method in ["GET", "HEAD", "POST"] {
        assert_eq!(
            status(&ask(&format!("{method} /latest/api/token"), &with_role())),
            405
        );
    }
    let allow = |line: &str| not_allowed_at(line);
    assert_eq!(allow("GET /latest/api/token"), Extra::Allow("PUT"));
    assert_eq!(allow("POST /latest/meta-data"), Extra::Allow("GET, HEAD"));
}

fn not_allowed_at(line: &str) -> Extra {
    let (request, keys) = (read(Service::ImdsV4, line, ""), keys());
    let situation = Situation {
        surface: Surface::Imds,
        attachment: POD,
        caller: &Caller::Undecided,
        keys: &keys,
        imds_v1: ImdsV1::Deny,
        now: now(),
        nonce: [3; 16],
        proof: None,
    };
    match respond(&request, &situation) {
        Answer::Reply(response) => response.extra,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn info_is_made_up_from_the_role() {
    let Got::Said(200, text) = ask("GET /latest/meta-data/iam/info/", &with_role()) else {
        panic!("a pod with a role has it");
    };
    let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(info["Code"], "Success");
    assert_eq!(info["LastUpdated"], "2026-11-22T12:00:00Z");
    assert_eq!(
        info["InstanceProfileArn"],
        "arn:aws:iam::123456789012:instance-profile/team/app"
    );
    assert_eq!(info["InstanceProfileId"], role().instance_profile_id());
}
