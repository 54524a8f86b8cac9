//! The metadata redirect: a connection to a guarded address reaches the responder with the word on whose it is, and nothing else reaches it.

#[path = "redirect/host.rs"]
mod host;

use std::io::{BufRead as _, BufReader, IoSliceMut, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use portcullis_lab::client::connect_tcp;
use portcullis_lab::state::LabState;
use portcullis_tests::scene::{NEVER, Pod, SOON, Scene, ip, pod, wait_until};
use serde_json::{Value, json};

/// What the redirect stands for, in the order of the responder's listeners.
const GUARDED: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
];

/// The responder's end of its link: this process in its place.
struct Responder {
    link: BufReader<UnixStream>,
    listeners: Vec<TcpListener>,
    asked: u64,
}

impl Responder {
    /// Connects to the agent and takes the sockets.
    fn connect(scene: &Scene) -> Self {
        let path = socket(scene);
        let mut link = None;
        wait_until("the agent waits for its responder", SOON, || {
            link = UnixStream::connect(&path).ok();
            link.is_some()
        });
        let link = link.expect("it has just connected");
        link.set_read_timeout(Some(SOON)).expect("a time-out");
        // Byte by byte, so that nothing of the next line is taken; the sockets come with the first.
        let mut line = Vec::new();
        let mut fds = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            let mut space = cmsg_space!([i32; 8]);
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(link.as_raw_fd(), &mut bytes, Some(&mut space), flags)
                .expect("the agent speaks first");
            for message in message.cmsgs().expect("nothing was cut off") {
                if let ControlMessageOwned::ScmRights(sockets) = message {
                    fds.extend(sockets);
                }
            }
            assert_eq!(message.bytes, 1, "the agent hung up");
            line.extend(byte);
        }
        let said: Value = serde_json::from_slice(&line).expect("it is JSON");
        assert_eq!(
            said,
            json!({"say": "listeners", "services": [0, 1, 2, 3, 4]})
        );
        let listeners = fds
            .into_iter()
            // SAFETY: the descriptors have just been received and are nobody else's.
            .map(|fd| unsafe { TcpListener::from_raw_fd(fd) })
            .collect();
        Self {
            link: BufReader::new(link),
            listeners,
            asked: 0,
        }
    }

    /// Accepts the next connection to a service, and asks whose it is.
    fn accept(&mut self, service: usize) -> (TcpStream, Value) {
        let (stream, peer) = self.listeners[service].accept().expect("it is accepted");
        stream.set_read_timeout(Some(SOON)).expect("a time-out");
        (stream, self.origin(peer, service))
    }

    fn origin(&mut self, peer: SocketAddr, service: usize) -> Value {
        self.asked += 1;
        let question = json!({"say": "origin", "id": self.asked, "peer": peer, "service": service});
        writeln!(self.link.get_mut(), "{question}").expect("the agent listens");
        loop {
            let mut line = String::new();
            self.link.read_line(&mut line).expect("the agent answers");
            let said: Value = serde_json::from_str(&line).expect("it is JSON");
            // Meanwhile it may have news of pods.
            if said["say"] == "origin" {
                assert_eq!(said["id"], self.asked);
                return said["origin"].clone();
            }
        }
    }

    /// Address and port of a listener.
    fn at(&self, service: usize) -> SocketAddr {
        self.listeners[service].local_addr().expect("it is bound")
    }

    /// Nobody waits to be accepted.
    fn is_alone(&self) {
        for listener in &self.listeners {
            listener.set_nonblocking(true).expect("a mode");
            let error = listener.accept().expect_err("nobody comes");
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            listener.set_nonblocking(false).expect("a mode");
        }
    }
}

fn socket(scene: &Scene) -> PathBuf {
    scene.lab.state().directory().join("responder.sock")
}

/// A node whose metadata requests this process answers.
fn scene(test: &str, pods: &[Pod], policies: &str) -> Scene {
    let path = LabState::directory_of(&Scene::lab_name(test)).join("responder.sock");
    Scene::up_with(test, pods, policies, |options| {
        options.extra.extend(["--responder".into(), path.into()]);
        options
            .extra
            .extend(["--responder-uid", "0"].map(Into::into));
    })
}

fn uid(scene: &Scene, key: &str) -> String {
    scene
        .lab
        .pod(key)
        .expect("the lab has the pod")
        .pod
        .uid
        .clone()
}

fn to(service: usize) -> SocketAddr {
    (ip(GUARDED[service]), 80).into()
}

const ISOLATE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

