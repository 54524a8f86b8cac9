//! Pods in the host network: refused at their sockets, and at the uplink what passes round those. The node's own processes keep access.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};

use portcullis_lab::cgroup::Membership;
use portcullis_lab::client::connect_tcp;
use portcullis_lab::outside::{NODE_INTERFACE, NODE_MAC, OUTSIDE_MAC};
use portcullis_lab::packet::{ICMP, ICMPV6, Opening, TCP, UDP};
use portcullis_lab::wire::{HostSockets, PacketSocket};
use portcullis_tests::scene::wire::Wire;
use portcullis_tests::scene::{NODE_V4, NODE_V6, SOON, Scene, host_pod, ip, wait_until};

use super::guarded;

/// How a packet socket leaves without passing the uplink's programs (`linux/if_packet.h`).
const PACKET_QDISC_BYPASS: libc::c_int = 20;

#[test]
fn a_pod_in_the_host_network_is_blocked_and_the_nodes_own_processes_are_not() {
    let pods = [
        host_pod("shop/plain"),
        host_pod("shop/reader").account("reader"),
    ];
    let scene = Scene::up_with("gd-host", &pods, "", |options| {
        let words = ["--metadata-allow", "shop/reader"];
        options.extra.extend(words.map(Into::into));
    });
    let outside = Wire::outside(&scene);
    let before = scene.drops("egress", "metadata-guard");
    {
        let _pod = membership(&scene, "shop/plain");
        for (what, outcome) in by_sockets(&scene) {
            let error = outcome.expect_err(&what);
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}");
        }
        bypass(&scene).expect_err("frames would pass round the guard");
        by_hand(&scene);
        // It is the address that counts.
        connect_tcp(scene.lab.node(), (ip("192.0.2.7"), 8080).into(), SOON)
            .expect("the rest of the world is open");
    }
    assert_eq!(scene.drops("egress", "bypass-option"), 1);
    // Sockets: 5 addresses and 3 mapped ones, TCP and UDP; by hand: 3 packets for each, twice.
    let blocked = 2 * (5 + 3) + 2 * 3 * 5;
    wait_until("every attempt is counted", SOON, || {
        scene.drops("egress", "metadata-guard") == before + blocked
    });
    assert_eq!(to_metadata(&outside), 0, "of a pod");
    for key in ["shop/reader", "the node"] {
        let _pod = (key != "the node").then(|| membership(&scene, key));
        for (what, outcome) in by_sockets(&scene) {
            outcome.unwrap_or_else(|error| panic!("{key}: {what}: {error}"));
        }
        bypass(&scene).expect("a setting like others");
        let _ = to_metadata(&outside);
        by_hand(&scene);
        let mut arrived = 0;
        wait_until("all packets by hand arrive", SOON, || {
            arrived += to_metadata(&outside);
            arrived >= 2 * 3 * 5
        });
    }
    assert_eq!(
        scene.drops("egress", "metadata-guard"),
        before + blocked,
        "of those who may"
    );
    scene.down();
}

/// This process as one of the pod's, until it is dropped. Sockets made meanwhile stay the pod's.
fn membership(scene: &Scene, key: &str) -> Membership {
    let cgroups = scene.lab.cgroups().expect("cgroup2 is mounted");
    let uid = &scene.lab.pod(key).expect("the lab has the pod").pod.uid;
    Membership::enter(&cgroups.pod(uid)).expect("a process can be moved")
}

/// TCP connections and datagrams of unconnected sockets from the node, to every guarded address and its mapped form.
fn by_sockets(scene: &Scene) -> Vec<(String, io::Result<()>)> {
    let mapped = guarded().into_iter().filter_map(|to| match to {
        SocketAddr::V4(v4) => Some((v4.ip().to_ipv6_mapped(), 80).into()),
        SocketAddr::V6(_) => None,
    });
    let mut outcomes = Vec::new();
    for to in guarded().into_iter().chain(mapped) {
        let connected = connect_tcp(scene.lab.node(), to, SOON).map(drop);
        let connected =
            connected.map_err(|error| error.downcast::<io::Error>().expect("the socket's error"));
        outcomes.push((format!("connect to {to}"), connected));
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = scene.lab.node().run(|| Ok(UdpSocket::bind((any, 0))?));
        let sent = socket.expect("a socket opens").send_to(b"?", to).map(drop);
        outcomes.push((format!("sendto {to}"), sent));
    }
    outcomes
}

/// Raw IP packets, and frames on the uplink: a SYN, a datagram and an echo request to every guarded address, twice.
fn by_hand(scene: &Scene) {
    let sockets = scene.lab.node().run(|| {
        let index = nix::net::if_::if_nametoindex(NODE_INTERFACE)?;
        Ok((HostSockets::open()?, PacketSocket::open(index, NODE_MAC)?))
    });
    let (raw, frames) = sockets.expect("sockets open");
    for to in guarded().map(|to| to.ip()) {
        let (src, icmp, kind) = match to {
            IpAddr::V4(_) => (NODE_V4, ICMP, (8, 0)),
            IpAddr::V6(_) => (NODE_V6, ICMPV6, (128, 0)),
        };
        for protocol in [TCP, UDP, icmp] {
            let opening = Opening {
                src: ip(src),
                dst: to,
                protocol,
                src_port: 40_000,
                dst_port: 81,
                icmp: kind,
                marker: 7,
            };
            let packet = opening.to_packet().expect("a packet");
            raw.send(&packet, to).expect("a packet is handed over");
            let frame = opening.to_frame(NODE_MAC, OUTSIDE_MAC).expect("a frame");
            frames.send(&frame).expect("a frame is handed over");
        }
    }
}

/// Asks for the way past the uplink's programs.
fn bypass(scene: &Scene) -> io::Result<()> {
    let socket = scene.lab.node().run(|| {
        let index = nix::net::if_::if_nametoindex(NODE_INTERFACE)?;
        PacketSocket::open(index, NODE_MAC)
    });
    let socket = socket.expect("a packet socket opens");
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many packets by hand for guarded addresses the outside has got since the last call.
fn to_metadata(outside: &Wire) -> usize {
    let frames = outside.frames();
    let guarded = guarded().map(|to| to.ip());
    let for_metadata = frames.iter().filter(|frame| {
        let dst: Option<IpAddr> = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame
                .get(30..34)
                .and_then(|dst| <[u8; 4]>::try_from(dst).ok())
                .map(Into::into),
            _ => frame
                .get(38..54)
                .and_then(|dst| <[u8; 16]>::try_from(dst).ok())
                .map(Into::into),
        };
        dst.is_some_and(|dst| guarded.contains(&dst))
    });
    for_metadata.count()
}
