//! Tiers, orders, Deny and Pass, by policies made by hand: no kind of object that says them is read yet.

use super::{INGRESS, OUTSIDE, WEB, shop};
use crate::compile;
use crate::fixture::{Fixture, all, block, range, rule_any, rule_from, tcp, verdict};
use crate::model::{AtEnd, Protocol};
use crate::tables::Tables;

/// Verdicts of `a/web` about TCP from outside on each port, with the deciding rule.
fn at(tables: &Tables, ports: &[u16]) -> Vec<String> {
    ports
        .iter()
        .map(|port| {
            let (allow, rule) = verdict(tables, INGRESS, "a/web", OUTSIDE, (Protocol::TCP, *port));
            let word = if allow { "allow" } else { "deny" };
            rule.map_or(word.to_owned(), |rule| format!("{word} {rule}"))
        })
        .collect()
}

#[test]
fn the_first_match_wins_within_a_policy() {
    let world = shop().policy("a/p", "", |p| {
        p.ingress([
            rule_any().on([tcp(80)]).deny(),
            rule_any().on([range(Protocol::TCP, 70, 90)]),
            rule_any().deny(),
        ])
    });
    let tables = compile(&world.world());
    assert_eq!(
        at(&tables, &[69, 70, 80, 81]),
        ["deny p#2", "allow p#1", "deny p#0", "allow p#1"]
    );
}

#[test]
fn order_beats_name_and_ties_go_by_name() {
    let world = |early: f64, late: f64| {
        let world = shop()
            .policy("a/allow", "", |p| {
                p.order(late).ingress([rule_any().on([tcp(80)])])
            })
            .policy("a/deny", "", |p| {
                p.order(early).ingress([rule_any().on([tcp(80)]).deny()])
            });
        at(&compile(&world.world()), &[80, 81])
    };
    assert_eq!(world(-1.5, 0.0), ["deny deny#0", "deny"]);
    assert_eq!(world(7.0, 7.0), ["allow allow#0", "deny"]);
    assert_eq!(world(f64::INFINITY, 7.0), ["allow allow#0", "deny"]);
}

#[test]
fn deny_in_an_earlier_tier_beats_allow_in_a_later_one() {
    let world = shop()
        .tier("admin", 1000.0, AtEnd::Pass)
        .policy("a/baseline", "", |p| p.ingress([rule_any()]))
        .policy("a/z-admin", "", |p| {
            p.tier("admin")
                .ingress([rule_any().on([tcp(22)]).deny(), rule_any().on([tcp(443)])])
        });
    let tables = compile(&world.world());
    assert_eq!(
        at(&tables, &[22, 443, 80]),
        ["deny z-admin#0", "allow z-admin#1", "allow baseline#0"]
    );
}

#[test]
fn pass_skips_the_rest_of_its_tier_only() {
    let world = shop()
        .tier("admin", 1000.0, AtEnd::Deny)
        .policy("a/p5", "", |p| {
            p.tier("admin")
                .order(5.0)
                .ingress([rule_any().on([tcp(80)]).pass()])
        })
        .policy("a/p9", "", |p| {
            p.tier("admin").order(9.0).ingress([rule_any().deny()])
        })
        .policy("a/np", "", |p| {
            p.ingress([rule_any().on([range(Protocol::TCP, 80, 81)])])
        });
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80, 81]), ["allow np#0", "deny p9#0"]);
}

#[test]
fn pass_out_of_the_last_tier_allows() {
    let world = shop().policy("a/p", "", |p| p.ingress([rule_any().on([tcp(80)]).pass()]));
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80, 81]), ["allow", "deny"]);
}

#[test]
fn a_tier_counts_only_for_whom_one_of_its_policies_governs() {
    let world = shop()
        .tier("strict", 10.0, AtEnd::Deny)
        .policy("a/strict", "app=db", |p| {
            p.tier("strict").ingress([rule_any().on([tcp(1)])])
        })
        .policy("a/np", "", |p| p.ingress([rule_any().on([tcp(80)])]));
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80]), ["allow np#0"]);
    let db = |port| verdict(&tables, INGRESS, "a/db", OUTSIDE, (Protocol::TCP, port)).0;
    assert!(db(1) && !db(80));
}

#[test]
fn a_tier_that_passes_at_its_end_isolates_nobody() {
    let world = shop()
        .tier("baseline", 1e7, AtEnd::Pass)
        .policy("a/b", "", |p| {
            p.tier("baseline")
                .ingress([rule_any().on([tcp(80)]).deny()])
        });
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80, 81]), ["deny b#0", "allow"]);
    assert!(tables.policies[0].isolated_by.is_empty());
}

#[test]
fn an_undeclared_tier_stands_last_and_denies_at_its_end() {
    let world = shop()
        .tier("late", 1e300, AtEnd::Pass)
        .policy("a/late", "", |p| {
            p.tier("late").ingress([rule_any().on([tcp(80)])])
        })
        .policy("a/lost", "", |p| {
            p.tier("lost").ingress([rule_any().on([tcp(80)]).deny()])
        });
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80, 81]), ["allow late#0", "deny"]);
}

#[test]
fn the_default_tier_may_be_declared() {
    let world = shop()
        .tier("default", 1_000_000.0, AtEnd::Pass)
        .policy("a/p", "", |p| p.ingress([rule_any().on([tcp(80)]).deny()]));
    assert_eq!(
        at(&compile(&world.world()), &[80, 81]),
        ["deny p#0", "allow"]
    );
}

#[test]
fn a_class_is_judged_by_its_own_rules() {
    let world = Fixture::on("n1")
        .pod(crate::fixture::pod("a/web").on("n1").at(WEB))
        .policy("a/p", "", |p| {
            p.ingress([
                rule_from([block("203.0.113.0/24")])
                    .on([all(Protocol::TCP)])
                    .deny(),
                rule_from([block("203.0.0.0/8")]),
            ])
        });
    let tables = compile(&world.world());
    assert_eq!(at(&tables, &[80]), ["deny p#0"]);
    let near = verdict(
        &tables,
        INGRESS,
        "a/web",
        "203.0.114.1",
        (Protocol::TCP, 80),
    );
    assert_eq!(near, (true, Some("p#1".to_owned())));
    let udp = verdict(&tables, INGRESS, "a/web", OUTSIDE, (Protocol::UDP, 80));
    assert_eq!(udp, (true, Some("p#1".to_owned())));
}
