//! Restrictions and audit mode, seen from the decision.

use super::*;

#[test]
fn what_restrictions_say_by_what_is_required_and_what_is_there() {
    use Require::{IfPresent, Off, Required};
    let yes = "a";
    let (no, missing, broken) = (
        "role-not-allowed",
        "restriction-missing",
        "restriction-malformed",
    );
    let rows: [(Pairs, [&str; 3]); 16] = [
        // required, if-present, off
        (&[], [missing, yes, yes]),
        (&[(ALLOWED, "[\"a\"]")], [yes, yes, yes]),
        (&[(ALLOWED, "[\"b\", \"a\"]")], [yes, yes, yes]),
        (&[(ALLOWED, "[\"b\"]")], [no, no, yes]),
        (&[(ALLOWED, "[]")], [no, no, yes]),
        (&[(ALLOWED, "")], [broken, broken, yes]),
        (&[(ALLOWED, "a")], [broken, broken, yes]),
        (&[(ALLOWED, "[\"a\", 1]")], [broken, broken, yes]),
        (&[(PERMITTED, "a")], [yes, yes, yes]),
        (&[(PERMITTED, "b")], [no, no, yes]),
        (&[(PERMITTED, "")], [no, no, yes]),
        (&[(PERMITTED, "a|(")], [broken, broken, yes]),
        (&[(ALLOWED, "[\"a\"]"), (PERMITTED, "a")], [yes, yes, yes]),
        (&[(ALLOWED, "[\"a\"]"), (PERMITTED, "b")], [no, no, yes]),
        (&[(ALLOWED, "[\"b\"]"), (PERMITTED, ".*")], [no, no, yes]),
        (
            &[(ALLOWED, "[\"a\"]"), (PERMITTED, "(")],
            [broken, broken, yes],
        ),
    ];
    for (namespace, expected) in rows {
        for (require, expected) in [Required, IfPresent, Off].into_iter().zip(expected) {
            let case = case()
                .pod(&[(ROLE, "a")])
                .namespace(namespace)
                .restricted(require)
                .cluster_default("c");
            expect(&case, 3, expected);
        }
    }
}

#[test]
fn by_default_namespaces_have_to_name_roles_where_assume_role_is_among_the_sources() {
    let case = case()
        .pod(&[(ROLE, "a")])
        .set(|settings| settings.restrictions = Restrictions::default());
    expect(&case, 3, "restriction-missing");
    expect(
        &case
            .clone()
            .sources(&[SourceKind::TokenRequest, SourceKind::AssumeRole]),
        3,
        "restriction-missing",
    );
    expect(&case.clone().sources(&[SourceKind::EksAuth]), 3, "a");
    expect(&case.sources(WEB), 3, "a");
}

#[test]
fn a_decision_tells_what_matched() {
    let matched = case()
        .pod(&[(ROLE, "a")])
        .namespace(&[(ALLOWED, "[\"b\", \"a*\", \"*\"]"), (PERMITTED, "a|b")])
        .restricted(Require::Required);
    assert_eq!(
        matched.decide().restriction,
        Restriction::Matched {
            allowed_roles: Some("a*".to_owned()),
            permitted: Some("a|b".to_owned()),
        }
    );
    let one = matched.clone().namespace(&[(PERMITTED, "a")]);
    assert_eq!(
        one.decide().restriction,
        Restriction::Matched {
            allowed_roles: None,
            permitted: Some("a".to_owned()),
        }
    );
    let absent = matched
        .clone()
        .namespace(&[])
        .restricted(Require::IfPresent);
    assert_eq!(absent.decide().restriction, Restriction::Absent);
    let off = matched.clone().restricted(Require::Off);
    assert_eq!(off.decide().restriction, Restriction::Off);
    let nobody = matched.pod(&[(ROLE, "")]);
    assert_eq!(nobody.decide().restriction, Restriction::NotJudged);
}

