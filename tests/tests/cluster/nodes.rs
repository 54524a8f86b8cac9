//! Traffic from and to the nodes: a pod's own node may always call it, another node is an address like any other.

use std::net::SocketAddr;

use portcullis_lab::Listen;
use portcullis_tests::cluster::{Ground, Node, Way};

use super::all_become;

/// Where a node listens for this test.
const NODE_PORT: u16 = 18_080;

#[test]
fn a_pods_own_node_may_call_it_and_another_node_is_judged() {
    let ground = Ground::with("from-nodes", &["n1/server"]);
    let (own, other) = (Node::n1(), Node::n2());
    let ways = ground.ways_to("server");
    all_become(&ways, &own.netns, true, "its own node, no policy");
    all_become(&ways, &other.netns, true, "another node, no policy");
    ground.policy("nobody", "{podSelector: {}, policyTypes: [Ingress]}");
    all_become(&ways, &other.netns, false, "another node, nobody is let in");
    all_become(&ways, &own.netns, true, "its own node, nobody is let in");
    let [v4, v6] = other.addresses;
    ground.policy(
        "the-other",
        &format!(
            "{{podSelector: {{}}, policyTypes: [Ingress], \
             ingress: [{{from: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: '{v6}/128'}}}}]}}]}}"
        ),
    );
    all_become(
        &ways,
        &other.netns,
        true,
        "another node, its address is let in",
    );
}

#[test]
fn a_pod_calls_nodes_as_its_egress_policy_says() {
    let ground = Ground::with("to-nodes", &["n1/client"]);
    let nodes = [Node::n1(), Node::n2()];
    for node in &nodes {
        let _node = node.join();
        for port in [Listen::Tcp(NODE_PORT), Listen::Udp(NODE_PORT)] {
            ground.listen(&node.netns, port, node.name);
        }
    }
    let ways: Vec<Vec<Way>> = nodes
        .iter()
        .map(|node| {
            let places = node
                .addresses
                .map(|address| SocketAddr::from((address, NODE_PORT)));
            let ways = places
                .into_iter()
                .flat_map(|to| [Way::Tcp(to), Way::Udp(to)]);
            ways.collect()
        })
        .collect();
    let client = ground.netns("client");
    let demand = |own: bool, other: bool, what: &str| {
        all_become(&ways[0], client, own, &format!("its own node, {what}"));
        all_become(&ways[1], client, other, &format!("another node, {what}"));
    };
    demand(true, true, "no policy");
    ground.policy("nowhere", "{podSelector: {}, policyTypes: [Egress]}");
    demand(false, false, "nothing is allowed");
    for (allowed, own) in [(&nodes[0], true), (&nodes[1], false)] {
        let [v4, v6] = allowed.addresses;
        ground.policy(
            "one",
            &format!(
                "{{podSelector: {{}}, policyTypes: [Egress], \
                 egress: [{{to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: '{v6}/128'}}}}]}}]}}"
            ),
        );
        demand(own, !own, &format!("{} is allowed", allowed.name));
    }
}
