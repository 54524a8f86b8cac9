use proptest::prelude::*;

use super::*;

const PLAIN: &str = "arn:aws:iam::123456789012:role/reader";

fn parts(text: &str) -> (String, String, String, String) {
    let arn = RoleArn::parse(text).expect("a good ARN");
    let own = str::to_owned;
    (
        own(arn.partition()),
        own(arn.account()),
        own(arn.path()),
        own(arn.name()),
    )
}

fn error(text: &str) -> ArnError {
    RoleArn::parse(text).expect_err(text)
}

#[test]
fn an_arn_is_taken_apart_where_iam_puts_it_together() {
    let expect = |text: &str, parts_of: [&str; 4]| {
        let [partition, account, path, name] = parts_of.map(str::to_owned);
        assert_eq!(parts(text), (partition, account, path, name), "{text}");
    };
    expect(PLAIN, ["aws", "123456789012", "/", "reader"]);
    expect(
        "arn:aws-us-gov:iam::000000000000:role/a/b.c/x_+=,.@-9",
        ["aws-us-gov", "000000000000", "/a/b.c/", "x_+=,.@-9"],
    );
    expect(
        "arn:aws-iso-b:iam::123456789012:role/../role",
        ["aws-iso-b", "123456789012", "/../", "role"],
    );
    expect(
        "arn:aws:iam::123456789012:role/role/role",
        ["aws", "123456789012", "/role/", "role"],
    );
    expect(
        "arn:aws:iam::123456789012:role/!\"#$%&'()/x",
        ["aws", "123456789012", "/!\"#$%&'()/", "x"],
    );
}

#[test]
fn the_listing_name_is_the_last_segment() {
    let arn = RoleArn::parse("arn:aws:iam::123456789012:role/team/api").expect("a good ARN");
    assert_eq!(arn.listing_name(), "api");
}

#[test]
fn what_is_no_role_is_refused_with_its_reason() {
    use ArnError as E;
    for (text, expected) in [
        ("", E::Shape),
        ("reader", E::Shape),
        ("arn:aws:iam::123456789012", E::Shape),
        ("ARN:aws:iam::123456789012:role/x", E::Shape),
        ("Arn:aws:iam::123456789012:role/x", E::Shape),
        (" arn:aws:iam::123456789012:role/x", E::Shape),
        ("arn:aws:iam::123456789012:role/a:b/x", E::Shape),
        ("arn:aws:iam::123456789012:role/x:y", E::Shape),
        ("arn::iam::123456789012:role/x", E::Partition),
        ("arn:AWS:iam::123456789012:role/x", E::Partition),
        ("arn:awsx:iam::123456789012:role/x", E::Partition),
        ("arn:aws-:iam::123456789012:role/x", E::Partition),
        ("arn:aws--cn:iam::123456789012:role/x", E::Partition),
        ("arn:aws-CN:iam::123456789012:role/x", E::Partition),
        ("arn:*:iam::123456789012:role/x", E::Partition),
        ("arn:aws\n:iam::123456789012:role/x", E::Partition),
        ("arn:aws:sts::123456789012:assumed-role/x/y", E::Service),
        ("arn:aws:sts::123456789012:role/x", E::Service),
        ("arn:aws:IAM::123456789012:role/x", E::Service),
        ("arn:aws:iam:eu-west-1:123456789012:role/x", E::Region),
        ("arn:aws:iam::12345678901:role/x", E::Account),
        ("arn:aws:iam::1234567890123:role/x", E::Account),
        ("arn:aws:iam::12345678901a:role/x", E::Account),
        ("arn:aws:iam::\u{0661}23456789012:role/x", E::Account),
        ("arn:aws:iam::aws:role/x", E::Account),
        ("arn:aws:iam::*:role/x", E::Account),
        ("arn:aws:iam:::role/x", E::Account),
        ("arn:aws:iam::123456789012:user/x", E::Resource),
        ("arn:aws:iam::123456789012:root", E::Resource),
        ("arn:aws:iam::123456789012:assumed-role/x/y", E::Resource),
        ("arn:aws:iam::123456789012:instance-profile/x", E::Resource),
        ("arn:aws:iam::123456789012:Role/x", E::Resource),
        ("arn:aws:iam::123456789012:role", E::Resource),
        ("arn:aws:iam::123456789012:roles/x", E::Resource),
        ("arn:aws:iam::123456789012:/role/x", E::Resource),
        ("arn:aws:iam::123456789012:role/", E::Name),
        ("arn:aws:iam::123456789012:role/a/", E::Name),
        ("arn:aws:iam::123456789012:role/*", E::Name),
        ("arn:aws:iam::123456789012:role/x*", E::Name),
        ("arn:aws:iam::123456789012:role/x?", E::Name),
        ("arn:aws:iam::123456789012:role/x ", E::Name),
        ("arn:aws:iam::123456789012:role/x\n", E::Name),
        ("arn:aws:iam::123456789012:role/x\0", E::Name),
        ("arn:aws:iam::123456789012:role/\u{e4}", E::Name),
        ("arn:aws:iam::123456789012:role/a b", E::Name),
        ("arn:aws:iam::123456789012:role//x", E::Path),
        ("arn:aws:iam::123456789012:role/a//x", E::Path),
        ("arn:aws:iam::123456789012:role//a/x", E::Path),
        ("arn:aws:iam::123456789012:role/a b/x", E::Path),
        ("arn:aws:iam::123456789012:role/a*/x", E::Path),
        ("arn:aws:iam::123456789012:role/a\u{7f}/x", E::Path),
        ("arn:aws:iam::123456789012:role/\u{e4}/x", E::Path),
        ("arn:aws:iam::123456789012:role/a\r/x", E::Path),
    ] {
        assert_eq!(error(text), expected, "{text:?}");
    }
}

