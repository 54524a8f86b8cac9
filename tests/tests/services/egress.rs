//! What the client's policy says, wherever the backend is.

use std::net::UdpSocket;

use portcullis_lab::cgroup::Membership;
use portcullis_tests::scene::traffic::{
    Conversation, Datagrams, Stream, connects, datagram_socket, is_denied, is_unanswered,
};
use portcullis_tests::scene::{NEVER, NODE_V4, NODE_V6, SOON, Scene, ip, nat, wait_until};

use super::{CLUSTER, SERVICE, all, dns, pods, sql, to_pod, up, web, who, who_udp};

const TO_DB: &str = "[{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 8080}, {port: 5353, protocol: UDP}]}]";

fn is_closed(scene: &Scene, key: &str) {
    let from = scene.netns(key);
    for to in sql() {
        assert!(is_denied(from, to), "{key} to {to}");
    }
    for to in dns() {
        assert!(is_unanswered(from, to), "{key} to {to}");
    }
}

fn leads_to(scene: &Scene, key: &str, backend: &str) {
    let from = scene.netns(key);
    for to in sql() {
        assert_eq!(who(from, to), backend, "{to}");
    }
    for to in dns() {
        assert_eq!(who_udp(from, to), backend, "{to}");
    }
}

#[test]
fn the_backend_that_was_chosen_and_its_port_decide() {
    let scene = up("svc-egress", TO_DB);
    leads_to(&scene, "shop/web", "shop/db");
    // The same address, another backend.
    to_pod(&scene, "shop/cache");
    is_closed(&scene, "shop/web");
    assert!(scene.drops("egress", "default-deny") >= 4);
    assert_eq!(
        scene.drops("ingress", "default-deny"),
        0,
        "the verdict is the client's"
    );
    leads_to(&scene, "shop/db", "shop/cache");
    // The Service's own numbers mean nothing.
    to_pod(&scene, "shop/db");
    let service_ports = TO_DB.replace("8080", "80").replace("5353", "53");
    scene.apply("policies", &web(&service_ports));
    is_closed(&scene, "shop/web");
    scene.apply("policies", &web(TO_DB));
    leads_to(&scene, "shop/web", "shop/db");
    scene.down();
}

#[test]
fn an_address_of_a_service_is_in_no_block() {
    let blocks = |v4: &str, v6: &str| {
        web(&format!(
            "[{{to: [{{ipBlock: {{{v4}}}}}, {{ipBlock: {{{v6}}}}}]}}]"
        ))
    };
    let scene = up("svc-blocks", "[]");
    is_closed(&scene, "shop/web");
    scene.apply(
        "policies",
        &blocks("cidr: 10.96.0.0/12", "cidr: 'fd96::/16'"),
    );
    is_closed(&scene, "shop/web");
    // The backend's address is what counts, in the block or in what it leaves out.
    scene.apply(
        "policies",
        &blocks("cidr: 10.0.1.2/32", "cidr: 'fd00:1::2/128'"),
    );
    leads_to(&scene, "shop/web", "shop/db");
    scene.apply(
        "policies",
        &blocks(
            "cidr: 0.0.0.0/0, except: [10.96.0.0/12]",
            "cidr: '::/0', except: ['fd96::/16']",
        ),
    );
    leads_to(&scene, "shop/web", "shop/db");
    scene.apply(
        "policies",
        &blocks(
            "cidr: 0.0.0.0/0, except: [10.0.1.2/32]",
            "cidr: '::/0', except: ['fd00:1::2/128']",
        ),
    );
    is_closed(&scene, "shop/web");
    scene.down();
}

#[test]
fn a_backend_outside_is_judged_where_it_leaves_the_node() {
    let outside = "[{to: [{ipBlock: {cidr: 192.0.2.7/32}}, {ipBlock: {cidr: '2001:db8::7/128'}}]}]";
    let scene = up("svc-outside", outside);
    let backends = ["192.0.2.7", "2001:db8::7"];
    nat::translate(&scene, &all(backends.map(ip), 8080));
    let from = scene.netns("shop/web");
    for (to, backend) in sql().into_iter().zip(backends) {
        assert_eq!(who(from, to), format!("outside {backend}"));
    }
    for (to, backend) in dns().into_iter().zip(backends) {
        assert_eq!(who_udp(from, to), format!("outside {backend}"));
    }
    nat::translate(&scene, &all(["192.0.2.8", "2001:db8::8"].map(ip), 8080));
    is_closed(&scene, "shop/web");
    assert!(scene.drops("egress", "default-deny") >= 4);
    scene.down();
}

#[test]
fn a_backend_on_the_node_itself_is_judged_before_its_socket() {
    let node = "[{to: [{ipBlock: {cidr: 10.0.0.10/32}}, {ipBlock: {cidr: 'fd00:10::10/128'}}]}]";
    // A socket of the host's cgroup: the agent's own.
    let scene = Scene::up_with("svc-node", &pods(), &web(node), |options| {
        options.extra = ["--health", "[::]:9440"].map(Into::into).to_vec();
    });
    nat::translate(&scene, &all([NODE_V4, NODE_V6].map(ip), 9440));
    let healthy = |key: &str, to| {
        let (from, limit) = (scene.netns(key), SOON);
        portcullis_lab::client::http(from, to, "GET", "/healthz", &[], limit)
            .is_ok_and(|answer| answer.body == "ok\n")
    };
    for to in sql() {
        assert!(healthy("shop/web", to), "{to}");
    }
    scene.apply("policies", &web("[]"));
    for to in sql() {
        assert!(is_denied(scene.netns("shop/web"), to), "{to}");
        assert!(healthy("shop/cache", to), "nothing isolates cache");
    }
    assert!(scene.drops("egress", "default-deny") >= 2);
    scene.down();
}

