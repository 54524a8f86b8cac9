//! The demo: numbered steps with real processes, real packets and the real agent, each with what is expected and what was got.
//!
//! A step that gets something else than it expects makes the demo fail; the later ones still run, so that one look shows everything. The steps are in
//! `demo/steps.rs`, their means in
//! `demo/attempts.rs`; this file runs and narrates them.

mod attempts;
mod report;
mod roles;
mod steps;

use std::fs;
use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use portcullis_policy::model::World;

use crate::agent::AgentProcess;
use crate::node::{Lab, LabOptions};
use crate::serve;
use crate::spec::LabSpec;

pub use report::{LabReport, StepReport};

/// Objects of the demo: file name and text. The first is there from the start.
pub const MANIFESTS: [(&str, &str); 4] = [
    (
        "node-a.yaml",
        include_str!("../../../deploy/examples/node-a.yaml"),
    ),
    (
        "default-deny.yaml",
        include_str!("../../../deploy/examples/default-deny.yaml"),
    ),
    (
        "web-to-db.yaml",
        include_str!("../../../deploy/examples/web-to-db.yaml"),
    ),
    (
        "roles.yaml",
        include_str!("../../../deploy/examples/roles.yaml"),
    ),
];

/// How to run the demo.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The `portcullis` program.
    pub binary: PathBuf,
    /// Name of the lab.
    pub name: String,
    /// Leave the lab and the agent running at the end.
    pub keep: bool,
    /// Wait for the Enter key before each step.
    pub step: bool,
}

/// What the steps share.
struct Stage {
    options: DemoOptions,
    manifests: PathBuf,
    lab: Option<Lab>,
    agent: Option<AgentProcess>,
    /// The connection that must outlive the agent.
    open: Option<TcpStream>,
    pins: Vec<attempts::Pin>,
    /// Answers metadata requests in the last steps.
    responder: Option<roles::Responder>,
}

/// Runs the demo and narrates it to `narration`. `load` reads a directory of objects, as the agent does.
pub fn run(
    options: DemoOptions,
    load: &dyn Fn(&Path) -> Result<World>,
    narration: &mut dyn Write,
) -> Result<LabReport> {
    let manifests = std::env::temp_dir().join(format!(
        "portcullis-lab-{}-{}",
        options.name,
        std::process::id()
    ));
    fs::create_dir_all(&manifests).with_context(|| format!("creating {}", manifests.display()))?;
    let keep = options.keep;
    let mut stage = Stage {
        options,
        manifests: manifests.clone(),
        lab: None,
        agent: None,
        open: None,
        pins: Vec::new(),
        responder: None,
    };
    let report = stage.play(load, narration);
    if keep && let Ok(report) = &report {
        stage.hand_over(report, narration)?;
        return Ok(report.clone());
    }
    // Also after an error: nothing may stay. The lab's own destructor takes down what the last step did not.
    drop(stage);
    fs::remove_dir_all(&manifests).with_context(|| format!("removing {}", manifests.display()))?;
    report
}

impl Stage {
    fn play(
        &mut self,
        load: &dyn Fn(&Path) -> Result<World>,
        narration: &mut dyn Write,
    ) -> Result<LabReport> {
        let [(name, text), ..] = MANIFESTS;
        self.apply(name, text)?;
        let start = Instant::now();
        let spec = LabSpec::from_world(&load(&self.manifests)?, None)?;
        let mut lab = Lab::up(spec, LabOptions::named(self.options.name.clone()))?;
        lab.start_services()?;
        say(
            narration,
            &format!(
                "A node of network namespaces with {} pods, up in {} ms.",
                lab.pods().len(),
                start.elapsed().as_millis()
            ),
        )?;
        say(
            narration,
            "It is not Kubernetes: objects come from files, the metadata service is a stand-in. Packets, programs and the agent are real.\n",
        )?;
        self.lab = Some(lab);

        let mut report = LabReport::default();
        for (index, step) in steps::STEPS.iter().enumerate() {
            if step.last && self.options.keep {
                continue;
            }
            let number = index + 1;
            say(narration, &format!("{number}  {}", step.title))?;
            if self.options.step {
                wait_for_enter(narration)?;
            }
            let start = Instant::now();
            // A step that could not be carried out has not got what it expected, either.
            let outcome = (step.run)(self).unwrap_or_else(|error| steps::Outcome::failed(&error));
            let took = outcome.took.unwrap_or_else(|| start.elapsed());
            let done = StepReport {
                step: number,
                title: step.title.to_owned(),
                command: outcome.command,
                expected: step.expected.to_owned(),
                got: outcome.got,
                output: outcome.output,
                ok: outcome.ok,
                milliseconds: took.as_secs_f64() * 1000.0,
            };
            say(narration, &done.text())?;
            report.steps.push(done);
        }
        say(narration, &report.summary())?;
        Ok(report)
    }

    /// Writes a manifest as `kubectl apply` would: whole or not at all.
    fn apply(&self, name: &str, text: &str) -> Result<()> {
        let draft = self.manifests.join(format!(".{name}"));
        fs::write(&draft, text).with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, self.manifests.join(name)).with_context(|| format!("writing {name}"))
    }

    fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("the lab is down")
    }

    fn hand_over(&mut self, report: &LabReport, narration: &mut dyn Write) -> Result<()> {
        let Some(mut lab) = self.lab.take() else {
            return Ok(());
        };
        let name = self.options.name.clone();
        self.open = None;
        lab.stop_services();
        serve::spawn(&mut lab, &self.options.binary)?;
        lab.persist()?;
        let good = if report.passed() {
            ""
        } else {
            "not every step got what it expected; "
        };
        say(
            narration,
            &format!(
                "{good}lab {name} stays up; its objects are in {}",
                self.manifests.display()
            ),
        )?;
        say(
            narration,
            &format!(
                "try:  portcullis lab exec --name {name} ops/evil -- COMMAND    end:  portcullis lab down --name {name}"
            ),
        )
    }
}

/// One line to the audience; a closed pipe ends the narration, not the demo.
fn say(narration: &mut dyn Write, text: &str) -> Result<()> {
    match writeln!(narration, "{text}").and_then(|()| narration.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing the narration")
        }
        _ => Ok(()),
    }
}

fn wait_for_enter(narration: &mut dyn Write) -> Result<()> {
    say(narration, "   press Enter")?;
    io::stdin()
        .lock()
        .read_line(&mut String::new())
        .context("waiting for Enter")?;
    Ok(())
}
