//! STS in the lab's node: moto, which gives out keys and says whose they are.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use portcullis_lab::client;
use portcullis_lab::netns::NetNs;
use serde_json::Value;

use crate::scene::{SOON, ip, wait_until};

/// Its port on each of the node's addresses.
pub const PORT: u16 = 5000;

/// Where it is, asked at one of the node's addresses.
#[must_use]
pub fn url(address: IpAddr) -> String {
    format!("http://{}/", SocketAddr::new(address, PORT))
}

/// A running moto. Dropping it ends it.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    oracle: RefCell<Oracle>,
}

/// A process that asks STS whose keys are.
#[derive(Debug)]
struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Moto {
    /// Ends it: nobody answers there any more.
    pub fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it, and waits until it answers.
    #[must_use]
    pub fn start(node: &NetNs) -> Self {
        let mut command = Command::new(python("moto_server"));
        command
            .args(["-H", "0.0.0.0", "-p", &PORT.to_string()])
            .env("MOTO_RECORDER_FILEPATH", recording())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        node.enter(&mut command).expect("the node is there");
        let child = command.spawn().expect("moto starts");
        let at = (ip("127.0.0.1"), PORT).into();
        wait_until("moto answers", SOON * 3, || {
            client::http(node, at, "GET", "/moto-api/", &[], SOON).is_ok()
        });
        // The first call loads half of it, and takes longer than pods may wait.
        let first = "/?Action=AssumeRole&Version=2011-06-15&RoleArn=arn:aws:iam::123456789012:role/first&RoleSessionName=first";
        let answer = client::http(
            node,
            at,
            "GET",
            first,
            &[("Host", "sts.amazonaws.com")],
            SOON * 3,
        );
        assert_eq!(answer.expect("moto answers").status, 200);
        Self {
            child,
            oracle: Oracle::start(node).into(),
        }
    }

    /// The ARN of whoever has these keys, by a request signed with them.
    #[must_use]
    pub fn whose(&self, keys: &Value) -> String {
        let mut oracle = self.oracle.borrow_mut();
        writeln!(oracle.questions, "{keys}").expect("the oracle listens");
        let mut line = String::new();
        oracle.answers.read_line(&mut line).expect("it answers");
        let said: Option<String> = serde_json::from_str(&line).expect("an ARN or null");
        said.unwrap_or_else(|| panic!("STS does not know these keys: {}", keys["AccessKeyId"]))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Only a test that asked for one has it.
        let _ = fs::remove_file(recording());
    }
}

impl Oracle {
    fn start(node: &NetNs) -> Self {
        let mut command = Command::new(python("python3"));
        command
            .args(["-c", include_str!("../../python/whose.py")])
            .arg(url(ip("127.0.0.1")))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        node.enter(&mut command).expect("the node is there");
        let mut child = command.spawn().expect("Python starts");
        let questions = child.stdin.take().expect("it is piped");
        let answers = child.stdout.take().expect("it is piped");
        Self {
            child,
            questions,
            answers: BufReader::new(answers),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it writes the calls that it is told to record.
fn recording() -> PathBuf {
    std::env::temp_dir().join(format!("portcullis-moto-{}", std::process::id()))
}

/// A program of the Python environment that `cargo xtask test` prepares.
#[must_use]
pub fn python(name: &str) -> PathBuf {
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
