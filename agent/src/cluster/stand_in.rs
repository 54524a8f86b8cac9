//! A cluster to ask, for tests: an API server over TCP that answers lists and execs. Behind each exec are the real bridge and the real admin API of an
//! agent; only what that agent says is made up.
//!
//! ```text
//! kubeconfig --> HTTP --list--> objects of the test
//!                    \--exec, WebSocket--> bridge --socket--> api --Request--> a function of the test
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Access, AsWhom};
use crate::audit::Audit;
use crate::settings::{Roles, Settings, UnknownPod};
use crate::{api, bridge};

/// Namespace of the agents.
const NAMESPACE: &str = "portcullis";

/// Channels of an exec, the first byte of each message (`v5.channel.k8s.io`).
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STATUS: u8 = 3;
    pub(super) const CLOSE: u8 = 255;
}

/// The cluster; it ends with the test's runtime.
pub(crate) struct StandIn {
    address: SocketAddr,
    directory: PathBuf,
    shared: Arc<Shared>,
}

/// One request, as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

#[derive(Default)]
struct Shared {
    /// What is listed, by path; other paths are forbidden.
    objects: Mutex<BTreeMap<String, Vec<Value>>>,
    /// Sockets of the agents, by pod.
    sockets: Mutex<BTreeMap<String, PathBuf>>,
    asked: Mutex<Vec<Asked>>,
    hang_up: Notify,
}

