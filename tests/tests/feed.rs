//! From objects to verdicts: the directory that is followed, what is refused of it, who is known by which address, and what the agent says of it all.

#[path = "feed/files.rs"]
mod files;
#[path = "feed/metrics.rs"]
mod metrics;
#[path = "feed/objects.rs"]
mod objects;
#[path = "feed/refused.rs"]
mod refused;
#[path = "feed/wait.rs"]
mod wait;

use portcullis_tests::scene::wire::{Wire, dropped, passes, udp};
use portcullis_tests::scene::{Pod, SOON, Scene, pod, wait_until};

fn pods() -> [Pod; 2] {
    [
        pod("shop/web", "10.0.1.1 fd00:1::1").label("app", "web"),
        pod("shop/db", "10.0.1.2 fd00:1::2").label("app", "db"),
    ]
}

/// `db` takes what this peer sends (flow style).
fn db(peer: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  policyTypes: [Ingress]
  ingress: [{{from: [{peer}]}}]
"
    )
}

const WEB: &str = "{podSelector: {matchLabels: {app: web}}}";
const NOBODY: &str = "{podSelector: {matchLabels: {app: nobody}}}";

/// Asks with real packets whether one pod may send to another; each question is a new connection.
struct Question {
    from: Wire,
    to: Wire,
    next: u16,
}

impl Question {
    fn new(scene: &Scene, from: &str, to: &str) -> Self {
        Self {
            from: Wire::of(scene, from),
            to: Wire::of(scene, to),
            next: 20_000,
        }
    }

    /// Demands a verdict of the destination's policy, in both families.
    fn is(&mut self, scene: &Scene, ends: (&str, &str), open: bool) {
        let why = ("ingress", "default-deny");
        self.ask(scene, ends, (!open).then_some(why));
    }

    /// Demands that it passes, or that it is dropped in this direction for this reason.
    fn ask(&mut self, scene: &Scene, ends: (&str, &str), why: Option<(&str, &str)>) {
        self.next += 1;
        let (from, to) = (scene.addresses(ends.0), scene.addresses(ends.1));
        for (from, to) in from.iter().zip(to) {
            // To a port where nobody answers.
            let segment = udp((*from, self.next), (*to, 9));
            match why {
                None => passes(&self.from, &self.to, segment),
                Some(why) => dropped(scene, &self.from, &self.to, segment, why),
            }
        }
    }
}

/// Waits, without asking for anything to be read, until these policies isolate a pod's ingress.
fn isolated_by(scene: &Scene, key: &str, policies: &[&str]) {
    let wanted: Vec<String> = policies
        .iter()
        .map(|name| format!("NetworkPolicy {name}"))
        .collect();
    wait_until(&format!("{key} is isolated by {policies:?}"), SOON, || {
        scene.endpoint(key)["ingress"] == serde_json::json!(wanted)
    });
}
