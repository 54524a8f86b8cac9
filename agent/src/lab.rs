//! `portcullis lab`: objects become a lab. The lab itself is the crate `portcullis-lab`.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use portcullis_lab::demo::{self, DemoOptions};
use portcullis_lab::{
    AgentOptions, AgentProcess, Flight, Lab, LabOptions, LabSpec, LabState, ProbeResult, Prober,
    TestBench, pods, preflight, serve, teardown,
};
use portcullis_policy::model;
use portcullis_policy::probe::{Probe, ProbeError, ResolvedProbe, Resolver};

use crate::cli::{How, LabCommand};
use crate::commands::explain::cannot_ask;
use crate::failure::exit;
use crate::kube::manifests;
use crate::test_run;
use crate::world::World;

/// Runs a lab command.
pub fn run(command: LabCommand, out: &mut dyn Write) -> Result<u8> {
    match command {
        LabCommand::Demo {
            json,
            keep,
            step,
            name,
        } => run_demo(
            json,
            DemoOptions {
                binary: this_binary()?,
                name,
                keep,
                step,
            },
            out,
        ),
        LabCommand::Up {
            manifests,
            node,
            lab,
            metadata_allow,
        } => up(&manifests, node.as_deref(), &lab.name, &metadata_allow, out),
        LabCommand::Exec { pod, lab, command } => {
            let status = pods::exec(&Lab::open(&lab.name)?, &pod, &command)?;
            Ok(status.code().map_or(exit::NEGATIVE, |code| code as u8))
        }
        LabCommand::Status => {
            for name in LabState::names() {
                let state = LabState::load(&name)?;
                let pods = state.as_ref().map_or(0, |state| state.spec.pods.len());
                let node = state.map_or_else(String::new, |state| state.spec.node);
                writeln!(out, "{name}  node {node}  {pods} pods")?;
            }
            Ok(exit::DONE)
        }
        LabCommand::Down(lab) => {
            teardown::down(&lab.name)?;
            let left = teardown::residue(&lab.name);
            if !left.is_empty() {
                bail!("lab {} is not gone: {}", lab.name, left.join(", "));
            }
            writeln!(out, "lab {} is down, nothing of it is left", lab.name)?;
            Ok(exit::DONE)
        }
        LabCommand::Probe {
            manifests,
            probes,
            node,
            how,
            metadata_allow,
            output: _,
        } => {
            let (results, refused) =
                probe(&manifests, &probes, node.as_deref(), how, &metadata_allow)?;
            serde_json::to_writer(&mut *out, &results)?;
            writeln!(out)?;
            if refused.is_empty() {
                Ok(exit::DONE)
            } else {
                Err(cannot_ask(&refused, results.len() + refused.len()).into())
            }
        }
        LabCommand::Serve(lab) => serve::serve(&lab.name).map(|()| exit::DONE),
    }
}

fn run_demo(json: bool, options: DemoOptions, out: &mut dyn Write) -> Result<u8> {
    ready()?;
    let mut silent = std::io::sink();
    let narration: &mut dyn Write = if json { &mut silent } else { &mut *out };
    let report = demo::run(options, &load, narration)?;
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    }
    Ok(if report.passed() {
        exit::DONE
    } else {
        exit::NEGATIVE
    })
}

