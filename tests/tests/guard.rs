//! The metadata guard: five addresses, out of every pod's reach from its first packet to its last, whatever it sends and however the agent does.

#[path = "guard/forms.rs"]
mod forms;
#[path = "guard/host.rs"]
mod host;
#[path = "guard/life.rs"]
mod life;

use std::net::{IpAddr, SocketAddr};

use portcullis_lab::client::{self, connect_tcp};
use portcullis_tests::scene::{NEVER, NODE_V4, NODE_V6, SOON, Scene, ip};

/// All that is guarded.
const GUARDED: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
];

/// Port 80 of every guarded address.
fn guarded() -> [SocketAddr; 5] {
    GUARDED.map(|address| (ip(address), 80).into())
}

/// Nothing opens from this pod; with an agent that has its interface, clients are told at once.
fn is_out_of_reach(scene: &Scene, key: &str) {
    for to in guarded() {
        connect_tcp(scene.netns(key), to, NEVER).expect_err("metadata is out of reach");
    }
}

/// Everything answers this pod.
fn is_in_reach(scene: &Scene, key: &str) {
    for to in guarded() {
        let answer = client::http(scene.netns(key), to, "GET", "/", &[], SOON);
        answer.unwrap_or_else(|error| panic!("{key} does not reach {to}: {error:#}"));
    }
}

/// Whoever asked the metadata service, the node itself apart.
fn visitors(scene: &Scene) -> Vec<IpAddr> {
    let services = scene.lab.services().expect("services run");
    let seen = services.metadata().seen().into_iter();
    seen.map(|seen| seen.from)
        .filter(|from| ![NODE_V4, NODE_V6].map(ip).contains(from))
        .collect()
}