impl StandIn {
    /// Starts the API server; there are no nodes and no agents yet.
    pub(crate) async fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let directory = std::env::temp_dir().join(format!(
            "portcullis-stand-in-{}-{}",
            NEXT.fetch_add(1, Ordering::Relaxed),
            std::process::id()
        ));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("is bound");
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let stand_in = Self {
            address,
            directory,
            shared,
        };
        stand_in.list(&agents_path("pods"), Vec::new());
        stand_in
    }

    /// What a list of `path` has from now on.
    pub(crate) fn list(&self, path: &str, objects: Vec<Value>) {
        let mut all = self.shared.objects.lock().expect("no test panics in it");
        all.insert(path.to_owned(), objects);
    }

    /// An agent on `node`, in the pod `agent-NODE`, that answers by `says`.
    pub(crate) fn agent(&self, node: &str, says: impl Fn(api::Request) + Send + 'static) {
        let pod = format!("agent-{node}");
        let socket = self.directory.join(format!("{pod}.sock"));
        let (requests, mut asked) = mpsc::channel(8);
        let iam = api::Iam {
            audit: Audit::new(node, None, None),
            responder: None,
            tokens: None,
        };
        let served = api::serve(&settings(node, &socket), requests, None, iam).expect("a socket");
        tokio::spawn(served);
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                says(request);
            }
        });
        let mut objects = self.shared.objects.lock().expect("no test panics in it");
        let pods = objects.entry(agents_path("pods")).or_default();
        pods.push(json!({
            "metadata": {"name": pod, "labels": {
                "app.kubernetes.io/name": "portcullis", "app.kubernetes.io/component": "agent"}},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "containerStatuses": [{"name": "agent", "state": {"running": {}}}]},
        }));
        let mut sockets = self.shared.sockets.lock().expect("no test panics in it");
        sockets.insert(pod, socket);
    }

    /// How many nodes are to have an agent.
    pub(crate) fn wants_agents(&self, count: usize) {
        let labels =
            json!({"app.kubernetes.io/name": "portcullis", "app.kubernetes.io/component": "agent"});
        let set = json!({"metadata": {"name": "portcullis", "labels": labels}, "status": {"desiredNumberScheduled": count}});
        let path = "/apis/apps/v1/namespaces/portcullis/daemonsets";
        self.list(path, vec![set]);
    }

    /// Linux nodes with these labels, which may be listed from now on.
    pub(crate) fn nodes(&self, nodes: &[(&str, &[(&str, &str)])]) {
        let nodes = nodes.iter().map(|(name, labels)| {
            let labels = [("kubernetes.io/os", "linux")].iter().chain(*labels);
            let labels: BTreeMap<_, _> = labels.copied().collect();
            json!({"metadata": {"name": name, "labels": labels}})
        });
        self.list("/api/v1/nodes", nodes.collect());
    }

    /// The way to it; the context's namespace is `shop`.
    pub(crate) fn access(&self) -> Access {
        let kubeconfig = self.directory.join("config");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "stand-in",
            "clusters": [{"name": "stand-in", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "somebody", "user": {}}],
            "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "somebody", "namespace": "shop"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).expect("a file can be written");
        Access {
            kubeconfig: Some(kubeconfig),
            context: None,
            namespace: NAMESPACE.to_owned(),
            nodes: Vec::new(),
            labels: None,
            as_whom: AsWhom::default(),
        }
    }

    /// Ends every exec that is open.
    pub(crate) fn hang_up(&self) {
        self.shared.hang_up.notify_waiters();
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.shared.asked.lock().expect("no test panics in it");
        asked.clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn agents_path(resource: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{resource}")
}

fn settings(node: &str, socket: &Path) -> Settings {
    Settings {
        node: node.to_owned(),
        manifests: None,
        bpffs: PathBuf::from("/nonexistent"),
        socket: socket.to_owned(),
        cni_results: PathBuf::new(),
        pod_cgroup: None,
        host_cgroup: None,
        own_uid: None,
        metadata_allow: std::collections::BTreeSet::new(),
        responder: None,
        audit_log: None,
        responder_uid: 65532,
        token_reader: None,
        upstream: portcullis_imds::upstream::Endpoint::default(),
        roles: Roles::default(),
        unknown_pod: UnknownPod::Closed,
        adopt_existing: None,
        metrics: None,
        health: None,
    }
}

async fn serve(State(shared): State<Arc<Shared>>, mut request: Request) -> Response<Body> {
    let uri = request.uri().clone();
    let asked = Asked {
        path: uri.to_string(),
        headers: request.headers().clone(),
    };
    shared
        .asked
        .lock()
        .expect("no test panics in it")
        .push(asked);
    let pods = agents_path("pods") + "/";
    if let Some(pod) = uri
        .path()
        .strip_prefix(&pods)
        .and_then(|rest| rest.strip_suffix("/exec"))
    {
        let sockets = shared.sockets.lock().expect("no test panics in it");
        let socket = sockets.get(pod).cloned();
        drop(sockets);
        let upgrade = hyper::upgrade::on(&mut request);
        return match socket {
            Some(socket) => exec(request.headers(), upgrade, socket, &shared),
            None => refuse(404, &format!("pods {pod:?} not found")),
        };
    }
    let objects = shared.objects.lock().expect("no test panics in it");
    let Some(objects) = objects.get(uri.path()) else {
        return refuse(403, &format!("{} is forbidden", uri.path()));
    };
    let mut query = uri.query().unwrap_or_default().split('&');
    let selector = query.find_map(|part| part.strip_prefix("labelSelector="));
    let selector = selector
        .unwrap_or_default()
        .replace("%3D", "=")
        .replace("%2C", ",")
        .replace("%2F", "/");
    if selector.contains("%21") {
        return refuse(400, "unable to parse requirement: found '!'");
    }
    let selected = objects.iter().filter(|object| has(object, &selector));
    let list = json!({"kind": "List", "apiVersion": "v1", "items": selected.collect::<Vec<_>>()});
    answer(200, &list)
}

/// Whether an object has all labels of `a=b,c=d`.
fn has(object: &Value, selector: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    let mut pairs = selector.split(',').filter_map(|pair| pair.split_once('='));
    pairs.all(|(key, value)| labels[key] == value)
}

fn refuse(code: u16, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
    answer(code, &status)
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a code");
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn exec(
    headers: &HeaderMap,
    upgrade: OnUpgrade,
    socket: PathBuf,
    shared: &Arc<Shared>,
) -> Response<Body> {
    let shared = Arc::clone(shared);
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .expect("a WebSocket is wanted");
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let stream = upgrade.await.expect("the connection is handed over");
        let socket_stream =
            WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        tokio::select! {
            () = carry(socket_stream, socket) => {}
            () = shared.hang_up.notified() => {}
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
        .body(Body::empty())
        .expect("a valid answer")
}

/// Runs a bridge and carries its bytes, until either side has enough.
async fn carry<S>(mut caller: WebSocketStream<S>, socket: PathBuf)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (near, far) = duplex(4096);
    let (mut output, mut input) = split(near);
    let (bridge_input, bridge_output) = split(far);
    tokio::spawn(async move { bridge::run(bridge_input, bridge_output, &socket).await });
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            message = caller.next() => match message {
                Some(Ok(Message::Binary(bytes))) => match &bytes[..] {
                    [channel::STDIN, typed @ ..] if input.write_all(typed).await.is_ok() => {}
                    [channel::CLOSE, channel::STDIN] if input.shutdown().await.is_ok() => {}
                    _ => return,
                },
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = output.read(&mut buffer) => {
                let count = read.unwrap_or(0);
                let (first, rest) = match count {
                    0 => (channel::STATUS, br#"{"status":"Success"}"#.as_slice()),
                    count => (channel::STDOUT, &buffer[..count]),
                };
                let message = [&[first], rest].concat();
                if caller.send(Message::binary(message)).await.is_err() || count == 0 {
                    return;
                }
            }
        }
    }
}
