//! Services with real kube-proxy: the verdict is that of the backend which was chosen, by cluster address, external address, load balancer and node port.

use std::net::{IpAddr, SocketAddr};

use portcullis_lab::Listen;
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, Node, Way, apply, kubectl, object};
use portcullis_tests::scene::{SOON, ip};
use serde_json::{Value, json};

use super::all_become;

/// Of a listener on a node.
const HOST_PORT: u16 = 8085;

/// A Service of both families for pods with this label.
pub(super) fn service(ground: &Ground, name: &str, app: &str) -> Value {
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

/// TCP and UDP to port 80 of its cluster addresses.
pub(super) fn cluster_ways(service: &Value) -> Vec<Way> {
    let addresses = service["spec"]["clusterIPs"]
        .as_array()
        .expect("two of them");
    addresses
        .iter()
        .map(|address| ip(address.as_str().expect("text")))
        .flat_map(port_80)
        .collect()
}

fn port_80(address: IpAddr) -> [Way; 2] {
    let to = (address, 80).into();
    [Way::Tcp(to), Way::Udp(to)]
}

/// A policy's `spec` by which one pod may call another and nobody else.
fn may_call(client: &str, server: &str) -> String {
    format!(
        "{{podSelector: {{matchLabels: {{app: {client}}}}}, policyTypes: [Egress], \
         egress: [{{to: [{{podSelector: {{matchLabels: {{app: {server}}}}}}}]}}]}}"
    )
}

/// Demands what each client can do, all ways at a time.
fn demand(ground: &Ground, ways: &[Way], clients: [(&str, bool); 2], what: &str) {
    for (client, open) in clients {
        let what = format!("{client}: {what}");
        all_become(ways, ground.netns(client), open, &what);
    }
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
    let demand = |[near, far]: [bool; 2], what: &str| {
        demand(&ground, &ways, [("near", near), ("far", far)], what);
    };
    demand([true, true], "no policy");
    ground.policy(
        "ingress",
        "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], \
         ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]}",
    );
    demand([false, true], "the server lets far in");
    ground.drop_policy("ingress");
    ground.policy("egress", &may_call("near", "other"));
    ground.policy("egress-far", &may_call("far", "server"));
    demand([false, true], "far may call the server, near may not");
    // The backend's port counts, not the Service's.
    ground.policy(
        "egress-far",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]}",
    );
    demand([false, false], "far may call port 80 only");
}

#[test]
fn external_and_load_balancer_addresses_are_judged_by_the_backend() {
    let ground = Ground::with("service-external", &["n1/server", "n1/near", "n2/far"]);
    let _ = service(&ground, "server", "server");
    let external = ["10.78.0.240", "fd78::240"].map(ip);
    let balancer = ["10.78.0.241", "fd78::241"].map(ip);
    let patch = |words: &[&str], patch: Value| {
        let patch = patch.to_string();
        let all = [
            "-n",
            &ground.name,
            "patch",
            "service",
            "server",
            "-p",
            &patch,
        ];
        kubectl(&[&all[..], words].concat());
    };
    patch(
        &[],
        json!({"spec": {"type": "LoadBalancer", "externalIPs": external}}),
    );
    // What a cloud's controller writes when the load balancer stands.
    let ingress = balancer.map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
    patch(
        &["--subresource=status"],
        json!({"status": {"loadBalancer": {"ingress": ingress}}}),
    );
    let ways: Vec<Way> = external
        .into_iter()
        .chain(balancer)
        .flat_map(port_80)
        .collect();
    let demand = |[near, far]: [bool; 2], what: &str| {
        demand(&ground, &ways, [("near", near), ("far", far)], what);
    };
    demand([true, true], "no policy");
    ground.policy("near", &may_call("near", "other"));
    ground.policy("far", &may_call("far", "server"));
    demand([false, true], "far may call the server, near may not");
    ground.policy(
        "far",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]}",
    );
    demand([false, false], "far may call port 80 only");
    ground.policy(
        "far",
        "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], \
         egress: [{to: [{ipBlock: {cidr: 10.78.0.240/31}}, {ipBlock: {cidr: 'fd78::240/127'}}]}]}",
    );
    demand([false, false], "an address of the Service is in no block");
}

#[test]
fn a_backend_in_the_host_network_is_judged_as_its_node() {
    let ground = Ground::with("service-host", &["n1/near", "n2/far"]);
    let node = Node::n1();
    {
        // A socket belongs to the cgroup in which it is opened.
        let _member = node.join();
        for listen in [Listen::Tcp(HOST_PORT), Listen::Udp(HOST_PORT)] {
            ground.listen(&node.netns, listen, "host");
        }
    }
    apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: host, namespace: {0}}}
spec:
  ipFamilyPolicy: RequireDualStack
  ports:
    - {{name: tcp, protocol: TCP, port: 80, targetPort: {HOST_PORT}}}
    - {{name: udp, protocol: UDP, port: 80, targetPort: {HOST_PORT}}}
",
        ground.name
    ));
    for (family, address) in ["IPv4", "IPv6"].into_iter().zip(node.addresses) {
        apply(&format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: host-{}, namespace: {}, labels: {{kubernetes.io/service-name: host}}}}
addressType: {family}
endpoints: [{{addresses: ['{address}'], conditions: {{ready: true}}}}]
ports:
  - {{name: tcp, protocol: TCP, port: {HOST_PORT}}}
  - {{name: udp, protocol: UDP, port: {HOST_PORT}}}
",
            family.to_lowercase(),
            ground.name
        ));
    }
    let ways = cluster_ways(&object(&["-n", &ground.name, "service", "host"]));
    let demand = |open: bool, what: &str| {
        demand(&ground, &ways, [("near", open), ("far", open)], what);
    };
    demand(true, "no policy");
    ground.policy(
        "egress",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}",
    );
    demand(false, "a node is no pod");
    let [v4, v6] = node.addresses;
    ground.policy(
        "egress",
        &format!(
            "{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: '{v6}/128'}}}}], \
             ports: [{{port: {HOST_PORT}}}, {{port: {HOST_PORT}, protocol: UDP}}]}}]}}"
        ),
    );
    demand(true, "its block and its port");
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
    let demand = |[near, far]: [bool; 2], what: &str| {
        demand(&ground, &ways, [("near", near), ("far", far)], what);
    };
    demand([true, true], "no policy");
    ground.policy("near", &may_call("near", "other"));
    ground.policy("far", &may_call("far", "server"));
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
