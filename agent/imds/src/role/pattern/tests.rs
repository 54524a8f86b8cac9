use proptest::prelude::*;

use super::super::arn::tests::any_arn;
use super::*;

const BASE: &str = "arn:aws:iam::123456789012:role/";

fn allows(format: Format, scope: Scope, pattern: &str, role: &str) -> bool {
    let base = BaseArn::parse(BASE).expect("a good base");
    let role = RoleArn::parse(role).expect("a good ARN");
    Pattern::new(pattern, format, scope)
        .expect(pattern)
        .allows(&role, Some(&base))
}

/// Roles below the base, by what follows it.
fn glob_allows(pattern: &str, rest: &str) -> bool {
    allows(
        Format::Glob,
        Scope::Entry,
        pattern,
        &format!("{BASE}{rest}"),
    )
}

fn regexp_allows(pattern: &str, rest: &str) -> bool {
    allows(
        Format::Regexp,
        Scope::Entry,
        pattern,
        &format!("{BASE}{rest}"),
    )
}

fn permitted_allows(pattern: &str, rest: &str) -> bool {
    allows(
        Format::Regexp,
        Scope::Permitted,
        pattern,
        &format!("{BASE}{rest}"),
    )
}

#[test]
fn a_glob_is_the_whole_name_and_its_star_is_anything() {
    for (pattern, yes, no) in [
        (
            "team-a",
            &["team-a"][..],
            &["team-a-admin", "xteam-a", "a/team-a", "Team-a", "team-"][..],
        ),
        (
            "team-*",
            &["team-", "team-a", "team-a/b"],
            &["team", "xteam-a"],
        ),
        ("*", &["a", "a/b"], &[]),
        (
            "a*c*e",
            &["ace", "abcde", "a/c/e", "aecece"],
            &["ac", "acf", "bace"],
        ),
        ("**a**", &["a", "bab"], &["b"]),
        ("a.c", &["a.c"], &["abc"]),
        ("/team/x", &["team/x"], &["x", "a/team/x"]),
        ("/*", &["x", "team/x"], &[]),
        ("//x", &[], &["x"]),
        ("", &[], &["a"]),
    ] {
        for rest in yes {
            assert!(glob_allows(pattern, rest), "{pattern} {rest}");
        }
        for rest in no {
            assert!(!glob_allows(pattern, rest), "{pattern} {rest}");
        }
    }
}

#[test]
fn a_pattern_that_starts_with_arn_is_held_against_the_arn_and_others_against_what_follows_the_base()
{
    let other = "arn:aws:iam::999999999999:role/api";
    let own = "arn:aws:iam::123456789012:role/api";
    for format in [Format::Glob, Format::Regexp] {
        let allows = |pattern, role| allows(format, Scope::Entry, pattern, role);
        assert!(allows(own, own));
        assert!(allows(other, other));
        assert!(!allows(other, own));
        assert!(allows("api", own));
        assert!(!allows("api", other));
        assert!(!allows("role/api", own));
        assert!(!allows(":iam::999999999999:role/api", other));
    }
    assert!(allows(Format::Glob, Scope::Entry, "arn:*:role/api", other));
    assert!(!allows(Format::Glob, Scope::Entry, "*", other));
    assert!(!allows(Format::Glob, Scope::Entry, "*api", other));
    assert!(!allows(Format::Regexp, Scope::Entry, ".*", other));
    assert!(!allows(Format::Regexp, Scope::Entry, "^arn:.*", other));
    assert!(!allows(Format::Regexp, Scope::Entry, "x|arn:.*", other));
}

#[test]
fn permitted_is_held_against_the_arn_and_against_what_follows_the_base() {
    let other = "arn:aws:iam::999999999999:role/api";
    let permitted = |pattern, role| allows(Format::Regexp, Scope::Permitted, pattern, role);
    assert!(permitted(".*", other));
    assert!(permitted("arn:aws:iam::999999999999:role/a.*", other));
    assert!(!permitted("api", other));
    assert!(permitted_allows("api", "api"));
    assert!(permitted_allows("/team/.*", "team/x"));
    assert!(permitted_allows("team/.*", "team/x"));
    assert!(permitted_allows("^api$", "api"));
    assert!(!permitted_allows("", "api"));
}