#[test]
fn restrictions_hold_for_accounts_and_namespace_defaults_and_not_for_the_clusters_default() {
    let strict = case().restricted(Require::Required).cluster_default("c");
    expect(
        &strict.clone().account(&[(ROLE, "s")]),
        4,
        "restriction-missing",
    );
    expect(
        &strict
            .clone()
            .account(&[(ROLE_ARN, "arn:aws:iam::123456789012:role/s")]),
        4,
        "restriction-missing",
    );
    expect(
        &strict.clone().namespace(&[(DEFAULT_ROLE, "n")]),
        5,
        "restriction-missing",
    );
    expect(
        &strict
            .clone()
            .namespace(&[(DEFAULT_ROLE, "n"), (ALLOWED, "[\"n\"]")]),
        5,
        "n",
    );
    for namespace in [&[][..], &[(ALLOWED, "[]")], &[(ALLOWED, "broken")]] {
        let exempt = strict.clone().namespace(namespace);
        expect(&exempt, 6, "c");
        assert_eq!(exempt.decide().restriction, Restriction::Exempt);
    }
    // Exempt is the line, not the role: a namespace that switched the default off does not get it back by name.
    expect(
        &strict
            .pod(&[(ROLE, "c")])
            .namespace(&[(DEFAULT_ROLE, "none"), (ALLOWED, "[\"a\"]")]),
        3,
        "role-not-allowed",
    );
}

#[test]
fn audit_mode_gives_the_role_and_tells_what_it_would_have_denied_i12() {
    let rows: [(Pairs, Reason); 3] = [
        (
            &[(ROLE_MODE, "audit"), (ALLOWED, "[\"b\"]")],
            Reason::RoleNotAllowed,
        ),
        (&[(ROLE_MODE, "audit")], Reason::RestrictionMissing),
        (
            &[(ROLE_MODE, "audit"), (ALLOWED, "[")],
            Reason::RestrictionMalformed,
        ),
    ];
    for (namespace, reason) in rows {
        let decision = case()
            .pod(&[(ROLE, "a")])
            .namespace(namespace)
            .restricted(Require::Required)
            .decide();
        assert_eq!(short(&decision), format!("{BASE}a"));
        assert_eq!(decision.mode, Mode::Audit);
        assert_eq!(decision.would_deny().map(Refusal::reason), Some(reason));
    }
    let allowed = case()
        .pod(&[(ROLE, "a")])
        .namespace(&[(ROLE_MODE, "audit"), (ALLOWED, "[\"a\"]")])
        .restricted(Require::Required);
    assert_eq!(allowed.decide().would_deny(), None);
}

#[test]
fn audit_mode_softens_restrictions_and_nothing_else() {
    let audit = case()
        .namespace(&[(ROLE_MODE, "audit"), (ROLE_SOURCE, "serviceaccount")])
        .restricted(Require::Required);
    expect(&audit.pod(&[(ROLE, "a")]), 2, "role-source");
    let audit = case()
        .namespace(&[(ROLE_MODE, "audit")])
        .restricted(Require::Required);
    expect(&audit.clone().pod(&[(ROLE, "a b")]), 3, "role-malformed");
    let broken = audit.pod(&[(ROLE, "a"), (EXTERNAL_ID, "a b")]);
    expect(&broken, 3, "external-id-malformed");
    assert_eq!(broken.decide().would_deny(), None);
}

#[test]
fn a_mode_that_cannot_be_read_enforces() {
    let case = case()
        .pod(&[(ROLE, "a")])
        .namespace(&[(ROLE_MODE, "Audit"), (ALLOWED, "[\"b\"]")])
        .restricted(Require::Required);
    expect(&case, 3, "role-not-allowed");
    assert_eq!(case.decide().mode, Mode::Enforce);
}

#[test]
fn a_refusal_is_one_line_that_names_no_pattern() {
    let secret = case()
        .pod(&[(ROLE, "a")])
        .namespace(&[(ALLOWED, "[\"team-secret\"]"), (PERMITTED, "team-hidden")])
        .restricted(Require::Required);
    let Outcome::Refused(refusal) = secret.decide().outcome else {
        panic!("it is refused");
    };
    assert_eq!(
        refusal.to_string(),
        "the namespace does not allow arn:aws:iam::123456789012:role/a"
    );
    let Outcome::Refused(refusal) = case().pod(&[(ROLE, "a\n\u{1b}[2Jb")]).decide().outcome else {
        panic!("it is refused");
    };
    let message = refusal.to_string();
    assert!(
        message.starts_with("the pod names no role, \"a\\n\\u{1b}[2Jb\": "),
        "{message}"
    );
    assert!(!message.contains(char::is_control));
}