fn up(
    manifests: &Path,
    node: Option<&str>,
    name: &str,
    metadata_allow: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u8> {
    ready()?;
    let manifests = manifests
        .canonicalize()
        .with_context(|| format!("finding {}", manifests.display()))?;
    let spec = LabSpec::from_world(&load(&manifests)?, node)?;
    let mut lab = Lab::up(spec, LabOptions::named(name))?;
    serve::spawn(&mut lab, &this_binary()?)?;
    let mut agent = AgentProcess::start(&mut lab, agent_options(&manifests, metadata_allow)?)?;
    let synced = agent.wait_synced()?;
    writeln!(
        out,
        "lab {name} is up: node {}, {} pods, enforced {} ms after the agent's start",
        lab.state().spec.node,
        lab.pods().len(),
        synced.as_millis()
    )?;
    for (key, site) in lab.pods() {
        let addresses: Vec<String> = site.pod.addresses.iter().map(ToString::to_string).collect();
        writeln!(out, "  {key}  {}", addresses.join(" "))?;
    }
    writeln!(
        out,
        "run a command in a pod:  portcullis lab exec NAMESPACE/POD --name {name} -- COMMAND"
    )?;
    writeln!(
        out,
        "ask the agent:           portcullis status --socket {}",
        agent.record().socket.display()
    )?;
    writeln!(
        out,
        "take it down:            portcullis lab down --name {name}"
    )?;
    lab.persist()?;
    Ok(exit::DONE)
}

/// Builds a lab for the probes, asks, and takes it down again: the answers, and what could not be asked.
fn probe(
    manifests: &Path,
    file: &Path,
    node: Option<&str>,
    how: How,
    metadata_allow: &[(String, String)],
) -> Result<(Vec<ProbeResult>, Vec<ProbeError>)> {
    ready()?;
    let manifests = manifests
        .canonicalize()
        .with_context(|| format!("finding {}", manifests.display()))?;
    let world = load(&manifests)?;
    let (probes, refused) = resolve(&world, file)?;
    let spec = LabSpec::from_world(&world, node)?;
    let name = format!("probe-{}", std::process::id());
    let options = agent_options(&manifests, metadata_allow)?;
    let results = match how {
        How::Packets => {
            let mut lab = Lab::up(spec, LabOptions::named(name))?;
            let flights: Vec<Flight> = probes.iter().map(|probe| Flight::of(probe, &lab)).collect();
            start(&mut lab, options)?;
            let results = Prober::open(&lab)?.send(&flights);
            lab.down()?;
            results
        }
        How::TestRun => {
            let mut bench = TestBench::up(spec, LabOptions::named(name))?;
            let flights: Vec<Flight> = probes
                .iter()
                .map(|probe| Flight::of(probe, bench.lab()))
                .collect();
            let agent = start(bench.lab(), options)?;
            let results = test_run::send(&bench, &agent.record().bpffs, &flights);
            bench.down()?;
            results
        }
    };
    Ok((results?, refused))
}

fn start(lab: &mut Lab, options: AgentOptions) -> Result<AgentProcess> {
    let mut agent = AgentProcess::start(lab, options)?;
    agent.wait_synced().with_context(|| {
        format!(
            "the agent is not in sync; the end of its log:\n{}",
            agent.log_tail(20)
        )
    })?;
    Ok(agent)
}

fn agent_options(manifests: &Path, metadata_allow: &[(String, String)]) -> Result<AgentOptions> {
    let mut options = AgentOptions::new(this_binary()?, manifests);
    for (namespace, name) in metadata_allow {
        options.extra.extend([
            "--metadata-allow".into(),
            format!("{namespace}/{name}").into(),
        ]);
    }
    Ok(options)
}

fn resolve(world: &model::World, file: &Path) -> Result<(Vec<ResolvedProbe>, Vec<ProbeError>)> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let probes: Vec<Probe> =
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
    let resolver = Resolver::new(world);
    let (mut resolved, mut refused) = (Vec::new(), Vec::new());
    for probe in &probes {
        match resolver.resolve(probe) {
            Ok(probe) => resolved.push(probe),
            Err(error) => refused.push(error),
        }
    }
    Ok((resolved, refused))
}

/// Objects of a directory as the agent reads them.
pub fn load(directory: &Path) -> Result<model::World> {
    let mut world = World::new("");
    world.apply_batch(manifests::read(directory)?, SystemTime::now());
    Ok((*world.snapshot()).clone())
}

fn this_binary() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("finding this program")
}

fn ready() -> Result<()> {
    let missing = preflight::missing();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the lab cannot run here\nwhy:  {}\ndo:   run it as root on Linux 6.1 or newer with network namespaces and veth",
        missing.join("; ")
    )
}