#[test]
fn without_a_base_a_bare_pattern_allows_nothing() {
    let role = RoleArn::parse("arn:aws:iam::123456789012:role/api").expect("a good ARN");
    let without = |pattern: &str, format, scope| {
        Pattern::new(pattern, format, scope)
            .expect(pattern)
            .allows(&role, None)
    };
    assert!(!without("*", Format::Glob, Scope::Entry));
    assert!(!without(".*", Format::Regexp, Scope::Entry));
    assert!(without("arn:*", Format::Glob, Scope::Entry));
    assert!(without(".*", Format::Regexp, Scope::Permitted));
}

#[test]
fn m1_alternation_does_not_escape_the_anchors() {
    for rest in ["xb", "ay", "ab", "bx", "a/b"] {
        assert!(!permitted_allows("a|b", rest), "{rest}");
        assert!(!regexp_allows("a|b", rest), "{rest}");
    }
    assert!(permitted_allows("a|b", "a") && permitted_allows("a|b", "b"));
    // The shorter alternative is preferred and is not the whole: the longer one has to be found all the same.
    assert!(permitted_allows("a|ab", "ab"));
    assert!(permitted_allows("a*?", "aaa"));
}

#[test]
fn what_a_pattern_says_to_get_out_of_its_group_does_not_compile() {
    for pattern in [
        "a)|(b",
        "a)|(?:b",
        ")(",
        "a)",
        "(a",
        "a\\",
        "(?x)a#",
        "(?x) a # b",
        "[a",
        "[a\\]",
        "(?",
        "(?i",
        "a{",
        "(?=a)",
        "(?<!a)b",
        r"(a)\1",
        r"\p{L}",
        "*",
    ] {
        assert!(
            Pattern::new(pattern, Format::Regexp, Scope::Permitted).is_err(),
            "{pattern}"
        );
    }
}

#[test]
fn flags_and_line_ends_do_not_move_the_anchors() {
    for pattern in [
        "(?m)a", "(?m)a$", "(?m)^a$", "(?s)a", "(?mR)a$", "(?x)a#\n", "(?U)a*", r"\Aa\z", "a\\b",
    ] {
        assert!(permitted_allows(pattern, "a"), "{pattern:?}");
        for rest in ["a/b", "b/a", "ab", "ba", "a-b", "b-a"] {
            assert!(!permitted_allows(pattern, rest), "{pattern:?} {rest}");
        }
    }
    let regex = compile("(?m)a$").expect("compiles");
    assert!(!Matcher::Regexp(regex).whole("a\nb"));
    let regex = compile("a").expect("compiles");
    assert!(!Matcher::Regexp(regex).whole("a\n"));
}

#[test]
fn case_counts_unless_the_expression_says_otherwise() {
    assert!(!permitted_allows("api", "API"));
    assert!(permitted_allows("(?i)api", "API"));
    assert!(!glob_allows("api", "API"));
}

#[test]
fn long_and_large_patterns_are_refused() {
    let new = |text: &str, format| Pattern::new(text, format, Scope::Entry);
    for format in [Format::Glob, Format::Regexp] {
        assert!(new(&"\u{e4}".repeat(1024), format).is_ok());
        assert_eq!(new(&"a".repeat(1025), format), Err(PatternError::Length));
    }
    for pattern in [
        "(?:a{1000}){1000}",
        "(?:(?:){4294967295}){4294967295}",
        "((((a{99}){99}){99}){99})",
        "[a-z]{0,4294967295}",
    ] {
        assert!(new(pattern, Format::Regexp).is_err(), "{pattern}");
    }
    assert!(new("[A-Za-z0-9_+=,.@-]{1,64}", Format::Regexp).is_ok());
    assert!(new(&"(".repeat(1000), Format::Regexp).is_err());
}