#[test]
fn a_connection_to_each_guarded_address_reaches_the_responder_as_its_pods() {
    let pods = [
        pod("shop/web", "10.0.1.2 fd00:10:1::2"),
        pod("shop/db", "10.0.1.3 fd00:10:1::3"),
    ];
    let scene = scene("rd-reach", &pods, ISOLATE);
    let mut responder = Responder::connect(&scene);
    let mut attachments = Vec::new();
    for key in ["shop/web", "shop/db"] {
        for (service, guarded) in GUARDED.iter().enumerate() {
            let mut client = connect_tcp(scene.netns(key), to(service), SOON).expect("it connects");
            let (mut stream, origin) = responder.accept(service);
            assert_eq!(origin["uid"], uid(&scene, key), "{key} at {guarded}");
            attachments.push(
                origin["attachment"]
                    .as_str()
                    .expect("it has one")
                    .to_owned(),
            );
            // Both ways, more than a segment, and the pod sees whom it called.
            let request = vec![b'q'; 20_000];
            client.write_all(&request).expect("it sends");
            let mut got = vec![0; request.len()];
            stream.read_exact(&mut got).expect("the request comes");
            assert_eq!(got, request);
            let answer = vec![b'a'; 200_000];
            let wrote = answer.clone();
            let writer = std::thread::spawn(move || stream.write_all(&wrote));
            let mut got = vec![0; answer.len()];
            client.set_read_timeout(Some(SOON)).expect("a time-out");
            client.read_exact(&mut got).expect("the answer comes");
            assert!(got == answer);
            writer.join().expect("it ends").expect("it is sent");
            assert_eq!(client.peer_addr().expect("it is connected"), to(service));
            // The word on a connection is given once.
            let peer = client.local_addr().expect("it is bound");
            assert_eq!(responder.origin(peer, service), Value::Null);
        }
    }
    attachments.dedup();
    assert_eq!(attachments.len(), 2, "one for each pod");
    responder.is_alone();
    scene.down();
}

#[test]
fn nobody_reaches_the_responder_but_through_the_guard() {
    let pods = [pod("shop/web", "10.0.1.2 fd00:10:1::2")];
    let scene = scene("rd-alone", &pods, "");
    let responder = Responder::connect(&scene);
    let before = scene.drops("egress", "metadata-guard");
    for service in [0, 3] {
        let at = responder.at(service);
        // The pod, the node's own processes.
        connect_tcp(scene.netns("shop/web"), at, NEVER)
            .expect_err("the listener is not the pod's to call");
        connect_tcp(scene.lab.node(), at, NEVER).expect_err("nor the node's");
    }
    assert!(scene.drops("egress", "metadata-guard") > before);
    assert!(
        scene.drops("ingress", "metadata-guard") > 0,
        "the node's own were counted"
    );
    // Other ports and protocols stay blocked.
    for address in GUARDED {
        for port in [443, 8080, 81] {
            connect_tcp(scene.netns("shop/web"), (ip(address), port).into(), NEVER)
                .expect_err("only port 80 is answered");
        }
    }
    let mapped: IpAddr = "::ffff:169.254.169.254".parse().expect("an address");
    // A socket of IPv6 with a mapped address sends IPv4: it is redirected like any other.
    connect_tcp(scene.netns("shop/web"), (mapped, 80).into(), SOON).expect("it connects");
    let mut responder = responder;
    let (_, origin) = responder.accept(0);
    assert_eq!(origin["uid"], uid(&scene, "shop/web"));
    responder.is_alone();
    scene.down();
}

#[test]
fn an_agent_that_starts_again_hands_over_new_sockets() {
    let pods = [pod("shop/web", "10.0.1.2 fd00:10:1::2")];
    let mut scene = scene("rd-again", &pods, "");
    let mut responder = Responder::connect(&scene);
    let at = responder.at(0);
    let first = {
        let _client = connect_tcp(scene.netns("shop/web"), to(0), SOON).expect("it connects");
        responder.accept(0).1
    };
    scene.kill();
    // Without its agent the responder cannot know whose a connection is, and lets go of its sockets.
    drop(responder);
    connect_tcp(scene.netns("shop/web"), to(0), NEVER).expect_err("nobody answers");
    scene.restart();
    scene.settle();
    let mut responder = Responder::connect(&scene);
    assert_eq!(responder.at(0), at);
    let _client = connect_tcp(scene.netns("shop/web"), to(0), SOON).expect("it connects");
    assert_eq!(responder.accept(0).1, first, "the same attachment");
    scene.down();
}
