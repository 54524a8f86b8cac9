//! A node whose pods get credentials: the real agent, the real responder, and moto as STS, which says whose keys are.
//!
//! ```text
//! pod -> guard -> responder (uid 65532, no capability) -> road (as long as a test wants) -> STS (moto, in the node)
//! keys of the answer -> GetCallerIdentity at the same STS -> whose they are
//! ```
//! | module | is |
//! |---|---|
//! | `instance` | the node's own metadata service, where a test wants one |
//! | `moto` | STS, and the oracle |
//! | `responder` | the responder's process |
//! | `road` | the way from the responder to STS, with a delay |
//! | `sdk` | real clients, run in pods |
//! | `starter` | first processes of pods, which ask at once |
//! | `talk` | requests by hand, on connections that are kept |

pub mod instance;
pub mod moto;
pub mod responder;
pub mod road;
pub mod sdk;
pub mod starter;
pub mod talk;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use portcullis_lab::AgentOptions;
use portcullis_lab::client::{self, HttpAnswer};

use crate::scene::{Pod, SOON, Scene, ip};
use instance::Instance;
use moto::Moto;
use responder::{How, Responder};
use road::Road;

/// The annotation that names a role.
pub const ROLE: &str = "iam.amazonaws.com/role";
/// What stands before names of roles.
pub const BASE: &str = "arn:aws:iam::123456789012:role/";
/// Where EC2 lists the roles of an instance.
pub const LISTING: &str = "/latest/meta-data/iam/security-credentials/";
/// The header that a session token is asked for with.
pub const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";
/// The header that a session token is shown in.
pub const TOKEN: &str = "X-aws-ec2-metadata-token";

/// Any role below the base may be had that starts with `app-`.
const NAMESPACE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/allowed-roles: '["app-*"]'}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop, uid: sa-default}
"#;

/// A node whose pods get credentials.
#[derive(Debug)]
pub struct Cloud {
    // Ended in this order.
    /// The responder.
    pub responder: Responder,
    /// The node's own metadata service; what the lab has outside if absent.
    pub instance: Option<Instance>,
    /// Its way to STS.
    pub road: Road,
    /// STS.
    pub sts: Moto,
    /// Node, pods and agent.
    pub scene: Scene,
    /// Where the agent waits for its responder.
    directory: PathBuf,
    /// How responders run.
    how: How,
}

impl Cloud {
    /// Everything, in force. Namespace `shop` allows roles that start with `app-`.
    #[must_use]
    pub fn up(test: &str, pods: &[Pod]) -> Self {
        Self::up_with(test, pods, &[])
    }

    /// The same with more options of the agent.
    #[must_use]
    pub fn up_with(test: &str, pods: &[Pod], options: &[&str]) -> Self {
        Self::telling(test, pods, options, "info")
    }

    /// The same with logs as `filter` (`RUST_LOG`) wants them.
    #[must_use]
    pub fn telling(test: &str, pods: &[Pod], options: &[&str], filter: &'static str) -> Self {
        let options = [&["--base-role-arn", BASE], options].concat();
        let (directory, agent) = Self::prepare(test, &options, filter);
        let scene = Scene::up_with(test, pods, NAMESPACE, agent);
        Self::around(scene, directory, How::with_keys(filter))
    }

    /// The same where the node is to say its base ARN, its region and its credentials, as soon as its metadata service is [started](Self::start_instance).
    #[must_use]
    pub fn up_on_instance(test: &str, pods: &[Pod], options: &[&str]) -> Self {
        let url = Instance::url();
        let options = [&["--metadata-endpoint", &url], options].concat();
        let (directory, agent) = Self::prepare(test, &options, "info");
        let scene = Scene::up_with(test, pods, NAMESPACE, agent);
        Self::around(scene, directory, How::on_instance(&url))
    }

    /// As [`up_with`](Self::up_with) without listeners in the pods, for those who come and go by the hundred.
    #[must_use]
    pub fn quiet(test: &str, pods: &[Pod], options: &[&str]) -> Self {
        let options = [&["--base-role-arn", BASE], options].concat();
        let (directory, agent) = Self::prepare(test, &options, "info");
        let scene = Scene::start(test, pods, NAMESPACE, agent);
        scene.settle();
        Self::around(scene, directory, How::with_keys("info"))
    }

    /// Starts the node's metadata service.
    pub fn start_instance(&mut self) {
        self.instance = Some(Instance::start(self.scene.lab.node()));
    }

    fn prepare(
        test: &str,
        options: &[&str],
        filter: &'static str,
    ) -> (PathBuf, impl FnOnce(&mut AgentOptions) + use<>) {
        let directory = responder::directory(test);
        let words = ["--source", "assume-role"];
        let mut extra: Vec<OsString> = words.iter().chain(options).map(Into::into).collect();
        extra.extend(["--responder".into(), directory.join("agent.sock").into()]);
        (directory, move |agent| {
            agent.extra.extend(extra);
            agent.environment.push(("RUST_LOG".into(), filter.into()));
        })
    }

    fn around(scene: Scene, directory: PathBuf, how: How) -> Self {
        let sts = Moto::start(scene.lab.node());
        let road = Road::to(scene.lab.node(), moto::PORT);
        let responder = Responder::start(&scene, &directory, &road.url(), &how);
        Self {
            responder,
            instance: None,
            road,
            sts,
            scene,
            directory,
            how,
        }
    }

    /// One request of a pod to EC2's address.
    #[must_use]
    pub fn ask(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpAnswer {
        let to: SocketAddr = (ip("169.254.169.254"), 80).into();
        client::http(self.scene.netns(key), to, method, path, headers, SOON)
            .unwrap_or_else(|error| panic!("{key}: {method} {path}: {error:#}"))
    }

    /// A session token of a pod.
    #[must_use]
    pub fn token(&self, key: &str) -> String {
        let answer = self.ask(key, "PUT", "/latest/api/token", &[(TTL, "60")]);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// A request of a pod with a session token.
    #[must_use]
    pub fn get(&self, key: &str, token: &str, path: &str) -> HttpAnswer {
        self.ask(key, "GET", path, &[(TOKEN, token)])
    }

    /// Ends the responder at once and starts another, which finds the keys of session tokens of the one before.
    pub fn restart_responder(&mut self) {
        self.responder.kill();
        let url = self.road.url();
        self.responder = Responder::start(&self.scene, &self.directory, &url, &self.how);
    }

    /// Takes everything down; nothing may be left.
    pub fn down(self) {
        drop(self.responder);
        drop(self.instance);
        drop(self.road);
        drop(self.sts);
        self.scene.down();
        let removed = std::fs::remove_dir_all(&self.directory);
        removed.expect("the responder's directory is ours");
    }
}

/// The ARN of a session, as STS says it: that of the pod `shop/NAME`.
#[must_use]
pub fn session(role: &str, name: &str) -> String {
    format!("arn:aws:sts::123456789012:assumed-role/{role}/shop.{name}")
}
