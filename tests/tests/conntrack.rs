//! What is remembered of connections: replies, related errors, closed and reused ports, permissions that are taken away, floods, age.
//!
//! Everything with packets of real pods, mostly in both families. Segments that a kernel would not send are made by hand on deaf pods.

#[path = "conntrack/age.rs"]
mod age;
#[path = "conntrack/change.rs"]
mod change;
#[path = "conntrack/flood.rs"]
mod flood;
#[path = "conntrack/icmp.rs"]
mod icmp;
#[path = "conntrack/recent.rs"]
mod recent;
#[path = "conntrack/segments.rs"]
mod segments;

use portcullis_tests::scene::traffic::{Stream, answers, is_denied, is_unanswered};
use portcullis_tests::scene::{Pod, Scene, pod};

/// Three pods with both families.
fn pods() -> [Pod; 3] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").label("app", "web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").label("app", "db"),
        pod("shop/other", "10.0.1.3 fd00:1::3").label("app", "other"),
    ]
}

/// `web` may open to `db`; neither may open anything else, nor be opened to. Nothing isolates `other`.
const ONE_WAY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";

#[test]
fn replies_pass_although_their_direction_is_closed() {
    let scene = Scene::up("ct-replies", &pods(), ONE_WAY);
    let (web, db) = (scene.netns("shop/web"), scene.netns("shop/db"));
    for to in scene.ports("shop/db", 8080) {
        Stream::open(web, to).works();
    }
    for to in scene.ports("shop/db", 5353) {
        assert!(answers(web, to), "{to}");
    }
    for to in scene.ports("shop/web", 8080) {
        assert!(is_denied(db, to), "{to}");
    }
    for to in scene.ports("shop/web", 5353) {
        assert!(is_unanswered(db, to), "{to}");
    }
    assert!(scene.drops("egress", "default-deny") >= 4);
    // The connections closed in order, and nothing that was denied is remembered.
    assert_eq!(scene.flows("shop/web")[1], 0, "nothing opened to web");
    assert_eq!(scene.flows("shop/db")[0], 0, "nothing opened by db");
    scene.down();
}
