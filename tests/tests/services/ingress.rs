//! What the backend's policy sees of a client: itself, or the node's address where the node hides it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use portcullis_tests::scene::traffic::{is_denied, is_unanswered};
use portcullis_tests::scene::{NEVER, SOON, Scene, ip, nat};

use super::{CLUSTER, NODE, SERVICE, all, dns, pods, sql, to_pod, who, who_udp};

/// The Service; `db` takes only these (flow style), and has no egress.
fn db(ingress: &str) -> String {
    format!(
        "{SERVICE}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  policyTypes: [Ingress, Egress]
  ingress: {ingress}
"
    )
}

const FROM_WEB: &str = "[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}, {port: 5353, protocol: UDP}]}]";
const FROM_NODE: &str =
    "[{from: [{ipBlock: {cidr: 10.0.0.10/32}}, {ipBlock: {cidr: 'fd00:10::10/128'}}]}]";

fn is_closed(scene: &Scene, key: &str, to: &[SocketAddr; 2], udp: &[SocketAddr; 2]) {
    for to in to {
        assert!(is_denied(scene.netns(key), *to), "{key} to {to}");
    }
    for to in udp {
        assert!(is_unanswered(scene.netns(key), *to), "{key} to {to}");
    }
}

fn is_open(scene: &Scene, key: &str, to: &[SocketAddr; 2], udp: &[SocketAddr; 2]) {
    for to in to {
        assert_eq!(who(scene.netns(key), *to), "shop/db", "{key} to {to}");
    }
    for to in udp {
        assert_eq!(who_udp(scene.netns(key), *to), "shop/db", "{key} to {to}");
    }
}

#[test]
fn a_client_is_itself_behind_a_cluster_address() {
    let scene = Scene::up("svc-ingress", &pods(), &db(FROM_WEB));
    to_pod(&scene, "shop/db");
    is_open(&scene, "shop/web", &sql(), &dns());
    is_closed(&scene, "shop/cache", &sql(), &dns());
    let service_ports = FROM_WEB.replace("8080", "80").replace("5353", "53");
    scene.apply("policies", &db(&service_ports));
    is_closed(&scene, "shop/web", &sql(), &dns());
    assert!(scene.drops("ingress", "default-deny") >= 8);
    // The node itself may always open, also by way of the Service.
    for to in sql() {
        assert_eq!(who(scene.lab.node(), to), "shop/db");
    }
    scene.down();
}

#[test]
fn a_client_is_its_node_behind_a_node_port() {
    let scene = Scene::up("svc-node-port", &pods(), &db(FROM_WEB));
    to_pod(&scene, "shop/db");
    let sql = NODE.map(|address| SocketAddr::from((ip(address), 30_080)));
    let dns = NODE.map(|address| SocketAddr::from((ip(address), 30_053)));
    // The address is the node's and the packet is not: no exemption, and no selector finds it.
    is_closed(&scene, "shop/web", &sql, &dns);
    assert!(scene.drops("ingress", "default-deny") >= 4);
    scene.apply("policies", &db(FROM_NODE));
    is_open(&scene, "shop/web", &sql, &dns);
    // The client's own egress policy goes by the pod behind, and by nothing of the node.
    let web = |egress: &str| super::web(egress).replace(SERVICE, "");
    let with = |egress: &str| format!("{}---{}", db(FROM_NODE), web(egress));
    scene.apply(
        "policies",
        &with(FROM_NODE.replace("from:", "to:").as_str()),
    );
    is_closed(&scene, "shop/web", &sql, &dns);
    scene.apply(
        "policies",
        &with("[{to: [{podSelector: {matchLabels: {app: db}}}]}]"),
    );
    is_open(&scene, "shop/web", &sql, &dns);
    scene.down();
}

#[test]
fn a_client_from_outside_is_itself_or_the_node_as_the_node_port_says() {
    const FROM_FAR: &str =
        "[{from: [{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: '2001:db9::/32'}}]}]";
    let scene = Scene::up("svc-far", &pods(), &db(FROM_FAR));
    let far = ["198.51.100.9", "2001:db9::9"].map(ip);
    let answered = |family: usize, limit| {
        let to: SocketAddr = (ip(NODE[family]), 30_053).into();
        let socket = scene.lab.outside().run(|| {
            let socket = UdpSocket::bind((far[family], 0))?;
            socket.connect(to)?;
            Ok(socket)
        });
        let socket = socket.expect("every address is outside's own");
        socket
            .set_read_timeout(Some(limit))
            .expect("a socket takes time-outs");
        socket.send(b"?").expect("a datagram is sent");
        socket.recv(&mut [0; 64]).is_ok()
    };
    // `externalTrafficPolicy: Local` keeps the source.
    let backends: Vec<IpAddr> = scene.addresses("shop/db").to_vec();
    let kept: Vec<_> = (0..2)
        .map(|family| nat::udp((ip(NODE[family]), 30_053), (backends[family], 5353)))
        .collect();
    nat::translate(&scene, &kept);
    assert!(
        answered(0, SOON) && answered(1, SOON),
        "from outside, as itself"
    );
    scene.apply("policies", &db(FROM_NODE));
    assert!(
        !answered(0, NEVER) && !answered(1, NEVER),
        "and not as the node"
    );
    to_pod(&scene, "shop/db");
    // New connections: the translations of the old ones last.
    assert!(answered(0, SOON) && answered(1, SOON), "as the node");
    scene.apply("policies", &db(FROM_FAR));
    assert!(
        !answered(0, NEVER) && !answered(1, NEVER),
        "and not as itself"
    );
    scene.down();
}

#[test]
fn a_pod_reaches_itself_through_its_service_whatever_policy_says() {
    let closed = format!(
        "{SERVICE}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: closed, namespace: shop}}
spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}
"
    );
    let scene = Scene::up("svc-hairpin", &pods(), &closed);
    to_pod(&scene, "shop/db");
    is_open(&scene, "shop/db", &sql(), &dns());
    let node = NODE.map(|address| SocketAddr::from((ip(address), 30_080)));
    let node_dns = NODE.map(|address| SocketAddr::from((ip(address), 30_053)));
    is_open(&scene, "shop/db", &node, &node_dns);
    is_closed(&scene, "shop/web", &sql(), &dns());
    // Without the rewritten source it is the plain case of a pod's own address.
    let plain: Vec<_> = all(
        [0, 1].map(|family| scene.addresses("shop/web")[family]),
        8080,
    );
    nat::translate(&scene, &plain);
    for to in CLUSTER.map(|address| SocketAddr::from((ip(address), 80))) {
        assert_eq!(who(scene.netns("shop/web"), to), "shop/web");
        assert!(is_denied(scene.netns("shop/db"), to), "{to}");
    }
    scene.down();
}
