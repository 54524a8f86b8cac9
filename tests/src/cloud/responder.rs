//! The real responder in the lab's node, as its container runs it: a uid of its own, no capability, nothing to read but its socket.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use portcullis_lab::cgroup::{self, Cgroups};

use crate::binary;
use crate::scene::Scene;

/// `runAsUser` of its container.
const UID: &str = "65532";

/// A running responder. Dropping it ends it, and shows its log if the test fails.
#[derive(Debug)]
pub struct Responder {
    child: Child,
    log: PathBuf,
}

/// A directory for the socket, as an emptyDir is.
#[must_use]
pub fn directory(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("portcullis-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("the temporary directory can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    path
}

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// How it runs.
#[derive(Debug, Clone)]
pub struct How {
    options: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

impl How {
    /// With a region and keys of its own on a node that says nothing, and logs as `filter` (`RUST_LOG`) wants them.
    #[must_use]
    pub fn with_keys(filter: &'static str) -> Self {
        Self {
            options: ["--region", "eu-west-1", "--metadata-endpoint", NOBODY]
                .map(Into::into)
                .into(),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", "node"),
                ("AWS_SECRET_ACCESS_KEY", "node-secret"),
                ("RUST_LOG", filter),
            ],
        }
    }

    /// With those of the node, by its metadata service at `metadata`.
    #[must_use]
    pub fn on_instance(metadata: &str) -> Self {
        Self {
            options: ["--metadata-endpoint", metadata].map(Into::into).into(),
            environment: vec![("RUST_LOG", "info")],
        }
    }

    /// The same with more options.
    #[must_use]
    pub fn option(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|word| (*word).to_owned()));
        self
    }
}

impl Responder {
    /// Starts it beside the agent that waits in `directory`. STS is at `sts`.
    #[must_use]
    pub fn start(scene: &Scene, directory: &Path, sts: &str, how: &How) -> Self {
        // Where the responder may read it.
        let binary = directory.join("portcullis");
        if !binary.exists() {
            fs::copy(binary::portcullis(), &binary).expect("the program can be copied");
        }
        let path = directory.join("log");
        let log = fs::File::options().create(true).append(true).open(&path);
        let log = log.expect("a log");
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                UID,
                "--regid",
                UID,
                "--clear-groups",
                "--no-new-privs",
            ])
            .args(["--bounding-set", "-all", "--inh-caps", "-all", "--"])
            .arg(&binary)
            .arg("responder")
            .args(&how.options)
            .args(["--sts-endpoint", sts, "--socket"])
            .arg(directory.join("agent.sock"))
            .arg("--keys")
            .arg(directory.join("keys"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(how.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        scene
            .lab
            .node()
            .enter(&mut command)
            .expect("the node is there");
        if let Some(cgroups) = scene.lab.cgroups() {
            cgroup::enter(&mut command, &Cgroups::system(cgroups)).expect("it has a cgroup");
        }
        let child = command.spawn().expect("the responder starts");
        Self { child, log: path }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far, and those before it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("responder's log:\n{}", self.log());
        }
    }
}
