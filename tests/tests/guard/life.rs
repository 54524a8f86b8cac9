//! From a pod's first packet to its last: before its object is known, with the agent, without it; and the one exemption.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use portcullis_lab::client::connect_tcp;
use portcullis_tests::scene::{SOON, Scene, pod};

use super::{guarded, is_in_reach, is_out_of_reach, visitors};

/// A NetworkPolicy that allows everything, and one that allows nothing.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{}]
";
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec:
  podSelector: {matchLabels: {app: closed}}
  policyTypes: [Egress]
";

#[test]
fn a_client_is_refused_at_once_also_through_a_socket_of_ipv6() {
    let scene = Scene::up("gd-refused", &[pod("shop/web", "10.0.1.1 fd00:1::1")], OPEN);
    let before = scene.drops("egress", "metadata-guard");
    let mapped = guarded().map(|to| match to {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 80).into(),
        SocketAddr::V6(_) => to,
    });
    for to in guarded().into_iter().chain(mapped) {
        let error = connect_tcp(scene.netns("shop/web"), to, SOON).expect_err("it is guarded");
        let error = error
            .downcast::<io::Error>()
            .expect("an error of the socket");
        assert_eq!(
            error.kind(),
            io::ErrorKind::ConnectionRefused,
            "{to}: {error}"
        );
        let socket = scene.netns("shop/web").run(|| {
            let any: SocketAddr = if to.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                "[::]:0".parse().expect("an address")
            };
            let socket = UdpSocket::bind(any)?;
            socket.send_to(b"?", to)?;
            Ok(socket)
        });
        socket.expect("a datagram is sent");
    }
    // A segment and a datagram for each.
    assert_eq!(scene.drops("egress", "metadata-guard"), before + 20);
    assert!(visitors(&scene).is_empty(), "{:?}", visitors(&scene));
    scene.down();
}

#[test]
fn it_holds_for_pods_old_and_new_while_the_agent_lives_and_while_it_does_not() {
    let mut scene = Scene::up("gd-life", &[pod("shop/old", "10.0.1.1 fd00:1::1")], "");
    is_out_of_reach(&scene, "shop/old");
    // Its first packet, before the agent can know of it.
    scene.add(&pod("shop/new", "10.0.1.2 fd00:1::2"));
    is_out_of_reach(&scene, "shop/new");
    scene.settle();
    is_out_of_reach(&scene, "shop/new");
    // An interface of no pod that is known.
    let stranger = pod("shop/stranger", "10.0.1.3 fd00:1::3");
    scene
        .lab
        .add_pod(stranger.in_lab())
        .expect("a pod is joined");
    is_out_of_reach(&scene, "shop/stranger");
    scene.kill();
    for key in ["shop/old", "shop/new", "shop/stranger"] {
        is_out_of_reach(&scene, key);
    }
    // Nobody attaches programs to this one's interface: the uplink guard remains.
    scene.add(&pod("shop/late", "10.0.1.4 fd00:1::4"));
    is_out_of_reach(&scene, "shop/late");
    scene.restart();
    is_out_of_reach(&scene, "shop/late");
    scene.settle();
    for key in ["shop/old", "shop/new", "shop/stranger", "shop/late"] {
        is_out_of_reach(&scene, key);
    }
    assert!(scene.drops("egress", "metadata-guard") >= 5);
    assert!(visitors(&scene).is_empty(), "{:?}", visitors(&scene));
    scene.down();
}

#[test]
fn a_service_account_on_the_agents_list_is_the_one_exemption() {
    let pods = [
        pod("shop/reader", "10.0.1.1 fd00:1::1").account("reader"),
        pod("shop/closed", "10.0.1.2 fd00:1::2")
            .account("reader")
            .label("app", "closed"),
        pod("shop/other", "10.0.1.3 fd00:1::3").account("other"),
        pod("shop/begging", "10.0.1.4 fd00:1::4")
            .annotation("portcullis.dev/metadata", "allow")
            .annotation("portcullis.dev/metadata-allow", "true")
            .label("portcullis.dev/metadata-allow", "true"),
        pod("shed/reader", "10.0.1.5 fd00:1::5").account("reader"),
    ];
    let scene = Scene::up_with("gd-allow", &pods, CLOSED, |options| {
        let words = ["--metadata-allow", "shop/reader"];
        options.extra.extend(words.map(Into::into));
    });
    is_in_reach(&scene, "shop/reader");
    for key in ["shop/other", "shop/begging", "shed/reader"] {
        is_out_of_reach(&scene, key);
    }
    // For an exempt pod policy decides.
    let before = scene.drops("egress", "default-deny");
    is_out_of_reach(&scene, "shop/closed");
    assert!(scene.drops("egress", "default-deny") >= before + 5);
    let readers = scene.addresses("shop/reader");
    assert!(visitors(&scene).iter().all(|from| readers.contains(from)));
    assert_eq!(visitors(&scene).len(), 5);
    scene.down();
}
