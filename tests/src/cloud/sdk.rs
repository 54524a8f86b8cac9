//! Real clients, run in a pod of the lab at the true addresses: its namespace, an empty environment, no setting of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use portcullis_lab::pods;
use serde_json::Value;

use super::moto::{self, python};
use crate::scene::{NODE_V4, Scene, ip};

/// A client, and by which of its ways it looks for credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// boto3, by all of its ways.
    Boto3,
    /// boto3 with the environment of an ECS task.
    Boto3Container,
    /// `aws sts get-caller-identity`: awscli 1 shows its keys to nobody, so STS is asked from the pod.
    Awscli,
    /// The SDK for JavaScript: `fromInstanceMetadata`.
    JsImds,
    /// `fromNodeProviderChain`.
    JsChain,
    /// `fromHttp` with the environment of an ECS task.
    JsHttp,
    /// The SDK for Rust: the provider of instance metadata, the strictest of all.
    RustImds,
    /// The default chain.
    RustChain,
    /// The provider for containers, with the environment of an ECS task.
    RustContainer,
    /// curl, as a shell script would use it: session token, listing, credentials.
    Curl,
    /// curl at ECS' address.
    CurlContainer,
}

/// What an ECS task has in its environment: a path, never an address.
const TASK: [(&str, &str); 1] = [(
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "/v2/credentials/self",
)];

/// `--fail-with-body` makes an answer of 400 and more an error, and shows its body all the same.
const CURL: &str = r#"
set -e
at=http://169.254.169.254/latest
token=$(curl -sSf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $at/api/token)
with="X-aws-ec2-metadata-token: $token"
roles=$at/meta-data/iam/security-credentials/
role=$(curl -sS --fail-with-body -m 5 -H "$with" $roles) || { echo "$role" >&2; exit 22; }
curl -sS --fail-with-body -m 5 -H "$with" "$roles$role"
"#;

/// What a client found.
#[derive(Debug, Clone)]
pub struct Found {
    /// `AccessKeyId`, `SecretAccessKey`, `Token`; nothing if there are none.
    pub keys: Option<Value>,
    /// Whose they are, where the client asked STS itself.
    pub whose: Option<String>,
    /// What it said of it, if it said anything.
    pub error: String,
    /// How long it looked, where the client says so itself: its start does not count.
    pub took: Option<Duration>,
}

impl Client {
    /// All that find credentials at EC2's address.
    pub const IMDS: [Self; 7] = [
        Self::Boto3,
        Self::Awscli,
        Self::JsImds,
        Self::JsChain,
        Self::RustImds,
        Self::RustChain,
        Self::Curl,
    ];

    /// All that ask ECS' address.
    pub const CONTAINER: [Self; 4] = [
        Self::Boto3Container,
        Self::JsHttp,
        Self::RustContainer,
        Self::CurlContainer,
    ];

    /// Starts the client in a pod, and waits until it has found something or given up.
    #[must_use]
    pub fn find(self, scene: &Scene, key: &str) -> Found {
        self.find_with(scene, key, self.environment())
    }

    /// The same with another environment.
    #[must_use]
    pub fn find_with(self, scene: &Scene, key: &str, environment: &[(&str, &str)]) -> Found {
        let (program, arguments) = self.command();
        let mut command = pods::command(&scene.lab, key, &program).expect("the pod can be entered");
        command.args(arguments).env_clear();
        command
            .env("HOME", std::env::temp_dir())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied());
        if self.is_js() {
            command.env("NODE_PATH", node_modules());
        }
        command.stdin(Stdio::null());
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        );
        match self {
            Self::Awscli | Self::Curl | Self::CurlContainer => {
                plain(output.status.success(), &said, &complained)
            }
            _ => {
                assert!(output.status.success(), "{self:?}: {said}\n{complained}");
                let said: Value = serde_json::from_str(&said)
                    .unwrap_or_else(|error| panic!("{self:?}: {error}: {said}\n{complained}"));
                Found {
                    whose: None,
                    keys: said.get("keys").filter(|keys| keys.is_object()).cloned(),
                    error: said["error"].as_str().unwrap_or_default().to_owned(),
                    took: said["millis"].as_u64().map(Duration::from_millis),
                }
            }
        }
    }

    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Boto3Container | Self::JsHttp | Self::RustContainer => &TASK,
            _ => &[],
        }
    }

    fn command(self) -> (PathBuf, Vec<String>) {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let js = |which| {
            let script = include_str!("../../node/find.cjs");
            // `-` ends the options; without a file node puts no name before the arguments.
            (
                PathBuf::from("node"),
                words(&["-e", script, "--", "-", which]),
            )
        };
        let rust = |which| (find_keys(), words(&[which]));
        match self {
            Self::Boto3 | Self::Boto3Container => {
                let script = include_str!("../../python/find.py");
                (python("python3"), words(&["-c", script]))
            }
            Self::Awscli => {
                let url = moto::url(ip(NODE_V4));
                let ask = ["sts", "get-caller-identity", "--region", "eu-west-1"];
                let mut arguments: Vec<String> = words(&ask);
                arguments.extend(words(&["--output", "json", "--endpoint-url", &url]));
                (python("aws"), arguments)
            }
            Self::JsImds => js("imds"),
            Self::JsChain => js("chain"),
            Self::JsHttp => js("http"),
            Self::RustImds => rust("imds"),
            Self::RustChain => rust("chain"),
            Self::RustContainer => rust("ecs"),
            Self::Curl => ("/bin/sh".into(), words(&["-c", CURL])),
            Self::CurlContainer => (
                "curl".into(),
                words(&[
                    "-sS",
                    "--fail-with-body",
                    "-m",
                    "5",
                    "http://169.254.170.2/v2/credentials/self",
                ]),
            ),
        }
    }

    fn is_js(self) -> bool {
        matches!(self, Self::JsImds | Self::JsChain | Self::JsHttp)
    }
}

/// What a program printed that knows nothing of us: a document, or a complaint.
fn plain(good: bool, said: &str, complained: &str) -> Found {
    let document: Option<Value> = serde_json::from_str(said).ok().filter(|_| good);
    let document = document.unwrap_or_default();
    let keys = document["AccessKeyId"]
        .is_string()
        .then(|| document.clone());
    let whose = document["Arn"].as_str().map(ToOwned::to_owned);
    let found_none = keys.is_none() && whose.is_none();
    Found {
        error: if found_none {
            format!("{said}{complained}")
        } else {
            String::new()
        },
        keys,
        whose,
        took: None,
    }
}

/// The packages that `cargo xtask test` prepares.
fn node_modules() -> PathBuf {
    let folder = std::env::var_os("PORTCULLIS_NODE_MODULES").expect(
        "PORTCULLIS_NODE_MODULES names a folder with @aws-sdk/credential-providers: `cargo xtask test` makes it",
    );
    PathBuf::from(folder)
}

/// The SDK for Rust as a program: cargo builds it along with tests, beside them.
fn find_keys() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a program");
    let folder = test.parent().and_then(Path::parent);
    let path = folder.expect("a test lies in deps").join("find-keys");
    assert!(
        fs::exists(&path).unwrap_or_default(),
        "{} is missing",
        path.display()
    );
    path
}
