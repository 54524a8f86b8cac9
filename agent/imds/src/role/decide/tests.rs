use super::super::object::Wanted;
use super::super::reader::{Annotations, Keys, Reader};
use super::super::refusal::Reason;
use super::super::restriction::Require;
use super::*;

mod restricted;

const ROLE: &str = "iam.amazonaws.com/role";
const EXTERNAL_ID: &str = "iam.amazonaws.com/external-id";
const SESSION_NAME: &str = "iam.amazonaws.com/session-name";
const ROLE_ARN: &str = "eks.amazonaws.com/role-arn";
const ALLOWED: &str = "iam.amazonaws.com/allowed-roles";
const PERMITTED: &str = "iam.amazonaws.com/permitted";
const DEFAULT_ROLE: &str = "portcullis.dev/default-role";
const ROLE_SOURCE: &str = "portcullis.dev/role-source";
const ROLE_MODE: &str = "portcullis.dev/role-mode";
const BASE: &str = "arn:aws:iam::123456789012:role/";

const CLASSIC: &[SourceKind] = &[SourceKind::AssumeRole];
const WEB: &[SourceKind] = &[SourceKind::TokenRequest];

type Pairs = &'static [(&'static str, &'static str)];

/// A cluster with one pod in it.
#[derive(Clone)]
struct Case {
    pod: Pairs,
    account: Pairs,
    namespace: Pairs,
    settings: Settings,
}

/// Base known, no cluster default, restrictions off: one thing at a time.
fn case() -> Case {
    Case {
        pod: &[],
        account: &[],
        namespace: &[],
        settings: Settings {
            sources: CLASSIC.to_vec(),
            base: Discovered::Known(BASE.parse().expect("a good base")),
            default_role: Discovered::Unset,
            restrictions: Restrictions {
                classic: Require::Off,
                web: Require::Off,
            },
            allow_session_name: false,
        },
    }
}

impl Case {
    fn pod(mut self, pairs: Pairs) -> Self {
        self.pod = pairs;
        self
    }

    fn account(mut self, pairs: Pairs) -> Self {
        self.account = pairs;
        self
    }

    fn namespace(mut self, pairs: Pairs) -> Self {
        self.namespace = pairs;
        self
    }

    fn sources(mut self, sources: &[SourceKind]) -> Self {
        self.settings.sources = sources.to_vec();
        self
    }

    fn cluster_default(mut self, role: &str) -> Self {
        self.settings.default_role = Discovered::Known(role.to_owned());
        self
    }

