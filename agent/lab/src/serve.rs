//! What answers in a lab: the pods' ports, the outside's ports and the metadata service, as a thread of a test or as a process behind `lab up`.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::cgroup;
use crate::metadata::Metadata;
use crate::node::{Lab, PodSite};
use crate::server::{Answer, Bound, Server};
use crate::spec::Listen;
use crate::state::ProcessRecord;

/// The owner's name of the outside's sockets.
const OUTSIDE: &str = "outside";

/// All services of one lab. Dropping them closes every socket.
#[derive(Debug)]
pub struct Services {
    server: Server,
    metadata: Arc<Metadata>,
}

impl Services {
    /// Opens every port of the lab's spec and serves it from a thread.
    pub fn start(lab: &Lab) -> Result<Self> {
        let log = lab.state().directory().join("metadata.ndjson");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let services = Self {
            server: Server::start()?,
            metadata: Arc::new(Metadata::logging_to(log)),
        };
        for port in &lab.state().spec.outside {
            services.listen_outside(lab, *port)?;
        }
        for site in lab.pods().values() {
            services.add_pod(site)?;
        }
        Ok(services)
    }

    /// Opens one more port on every outside address.
    pub fn listen_outside(&self, lab: &Lab, port: Listen) -> Result<()> {
        let answer = if port == Listen::Tcp(80) {
            Answer::Http(self.metadata.clone())
        } else {
            Answer::Outside
        };
        let socket = lab.outside().run(|| Bound::listen(port, answer))?;
        self.server.add(OUTSIDE, socket)
    }

    /// Opens a pod's ports. One without a namespace of its own has none.
    pub fn add_pod(&self, site: &PodSite) -> Result<()> {
        let Some(namespace) = &site.namespace else {
            return Ok(());
        };
        let key = site.pod.key();
        let name: Arc<str> = key.as_str().into();
        let sockets = namespace.run(|| {
            let ports = site.pod.ports.iter();
            ports
                .map(|port| Bound::listen(*port, Answer::Name(name.clone())))
                .collect::<Result<Vec<Bound>>>()
        })?;
        sockets
            .into_iter()
            .try_for_each(|socket| self.server.add(&key, socket))
    }

    /// Opens one more port in a pod or, for a pod in the host network, on the node.
    pub fn listen_in(&self, lab: &Lab, key: &str, port: Listen) -> Result<()> {
        let socket = lab
            .namespace_of(key)?
            .run(|| Bound::listen(port, Answer::Name(key.into())))?;
        self.server.add(key, socket)
    }

    /// Closes a pod's ports and connections: they would keep its namespace alive.
    pub fn forget(&self, key: &str) -> Result<()> {
        self.server.forget(key)
    }

    /// The metadata stand-in, to count what it was asked.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Serves the lab `name` until SIGTERM or SIGINT: the body of the background process.
///
/// Call it before any other thread of the process is started: it blocks both signals in order to wait for them.
pub fn serve(name: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("blocking signals")?;
    let mut lab = Lab::open(name)?;
    lab.start_services()?;
    let ready = ready_file(&lab);
    fs::write(&ready, std::process::id().to_string())
        .with_context(|| format!("writing {}", ready.display()))?;
    signals.wait().context("waiting for a signal")?;
    // Absent if the lab was taken down first.
    let _ = fs::remove_file(ready);
    Ok(())
}

/// Starts `BINARY lab serve --name NAME` in the background, waits until it serves, and records it.
pub fn spawn(lab: &mut Lab, binary: &Path) -> Result<()> {
    let log = lab.state().directory().join("services.log");
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("opening {}", log.display()))?;
    let mut command = Command::new(binary);
    command
        .args(["lab", "serve", "--name", &lab.state().name])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // A process group of its own: the terminal's Ctrl-C is not for it.
    command.process_group(0);
    if let Some(cgroups) = lab.cgroups() {
        cgroup::enter(&mut command, &cgroups.system())?;
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    let pid = child.id() as i32;
    let ready = ready_file(lab);
    let deadline = Instant::now() + Duration::from_secs(15);
    while fs::read_to_string(&ready).ok().as_deref() != Some(&pid.to_string()) {
        if let Some(status) = child.try_wait()? {
            bail!(
                "the lab's services ended with {status}: {}",
                fs::read_to_string(&log).unwrap_or_default().trim()
            );
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!(
                "the lab's services are not ready after 15 s; see {}",
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let record = ProcessRecord::of("services", pid).context("the lab's services ended")?;
    lab.state_mut().record(record)
}

fn ready_file(lab: &Lab) -> std::path::PathBuf {
    lab.state().directory().join("services.ready")
}