#[test]
fn a_glob_of_stars_takes_no_longer_than_pattern_times_name() {
    // A matcher that tries every way would need more than 10^60 steps for this.
    let pattern = "*a".repeat(500) + "b";
    assert!(!glob(pattern.as_bytes(), "a".repeat(600).as_bytes()));
}

/// The meaning of a glob, written out: exponential, and nothing shared with the matcher.
fn slow(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(next, text)| next == first && slow(rest, text)),
    }
}

proptest! {
    #[test]
    fn k8_no_extension_of_an_allowed_name_is_allowed(name in "[A-Za-z0-9_+=,.@-]{1,40}", more in "[A-Za-z0-9_+=,.@-]{1,20}", path in "[a-z.]{1,9}/") {
        let literal = regex_lite::escape(&name);
        let allows: [&dyn Fn(&str) -> bool; 3] = [
            &|rest| glob_allows(&name, rest),
            &|rest| regexp_allows(&literal, rest),
            &|rest| permitted_allows(&literal, rest),
        ];
        for allows in allows {
            prop_assert!(allows(&name));
            for extended in [format!("{name}{more}"), format!("{more}{name}"), format!("{path}{name}"), format!("{name}/{more}")] {
                prop_assert!(!allows(&extended), "{}", extended);
            }
        }
    }

    #[test]
    fn k8_no_extension_of_an_allowed_arn_is_allowed(arn in any_arn(), more in "[A-Za-z0-9_+=,.@-]{1,20}") {
        let role = |text: &str| RoleArn::parse(text).ok();
        let allowed = role(&arn).expect("of the grammar");
        for pattern in [
            Pattern::new(&arn, Format::Glob, Scope::Entry),
            Pattern::new(&regex_lite::escape(&arn), Format::Regexp, Scope::Entry),
            Pattern::new(&regex_lite::escape(&arn), Format::Regexp, Scope::Permitted),
        ] {
            let pattern = pattern.expect("an ARN is a pattern");
            prop_assert!(pattern.allows(&allowed, None));
            let head = &arn[..arn.len() - allowed.name().len()];
            for extended in [format!("{arn}{more}"), format!("{arn}/{more}"), format!("{head}{more}{}", allowed.name()), format!("{head}{more}/{}", allowed.name())] {
                if let Some(role) = role(&extended) {
                    prop_assert!(!pattern.allows(&role, None), "{}", role);
                }
            }
        }
    }

    #[test]
    fn the_glob_matcher_agrees_with_a_slow_one(pattern in "[ab*/]{0,8}", text in "[ab/*]{0,10}") {
        let slowly = slow(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slowly);
    }

    /// An expression without dots, classes and escapes knows only its own letters: with a letter of no expression at an end or in the middle, a name
    /// is none of its words. A pattern that got out of its anchors would find a word inside.
    #[test]
    fn m1_an_expression_never_allows_a_name_that_merely_holds_one_of_its_words(pattern in "[ab|()?*+^$: #xmsiU{}0-9,\n-]{0,14}", word in "[ab]{1,4}") {
        if let Ok(pattern) = Pattern::new(&pattern, Format::Regexp, Scope::Permitted) {
            let base = BaseArn::parse(BASE).expect("a good base");
            for name in [format!("z{word}"), format!("{word}z"), format!("{word}z{word}"), format!("z/{word}")] {
                let role = RoleArn::parse(&format!("{BASE}{name}")).expect("a good ARN");
                prop_assert!(!pattern.allows(&role, Some(&base)), "{}", name);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_pattern_or_none_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), mixed in "[(){}\\[\\]?*+|^$.\\\\xPpukUd<>:#&~!=,0-9a-c \n-]{0,40}") {
        let role = RoleArn::parse("arn:aws:iam::123456789012:role/a/b").expect("a good ARN");
        let base = BaseArn::parse(BASE).expect("a good base");
        for text in [&*String::from_utf8_lossy(&bytes), &mixed] {
            for format in [Format::Glob, Format::Regexp] {
                if let Ok(pattern) = Pattern::new(text, format, Scope::Permitted) {
                    let _ = pattern.allows(&role, Some(&base));
                }
            }
        }
    }
}
