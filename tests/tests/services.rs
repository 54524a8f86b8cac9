//! Services: what a pod opens to a Service address is judged by the backend that the node really chose, and by the backend's port.
//!
//! The node translates by nftables rules equal to kube-proxy's. The Services' ports differ from their targets', and no policy here knows an address
//! of theirs but to show that it matches nothing.

#[path = "services/egress.rs"]
mod egress;
#[path = "services/ingress.rs"]
mod ingress;
#[path = "services/metadata.rs"]
mod metadata;

use std::net::{IpAddr, SocketAddr};

use portcullis_lab::{NetNs, client};
use portcullis_tests::scene::nat::{self, Translation};
use portcullis_tests::scene::{NODE_V4, NODE_V6, Pod, SOON, Scene, ip, pod};

/// The Service's addresses.
const CLUSTER: [&str; 2] = ["10.96.0.1", "fd96::1"];
/// The node's.
const NODE: [&str; 2] = [NODE_V4, NODE_V6];

/// One Service with a TCP and a UDP port, and a node port for each.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, \"fd96::1\"]
  selector: {app: db}
  ports:
  - {name: sql, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30053}
---
";

fn pods() -> [Pod; 3] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").label("app", "web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").label("app", "db"),
        pod("shop/cache", "10.0.1.3 fd00:1::3").label("app", "cache"),
    ]
}

/// A scene with the Service; `web` has no ingress, and this egress (flow style).
fn up(test: &str, egress: &str) -> Scene {
    let scene = Scene::up(test, &pods(), &web(egress));
    to_pod(&scene, "shop/db");
    scene
}

/// The Service, and `web`'s policy.
fn web(egress: &str) -> String {
    format!(
        "{SERVICE}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Ingress, Egress]
  egress: {egress}
"
    )
}

/// Every port of the Service leads to this pod.
fn to_pod(scene: &Scene, backend: &str) {
    let backends = scene.addresses(backend);
    nat::translate(scene, &all([backends[0], backends[1]], 8080));
}

/// Both ports of cluster addresses and node ports, with these backends; node ports hide the client.
fn all(backends: [IpAddr; 2], target: u16) -> Vec<Translation> {
    let mut all = Vec::new();
    for (family, backend) in backends.into_iter().enumerate() {
        let (cluster, node) = (ip(CLUSTER[family]), ip(NODE[family]));
        all.extend([
            nat::tcp((cluster, 80), (backend, target)),
            nat::udp((cluster, 53), (backend, 5353)),
            nat::tcp((node, 30_080), (backend, target)).masqueraded(),
            nat::udp((node, 30_053), (backend, 5353)).masqueraded(),
        ]);
    }
    all
}

/// The Service's port for TCP in each family.
fn sql() -> [SocketAddr; 2] {
    CLUSTER.map(|address| (ip(address), 80).into())
}

/// And for UDP.
fn dns() -> [SocketAddr; 2] {
    CLUSTER.map(|address| (ip(address), 53).into())
}

/// Who answers there.
fn who(from: &NetNs, to: SocketAddr) -> String {
    client::banner(from, to, SOON).unwrap_or_else(|error| panic!("{to}: {error:#}"))
}

/// Who answers a datagram.
fn who_udp(from: &NetNs, to: SocketAddr) -> String {
    let answer = client::udp_exchange(from, to, b"", SOON);
    let answer = answer.unwrap_or_else(|error| panic!("{to}: {error:#}"));
    String::from_utf8_lossy(&answer).trim().to_owned()
}
