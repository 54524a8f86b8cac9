//! What other tools left on the node, or put there: named by status, readiness and log; the stricter verdict holds.

use std::os::fd::AsFd as _;

use aya_obj::generated::bpf_attach_type;
use portcullis_lab::client;
use portcullis_tests::bench::program;
use portcullis_tests::scene::traffic::{connects, is_denied};
use portcullis_tests::scene::{NEVER, SOON, Scene, admin, wait_until};

use super::{POLICIES, pods, tcp};

fn problems(scene: &Scene) -> String {
    scene.status()["problems"].to_string()
}

/// kube2iam's rule, as its agent writes it, by both generations of `iptables`; and a chain of Calico's.
#[test]
fn rules_for_metadata_and_chains_of_other_agents_are_named_and_open_nothing() {
    let mut scene = Scene::up("others-rules", &pods(), POLICIES);
    assert_eq!(problems(&scene), "[]");
    scene.kill();
    for tool in ["iptables-legacy", "iptables-nft"] {
        let rule = "-p tcp -d 169.254.169.254/32 --dport 80 -i eni+ -j DNAT --to-destination 10.0.0.10:8181";
        let words: Vec<&str> = [tool, "-w", "-t", "nat", "-A", "PREROUTING"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        let _ = scene.on_node(&words, "");
        let _ = scene.on_node(&[tool, "-w", "-N", "cali-FORWARD"], "");
    }
    let accept = "add table inet kiam; add chain inet kiam out { type filter hook forward priority 0; }; \
                  add rule inet kiam out ip6 daddr fd00:ec2::254 accept";
    let _ = scene.on_node(&["nft", accept], "");
    scene.restart();
    scene.settle();
    wait_until("the rules have been read", SOON, || {
        problems(&scene) != "[]"
    });
    let problems = problems(&scene);
    for expected in [
        "PC1103: a firewall rule names the metadata service: table nat, chain built in",
        "PC1103: a firewall rule names the metadata service: table nat, chain PREROUTING",
        "PC1103: a firewall rule names the metadata service: table kiam, chain out",
        "PC1104: chains of Calico are in the firewall",
    ] {
        assert!(problems.contains(expected), "{expected} in {problems}");
        assert!(
            scene.log().contains(&expected["PC1103: ".len()..]),
            "{expected} in the log"
        );
    }
    assert_eq!(scene.status()["ready"], true);
    let metadata = "169.254.169.254:80".parse().expect("an address");
    let asked = client::http(scene.netns("shop/web"), metadata, "GET", "/", &[], NEVER);
    asked.expect_err("metadata is out of reach");
    scene.down();
}

/// A program behind ours is beside the point; one in front of ours could end the chain, and the node is not ready.
#[test]
fn a_program_behind_ours_is_named_and_one_before_ours_makes_the_node_not_ready() {
    let mut scene = Scene::up("others-programs", &pods(), POLICIES);
    let web = scene.endpoint("shop/web");
    let ifindex = web["ifindex"].as_u64().expect("a number") as u32;
    let place = format!(
        "ours on {} ingress",
        web["interface"].as_str().expect("a name")
    );
    let program = program::empty().expect("an empty program loads");
    let attach = |scene: &Scene, before| {
        let hook = bpf_attach_type::BPF_TCX_INGRESS;
        let node = scene.lab.node();
        node.run(|| Ok(program::attach(program.as_fd(), ifindex, hook, before)?))
            .expect("a TCX link")
    };
    scene.kill();
    let behind = attach(&scene, false);
    scene.restart();
    scene.settle();
    let named = problems(&scene);
    assert!(
        named.contains("PC1102") && named.contains(&format!("behind {place}")),
        "{named}"
    );
    assert_eq!(readiness(&scene).0, 200);
    assert!(is_denied(
        scene.netns("shop/web"),
        tcp(&scene, "shop/other")[0]
    ));
    assert!(connects(scene.netns("shop/web"), tcp(&scene, "shop/db")[0]));
    drop(behind);

    scene.kill();
    let before = attach(&scene, true);
    scene.restart();
    wait_until("the node is not ready", SOON, || {
        let (status, why) = readiness(&scene);
        status == 503 && why.contains("PC1101") && why.contains(&format!("before {place}"))
    });
    assert!(scene.log().contains(&format!("runs before {place}")));
    drop(before);
    wait_until("the node is ready again", SOON * 5, || {
        readiness(&scene).0 == 200
    });
    assert_eq!(problems(&scene), "[]");
    scene.down();
}

fn readiness(scene: &Scene) -> (u16, String) {
    admin::get(scene.socket(), "/readyz")
        .map(|answer| (answer.status, answer.body))
        .unwrap_or_default()
}