#[test]
fn metadata_behind_a_service_stays_guarded() {
    let scene = up("svc-metadata", "[{}]");
    nat::translate(
        &scene,
        &all(["169.254.169.254", "fd00:ec2::254"].map(ip), 80),
    );
    for key in ["shop/web", "shop/cache"] {
        for to in sql() {
            assert!(is_denied(scene.netns(key), to), "{key} to {to}");
        }
    }
    assert!(scene.drops("egress", "metadata-guard") >= 4);
    let services = scene.lab.services().expect("the outside is served");
    assert_eq!(services.metadata().seen().len(), 0, "nothing was asked");
    scene.down();
}

#[test]
fn an_open_connection_goes_on_with_its_backend_and_ends_with_its_permission() {
    let scene = up("svc-change", TO_DB);
    let from = scene.netns("shop/web");
    let mut streams = sql().map(|to| Stream::open(from, to));
    streams.iter_mut().for_each(Stream::works);
    let busy = sql().map(|to| Conversation::start(Stream::open(from, to)));
    let datagrams = dns().map(|to| Datagrams::start(from, to));
    // The Service moves on; who is connected stays where they are.
    to_pod(&scene, "shop/cache");
    streams.iter_mut().for_each(Stream::works);
    for to in sql() {
        assert!(is_denied(from, to), "{to}");
    }
    let both = TO_DB.replace(
        "{app: db}",
        "{tier: none}}}, {podSelector: {matchLabels: {app: db}",
    );
    scene.apply("policies", &web(&both));
    streams.iter_mut().for_each(Stream::works);
    for conversation in busy {
        assert!(conversation.stop() > 0);
    }
    for tally in datagrams.map(Datagrams::stop) {
        assert!(tally.sent > 0 && tally.lost.is_empty(), "{tally:?}");
    }
    // Judged again behind the translation: the client's tables say nothing of the Service's address.
    let cache = TO_DB.replace("{app: db}", "{app: cache}");
    scene.apply("policies", &web(&cache));
    streams.iter_mut().for_each(Stream::is_cut);
    wait_until("each is noticed", SOON, || scene.cuts() >= 2);
    for to in sql() {
        assert_eq!(who(from, to), "shop/cache");
    }
    scene.down();
}

#[test]
fn an_address_that_is_no_services_is_judged_as_it_stands() {
    // Somebody else's translation: nobody told the agent, so the pod's own interface decides.
    let scene = up("svc-foreign", TO_DB);
    scene.apply("policies", &web(TO_DB).replace(SERVICE, ""));
    let from = scene.netns("shop/web");
    for to in sql() {
        assert!(is_denied(from, to), "{to}");
    }
    scene.apply("policies", &web(TO_DB));
    for to in sql() {
        assert!(connects(from, to), "{to}");
    }
    scene.down();
}

/// A Service's address that the node has itself, as a name server on each node does: nothing translates it, and the verdict is that address's.
#[test]
fn an_address_that_the_node_keeps_for_itself_is_judged_as_it_is() {
    let scene = Scene::up("svc-kept", &pods(), &web(TO_DB));
    for address in CLUSTER {
        let _ = scene.on_node(&["ip", "addr", "add", address, "dev", "lo"], "");
    }
    // As a process of the node, so that `pc_to_host` judges what its sockets receive.
    let cgroups = scene.lab.cgroups().expect("the lab has cgroups");
    let member = Membership::enter(&cgroups.system()).expect("a process can be moved");
    let servers = CLUSTER.map(|address| {
        let bind = || Ok(UdpSocket::bind((ip(address), 53))?);
        let server = scene
            .lab
            .node()
            .run(bind)
            .expect("the node has the address");
        let limit = Some(NEVER);
        server
            .set_read_timeout(limit)
            .expect("a socket takes time-outs");
        server
    });
    drop(member);
    let arrive = |expected: usize, what: &str| {
        for (server, to) in servers.iter().zip(dns()) {
            let client = datagram_socket(scene.netns("shop/web"), to);
            for _ in 0..3 {
                client.send(b"?").expect("a datagram is sent");
            }
            let got = (0..3)
                .take_while(|_| server.recv(&mut [0; 8]).is_ok())
                .count();
            assert_eq!(got, expected, "{what}: {to}");
        }
    };
    let before = scene.drops("egress", "default-deny");
    arrive(0, "not allowed");
    assert_eq!(scene.drops("egress", "default-deny"), before + 6);
    let node = "[{to: [{ipBlock: {cidr: 10.96.0.1/32}}, {ipBlock: {cidr: 'fd96::1/128'}}]}]";
    scene.apply("policies", &web(node));
    arrive(3, "allowed");
    scene.apply("policies", &web(TO_DB));
    arrive(0, "not allowed any more");
    scene.down();
}
