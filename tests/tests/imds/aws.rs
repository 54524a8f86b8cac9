//! STS in the lab's node: moto, which gives out keys and says whose they are. Boto3 is the client that most pods have.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use portcullis_lab::client;
use portcullis_lab::netns::NetNs;
use portcullis_tests::scene::{SOON, Scene, ip, wait_until};
use serde_json::Value;

const PORT: u16 = 5000;
/// Where it answers, in the node.
pub(crate) const URL: &str = "http://127.0.0.1:5000";

/// Who the keys on standard input belong to.
const WHOSE: &str = "
import boto3, json, sys
keys = json.load(sys.stdin)
sts = boto3.client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id=keys['AccessKeyId'],
                   aws_secret_access_key=keys['SecretAccessKey'], aws_session_token=keys['Token'])
print(json.dumps(sts.get_caller_identity()['Arn']))
";

/// What boto3 finds by itself.
const FIND: &str = "
import boto3, json
found = boto3.Session(region_name='eu-west-1').get_credentials()
if found is None:
    print('null')
else:
    keys = found.get_frozen_credentials()
    print(json.dumps({'AccessKeyId': keys.access_key, 'SecretAccessKey': keys.secret_key, 'Token': keys.token}))
";

/// A running moto. Dropping it ends it.
pub(crate) struct Sts {
    child: Child,
    node: PathBuf,
}

impl Sts {
    pub(crate) fn start(scene: &Scene) -> Self {
        let mut command = Command::new(python("moto_server"));
        command
            .args(["-H", "127.0.0.1", "-p", &PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        scene
            .lab
            .node()
            .enter(&mut command)
            .expect("the node is there");
        let child = command.spawn().expect("moto starts");
        let at = (ip("127.0.0.1"), PORT).into();
        wait_until("moto answers", SOON * 3, || {
            client::http(scene.lab.node(), at, "GET", "/moto-api/", &[], SOON).is_ok()
        });
        Self {
            child,
            node: scene.lab.node().path().to_owned(),
        }
    }

    /// The ARN of whoever has these keys.
    pub(crate) fn whose(&self, keys: &Value) -> String {
        let node = NetNs::open(&self.node).expect("the node is there");
        let said = run(&node, WHOSE, &[URL], &keys.to_string());
        said.as_str().expect("an ARN").to_owned()
    }
}

/// The keys that boto3 finds in a pod; null if there are none.
pub(crate) fn boto3(scene: &Scene, key: &str) -> Value {
    run(scene.netns(key), FIND, &[], "")
}

impl Drop for Sts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a Python program without any setting of ours; what it prints is JSON.
fn run(namespace: &NetNs, program: &str, arguments: &[&str], input: &str) -> Value {
    let home = std::env::temp_dir();
    let mut command = Command::new(python("python3"));
    command
        .args(["-c", program])
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    namespace
        .enter(&mut command)
        .expect("the namespace is there");
    let mut child = command.spawn().expect("Python starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A program of the Python environment that `cargo xtask test` prepares.
fn python(name: &str) -> PathBuf {
    let folder = std::env::var_os("PORTCULLIS_PYTHON").expect(
        "PORTCULLIS_PYTHON names an environment with moto and boto3: `cargo xtask test` makes it",
    );
    let path = PathBuf::from(folder).join("bin").join(name);
    assert!(
        fs::exists(&path).unwrap_or_default(),
        "{} is missing",
        path.display()
    );
    path
}
