//! What happens to objects and interfaces while no agent is there.

use portcullis_tests::scene::traffic::{Conversation, Stream, is_denied};
use portcullis_tests::scene::{Scene, kernel, pod, run_in};

use super::{POLICIES, all_verdicts, objects, pods, tcp, verdict};

#[test]
fn objects_that_changed_meanwhile_are_in_force_afterwards() {
    let mut scene = Scene::up("re-objects", &pods(), POLICIES);
    let kept = Conversation::start(Stream::open(
        scene.netns("shop/web"),
        tcp(&scene, "shop/db")[0],
    ));
    scene.kill();
    // A pod comes, `other` becomes a second web, and the policy of `db` is gone for a narrower one.
    let late = pod("shop/late", "10.0.1.4 fd00:1::4").label("app", "web");
    scene.add(&late);
    let [_, _, other] = pods();
    scene.manifests.put(&other.label("app", "web"));
    let narrower = POLICIES.replace(
        "app: web}}}]}]\n",
        "app: web}}}], ports: [{port: 8080}]}]\n",
    );
    assert_ne!(narrower, POLICIES);
    scene.manifests.write("policies.yaml", &narrower);
    // Until the agent is back, old policy rules, and metadata is closed to a pod that nobody knows.
    verdict(&scene, "shop/other", "shop/db", false);
    let metadata = "169.254.169.254:80".parse().expect("an address");
    assert!(is_denied(scene.netns("shop/late"), metadata));
    scene.restart();
    scene.settle();
    assert_eq!(scene.status()["adopted"], true);
    for key in ["shop/web", "shop/other", "shop/late"] {
        let from = scene.netns(key);
        for to in tcp(&scene, "shop/db") {
            Stream::open(from, to).works();
        }
        for to in scene.ports("shop/db", 5353) {
            let unanswered = portcullis_tests::scene::traffic::is_unanswered(from, to);
            assert!(unanswered, "{key} to {to}");
        }
        verdict(&scene, "shop/db", key, false);
    }
    assert!(is_denied(scene.netns("shop/late"), metadata));
    assert!(kept.stop() > 0, "what both policies allow has not noticed");
    scene.down();
}

#[test]
fn a_pod_that_is_gone_leaves_nothing_to_its_successor() {
    let mut scene = Scene::up("re-gone", &pods(), POLICIES);
    verdict(&scene, "shop/web", "shop/db", true);
    let ifindex = scene.lab.pod("shop/web").expect("it is there").ifindex;
    scene.kill();
    scene.remove("shop/web");
    // The same addresses under another name and other labels.
    let successor = pod("shop/next", "10.0.1.1 fd00:1::1").label("app", "other");
    scene.add(&successor);
    scene.restart();
    scene.settle();
    verdict(&scene, "shop/next", "shop/db", false);
    let old = format!("{ifindex}_");
    let links = kernel::pins(&scene.pins().join("links"));
    let left: Vec<_> = links
        .keys()
        .filter(|path| {
            path.rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with(&old))
        })
        .collect();
    assert!(
        left.is_empty(),
        "links of an interface that is gone: {left:?}"
    );
    scene.down();
}

#[test]
fn an_interface_made_anew_under_its_old_index_gets_new_links() {
    let mut scene = Scene::up("re-relink", &pods(), POLICIES);
    let before = objects(&scene, "links");
    scene.kill();
    let ifindex = relink(&scene, "shop/web");
    scene.restart();
    scene.settle();
    let own = format!("/links/{ifindex}_");
    let after = objects(&scene, "links");
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.0, new.0, "the same pins");
        assert_eq!(old == new, !old.0.contains(&own), "{}", old.0);
    }
    let web = scene.netns("shop/web");
    Stream::open(web, tcp(&scene, "shop/db")[0]).works();
    assert!(is_denied(web, tcp(&scene, "shop/other")[0]));
    let metadata = "169.254.169.254:80".parse().expect("an address");
    assert!(is_denied(web, metadata));
    assert!(
        scene.drops("egress", "metadata-guard") > 0,
        "by its own program"
    );
    scene.down();
}

/// Deletes a pod's pair and makes it again, IPv4 only, with the same index; returns it.
fn relink(scene: &Scene, key: &str) -> u32 {
    let site = scene.lab.pod(key).expect("the lab has the pod");
    let (name, index, address) = (&site.host_interface, site.ifindex, scene.address(key));
    let [own, host] = [site.pod_mac(), site.host_mac()]
        .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let netns = scene.netns(key).path().display();
    let node = format!(
        "link del {name}
        link add {name} index {index} address {host} type veth peer name eth0 address {own} netns {netns}
        link set {name} up
        neigh add {address} lladdr {own} dev {name} nud permanent
        route add {address} dev {name}
"
    );
    let _ = scene.on_node(&["ip", "-batch", "-"], &node);
    let inside = format!(
        "addr add {address}/32 dev eth0
        link set eth0 up
        neigh add 169.254.1.1 lladdr {host} dev eth0 nud permanent
        route add 169.254.1.1 dev eth0 scope link
        route add default via 169.254.1.1 dev eth0
"
    );
    let _ = run_in(scene.netns(key), &["ip", "-batch", "-"], &inside);
    index
}

#[test]
fn a_start_without_an_agent_before_it_takes_over_nothing() {
    let scene = Scene::up("re-first", &pods(), POLICIES);
    assert_eq!(scene.status()["adopted"], false);
    all_verdicts(&scene);
    scene.down();
}
