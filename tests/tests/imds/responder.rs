//! The real responder in the lab's node, as its container runs it: a uid of its own, no capability, nothing to read but its socket.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use portcullis_lab::cgroup::{self, Cgroups};
use portcullis_tests::binary;
use portcullis_tests::scene::Scene;

/// `runAsUser` of its container.
const UID: &str = "65532";

/// A running responder. Dropping it ends it, and shows its log if the test fails.
pub(crate) struct Responder {
    child: Child,
    directory: PathBuf,
}

/// A directory for the socket, as an emptyDir is.
pub(crate) fn directory(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("portcullis-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("the temporary directory can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    path
}

impl Responder {
    pub(crate) fn start(scene: &Scene, directory: PathBuf, sts: &str) -> Self {
        // Where the responder may read it.
        let binary = directory.join("portcullis");
        fs::copy(binary::portcullis(), &binary).expect("the program can be copied");
        let log = fs::File::create(directory.join("log")).expect("a log");
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
            .args(["--region", "eu-west-1", "--sts-endpoint", sts, "--socket"])
            .arg(directory.join("agent.sock"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs([
                ("AWS_ACCESS_KEY_ID", "node"),
                ("AWS_SECRET_ACCESS_KEY", "node-secret"),
            ])
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
        Self { child, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("responder's log:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
