//! Portcullis comes to a cluster whose pods have connections open already.

use std::net::SocketAddr;

use portcullis_tests::cluster::agent::{self, Restored};
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, apply, object};
use portcullis_tests::scene::ip;
use portcullis_tests::scene::traffic::Stream;

use super::traffic::FROM_FRIENDS;
use super::{all_become, become_all};

/// Connections of each kind and family.
const EACH: usize = 4;

/// Connections of pods, to the server's own addresses and through its Service: those that the policy to come allows, and the others.
fn open_all(ground: &Ground) -> [Vec<Stream>; 2] {
    let service = object(&["-n", &ground.name, "service", "server"]);
    let service = service["spec"]["clusterIPs"].as_array().expect("a list");
    let service = service
        .iter()
        .map(|at| ip(at.as_str().expect("an address")));
    let server = ground.pod("server").addresses.iter().copied();
    let to: Vec<SocketAddr> = server.chain(service).map(|at| (at, PORT).into()).collect();
    [&["near", "far"][..], &["stranger"][..]].map(|clients| {
        let ways = clients
            .iter()
            .flat_map(|client| to.iter().map(move |to| (client, *to)));
        let mut all: Vec<_> = ways
            .flat_map(|way| std::iter::repeat_n(way, EACH))
            .map(|(client, to)| Stream::open(ground.netns(client), to))
            .collect();
        all.iter_mut().for_each(Stream::works);
        all
    })
}

/// The first start on two nodes whose pods talk, with these arguments more: the connections that policy allows, and the others.
fn first_start(name: &str, arguments: &[&str]) -> (Ground, [Vec<Stream>; 2], Restored) {
    let restored = Restored::new();
    agent::uninstall();
    let ground = Ground::with(name, &["n1/server", "n1/near", "n2/far", "n1/stranger"]);
    apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {name}}}
spec: {{ipFamilyPolicy: RequireDualStack, selector: {{app: server}}, ports: [{{port: {PORT}}}]}}
"
    ));
    let addresses = object(&["-n", name, "service", "server"]);
    let way = addresses["spec"]["clusterIP"].as_str().expect("an address");
    let way = portcullis_tests::cluster::Way::Tcp((ip(way), PORT).into());
    all_become(
        &[way],
        ground.netns("near"),
        true,
        "the Service is translated",
    );
    let streams = open_all(&ground);
    ground.label("near", "friend=yes");
    ground.label("far", "friend=yes");
    ground.policy("friends", FROM_FRIENDS);
    agent::install_with(arguments);
    become_all(
        &ground,
        "stranger",
        "server",
        false,
        "the policy is in force",
    );
    become_all(&ground, "near", "server", true, "the policy is in force");
    (ground, streams, restored)
}

#[test]
fn connections_that_policy_allows_are_kept_if_the_operator_wants_that() {
    let (_ground, [mut allowed, mut denied], _restored) =
        first_start("busy-kept", &["--adopt-existing=5m"]);
    allowed.iter_mut().for_each(Stream::works);
    denied.iter_mut().for_each(Stream::is_cut);
    println!("adopted: {} live, {} end", allowed.len(), denied.len());
}

#[test]
fn by_default_connections_of_isolated_pods_end() {
    let (_ground, [mut allowed, mut denied], _restored) = first_start("busy-new", &[]);
    let all = allowed.iter_mut().chain(&mut denied);
    all.for_each(Stream::is_cut);
    println!("by default: {} end", allowed.len() + denied.len());
}
