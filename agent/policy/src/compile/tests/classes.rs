//! Who is in which class: families, exceptions, shared addresses, port names.

use super::{B_WEB, DB, EGRESS, INGRESS, OUTSIDE, WEB, shop, with};
use crate::compile;
use crate::fixture::{Fixture, block, named, pod, pods_in, rule_any, rule_from, tcp, verdict};
use crate::model::{Peer, Protocol};
use crate::tables::WORLD;

#[test]
fn families_never_meet() {
    let tables = with(|p| p.ingress([rule_from([block("0.0.0.0/0")])]));
    for (address, allow) in [
        (OUTSIDE, true),
        ("2001:db8::1", false),
        ("::ffff:10.0.0.1", false),
    ] {
        assert_eq!(
            verdict(&tables, INGRESS, "a/web", address, (Protocol::TCP, 80)).0,
            allow
        );
    }
    let tables = with(|p| p.ingress([rule_from([block("::/0!2001:db8::/32")])]));
    for (address, allow) in [
        (OUTSIDE, false),
        ("2001:db8::1", false),
        ("2001:db9::1", true),
    ] {
        assert_eq!(
            verdict(&tables, INGRESS, "a/web", address, (Protocol::TCP, 80)).0,
            allow
        );
    }
}

#[test]
fn several_live_pods_on_one_address_match_for_any_of_them() {
    let world = Fixture::on("n1")
        .pod(pod("a/web").on("n1").at(WEB))
        .pod(
            pod("b/x")
                .at(DB)
                .label("app", "x")
                .port("http", Protocol::TCP, 80),
        )
        .pod(
            pod("b/y")
                .at(DB)
                .label("app", "y")
                .port("http", Protocol::TCP, 81),
        )
        .pod(
            pod("b/z")
                .at(DB)
                .label("app", "z")
                .port("http", Protocol::TCP, 82)
                .finished(),
        )
        .pod(pod("b/h").at(DB).label("app", "h").host_network())
        .policy("a/p", "", |p| {
            let on = |app: &str, port| rule_from([pods_in("b", app)]).on([tcp(port)]);
            p.egress([rule_any().on([named(Protocol::TCP, "http")])])
                .ingress([
                    on("app=x", 1),
                    on("app=y", 2),
                    on("app=z", 3),
                    on("app=h", 4),
                ])
        })
        .world();
    let tables = compile(&world);
    for (direction, port, allow) in [
        (INGRESS, 1, true),
        (INGRESS, 2, true),
        (INGRESS, 3, false),
        (INGRESS, 4, false),
        (EGRESS, 80, true),
        (EGRESS, 81, true),
        (EGRESS, 82, false),
    ] {
        let got = verdict(&tables, direction, "a/web", DB, (Protocol::TCP, port)).0;
        assert_eq!(got, allow, "{direction:?} {port}");
    }
}

#[test]
fn pods_stand_in_addresses_only_where_the_prefix_around_them_does_not_say_it() {
    let world = shop()
        .policy("a/p", "app=web", |p| {
            p.ingress([
                rule_from([block("10.0.0.0/8!10.0.0.3/32")]),
                rule_from([pods_in("a", "app=db")]).on([tcp(80)]),
            ])
        })
        .world();
    let tables = compile(&world);
    let exact: Vec<String> = tables
        .addresses
        .iter()
        .map(|(at, _)| at.to_string())
        .collect();
    assert_eq!(exact, [DB]);
    let prefixes: Vec<String> = tables.prefixes.keys().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "10.0.0.3/32"]);
    assert_eq!(tables.class_of(B_WEB.parse().unwrap()), WORLD);
    assert_eq!(tables.classes, 3);
}

#[test]
fn the_peers_of_one_rule_are_one_class_however_many_they_are() {
    let inside = (0..200).map(|number| block(&format!("10.0.{number}.0/24")));
    let peers: Vec<Peer> = inside
        .chain([
            block("10.0.0.0/8"),
            pods_in("a", "app=db"),
            pods_in("b", ""),
        ])
        .collect();
    let tables = with(|p| p.ingress([rule_from(peers)]));
    assert_eq!(tables.classes, 2);
    assert_eq!((tables.prefixes.len(), tables.addresses.len()), (1, 0));
    assert_eq!(tables.policies[0].rows.len(), 1);
}

#[test]
fn a_named_egress_port_follows_the_destination_however_it_was_matched() {
    let tables =
        with(|p| p.egress([rule_from([block("10.0.0.0/8")]).on([named(Protocol::TCP, "http")])]));
    for (address, port, allow) in [
        (WEB, 8080, true),
        (DB, 5432, true),
        (DB, 8080, false),
        (B_WEB, 8080, false),
    ] {
        let got = verdict(&tables, EGRESS, "a/web", address, (Protocol::TCP, port)).0;
        assert_eq!(got, allow, "{address} {port}");
    }
    let udp = with(|p| p.egress([rule_any().on([named(Protocol::UDP, "http")])]));
    assert!(!verdict(&udp, EGRESS, "a/web", DB, (Protocol::UDP, 5432)).0);
}
