//! Pods in the host network: steered to the responder at their sockets, and known there by the cgroup of the socket that called.

use std::io;
use std::net::{IpAddr, SocketAddr};

use portcullis_lab::cgroup::Membership;
use portcullis_lab::client::connect_tcp;
use portcullis_lab::packet::{Opening, TCP};
use portcullis_lab::wire::HostSockets;
use portcullis_tests::scene::{NEVER, SOON, Scene, host_pod, ip, pod, wait_until};
use serde_json::Value;

use super::{GUARDED, Responder, scene, to, uid};

/// This process as one of the pod's, until it is dropped.
fn membership(scene: &Scene, key: &str) -> Membership {
    let cgroups = scene.lab.cgroups().expect("cgroup2 is mounted");
    Membership::enter(&cgroups.pod(&uid(scene, key))).expect("a process can be moved")
}

#[test]
fn i9_pods_in_the_host_network_are_told_apart_by_their_cgroups() {
    let pods = [
        host_pod("shop/one"),
        host_pod("shop/two"),
        pod("shop/web", "10.0.1.2 fd00:10:1::2"),
    ];
    let scene = scene("rd-host", &pods, "");
    let mut responder = Responder::connect(&scene);
    let mapped = GUARDED[..3].iter().enumerate().map(|(service, address)| {
        let address: IpAddr = format!("::ffff:{address}").parse().expect("an address");
        (service, SocketAddr::from((address, 80)))
    });
    let roads: Vec<_> = (0..GUARDED.len())
        .map(|service| (service, to(service)))
        .chain(mapped)
        .collect();
    let mut attachments = Vec::new();
    for key in ["shop/one", "shop/two"] {
        for (service, road) in &roads {
            let client = {
                let _pod = membership(&scene, key);
                connect_tcp(scene.lab.node(), *road, SOON)
                    .unwrap_or_else(|error| panic!("{key} to {road}: {error:#}"))
            };
            let (_stream, origin) = responder.accept(*service);
            assert_eq!(origin["uid"], uid(&scene, key), "{key} to {road}");
            assert_eq!(origin["ifindex"], 0);
            attachments.push(origin["attachment"].clone());
            // Whose it is is said once.
            let peer = client.local_addr().expect("it is bound");
            let peer = SocketAddr::from((peer.ip().to_canonical(), peer.port()));
            assert_eq!(responder.origin(peer, *service), Value::Null);
        }
    }
    attachments.dedup();
    assert_eq!(attachments.len(), 2, "one for each pod");
    responder.is_alone();
    scene.down();
}

#[test]
fn g1_the_host_network_has_no_other_way_to_the_responder() {
    let pods = [
        host_pod("shop/one"),
        pod("shop/web", "10.0.1.2 fd00:10:1::2"),
    ];
    let scene = scene("rd-roads", &pods, "");
    let responder = Responder::connect(&scene);
    let pod = membership(&scene, "shop/one");
    for service in [0, 3] {
        let at = responder.at(service);
        let error = connect_tcp(scene.lab.node(), at, NEVER).expect_err("it is not its to call");
        let error = error.downcast::<io::Error>().expect("the socket's error");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{at}");
    }
    // Other ports and protocols of the guarded addresses stay refused.
    for address in GUARDED {
        connect_tcp(scene.lab.node(), (ip(address), 443).into(), NEVER).expect_err("port 443");
    }
    // SYNs by hand, from the node's own addresses and a pod's: no socket sent them.
    let raw = scene.lab.node().run(HostSockets::open).expect("it opens");
    let before = scene.drops("ingress", "metadata-guard");
    let mut sent = 0;
    for service in [0, 3] {
        let at = responder.at(service);
        let pods = scene.addresses("shop/web");
        let pods = pods
            .iter()
            .copied()
            .filter(|pod| pod.is_ipv4() == at.is_ipv4());
        for src in [at.ip()].into_iter().chain(pods) {
            let opening = Opening {
                src,
                dst: at.ip(),
                protocol: TCP,
                src_port: 40_000,
                dst_port: at.port(),
                icmp: (0, 0),
                marker: 7,
            };
            let packet = opening.to_packet().expect("a packet");
            raw.send(&packet, at.ip()).expect("it is handed over");
            sent += 1;
        }
    }
    wait_until("every one is counted", SOON, || {
        scene.drops("ingress", "metadata-guard") >= before + sent
    });
    // A socket that listens at the port that a SYN by hand names is none that called.
    let at = responder.at(0);
    let listener = scene
        .lab
        .node()
        .run(|| Ok(std::net::TcpListener::bind((at.ip(), 0))?))
        .expect("it listens");
    let opening = Opening {
        src: at.ip(),
        dst: at.ip(),
        protocol: TCP,
        src_port: listener.local_addr().expect("it is bound").port(),
        dst_port: at.port(),
        icmp: (0, 0),
        marker: 7,
    };
    let before = scene.drops("ingress", "metadata-guard");
    let packet = opening.to_packet().expect("a packet");
    raw.send(&packet, at.ip()).expect("it is handed over");
    wait_until("it is counted", SOON, || {
        scene.drops("ingress", "metadata-guard") > before
    });
    responder.is_alone();
    drop(pod);
    scene.down();
}
