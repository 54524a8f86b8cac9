//! Services with real kube-proxy: the verdict is that of the backend which was chosen, by cluster address and by node port.

use std::net::{IpAddr, SocketAddr};

use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, Node, Way, apply, object};
use portcullis_tests::scene::SOON;
use serde_json::Value;

use super::all_become;

/// A Service of both families for pods with this label.
fn service(ground: &Ground, name: &str, app: &str) -> Value {
    let namespace = &ground.name;
    apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {app}}}
  ports:
    - {{name: tcp, protocol: TCP, port: 80, targetPort: {PORT}}}
    - {{name: udp, protocol: UDP, port: 80, targetPort: {PORT}}}
"
    ));
    object(&["-n", namespace, "service", name])
}

fn cluster_ways(service: &Value) -> Vec<Way> {
    let addresses = service["spec"]["clusterIPs"]
        .as_array()
        .expect("two of them");
    addresses
        .iter()
        .map(|address| {
            address
                .as_str()
                .expect("text")
                .parse::<IpAddr>()
                .expect("an address")
        })
        .flat_map(|address| {
            [
                Way::Tcp((address, 80).into()),
                Way::Udp((address, 80).into()),
            ]
        })
        .collect()
}

fn node_ways(service: &Value, node: &Node) -> Vec<Way> {
    let port = |index: usize| {
        let port = service["spec"]["ports"][index]["nodePort"].as_u64();
        u16::try_from(port.expect("every port has one")).expect("a port")
    };
    let to = |address, index| SocketAddr::new(address, port(index));
    let addresses = node.addresses.into_iter();
    addresses
        .flat_map(|address| [Way::Tcp(to(address, 0)), Way::Udp(to(address, 1))])
        .collect()
}

#[test]
fn a_cluster_address_is_judged_by_the_backend() {
    let ground = Ground::with("service-ip", &["n1/server", "n1/near", "n2/far"]);
    let ways = cluster_ways(&service(&ground, "server", "server"));
    let demand = |open: [bool; 2], what: &str| {
        for (client, open) in ["near", "far"].iter().zip(open) {
            all_become(
                &ways,
                ground.netns(client),
                open,
                &format!("{client}: {what}"),
            );
        }
    };
    demand([true, true], "no policy");
    ground.policy(
        "ingress",
        "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
         ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]}",
    );
    demand([false, true], "the server lets far in");
    ground.drop_policy("ingress");
    ground.policy(
        "egress",
        "{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress], \
         egress: [{to: [{podSelector: {matchLabels: {app: other}}}]}]}",
    );
    ground.policy(
        "egress-far",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], \
         egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]}",
    );
    demand([false, true], "far may call the server, near may not");
    // The backend's port counts, not the Service's.
    ground.policy(
        "egress-far",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]}",
    );
    demand([false, false], "far may call port 80 only");
}

#[test]
fn another_backend_is_another_verdict() {
    let mut ground = Ground::with("service-backends", &["n1/client", "n2/blue"]);
    let service = service(&ground, "any", "blue");
    let ways = cluster_ways(&service);
    ground.policy(
        "to-blue",
        "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], \
         egress: [{to: [{podSelector: {matchLabels: {colour: blue}}}]}]}",
    );
    ground.label("blue", "colour=blue");
    all_become(&ways, ground.netns("client"), true, "the backend is blue");
    ground.add(&["n1/green"]);
    ground.label("blue", "app=idle");
    all_become(&ways, ground.netns("client"), false, "there is no backend");
    ground.label("green", "app=blue");
    all_become(&ways, ground.netns("client"), false, "the backend is green");
    ground.label("green", "colour=blue");
    all_become(
        &ways,
        ground.netns("client"),
        true,
        "the backend is blue now",
    );
    let answer = ways[0].answer(ground.netns("client"), SOON);
    assert_eq!(answer.as_deref(), Some("green"));
}

#[test]
fn a_node_port_is_judged_by_the_backend() {
    let ground = Ground::with("service-port", &["n1/server", "n1/near", "n2/far"]);
    let service = service(&ground, "server", "server");
    let nodes = [Node::n1(), Node::n2()];
    let ways: Vec<Way> = nodes
        .iter()
        .flat_map(|node| node_ways(&service, node))
        .collect();
    let demand = |open: [bool; 2], what: &str| {
        for (client, open) in ["near", "far"].iter().zip(open) {
            all_become(
                &ways,
                ground.netns(client),
                open,
                &format!("{client}: {what}"),
            );
        }
    };
    demand([true, true], "no policy");
    for (client, to) in [("near", "other"), ("far", "server")] {
        ground.policy(
            client,
            &format!(
                "{{podSelector: {{matchLabels: {{app: {client}}}}}, policyTypes: [Egress], \
                 egress: [{{to: [{{podSelector: {{matchLabels: {{app: {to}}}}}}}]}}]}}"
            ),
        );
    }
    // Through the own node's port; another node's port is a port of that node.
    let own = [
        node_ways(&service, &nodes[0]),
        node_ways(&service, &nodes[1]),
    ];
    all_become(
        &own[0],
        ground.netns("near"),
        false,
        "near may not call the server",
    );
    all_become(
        &own[1],
        ground.netns("far"),
        true,
        "far may call the server",
    );
    ground.drop_policy("near");
    ground.drop_policy("far");
    demand([true, true], "no policy any more");
    // Who comes by another node's port has that node's address.
    ground.policy(
        "ingress",
        "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
         ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}",
    );
    all_become(
        &own[1],
        ground.netns("far"),
        false,
        "the server lets near in, not nodes",
    );
    all_become(&own[1], &nodes[1].netns, false, "nor the other node itself");
}
