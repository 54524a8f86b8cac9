//! The real agent in the lab's node: started, waited for, killed and started again as a node's kubelet would.
//!
//! It is the `portcullis` binary, never this crate's code: what the lab shows is what a node would run. Only its network namespace and cgroup differ
//! from the machine's, so it sees the same bpffs and `/sys`.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{self, Cgroups};
use crate::netns::NetNs;
use crate::node::Lab;
use crate::privilege;
use crate::state::{AgentRecord, ProcessRecord};

/// How to start the agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The `portcullis` program.
    pub binary: PathBuf,
    /// The directory of objects that it follows.
    pub manifests: PathBuf,
    /// More arguments, such as `--metadata-allow NS/SA`.
    pub extra: Vec<OsString>,
    /// More environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The only capabilities that it has (numbers of linux/capability.h); `None` = all of its starter's.
    pub capabilities: Option<Vec<u8>>,
}

impl AgentOptions {
    /// The agent `binary` on `manifests`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, manifests: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            manifests: manifests.into(),
            extra: Vec::new(),
            environment: Vec::new(),
            capabilities: None,
        }
    }
}

/// A running agent. Dropping it does not end it: the lab's teardown does, by its record.
#[derive(Debug)]
pub struct AgentProcess {
    options: AgentOptions,
    record: AgentRecord,
    arguments: Vec<OsString>,
    netns: PathBuf,
    cgroup: Option<PathBuf>,
    child: Child,
}

impl AgentProcess {
    /// Starts the agent in the lab's node and records it in the lab's state. It is not yet in sync.
    pub fn start(lab: &mut Lab, options: AgentOptions) -> Result<Self> {
        let directory = lab.state().directory();
        let record = AgentRecord {
            binary: options.binary.clone(),
            manifests: options.manifests.clone(),
            socket: directory.join("agent.sock"),
            bpffs: lab.state().bpffs().join("portcullis"),
            log: directory.join("agent.log"),
        };
        let mut arguments: Vec<OsString> = vec!["agent".into()];
        let mut pair = |name: &str, value: &Path| {
            arguments.extend([OsString::from(name), value.as_os_str().to_owned()]);
        };
        pair("--manifests", &record.manifests);
        pair("--node", Path::new(&lab.state().spec.node));
        pair("--bpffs", &record.bpffs);
        pair("--socket", &record.socket);
        pair("--cni-results", &lab.state().cni_results);
        if let Some(cgroups) = lab.cgroups() {
            pair("--pod-cgroup", &cgroups.pods());
            pair("--host-cgroup", cgroups.host());
        }
        arguments.extend(options.extra.iter().cloned());
        lab.state_mut().agent = Some(record.clone());
        let netns = lab.node().path().to_owned();
        let cgroup = lab.cgroups().map(Cgroups::system);
        let child = spawn(&options, &record, &arguments, &netns, cgroup.as_deref())?;
        let this = Self {
            options,
            record,
            arguments,
            netns,
            cgroup,
            child,
        };
        this.note(lab)?;
        Ok(this)
    }

    /// Where its socket, log and pins are.
    #[must_use]
    pub fn record(&self) -> &AgentRecord {
        &self.record
    }

    /// Its command line, for people.
    #[must_use]
    pub fn command_line(&self) -> String {
        let words = std::iter::once(self.record.binary.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str));
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits until every object of its directory is in force, by `portcullis wait --synced`; the time it took.
    pub fn wait_synced(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let output = ask(&self.record, &["wait", "--synced", "--timeout", "30s"])?;
        if !output.status.success() {
            let ended = self
                .child
                .try_wait()
                .ok()
                .flatten()
                .map(|status| format!(" (the agent ended with {status})"))
                .unwrap_or_default();
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!(
                "the agent is not in sync{ended}: {said}\n{}",
                self.log_tail(30)
            );
        }
        Ok(start.elapsed())
    }

    /// `portcullis status -o json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = ask(&self.record, &["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "reading the agent's status: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Ends it at once, as the kernel's out-of-memory killer would, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().context("waiting for the killed agent")?;
        Ok(())
    }

    /// Asks it to end and waits up to ten seconds.
    pub fn stop(&mut self) -> Result<()> {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!(
                    "the agent does not end within 10 s of SIGTERM\n{}",
                    self.log_tail(30)
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Starts it again with the same arguments after [`AgentProcess::kill`] or [`AgentProcess::stop`].
    pub fn restart(&mut self, lab: &mut Lab) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("the agent still runs");
        }
        self.child = spawn(
            &self.options,
            &self.record,
            &self.arguments,
            &self.netns,
            self.cgroup.as_deref(),
        )?;
        self.note(lab)
    }

    /// The last `lines` lines of its log, for a failure's message.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(&self.record.log).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn note(&self, lab: &mut Lab) -> Result<()> {
        match ProcessRecord::of("agent", self.pid()) {
            Some(record) => lab.state_mut().record(record),
            // Ended already: whoever waits for it tells why.
            None => lab.state_mut().save(),
        }
    }
}

/// Runs a command of the agent's program against the socket of `record`.
pub fn ask(record: &AgentRecord, arguments: &[&str]) -> Result<Output> {
    Command::new(&record.binary)
        .args(arguments)
        .arg("--socket")
        .arg(&record.socket)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!(
                "running {} {}",
                record.binary.display(),
                arguments.join(" ")
            )
        })
}

fn spawn(
    options: &AgentOptions,
    record: &AgentRecord,
    arguments: &[OsString],
    netns: &Path,
    group: Option<&Path>,
) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&record.log);
    let log = log.with_context(|| format!("opening {}", record.log.display()))?;
    let mut command = Command::new(&record.binary);
    command
        .args(arguments)
        .envs(options.environment.iter().cloned());
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A process group of its own: the terminal's Ctrl-C is not for it.
    command.process_group(0);
    if let Some(group) = group {
        cgroup::enter(&mut command, group)?;
    }
    NetNs::open(netns)?.enter(&mut command)?;
    // Last: what stands above needs more.
    if let Some(numbers) = &options.capabilities {
        privilege::keep_only(&mut command, numbers);
    }
    command
        .spawn()
        .with_context(|| format!("starting {}", record.binary.display()))
}
