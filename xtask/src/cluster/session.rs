//! A cluster for the length of a test run, with Portcullis in it as users install it.
//!
//! `up` and `down` are our own commands, run as processes of their own: `up` joins the cluster's cgroup, and
//! `down` ends whoever is in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::names::{self, Node};
use super::place::ourselves;
use super::up::{Family, Proxy};
use super::{load, run};
use crate::command::{loud, output, say};
use crate::image;
use crate::layout::Layout;
use crate::setup;

/// As deploy/ names them.
const NAMESPACE: &str = "portcullis";
const DAEMON_SET: &str = "daemonset/portcullis";

/// A cluster that is up. Dropped, it goes down, unless somebody else brought it up.
pub(crate) struct Session {
    ours: bool,
    /// Where its programs are, and ours.
    path: OsString,
    /// How Services are translated.
    pub(crate) proxy: String,
    /// Which addresses come first.
    pub(crate) family: Family,
}

impl Session {
    /// Brings a cluster up, with a virtual machine if a kernel is named.
    pub(crate) fn up(proxy: Proxy, family: Family, kernel: Option<&str>) -> Result<Self> {
        setup::need_root("test on the cluster", "the same command")?;
        let family = family.name().to_lowercase();
        let words = [
            "cluster",
            "up",
            "--proxy",
            proxy.name(),
            "--family",
            &family,
        ];
        let mut up = Command::new(ourselves()?);
        up.args(words);
        if let Some(kernel) = kernel {
            up.args(["--kernel", kernel]);
        }
        loud(&mut up, "bring a cluster up")?;
        Self::of(true)
    }

    /// Uses the one that is up, and leaves it up.
    pub(crate) fn running() -> Result<Self> {
        setup::need_root("test on the cluster", "the same command")?;
        Self::of(false)
    }

    fn of(ours: bool) -> Result<Self> {
        let path = run::path()?;
        let how =
            |file| fs::read_to_string(file).context("cannot read how the cluster was brought up");
        let family = how(names::family())?;
        Ok(Self {
            ours,
            path,
            proxy: how(names::proxy())?,
            family: Family::named(&family).context("the cluster has a family of its own")?,
        })
    }

    /// Builds the image, brings it to the nodes and applies deploy/portcullis.yaml; every agent is Ready then.
    pub(crate) fn install(&self, layout: &Layout) -> Result<()> {
        load::load(&[image::build(layout)?])?;
        let started = Instant::now();
        let manifest = layout.root.join("deploy/portcullis.yaml");
        let mut apply = self.kubectl()?;
        apply.args(["apply", "--server-side", "-f"]).arg(manifest);
        loud(&mut apply, "apply deploy/portcullis.yaml")?;
        if !self.ours {
            // The image may be another one of the same name.
            let mut restart = self.kubectl()?;
            restart.args(["-n", NAMESPACE, "rollout", "restart", DAEMON_SET]);
            loud(&mut restart, "restart the agents")?;
        }
        let mut status = self.kubectl()?;
        status.args(["-n", NAMESPACE, "rollout", "status", DAEMON_SET]);
        // A virtual machine is slow.
        let limit = if self.nodes().iter().any(|(_, kernel)| kernel.is_some()) {
            600
        } else {
            120
        };
        status.arg(format!("--timeout={limit}s"));
        if let Err(error) = loud(&mut status, "wait for the agents") {
            self.show_agents()?;
            return Err(error);
        }
        say(&format!(
            "Portcullis is Ready on every node, {:.1} s after kubectl apply",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Its nodes; those that are virtual machines have a kernel of their own.
    #[expect(
        clippy::unused_self,
        reason = "there are nodes as long as there is a cluster"
    )]
    pub(crate) fn nodes(&self) -> Vec<(String, Option<String>)> {
        Node::present()
            .into_iter()
            .map(|node| (node.name(), node.kernel()))
            .collect()
    }

    /// The start of a command that runs on that node.
    pub(crate) fn on(&self, node: &str) -> Result<Command> {
        let mut command = Command::new(ourselves()?);
        self.enter(&mut command)?;
        command.args(["cluster", "run", "--node", node, "--"]);
        Ok(command)
    }

    /// kubectl as the cluster's administrator.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        self.program("kubectl")
    }

    /// One of the cluster's programs, with its credentials.
    pub(crate) fn program(&self, name: impl AsRef<OsStr>) -> Result<Command> {
        // A name is looked up in our own search path, so the folder is added here.
        let file = env::split_paths(&self.path)
            .map(|folder| folder.join(name.as_ref()))
            .find(|file| file.is_file())
            .with_context(|| format!("the cluster has no {}", name.as_ref().display()))?;
        let mut command = Command::new(file);
        self.enter(&mut command)?;
        Ok(command)
    }

    /// Makes a command find the cluster: its programs, its credentials, and us.
    pub(crate) fn enter(&self, command: &mut Command) -> Result<()> {
        run::client(command)
            .env("PATH", &self.path)
            .env("PORTCULLIS_XTASK", ourselves()?);
        Ok(())
    }

    /// The version that the API server says.
    pub(crate) fn version(&self) -> Result<String> {
        let said = output(self.kubectl()?.args(["version", "-o", "json"])).unwrap_or_default();
        let said: serde_json::Value =
            serde_json::from_str(&said).context("cannot read the API server's version")?;
        let version = said["serverVersion"]["gitVersion"].as_str();
        Ok(version.context("the API server has no version")?.to_owned())
    }

    fn show_agents(&self) -> Result<()> {
        for words in [
            &["get", "pods", "-o", "wide"][..],
            &[
                "logs",
                "-l",
                "app.kubernetes.io/name=portcullis",
                "--tail=20",
                "--prefix",
            ],
        ] {
            let said = output(self.kubectl()?.args(["-n", NAMESPACE]).args(words));
            say(said.unwrap_or_default().trim_end());
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let down = ourselves().and_then(|file| {
            let mut command = Command::new(file);
            loud(command.args(["cluster", "down"]), "take the cluster down")
        });
        if let Err(error) = down {
            say(&crate::failure::three_lines(&error));
        }
    }
}
