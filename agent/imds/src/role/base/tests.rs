use proptest::prelude::*;

use super::*;

fn base(text: &str) -> BaseArn {
    BaseArn::parse(text).expect("a good base")
}

fn resolved(value: &str, base_text: &str) -> Result<String, ResolveError> {
    resolve(value, Some(&base(base_text))).map(|arn| arn.to_string())
}

const BASE: &str = "arn:aws:iam::123456789012:role/";

#[test]
fn a_base_gets_its_final_slash_and_nothing_else() {
    for (text, expected) in [
        ("arn:aws:iam::123456789012:role", BASE),
        (BASE, BASE),
        (
            "arn:aws:iam::123456789012:role/team",
            "arn:aws:iam::123456789012:role/team/",
        ),
        (
            "arn:aws-cn:iam::123456789012:role/a/b/",
            "arn:aws-cn:iam::123456789012:role/a/b/",
        ),
    ] {
        assert_eq!(base(text).as_str(), expected);
    }
}

#[test]
fn what_is_no_base_is_refused() {
    for text in [
        "",
        "role/",
        "ARN:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:roles",
        "arn:aws:iam::123456789012:role//",
        "arn:aws:iam::123456789012:role/a//b",
        "arn:aws:iam::123456789012:role/a//",
        "arn:aws:iam::123456789012:role/ ",
        "arn:aws:iam::123456789012:role/*",
        "arn:aws:iam::123456789012:user/",
        "arn:aws:iam::12345:role/",
        "arn:aws:iam::123456789012:",
    ] {
        assert!(BaseArn::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_nodes_account_is_taken_and_its_profiles_path_is_not() {
    let found = BaseArn::from_instance_profile(
        "arn:aws-us-gov:iam::123456789012:instance-profile/eks/nodes",
    );
    assert_eq!(
        found.expect("a good profile").as_str(),
        "arn:aws-us-gov:iam::123456789012:role/"
    );
    assert!(BaseArn::from_instance_profile("arn:aws:iam::123456789012:role/nodes").is_err());
    assert!(BaseArn::from_instance_profile("nodes").is_err());
}

#[test]
fn a_bare_value_is_put_behind_the_base() {
    let team = "arn:aws:iam::123456789012:role/team";
    for (value, base, expected) in [
        ("api", BASE, "arn:aws:iam::123456789012:role/api"),
        ("/api", BASE, "arn:aws:iam::123456789012:role/api"),
        ("a/api", BASE, "arn:aws:iam::123456789012:role/a/api"),
        ("/a/api", team, "arn:aws:iam::123456789012:role/team/a/api"),
        ("../api", team, "arn:aws:iam::123456789012:role/team/../api"),
        ("arn", BASE, "arn:aws:iam::123456789012:role/arn"),
        ("none", BASE, "arn:aws:iam::123456789012:role/none"),
        (
            "arn:aws:iam::999999999999:role/x",
            BASE,
            "arn:aws:iam::999999999999:role/x",
        ),
    ] {
        assert_eq!(resolved(value, base).as_deref(), Ok(expected), "{value}");
    }
}

#[test]
fn a_value_that_names_no_role_is_malformed_with_a_base_and_without() {
    for value in [
        "",
        "/",
        "//",
        "//api",
        "a//api",
        "api/",
        "a/",
        " api",
        "api ",
        "\tapi",
        "api\n",
        "a\0b",
        "api*",
        "*",
        "a?/b",
        "ARN:aws:iam::123456789012:role/x",
        "Arn:aws:iam::123456789012:role/x",
        "aws:iam::123456789012:role/x",
        "a:b",
        "arn:",
        "arn:aws:iam::123456789012:user/x",
        "arn:aws:sts::123456789012:assumed-role/x/y",
        "rol\u{e9}",
    ] {
        assert!(
            matches!(resolved(value, BASE), Err(ResolveError::Malformed(_))),
            "{value:?}"
        );
        assert!(
            matches!(resolve(value, None), Err(ResolveError::Malformed(_))),
            "{value:?}"
        );
    }
}

#[test]
fn a_bare_value_without_a_base_has_an_error_of_its_own_and_a_full_arn_needs_none() {
    assert_eq!(resolve("api", None), Err(ResolveError::NoBase));
    assert_eq!(resolve("/a/api", None), Err(ResolveError::NoBase));
    assert!(resolve("arn:aws:iam::123456789012:role/x", None).is_ok());
}

#[test]
fn the_base_counts_towards_the_length_of_the_path() {
    let long = format!("arn:aws:iam::123456789012:role/{}", "p".repeat(509));
    assert_eq!(
        resolved("aa/x", &long),
        Err(ResolveError::Malformed(ArnError::PathLength))
    );
    assert!(resolved("x", &long).is_ok());
}

#[test]
fn the_remainder_is_of_roles_below_the_base_only() {
    let team = base("arn:aws:iam::123456789012:role/team");
    let remainder = |text: &str| {
        let role = RoleArn::parse(text).expect("a good ARN");
        team.remainder(&role).map(str::to_owned)
    };
    let below = remainder("arn:aws:iam::123456789012:role/team/a/x");
    assert_eq!(below.as_deref(), Some("a/x"));
    assert_eq!(remainder("arn:aws:iam::123456789012:role/teams/x"), None);
    assert_eq!(remainder("arn:aws:iam::123456789012:role/team"), None);
    assert_eq!(remainder("arn:aws:iam::999999999999:role/team/x"), None);
}

proptest! {
    #[test]
    fn any_value_ends_below_the_base_or_is_an_arn_as_written(value in "(arn:aws:iam::[0-9]{12}:role)?[a-z/:. *]{0,12}") {
        let base = base("arn:aws:iam::123456789012:role/team/");
        if let Ok(role) = resolve(&value, Some(&base)) {
            prop_assert!(role.as_str() == value || base.remainder(&role) == Some(value.strip_prefix('/').unwrap_or(&value)));
        }
    }
}