#[test]
fn lengths_are_allowed_up_to_the_limit_and_not_beyond() {
    let arn = |rest: &str| format!("arn:aws:iam::123456789012:role/{rest}");
    assert!(RoleArn::parse(&arn(&"n".repeat(64))).is_ok());
    assert_eq!(error(&arn(&"n".repeat(65))), ArnError::Name);
    let path = RoleArn::parse(&arn(&format!("{}/n", "p".repeat(510)))).expect("512 with slashes");
    assert_eq!(path.path().len(), 512);
    assert_eq!(
        error(&arn(&format!("{}/n", "p".repeat(511)))),
        ArnError::PathLength
    );
    let partition = format!("arn:aws-{}:iam::123456789012:role/n", "a".repeat(2048));
    assert_eq!(error(&partition), ArnError::Length);
}

#[test]
fn an_arn_goes_through_json_and_back_and_a_bad_one_does_not_come_in() {
    let arn = RoleArn::parse(PLAIN).expect("a good ARN");
    let json = serde_json::to_string(&arn).expect("a string");
    assert_eq!(json, format!("\"{PLAIN}\""));
    assert_eq!(
        serde_json::from_str::<RoleArn>(&json).expect("the same"),
        arn
    );
    assert!(serde_json::from_str::<RoleArn>("\"reader\"").is_err());
    assert_eq!(format!("{arn:?}"), json);
}

/// Good ARNs, by the grammar and not by the parser.
pub(crate) fn any_arn() -> impl Strategy<Value = String> {
    "arn:aws(-[a-z0-9]{1,5}){0,3}:iam::[0-9]{12}:role/([!-)+-9;->@-~&&[^/]]{1,20}/){0,4}[A-Za-z0-9_+=,.@-]{1,64}"
}

proptest! {
    #[test]
    fn every_arn_of_the_grammar_is_taken_and_prints_as_it_was_read(text in any_arn()) {
        let arn = RoleArn::parse(&text).expect("of the grammar");
        prop_assert_eq!(arn.to_string(), text.clone());
        prop_assert_eq!(RoleArn::parse(&arn.to_string()).expect("printed"), arn.clone());
        prop_assert_eq!(
            format!("arn:{}:iam::{}:role{}{}", arn.partition(), arn.account(), arn.path(), arn.name()),
            text
        );
    }

    #[test]
    fn any_bytes_are_taken_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(arn) = RoleArn::parse(&text) {
            prop_assert_eq!(arn.as_str(), &*text);
        }
        let _ = RoleArn::parse(&format!("arn:aws:iam::123456789012:role/{text}"));
    }

    #[test]
    fn a_character_that_no_arn_has_spoils_any_arn(text in any_arn(), at in any::<proptest::sample::Index>(), bad in "[\\x00-\\x20\\x7f*?:\u{80}-\u{ff}]") {
        let at = at.index(text.len() + 1);
        let spoiled = format!("{}{bad}{}", &text[..at], &text[at..]);
        prop_assert!(RoleArn::parse(&spoiled).is_err(), "{:?}", spoiled);
    }
}

#[test]
fn a_role_is_asked_for_by_its_name_its_path_or_its_arn_and_by_no_other() {
    let role =
        RoleArn::parse("arn:aws-us-gov:iam::123456789012:role/team/blue/app").expect("an ARN");
    assert_eq!(
        (role.name(), role.path_and_name()),
        ("app", "team/blue/app")
    );
    assert_eq!(
        role.instance_profile_arn(),
        "arn:aws-us-gov:iam::123456789012:instance-profile/team/blue/app"
    );
    for name in ["app", "team/blue/app", role.as_str()] {
        assert!(role.is_asked_for_by(name));
    }
    for name in [
        "",
        "blue/app",
        "/app",
        "App",
        "app-admin",
        "arn:aws:iam::123456789012:role/team/blue/app",
    ] {
        assert!(!role.is_asked_for_by(name), "{name}");
    }
}

#[test]
fn an_instance_profile_id_looks_real_and_is_stable() {
    let id = |name: &str| {
        let arn = format!("arn:aws:iam::123456789012:role/{name}");
        RoleArn::parse(&arn).expect("an ARN").instance_profile_id()
    };
    assert_eq!(id("app"), id("app"));
    assert_ne!(id("app"), id("apq"));
    let id = id("app");
    assert!(id.len() == 21 && id.starts_with("AIPA"));
    assert!(
        id.bytes()
            .all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte))
    );
}
