//! Ports of a pod on its node's addresses, and a name server that listens on the node at the DNS Service's own address.

use std::net::SocketAddr;

use portcullis_lab::Listen;
use portcullis_tests::cluster::ground::PORT;
use portcullis_tests::cluster::{Ground, Node, Way, apply};
use portcullis_tests::scene::{SOON, ip};

use super::all_become;

const HOST_PORT: u16 = 18_088;
/// The DNS Service's addresses, as docs/cluster.md says.
const DNS: [&str; 2] = ["10.101.0.10", "fd11::a"];

#[test]
fn a_host_port_is_judged_as_the_pod_behind_it() {
    let mut ground = Ground::with("host-port", &["n1/near", "n2/far"]);
    apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: host-port, labels: {{app: server}}}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 0
  containers:
    - name: box
      image: cluster.test/box:1
      imagePullPolicy: IfNotPresent
      ports:
        - {{containerPort: {PORT}, hostPort: {HOST_PORT}, protocol: TCP}}
        - {{containerPort: {PORT}, hostPort: {HOST_PORT}, protocol: UDP}}
"
    ));
    ground.found(&["server"]);
    let (own, other) = (Node::n1(), Node::n2());
    let to = SocketAddr::new(own.addresses[0], HOST_PORT);
    let ways = [Way::Tcp(to), Way::Udp(to)];
    let near = ground.netns("near");
    for (from, who) in [
        (near, "near"),
        (ground.netns("far"), "far"),
        (&other.netns, "n2"),
    ] {
        all_become(&ways, from, true, &format!("{who}, no policy"));
    }
    ground.policy(
        "nobody",
        "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}",
    );
    for (from, who) in [
        (near, "near"),
        (ground.netns("far"), "far"),
        (&other.netns, "n2"),
    ] {
        all_become(&ways, from, false, &format!("{who}, nobody is let in"));
    }
    ground.policy(
        "nobody",
        &format!(
            "{{podSelector: {{matchLabels: {{app: server}}}}, policyTypes: [Ingress], ingress: [{{from: [\
             {{ipBlock: {{cidr: {}/32}}}}, {{podSelector: {{matchLabels: {{app: far}}}}}}]}}]}}",
            other.addresses[0]
        ),
    );
    all_become(&ways, &other.netns, true, "n2 is let in by its address");
    all_become(
        &ways,
        ground.netns("far"),
        true,
        "far is let in by its label",
    );
    // The portmap plugin gives pods of the server's own subnet the node's address.
    all_become(&ways, near, false, "near comes as its node");
    ground.drop_policy("nobody");
    all_become(&ways, near, true, "no policy any more");
    for (kind, open) in [("other", false), ("wanted", true)] {
        ground.policy(
            "egress",
            "{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress], \
             egress: [{to: [{podSelector: {matchLabels: {kind: wanted}}}]}]}",
        );
        ground.label("server", &format!("kind={kind}"));
        all_become(
            &ways,
            near,
            open,
            &format!("near may call wanted pods, the server is {kind}"),
        );
    }
}

/// The DNS Service's addresses on a node, without translation; they go when this is dropped.
struct NodeDns(Node);

impl NodeDns {
    fn up(node: Node) -> Self {
        let dns = Self(node);
        for words in rules("-I") {
            dns.0.run(&words, "");
        }
        for address in DNS {
            dns.0
                .run(&["ip", "address", "add", address, "dev", "lo"], "");
        }
        dns
    }
}

impl Drop for NodeDns {
    fn drop(&mut self) {
        for address in DNS {
            let _ = self
                .0
                .try_run(&["ip", "address", "del", address, "dev", "lo"], "");
        }
        for words in rules("-D") {
            let _ = self.0.try_run(&words, "");
        }
    }
}

/// Packets to and from the addresses are not tracked, so no Service rule sees them.
fn rules(verb: &'static str) -> Vec<Vec<&'static str>> {
    let mut rules = Vec::new();
    for (program, address) in [("iptables", DNS[0]), ("ip6tables", DNS[1])] {
        for chain in ["PREROUTING", "OUTPUT"] {
            for end in ["-d", "-s"] {
                rules.push(vec![
                    program, "-w", "-t", "raw", verb, chain, end, address, "-j", "NOTRACK",
                ]);
            }
        }
    }
    rules
}

#[test]
fn a_name_server_on_the_node_at_the_services_address_is_reached_as_policy_says() {
    let ground = Ground::with("node-dns", &["n1/client"]);
    let dns = NodeDns::up(Node::n1());
    {
        let _node = dns.0.join();
        for port in [Listen::Tcp(53), Listen::Udp(53)] {
            ground.listen(&dns.0.netns, port, "node-dns");
        }
    }
    let ways: Vec<Way> = DNS
        .into_iter()
        .map(|address| SocketAddr::new(ip(address), 53))
        .flat_map(|to| [Way::Tcp(to), Way::Udp(to)])
        .collect();
    let client = ground.netns("client");
    all_become(&ways, client, true, "no policy");
    for way in &ways {
        assert_eq!(
            way.answer(client, SOON).as_deref(),
            Some("node-dns"),
            "{way:?}"
        );
    }
    ground.policy("egress", "{podSelector: {}, policyTypes: [Egress]}");
    all_become(&ways, client, false, "nothing is allowed");
    ground.policy(
        "egress",
        &format!(
            "{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {}/32}}}}, \
             {{ipBlock: {{cidr: '{}/128'}}}}], ports: [{{port: 53}}, {{port: 53, protocol: UDP}}]}}]}}",
            DNS[0], DNS[1]
        ),
    );
    all_become(&ways, client, true, "its address is allowed");
}
