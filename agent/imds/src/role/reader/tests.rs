use proptest::prelude::*;

use super::*;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn pod(pairs: &[(&str, &str)]) -> Pod {
    Reader::default().pod("uid", "shop", "api-0", "api", &annotations(pairs))
}

fn account(pairs: &[(&str, &str)]) -> ServiceAccount {
    Reader::default().service_account("uid", "shop", "api", &annotations(pairs))
}

fn namespace(pairs: &[(&str, &str)]) -> Namespace {
    Reader::default().namespace("shop", &annotations(pairs))
}

fn role(text: &str) -> Wanted {
    Wanted::Role(text.to_owned())
}

#[test]
fn objects_without_annotations_say_nothing_at_all() {
    let pod = pod(&[]);
    assert_eq!(
        (pod.role, pod.external_id, pod.session_name, pod.imds_v1),
        (None, Ok(None), Ok(None), Ok(None))
    );
    let account = account(&[]);
    assert_eq!((&account.role_arn, &account.role), (&None, &None));
    assert_eq!(
        (&account.audience, &account.token_expiration_secs),
        (&Ok(None), &Ok(None))
    );
    assert_eq!(account.regional_endpoint, Ok(None));
    let namespace = namespace(&[]);
    assert_eq!(
        (&namespace.allowed_roles, &namespace.permitted),
        (&Ok(None), &Ok(None))
    );
    assert_eq!(
        (&namespace.default_role, namespace.mode()),
        (&None, Mode::Enforce)
    );
    assert_eq!(
        (&namespace.session_policy, &namespace.session_policy_arns),
        (&Ok(None), &Ok(None))
    );
    assert!(namespace.malformed().is_empty());
}

#[test]
fn an_empty_role_is_nobody_and_a_blank_one_is_a_value() {
    for key in ["iam.amazonaws.com/role", "eks.amazonaws.com/role-arn"] {
        let account = account(&[(key, "")]);
        let both = [account.role, account.role_arn];
        assert!(
            both.contains(&Some(Wanted::Nobody)) && both.contains(&None),
            "{key}"
        );
    }
    assert_eq!(
        pod(&[("iam.amazonaws.com/role", "")]).role,
        Some(Wanted::Nobody)
    );
    assert_eq!(
        pod(&[("iam.amazonaws.com/role", " ")]).role,
        Some(role(" "))
    );
    assert_eq!(
        pod(&[("iam.amazonaws.com/role", "none")]).role,
        Some(role("none"))
    );
}

#[test]
fn a_namespace_switches_the_cluster_default_off_by_none_and_by_an_empty_value() {
    let default = |value| namespace(&[("portcullis.dev/default-role", value)]).default_role;
    assert_eq!(default("none"), Some(Wanted::Nobody));
    assert_eq!(default(""), Some(Wanted::Nobody));
    assert_eq!(default("None"), Some(role("None")));
    assert_eq!(default("reader"), Some(role("reader")));
}

#[test]
fn three_keys_can_be_chosen_and_the_usual_ones_then_mean_nothing() {
    let reader = Reader {
        keys: Keys {
            role: "example.com/role".to_owned(),
            external_id: "example.com/id".to_owned(),
            allowed_roles: "example.com/roles".to_owned(),
        },
        format: Format::Glob,
    };
    let usual = [
        ("iam.amazonaws.com/role", "usual"),
        ("iam.amazonaws.com/external-id", "usual"),
        ("iam.amazonaws.com/allowed-roles", "[\"usual\"]"),
    ];
    let chosen = [
        ("example.com/role", "chosen"),
        ("example.com/id", "chosen"),
        ("example.com/roles", "[\"chosen\"]"),
    ];
    let both = annotations(&[&usual[..], &chosen[..]].concat());
    let pod = reader.pod("uid", "shop", "api-0", "api", &both);
    assert_eq!(
        (pod.role, pod.external_id),
        (Some(role("chosen")), Ok(Some("chosen".to_owned())))
    );
    let account = reader.service_account("uid", "shop", "api", &both);
    assert_eq!(
        (account.role, account.external_id),
        (Some(role("chosen")), Ok(Some("chosen".to_owned())))
    );
    let roles = reader.namespace("shop", &both).allowed_roles;
    let roles = roles.expect("readable").expect("present");
    assert_eq!(
        roles.iter().map(Pattern::as_str).collect::<Vec<_>>(),
        ["chosen"]
    );
    let usual = reader.pod("uid", "shop", "api-0", "api", &annotations(&usual));
    assert_eq!((usual.role, usual.external_id), (None, Ok(None)));
}

