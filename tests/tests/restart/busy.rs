//! The agent's first start on a node whose pods have connections open already.

use std::net::SocketAddr;

use portcullis_tests::scene::nat;
use portcullis_tests::scene::traffic::{Stream, connects};
use portcullis_tests::scene::{NODE_V4, NODE_V6, Scene, ip};

use super::{POLICIES, pods};

/// Connections of each kind and family.
const EACH: usize = 4;

/// A Service in front of `db`.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, \"fd96::1\"]
  selector: {app: db}
  ports: [{protocol: TCP, port: 80, targetPort: 8080}]
---";

/// A node whose kernel tracks connections, as kube-proxy makes it, and on which no agent ever was; then `open`, then the agent's first start.
fn first_start<T>(test: &str, flags: &[&str], open: impl FnOnce(&Scene) -> T) -> (Scene, T) {
    let mut scene = Scene::up_with(test, &pods(), "", |options| {
        options.extra.extend(flags.iter().map(Into::into));
    });
    scene.kill();
    let record = scene.agent.record();
    let bpffs = record.bpffs.display().to_string();
    let binary = record.binary.display().to_string();
    let _ = scene.on_node(&[&binary, "uninstall", "--yes", "--bpffs", &bpffs], "");
    let backends = scene.addresses("shop/db");
    let [v4, v6] = [backends[0], backends[1]].map(|backend| (backend, 8080));
    nat::translate(
        &scene,
        &[
            nat::tcp((ip("10.96.0.1"), 80), v4),
            nat::tcp((ip("fd96::1"), 80), v6),
            nat::tcp((ip(NODE_V4), 30080), v4).masqueraded(),
            nat::tcp((ip(NODE_V6), 30080), v6).masqueraded(),
        ],
    );
    let opened = open(&scene);
    let policies = format!("{SERVICE}{POLICIES}");
    scene.manifests.write("policies.yaml", &policies);
    scene.restart();
    scene.settle();
    (scene, opened)
}

fn streams(scene: &Scene, from: &str, to: &[SocketAddr]) -> Vec<Stream> {
    let from = scene.netns(from);
    let mut streams: Vec<_> = to
        .iter()
        .flat_map(|to| std::iter::repeat_n(*to, EACH))
        .map(|to| Stream::open(from, to))
        .collect();
    streams.iter_mut().for_each(Stream::works);
    streams
}

/// Connections that policy allows: direct, through the Service, from the node. And such as it does not: both in the opening direction and against it.
fn all(scene: &Scene) -> (Vec<Stream>, Vec<Stream>) {
    let direct = scene.ports("shop/db", 8080);
    let service = [(ip("10.96.0.1"), 80).into(), (ip("fd96::1"), 80).into()];
    let mut allowed = streams(scene, "shop/web", &direct);
    allowed.extend(streams(scene, "shop/web", &service));
    let node = scene.lab.node();
    allowed.extend(direct.iter().map(|to| Stream::open(node, *to)));
    let mut denied = streams(scene, "shop/other", &direct);
    denied.extend(streams(scene, "shop/other", &service));
    denied.extend(streams(scene, "shop/db", &scene.ports("shop/web", 8080)));
    (allowed, denied)
}

#[test]
fn connections_that_policy_allows_are_kept_if_the_operator_wants_that_and_others_end() {
    let (scene, (mut allowed, mut denied)) =
        first_start("busy-kept", &["--adopt-existing", "5m"], all);
    allowed.iter_mut().for_each(Stream::works);
    denied.iter_mut().for_each(Stream::is_cut);
    println!(
        "kept {} of {}, ended {}",
        allowed.len(),
        allowed.len(),
        denied.len()
    );
    // What is adopted is counted like any other.
    assert!(scene.flows("shop/db")[1] >= allowed.len() as u64);
    scene.down();
}

#[test]
fn by_default_only_new_ones_are_known() {
    let (scene, (mut allowed, mut denied)) = first_start("busy-new", &[], all);
    // The node's own are never judged.
    let kept = allowed.split_off(allowed.len() - 2);
    allowed
        .iter_mut()
        .chain(&mut denied)
        .for_each(Stream::is_cut);
    println!(
        "kept {}, ended {}",
        kept.len(),
        allowed.len() + denied.len()
    );
    let web = scene.netns("shop/web");
    for to in scene.ports("shop/db", 8080) {
        assert!(connects(web, to), "{to}");
    }
    scene.down();
}

#[test]
fn what_stays_silent_for_longer_than_the_operator_gave_is_forgotten() {
    let (scene, mut streams) = first_start("busy-silent", &["--adopt-existing", "3s"], |scene| {
        streams(scene, "shop/web", &scene.ports("shop/db", 8080))
    });
    let (spoke, silent) = streams.split_at_mut(EACH);
    for _ in 0..5 {
        spoke.iter_mut().for_each(Stream::works);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    spoke.iter_mut().for_each(Stream::works);
    silent.iter_mut().for_each(Stream::is_cut);
    scene.down();
}
