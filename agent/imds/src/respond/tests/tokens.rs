//! Who gets a session token, and who needs one.

use super::*;

#[test]
fn a_session_token_is_given_to_whoever_asks_in_a_put() {
    let put = |headers: &str, caller: &Caller| {
        ask_with(
            Service::ImdsV4,
            "PUT /latest/api/token",
            headers,
            caller,
            ImdsV1::Deny,
            None,
        )
    };
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    for caller in [Caller::Undecided, with_role(), without_role(), refused()] {
        let Got::Said(200, token) = put(&format!("{ttl}: 21600\r\n"), &caller) else {
            panic!("no token for {caller:?}");
        };
        assert!(keys().is_good(&token, POD, now()));
        for headers in [
            String::new(),
            format!("{ttl}: 0\r\n"),
            format!("{ttl}: 21601\r\n"),
            format!("{ttl}: six\r\n"),
            format!("{ttl}:\r\n"),
            format!("{ttl}: 60\r\n{ttl}: 60\r\n"),
        ] {
            assert_eq!(status(&put(&headers, &caller)), 400, "{headers:?}");
        }
        assert_eq!(
            status(&put(
                &format!("{ttl}: 60\r\nX-Forwarded-For: 1.2.3.4\r\n"),
                &caller
            )),
            403
        );
    }
    let ttl_line = format!("{ttl}: 60\r\n");
    for path in ["/1.0/api/token", "/2021-07-15/api/token/"] {
        let line = format!("PUT {path}");
        assert_eq!(
            status(&ask_with(
                Service::ImdsV6,
                &line,
                &ttl_line,
                &Caller::Undecided,
                ImdsV1::Deny,
                None
            )),
            200
        );
    }
    let unknown = ask_with(
        Service::ImdsV4,
        "PUT /v9/api/token",
        &ttl_line,
        &with_role(),
        ImdsV1::Deny,
        None,
    );
    assert_eq!(status(&unknown), 404);
}

#[test]
fn the_ttl_that_was_taken_is_told() {
    let request = read(
        Service::ImdsV4,
        "PUT /latest/api/token",
        "X-aws-ec2-metadata-token-ttl-seconds: 0060\r\n",
    );
    let keys = keys();
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
    let Answer::Reply(response) = respond(&request, &situation) else {
        panic!("a token waits for nothing");
    };
    assert_eq!(
        (response.status, response.extra),
        (200, Extra::TokenTtl(60))
    );
}

#[test]
fn k11_a_get_without_a_token_is_401() {
    let bare = |path: &str, caller: &Caller| {
        status(&ask_with(
            Service::ImdsV4,
            &format!("GET {path}"),
            "",
            caller,
            ImdsV1::Deny,
            None,
        ))
    };
    for caller in [Caller::Undecided, with_role(), without_role()] {
        for path in [
            "/",
            "/latest",
            ROLES,
            "/latest/meta-data/iam/security-credentials/app",
            "/latest/nothing",
            "/v9/x",
            "/latest/user-data",
        ] {
            assert_eq!(bare(path, &caller), 401, "{path}");
        }
        assert_eq!(bare("/latest/api/token", &caller), 405);
    }
}

#[test]
fn a_pod_that_may_use_v1_needs_no_token_and_no_bad_one() {
    let mut pod = Pod {
        role: Assigned::Role(role()),
        imds_v1: true,
        facts: Arc::default(),
    };
    let line = format!("GET {ROLES}");
    let ask = |headers: &str, caller: &Caller, v1| {
        ask_with(Service::ImdsV4, &line, headers, caller, v1, None)
    };
    let caller = Caller::Known(Arc::new(pod.clone()));
    assert_eq!(ask("", &caller, ImdsV1::ByPod), said(200, "app"));
    assert_eq!(status(&ask("", &caller, ImdsV1::Deny)), 401);
    let (a_minute_ago, mut other) = (now() - jiff::SignedDuration::from_secs(61), POD);
    other.0[0] = 9;
    for bad in [
        String::new(),
        "nonsense".to_owned(),
        keys().mint(POD, 60, a_minute_ago, [3; 16]),
        keys().mint(other, 60, now(), [3; 16]),
        Keys::new(&[6; 32], None).mint(POD, 60, now(), [3; 16]),
    ] {
        let headers = format!("X-aws-ec2-metadata-token: {bad}\r\n");
        assert_eq!(status(&ask(&headers, &caller, ImdsV1::ByPod)), 401, "{bad}");
    }
    assert_eq!(
        status(&ask(&token_line().repeat(2), &caller, ImdsV1::ByPod)),
        401
    );
    pod.imds_v1 = false;
    assert_eq!(
        status(&ask("", &Caller::Known(Arc::new(pod)), ImdsV1::ByPod)),
        401
    );
    assert_eq!(ask("", &Caller::Undecided, ImdsV1::ByPod), Got::Held(503));
}