#[test]
fn empty_external_ids_and_session_names_say_nothing() {
    let pod = pod(&[
        ("iam.amazonaws.com/external-id", ""),
        ("iam.amazonaws.com/session-name", ""),
    ]);
    assert_eq!((pod.external_id, pod.session_name), (Ok(None), Ok(None)));
}

#[test]
fn token_settings_are_read_as_the_eks_webhook_writes_them() {
    let account = account(&[
        ("eks.amazonaws.com/audience", "https://example.com"),
        ("eks.amazonaws.com/token-expiration", "3600"),
        ("eks.amazonaws.com/sts-regional-endpoints", "false"),
    ]);
    assert_eq!(account.audience, Ok(Some("https://example.com".to_owned())));
    assert_eq!(account.token_expiration_secs, Ok(Some(3600)));
    assert_eq!(account.regional_endpoint, Ok(Some(false)));
}

#[test]
fn a_token_lives_at_least_600_seconds() {
    let secs =
        |text| account(&[("eks.amazonaws.com/token-expiration", text)]).token_expiration_secs;
    assert_eq!(secs("0"), Ok(Some(600)));
    assert_eq!(secs("599"), Ok(Some(600)));
    assert_eq!(secs("601"), Ok(Some(601)));
    assert_eq!(secs("4294967296"), Ok(Some(1 << 32)));
    for text in [
        "",
        "-1",
        "+600",
        " 600",
        "600 ",
        "1h",
        "600.0",
        "4294967297",
        "99999999999999999999999",
    ] {
        assert!(secs(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_cannot_be_read_is_malformed_under_its_own_key() {
    let expect = |found: Vec<&Malformed>, key: &str, value: &str| {
        let keys: Vec<_> = found
            .iter()
            .map(|malformed| malformed.key.as_str())
            .collect();
        assert_eq!(keys, [key], "{value:?}");
    };
    for (key, values) in [
        (
            "iam.amazonaws.com/external-id",
            &["x", "a b", "\u{e4}\u{e4}"][..],
        ),
        ("iam.amazonaws.com/session-name", &["a b", "a/b"]),
        ("portcullis.dev/imds-v1", &["", "yes", "Deny", " deny"]),
    ] {
        for value in values {
            expect(pod(&[(key, value)]).malformed(), key, value);
        }
    }
    for (key, values) in [
        ("iam.amazonaws.com/external-id", &["x"][..]),
        ("eks.amazonaws.com/audience", &["", "a\nb"]),
        ("eks.amazonaws.com/token-expiration", &["", "soon"]),
        (
            "eks.amazonaws.com/sts-regional-endpoints",
            &["", "yes", "regional"],
        ),
    ] {
        for value in values {
            expect(account(&[(key, value)]).malformed(), key, value);
        }
    }
    let many = format!("[{}\"x\"]", "\"x\",".repeat(256));
    let long = format!("[\"{}\"]", "x".repeat(1025));
    for (key, values) in [
        (
            "iam.amazonaws.com/allowed-roles",
            &[
                "",
                "x",
                "\"x\"",
                "null",
                "{}",
                "[",
                "[1]",
                "[\"a\",null]",
                "[[\"a\"]]",
                "[\"a\"] x",
                "['a']",
                &many,
                &long,
            ][..],
        ),
        ("iam.amazonaws.com/permitted", &["(", "a)|(b", "*"]),
        (
            "portcullis.dev/role-source",
            &["", "ServiceAccount", "pod", "any "],
        ),
        ("portcullis.dev/role-mode", &["", "Audit", "off"]),
        ("portcullis.dev/imds-v1", &["", "true"]),
        (
            "portcullis.dev/metadata-paths",
            &[
                "",
                "ami-id",
                "[1]",
                "[\"ami-id\", \"user-data\"]",
                &format!("[{}\"mac\"]", "\"mac\",".repeat(64)),
            ],
        ),
        ("portcullis.dev/session-policy", &["", "[]", "{"]),
        (
            "portcullis.dev/session-policy-arns",
            &[
                "",
                "arn:aws:iam::aws:policy/x",
                "[\"x\"]",
                "[1]",
                &format!("[{}\"x\"]", "\"arn:aws:iam::aws:policy/x\",".repeat(10)),
            ],
        ),
    ] {
        for value in values {
            expect(namespace(&[(key, value)]).malformed(), key, value);
        }
    }
}

#[test]
fn an_expression_that_does_not_compile_spoils_a_list_of_expressions_and_is_an_ordinary_glob() {
    let roles = "[\"good\", \"(\"]";
    let key = "iam.amazonaws.com/allowed-roles";
    assert!(namespace(&[(key, roles)]).allowed_roles.is_ok());
    let reader = Reader {
        format: Format::Regexp,
        ..Reader::default()
    };
    let read = reader.namespace("shop", &annotations(&[(key, roles)]));
    let malformed = read.allowed_roles.expect_err("does not compile");
    assert!(
        malformed
            .to_string()
            .starts_with("iam.amazonaws.com/allowed-roles: entry 2: ")
    );
}

#[test]
fn lists_of_paths_and_policies_are_kept_in_their_order() {
    let namespace = namespace(&[
        ("portcullis.dev/metadata-paths", "[\"ami-id\", \"mac\"]"),
        (
            "portcullis.dev/session-policy-arns",
            "[\"arn:aws:iam::aws:policy/b\",\"arn:aws:iam::aws:policy/a\"]",
        ),
        ("portcullis.dev/session-policy", "{}"),
    ]);
    let list = |texts: [&str; 2]| Ok(Some(texts.map(str::to_owned).to_vec()));
    let paths = ["ami-id", "mac"].map(|path| path.parse().expect("it may be asked for"));
    assert_eq!(namespace.metadata_paths, Ok(Some(paths.to_vec())));
    assert_eq!(
        namespace.session_policy_arns,
        list(["arn:aws:iam::aws:policy/b", "arn:aws:iam::aws:policy/a"])
    );
    assert_eq!(namespace.session_policy, Ok(Some("{}".to_owned())));
}

proptest! {
    #[test]
    fn any_values_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), nested in "[\\[\\]{}\",:a0]{0,30}") {
        let keys = Keys::default();
        let all = [
            &*keys.role, &keys.external_id, &keys.allowed_roles, SESSION_NAME, PERMITTED, ROLE_ARN, AUDIENCE, TOKEN_EXPIRATION, REGIONAL_ENDPOINT,
            DEFAULT_ROLE, ROLE_SOURCE, ROLE_MODE, IMDS_V1, METADATA_PATHS, SESSION_POLICY, SESSION_POLICY_ARNS,
        ];
        for value in [&*String::from_utf8_lossy(&bytes), &nested] {
            let pairs = all.map(|key| (key, value));
            for format in [Format::Glob, Format::Regexp] {
                let reader = Reader { keys: keys.clone(), format };
                let annotations = annotations(&pairs);
                let said = [
                    reader.pod("uid", "shop", "api-0", "api", &annotations).malformed().len(),
                    reader.service_account("uid", "shop", "api", &annotations).malformed().len(),
                    reader.namespace("shop", &annotations).malformed().len(),
                ];
                prop_assert!(said.iter().sum::<usize>() <= all.len() + 2);
            }
        }
    }
}

#[test]
fn the_lists_of_keys_are_those_that_are_read() {
    let keys = Keys::default();
    let reader = Reader::default();
    let of_pods = keys.of_pods();
    let of_accounts = keys.of_service_accounts();
    let of_namespaces = keys.of_namespaces();
    let all = of_pods.iter().chain(&of_accounts).chain(&of_namespaces);
    for key in all {
        let one = annotations(&[(key, "{")]);
        let reads_pod = reader.pod("u", "shop", "api-0", "api", &one) != pod_without(&reader);
        let reads_account = reader.service_account("uid", "shop", "api", &one) != account(&[]);
        let reads_namespace = reader.namespace("shop", &one) != namespace(&[]);
        assert_eq!(
            (reads_pod, reads_account, reads_namespace),
            (
                of_pods.contains(key),
                of_accounts.contains(key),
                of_namespaces.contains(key)
            ),
            "{key}"
        );
    }
}

fn pod_without(reader: &Reader) -> Pod {
    reader.pod("u", "shop", "api-0", "api", &Annotations::new())
}