    /// Whatever the sources are.
    fn restricted(mut self, require: Require) -> Self {
        self.settings.restrictions = Restrictions {
            classic: require,
            web: require,
        };
        self
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn objects(&self) -> (Pod, ServiceAccount, Namespace) {
        let reader = Reader::default();
        (
            reader.pod("uid", "shop", "api-0", "api", &annotations(self.pod)),
            reader.service_account("uid", "shop", "api", &annotations(self.account)),
            reader.namespace("shop", &annotations(self.namespace)),
        )
    }

    fn decide(&self) -> Decision {
        let (pod, account, namespace) = self.objects();
        let asked = Asked {
            synced: true,
            pod: Some(&pod),
            service_account: Some(&account),
            namespace: Some(&namespace),
            projected: &[],
        };
        decide(&asked, &self.settings)
    }

    /// Line and outcome in short: the role, `nobody`, a reason, or what is waited for.
    fn answer(&self) -> (u8, String) {
        let decision = self.decide();
        (decision.source.line(), short(&decision))
    }
}

fn short(decision: &Decision) -> String {
    match &decision.outcome {
        Outcome::Undecided(waiting) => waiting.as_str().to_owned(),
        Outcome::Role(grant) => grant.role.to_string(),
        Outcome::Nobody => "nobody".to_owned(),
        Outcome::Refused(refusal) => refusal.reason().to_string(),
    }
}

fn annotations(pairs: Pairs) -> Annotations {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[track_caller]
fn expect(case: &Case, line: u8, answer: &str) {
    let answer = if ["a", "s", "n", "c"].contains(&answer) {
        format!("{BASE}{answer}")
    } else {
        answer.to_owned()
    };
    assert_eq!(case.answer(), (line, answer));
}

fn grant(case: &Case) -> Grant {
    match case.decide().outcome {
        Outcome::Role(grant) => *grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn line_1_whatever_is_not_known_is_undecided_and_never_the_default_role_i1() {
    let case = case().cluster_default("c");
    let (pod, account, namespace) = case.objects();
    let whole = Asked {
        synced: true,
        pod: Some(&pod),
        service_account: Some(&account),
        namespace: Some(&namespace),
        projected: &[],
    };
    let elsewhere = Namespace {
        name: "other".to_owned(),
        ..namespace.clone()
    };
    let others = ServiceAccount {
        name: "other".to_owned(),
        ..account.clone()
    };
    let namesakes = ServiceAccount {
        namespace: "other".to_owned(),
        ..account.clone()
    };
    assert_eq!(
        decide(&whole, &case.settings).source,
        Source::ClusterDefault
    );
    for (asked, waiting) in [
        (
            Asked {
                synced: false,
                ..whole
            },
            Waiting::Sync,
        ),
        (Asked { pod: None, ..whole }, Waiting::Pod),
        (
            Asked {
                namespace: None,
                ..whole
            },
            Waiting::Namespace,
        ),
        (
            Asked {
                namespace: Some(&elsewhere),
                ..whole
            },
            Waiting::Namespace,
        ),
        (
            Asked {
                service_account: None,
                ..whole
            },
            Waiting::ServiceAccount,
        ),
        (
            Asked {
                service_account: Some(&others),
                ..whole
            },
            Waiting::ServiceAccount,
        ),
        (
            Asked {
                service_account: Some(&namesakes),
                ..whole
            },
            Waiting::ServiceAccount,
        ),
    ] {
        let decision = decide(&asked, &case.settings);
        assert_eq!(decision.outcome, Outcome::Undecided(waiting));
        assert_eq!(decision.source.line(), 1);
    }
}

#[test]
fn line_2_a_role_named_by_the_pod_is_refused_where_only_accounts_may_i12() {
    let strict = case()
        .namespace(&[(ROLE_SOURCE, "serviceaccount"), (DEFAULT_ROLE, "n")])
        .account(&[(ROLE, "s")])
        .cluster_default("c");
    expect(&strict.clone().pod(&[(ROLE, "a")]), 2, "role-source");
    expect(&strict.clone().pod(&[(ROLE, "")]), 2, "role-source");
    expect(&strict.clone().pod(&[(ROLE, "s")]), 2, "role-source");
    expect(&strict.clone().pod(&[(EXTERNAL_ID, "abc")]), 4, "s");
    expect(&strict, 4, "s");
    expect(&strict.account(&[]), 5, "n");
    expect(
        &case()
            .namespace(&[(ROLE_SOURCE, "any")])
            .pod(&[(ROLE, "a")]),
        3,
        "a",
    );
}

#[test]
fn line_2_a_role_source_that_cannot_be_read_refuses_pods_and_leaves_accounts() {
    let broken = case()
        .namespace(&[(ROLE_SOURCE, "serviceAccount")])
        .account(&[(ROLE, "s")]);
    expect(
        &broken.clone().pod(&[(ROLE, "a")]),
        2,
        "role-source-malformed",
    );
    expect(&broken, 4, "s");
}

#[test]
fn line_3_the_pods_role_wins_and_an_empty_one_is_nobody() {
    let weaker = case()
        .account(&[(ROLE_ARN, "arn:aws:iam::123456789012:role/s"), (ROLE, "s")])
        .namespace(&[(DEFAULT_ROLE, "n")])
        .cluster_default("c");
    expect(&weaker.clone().pod(&[(ROLE, "a")]), 3, "a");
    expect(&weaker.clone().pod(&[(ROLE, "/a")]), 3, "a");
    expect(&weaker.pod(&[(ROLE, "")]), 3, "nobody");
}

#[test]
fn line_4_the_accounts_role_wins_over_defaults_and_the_full_arn_over_the_name() {
    let weaker = case()
        .namespace(&[(DEFAULT_ROLE, "n")])
        .cluster_default("c");
    expect(&weaker.clone().account(&[(ROLE, "s")]), 4, "s");
    let both = weaker
        .clone()
        .account(&[(ROLE_ARN, "arn:aws:iam::999999999999:role/x"), (ROLE, "s")]);
    expect(&both, 4, "arn:aws:iam::999999999999:role/x");
    assert_eq!(both.decide().source, Source::ServiceAccountArn);
    expect(&weaker.clone().account(&[(ROLE, "")]), 4, "nobody");
    expect(&weaker.account(&[(ROLE_ARN, ""), (ROLE, "s")]), 4, "nobody");
}

#[test]
fn line_5_the_namespaces_default_wins_over_the_clusters_and_none_switches_it_off() {
    let weaker = case().cluster_default("c");
    expect(&weaker.clone().namespace(&[(DEFAULT_ROLE, "n")]), 5, "n");
    for none in [&[(DEFAULT_ROLE, "none")], &[(DEFAULT_ROLE, "")]] {
        expect(&weaker.clone().namespace(none), 5, "nobody");
    }
}

#[test]
fn lines_6_and_7_the_clusters_default_or_nobody() {
    expect(&case().cluster_default("c"), 6, "c");
    expect(
        &case().cluster_default("arn:aws:iam::999999999999:role/x"),
        6,
        "arn:aws:iam::999999999999:role/x",
    );
    expect(&case(), 7, "nobody");
    expect(&case().cluster_default(""), 7, "nobody");
}

#[test]
fn a_value_that_names_no_role_never_falls_through_to_a_weaker_line() {
    let weaker = case()
        .namespace(&[(DEFAULT_ROLE, "n")])
        .cluster_default("c");
    for pod in [
        &[(ROLE, " ")],
        &[(ROLE, "a ")],
        &[(ROLE, "a*")],
        &[(ROLE, "//a")],
        &[(ROLE, "ARN:aws:iam::123456789012:role/a")],
        &[(ROLE, "arn:aws:iam::123456789012:user/a")],
        &[(ROLE, "arn:aws:sts::123456789012:assumed-role/a/b")],
    ] {
        let case = weaker.clone().account(&[(ROLE, "s")]).pod(pod);
        expect(&case, 3, "role-malformed");
    }
    expect(
        &weaker.clone().account(&[(ROLE_ARN, "s"), (ROLE, "s")]),
        4,
        "role-malformed",
    );
    expect(
        &weaker.clone().account(&[(ROLE, "s ")]),
        4,
        "role-malformed",
    );
    expect(
        &weaker.namespace(&[(DEFAULT_ROLE, "n n")]),
        5,
        "role-malformed",
    );
    expect(&case().cluster_default("c c"), 6, "role-malformed");
}

#[test]
fn a_bare_name_without_a_base_is_refused_for_that_and_one_whose_base_is_coming_waits() {
    let unset = |case: Case| case.set(|settings| settings.base = Discovered::Unset);
    let pending = |case: Case| case.set(|settings| settings.base = Discovered::Pending);
    let named = case().pod(&[(ROLE, "a")]).cluster_default("c");
    expect(&unset(named.clone()), 3, "no-base-arn");
    expect(&pending(named), 3, "base-arn");
    expect(&unset(case().cluster_default("c")), 6, "no-base-arn");
    let full = case().pod(&[(ROLE, "arn:aws:iam::123456789012:role/a")]);
    expect(&unset(full.clone()), 3, "a");
    // The pattern cannot be judged yet; one that can is.
    let judged = pending(full).restricted(Require::Required);
    expect(
        &judged.clone().namespace(&[(ALLOWED, "[\"a\"]")]),
        3,
        "base-arn",
    );
    expect(
        &judged.clone().namespace(&[(ALLOWED, "[\"arn:*:role/a\"]")]),
        3,
        "a",
    );
    expect(&judged.namespace(&[]), 3, "restriction-missing");
}

#[test]
fn a_default_role_that_is_still_to_be_found_out_is_waited_for_and_only_then() {
    let pending = case().set(|settings| settings.default_role = Discovered::Pending);
    expect(&pending, 6, "default-role");
    expect(&pending.pod(&[(ROLE, "a")]), 3, "a");
}

#[test]
fn the_external_id_is_of_the_object_that_names_the_role_k1() {
    let all = case()
        .pod(&[(ROLE, "a"), (EXTERNAL_ID, "of-the-pod")])
        .account(&[(ROLE, "s"), (EXTERNAL_ID, "of-the-account")])
        .cluster_default("c");
    let external_id = |case: &Case| grant(case).external_id;
    assert_eq!(external_id(&all).as_deref(), Some("of-the-pod"));
    let by_account = all.clone().pod(&[(EXTERNAL_ID, "of-the-pod")]);
    assert_eq!(external_id(&by_account).as_deref(), Some("of-the-account"));
    let no_id = all.clone().pod(&[(ROLE, "a")]);
    assert_eq!(external_id(&no_id), None);
    let by_default = by_account.account(&[(EXTERNAL_ID, "of-the-account")]);
    assert_eq!(
        (
            external_id(&by_default),
            grant(&by_default).role.name().to_owned()
        ),
        (None, "c".to_owned())
    );
    let irsa = case().account(&[
        (ROLE_ARN, "arn:aws:iam::123456789012:role/s"),
        (EXTERNAL_ID, "of-the-account"),
    ]);
    assert_eq!(external_id(&irsa).as_deref(), Some("of-the-account"));
}

#[test]
fn two_pods_with_one_role_and_different_external_ids_have_different_grants_k1() {
    let first = case().pod(&[(ROLE, "a"), (EXTERNAL_ID, "first")]);
    let second = case().pod(&[(ROLE, "a"), (EXTERNAL_ID, "second")]);
    assert_ne!(grant(&first), grant(&second));
    assert_ne!(grant(&first), grant(&case().pod(&[(ROLE, "a")])));
}

#[test]
fn an_external_id_that_cannot_be_read_refuses_the_role_of_its_object_alone() {
    let broken = case()
        .pod(&[(ROLE, "a"), (EXTERNAL_ID, "a b")])
        .account(&[(ROLE, "s")]);
    expect(&broken, 3, "external-id-malformed");
    expect(&broken.pod(&[(EXTERNAL_ID, "a b")]), 4, "s");
}

#[test]
fn a_session_name_counts_only_where_pods_may_choose_one() {
    let named = case().pod(&[(ROLE, "a"), (SESSION_NAME, "x")]);
    assert_eq!(grant(&named).session_name, None);
    let allow = |case: Case| case.set(|settings| settings.allow_session_name = true);
    assert_eq!(grant(&allow(named)).session_name.as_deref(), Some("shop.x"));
    let broken = case().pod(&[(ROLE, "a"), (SESSION_NAME, "x y")]);
    expect(&broken, 3, "a");
    expect(&allow(broken), 3, "session-name-malformed");
}

#[test]
fn a_session_policy_that_cannot_be_read_refuses_every_role_rather_than_widen_it() {
    for namespace in [
        &[("portcullis.dev/session-policy", "{")],
        &[("portcullis.dev/session-policy", "")],
        &[("portcullis.dev/session-policy-arns", "[\"x\"]")],
    ] {
        let case = case().namespace(namespace).cluster_default("c");
        expect(&case, 6, "session-policy-malformed");
        expect(&case.pod(&[(ROLE, "a")]), 3, "session-policy-malformed");
    }
    let good = case().pod(&[(ROLE, "a")]).namespace(&[
        ("portcullis.dev/session-policy", "{}"),
        (
            "portcullis.dev/session-policy-arns",
            "[\"arn:aws:iam::aws:policy/x\"]",
        ),
    ]);
    let grant = grant(&good);
    assert_eq!(grant.session_policy.as_deref(), Some("{}"));
    assert_eq!(grant.session_policy_arns, ["arn:aws:iam::aws:policy/x"]);
}

#[test]
fn token_settings_are_of_the_account_whoever_names_the_role_and_count_for_web_identity_only() {
    let web = case().pod(&[(ROLE, "a")]).sources(WEB);
    assert_eq!(grant(&web).web, Some(WebIdentity::default()));
    assert_eq!(grant(&web.clone().sources(CLASSIC)).web, None);
    let set = web.clone().account(&[
        ("eks.amazonaws.com/audience", "example.com"),
        ("eks.amazonaws.com/token-expiration", "1200"),
        ("eks.amazonaws.com/sts-regional-endpoints", "false"),
    ]);
    assert_eq!(
        grant(&set).web,
        Some(WebIdentity {
            audience: "example.com".to_owned(),
            token_expiration_secs: 1200,
            regional_endpoint: false,
        })
    );
    for account in [
        &[("eks.amazonaws.com/audience", "")],
        &[("eks.amazonaws.com/token-expiration", "1h")],
        &[("eks.amazonaws.com/sts-regional-endpoints", "yes")],
    ] {
        let broken = web.clone().account(account);
        expect(&broken, 3, "token-settings-malformed");
        expect(&broken.sources(CLASSIC), 3, "a");
    }
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let words: std::collections::BTreeSet<_> =
        Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words.len(), Reason::ALL.len());
}

#[test]
fn the_default_keys_are_those_of_kube2iam() {
    let keys = Keys::default();
    assert_eq!(
        [keys.role.as_str(), &keys.external_id, &keys.allowed_roles],
        [ROLE, EXTERNAL_ID, ALLOWED]
    );
    assert_eq!(Wanted::from_text(""), Wanted::Nobody);
}

#[test]
fn each_stronger_line_takes_over_and_gives_back_what_it_took() {
    // The table from bottom to top: each stronger line takes over whatever the weaker ones say, and taking it away gives the former answer back.
    let bottom = case();
    let cluster = bottom.clone().cluster_default("c");
    let namespace = cluster.clone().namespace(&[(DEFAULT_ROLE, "n")]);
    let account = namespace.clone().account(&[(ROLE, "s")]);
    let pod = account.clone().pod(&[(ROLE, "a")]);
    for (case, line, answer) in [
        (&bottom, 7, "nobody"),
        (&cluster, 6, "c"),
        (&namespace, 5, "n"),
        (&account, 4, "s"),
        (&pod, 3, "a"),
        (&pod.clone().pod(&[]), 4, "s"),
        (&pod.clone().pod(&[]).account(&[]), 5, "n"),
        (&pod.clone().pod(&[]).account(&[]).namespace(&[]), 6, "c"),
    ] {
        expect(case, line, answer);
    }
}

#[test]
fn a_role_comes_with_the_ways_to_it_that_can_carry_all_that_was_asked_for() {
    use SourceKind::{AssumeRole, Chained, EksAuth, Projected, TokenRequest};
    let all = case()
        .sources(&[Projected, TokenRequest, Chained, EksAuth, AssumeRole])
        .pod(&[(ROLE, "a")]);
    let sources = |case: &Case| grant(case).sources;
    assert_eq!(sources(&all), [TokenRequest, EksAuth, AssumeRole]);
    let chained = all.clone().account(&[(ROLE, "s")]);
    assert_eq!(
        sources(&chained),
        [TokenRequest, Chained, EksAuth, AssumeRole]
    );
    let through = grant(&chained).through.expect("the account's role");
    assert_eq!(through.name(), "s");
    // From a role to itself there is no chain.
    assert_eq!(grant(&all.clone().account(&[(ROLE, "a")])).through, None);
    let policy = all.namespace(&[("portcullis.dev/session-policy", "{}")]);
    assert_eq!(sources(&policy), [TokenRequest, AssumeRole]);
}

#[test]
fn a_projected_token_counts_if_it_is_for_the_audience_that_the_account_chose() {
    let case = case()
        .sources(&[SourceKind::Projected, SourceKind::TokenRequest])
        .pod(&[(ROLE, "a")]);
    let sources = |case: &Case, audiences: &[&str]| {
        let (pod, account, namespace) = case.objects();
        let projected: Vec<Box<str>> = audiences.iter().map(|&text| text.into()).collect();
        let asked = Asked {
            synced: true,
            pod: Some(&pod),
            service_account: Some(&account),
            namespace: Some(&namespace),
            projected: &projected,
        };
        match decide(&asked, &case.settings).outcome {
            Outcome::Role(grant) => grant.sources,
            other => panic!("{other:?}"),
        }
    };
    let both = [SourceKind::Projected, SourceKind::TokenRequest];
    assert_eq!(sources(&case, &["vault", "sts.amazonaws.com"]), both);
    assert_eq!(sources(&case, &["vault"]), WEB);
    let other = case.account(&[("eks.amazonaws.com/audience", "vault")]);
    assert_eq!(sources(&other, &["vault"]), both);
    assert_eq!(sources(&other, &["sts.amazonaws.com"]), WEB);
}

#[test]
fn k1_an_external_id_that_no_source_can_carry_is_refused_and_never_dropped() {
    let with_id = case().pod(&[(ROLE, "a"), (EXTERNAL_ID, "abc")]);
    expect(&with_id, 3, "a");
    for sources in [WEB, &[SourceKind::EksAuth], &[SourceKind::Chained]] {
        let case = with_id.clone().sources(sources);
        expect(&case, 3, "external-id-without-source");
    }
    let chained = with_id
        .sources(&[SourceKind::TokenRequest, SourceKind::Chained])
        .account(&[(ROLE, "s")]);
    assert_eq!(grant(&chained).sources, [SourceKind::Chained]);
    let no_way = case().sources(&[SourceKind::Projected]);
    expect(&no_way.pod(&[(ROLE, "a")]), 3, "no-source");
}

#[test]
fn the_clusters_associations_are_asked_for_pods_of_line_7_alone() {
    let eks = case().sources(&[SourceKind::EksAuth]);
    assert!(eks.decide().association);
    assert!(!case().decide().association);
    for other in [
        eks.clone().pod(&[(ROLE, "")]),
        eks.clone().pod(&[(ROLE, "a")]),
        eks.clone().namespace(&[(DEFAULT_ROLE, "none")]),
        eks.clone().cluster_default("c"),
        // A session policy could not be told to EKS.
        eks.clone()
            .namespace(&[("portcullis.dev/session-policy", "{}")]),
        eks.namespace(&[("portcullis.dev/session-policy", "broken")]),
    ] {
        assert!(!other.decide().association);
    }
}
