use super::*;

#[test]
fn a_session_name_is_prefixed_with_the_namespace_and_fits() {
    assert_eq!(name("shop", "api").as_deref(), Ok("shop.api"));
    assert_eq!(name("shop", "other.api").as_deref(), Ok("shop.other.api"));
    let room = 64 - "shop.".len();
    assert_eq!(
        name("shop", &"n".repeat(room)).map(|name| name.len()),
        Ok(64)
    );
    assert!(matches!(
        name("shop", &"n".repeat(room + 1)),
        Err(Problem::Length { most: 59, .. })
    ));
    assert!(matches!(
        name(&"n".repeat(63), "x"),
        Err(Problem::Length { most: 0, .. })
    ));
}

#[test]
fn a_session_name_takes_the_characters_of_sts_only() {
    assert!(name("shop", "A9_+=,.@-").is_ok());
    for text in ["a b", "a/b", "a:b", "a\n", "\u{e4}", "a*"] {
        assert!(
            matches!(name("shop", text), Err(Problem::Character(_))),
            "{text:?}"
        );
    }
}

#[test]
fn an_external_id_is_taken_within_the_limits_of_sts() {
    assert_eq!(external_id("a/b:c=1").as_deref(), Ok("a/b:c=1"));
    assert!(external_id(&"x".repeat(1224)).is_ok());
    assert!(external_id(&"x".repeat(1225)).is_err());
    for text in ["x", " xx", "xx ", "x x", "x\ny", "x*", "\u{e4}\u{e4}"] {
        assert!(external_id(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_session_policy_is_a_json_object_of_at_most_2048_characters_passed_on_as_written() {
    let spaced = "{ \"Version\": \"2012-10-17\",\n\t\"Statement\": [] }";
    assert_eq!(policy(spaced).as_deref(), Ok(spaced));
    let filled = |length: usize| format!("{{\"Id\":\"{}\"}}", "\u{e4}".repeat(length - 9));
    assert!(policy(&filled(2048)).is_ok());
    assert!(policy(&filled(2049)).is_err());
    for text in [
        "",
        " ",
        "[]",
        "\"x\"",
        "null",
        "{",
        "{}x",
        "{\"a\":\"\u{100}\"}",
        "{\"a\":\"\0\"}",
    ] {
        assert!(policy(text).is_err(), "{text:?}");
    }
}

#[test]
fn policies_are_of_an_account_or_of_aws() {
    let arns = |texts: &[&str]| policy_arns(texts.iter().map(ToString::to_string).collect());
    let long = format!("arn:aws:iam::123456789012:policy/{}", "p".repeat(128));
    assert!(
        arns(&[
            "arn:aws:iam::aws:policy/ReadOnlyAccess",
            "arn:aws:iam::aws:policy/service-role/X",
            "arn:aws-cn:iam::123456789012:policy/team/x",
            &long,
        ])
        .is_ok()
    );
    assert_eq!(arns(&[]), Ok(Vec::new()));
    for text in [
        "",
        "ReadOnlyAccess",
        "arn:aws:iam::aws:policy/",
        "arn:aws:iam::AWS:policy/x",
        "arn:aws:iam::1:policy/x",
        "arn:aws:iam::123456789012:role/x",
        "arn:aws:iam::123456789012:policy/*",
        "arn:aws:iam::123456789012:policy//x",
        "arn:aws:iam::123456789012:policyx",
        " arn:aws:iam::aws:policy/x",
        &format!("{long}p"),
    ] {
        assert_eq!(
            arns(&["arn:aws:iam::aws:policy/x", text]),
            Err(Problem::PolicyArn(2)),
            "{text:?}"
        );
    }
}
