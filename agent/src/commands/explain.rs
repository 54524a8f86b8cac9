//! `portcullis explain`: with `-f` answers from the compiler alone, without root, kernel or agent; without, agents answer (`online`).
//!
//! ```text
//! directory --manifests::read--> World --snapshot--> Explainer <-- Resolver <-- probe file, or SOURCE DESTINATION
//! ```
//! Ends are read by `target`; `meant` finds what they are among the objects: two ends, or a source and each backend of a Service (`service`).
//!
//! A probe file's answer is one bare JSON list on `out`, in the file's order; what people should know besides goes to `notes` (stderr).

mod gather;
mod meant;
mod online;
mod service;
mod target;
mod told;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use portcullis_policy::explain::{Explainer, Explanation, Options, Reason, Side, Verdict};
use portcullis_policy::model;
use portcullis_policy::probe::{Probe, ProbeError, ResolvedProbe, Resolver};
use serde::Serialize;

use self::meant::{Meant, node};
use self::service::ServiceTold;
use super::API_VERSION;
use crate::failure::{Failure, exit};
use crate::kube::manifests;
use crate::world::World;

pub use gather::{Word, gather, print};
pub use online::{Answer, Said, ServiceAnswer, answer, path};
pub use target::qualified;

/// Unanswerable probes that are named one by one.
const NAMED: usize = 10;

/// One question of a person.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who opens the connection.
    pub source: &'a str,
    /// To whom, with the port.
    pub destination: &'a str,
    /// The verdict that makes the exit code 0; any if absent.
    pub expect: Option<Verdict>,
}

impl<'a> Question<'a> {
    /// A question about both ends, qualified.
    #[must_use]
    pub fn new((source, destination): &'a (String, String), expect: Option<Verdict>) -> Self {
        Self {
            source,
            destination,
            expect,
        }
    }

    /// Whether it can be understood at all, before anybody is asked.
    pub fn check(&self) -> Result<(), Failure> {
        target::read(self.source, self.destination).map(|_| ())
    }

    fn exit_code(&self, verdict: Verdict) -> u8 {
        if self.expect.is_none_or(|expected| expected == verdict) {
            exit::DONE
        } else {
            exit::NEGATIVE
        }
    }
}

/// What it is asked about.
#[derive(Clone, Debug)]
pub struct Objects<'a> {
    /// Directory of YAML and JSON files.
    pub manifests: &'a Path,
    /// The node that sees the world; it matters only where two live pods claim one address.
    pub node: Option<&'a str>,
    /// Whom the metadata guard lets through.
    pub metadata_allow: BTreeSet<(String, String)>,
}

/// `Explanation`, as `-o json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    source: &'a str,
    destination: &'a str,
    verdict: Verdict,
    reason: Option<Reason>,
    egress: &'a Side,
    ingress: &'a Side,
    /// Who says so; empty where no agent was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<told::Witness>,
}

impl<'a> Document<'a> {
    fn new(question: &Question<'a>, answer: &'a Explanation) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Explanation",
            source: question.source,
            destination: question.destination,
            verdict: answer.verdict,
            reason: deciding(answer).reason,
            egress: &answer.egress,
            ingress: &answer.ingress,
            agents: Vec::new(),
        }
    }
}

/// Answers a probe file: one bare JSON list. Probes that cannot be asked are missing in it, and make it a failure that names them.
pub fn explain_probes(
    objects: &Objects<'_>,
    probes: &Path,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<u8> {
    let world = read_world(objects, notes)?.snapshot();
    let probes = read_probes(probes)?;
    let resolver = Resolver::new(&world);
    let mut resolved = Vec::new();
    let mut unanswered = Vec::new();
    for probe in &probes {
        match resolver.resolve(probe) {
            Ok(probe) => resolved.push(probe),
            Err(error) => unanswered.push(error),
        }
    }
    write_list(&answers(&world, objects, &resolved), out)?;
    if unanswered.is_empty() {
        Ok(exit::DONE)
    } else {
        Err(cannot_ask(&unanswered, probes.len()).into())
    }
}

/// Answers one question, in words, as an `Explanation` or as a `ServiceExplanation`; exit code 1 if the verdict is not the expected one.
pub fn explain(
    question: &Question<'_>,
    objects: &Objects<'_>,
    json: bool,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<u8> {
    let target = target::read(question.source, question.destination)?;
    let world = read_world(objects, notes)?;
    let model = world.snapshot();
    let mut explainer = Explainer::new(&model, options(objects));
    let packet = match meant::meant(&model, &world.services(), &target)? {
        Meant::Packet(packet) => packet,
        Meant::Service(service, packets) => {
            let told = ServiceTold::explained(&mut explainer, service, &packets);
            return told.print(question, json, out);
        }
    };
    let answer = explainer.explain_in_steps(&packet);
    let text = if json {
        serde_json::to_string_pretty(&Document::new(question, &answer))? + "\n"
    } else {
        answer.to_string()
    };
    out.write_all(text.as_bytes())?;
    Ok(question.exit_code(answer.verdict))
}

/// The side whose reason is the connection's: the first one that denies, else the last one that has a say.
fn deciding(answer: &Explanation) -> &Side {
    let sides = [&answer.egress, &answer.ingress];
    let denies = sides.into_iter().find(|side| side.verdict == Verdict::Deny);
    let says = sides
        .into_iter()
        .rfind(|side| side.verdict != Verdict::None);
    denies.or(says).unwrap_or(&answer.ingress)
}

fn options(objects: &Objects<'_>) -> Options {
    Options {
        metadata_allow: objects.metadata_allow.clone(),
    }
}

/// Objects of the directory as the agent would read them; what it would refuse is noted.
fn read_world(objects: &Objects<'_>, notes: &mut dyn Write) -> Result<World> {
    let mut world = World::new(objects.node.unwrap_or_default());
    world.apply_batch(manifests::read(objects.manifests)?, SystemTime::now());
    for (key, refusal) in world.refused() {
        let how = if refusal.whole {
            "refused"
        } else {
            "partly refused"
        };
        let problems: Vec<String> = refusal.problems.iter().map(ToString::to_string).collect();
        writeln!(notes, "! {key} {how}: {}", problems.join("; "))?;
    }
    Ok(world)
}

fn read_probes(file: &Path) -> Result<Vec<Probe>> {
    let what = || format!("cannot read the probe file {}", file.display());
    let text = std::fs::read(file).map_err(|error| {
        Failure::new(
            "PC5003",
            what(),
            error.to_string(),
            "name a file with a JSON list of probes",
        )
    })?;
    let shape = r#"write a list of {"id","src","dst","protocol","dstPort"}"#;
    Ok(serde_json::from_slice(&text)
        .map_err(|error| Failure::new("PC5003", what(), error.to_string(), shape))?)
}

/// The explainer keeps the tables of some nodes only, so probes are asked node by node and their answers put back in order.
fn answers(
    world: &model::World,
    objects: &Objects<'_>,
    probes: &[ResolvedProbe],
) -> Vec<Explanation> {
    let mut explainer = Explainer::new(world, options(objects));
    let mut order: Vec<usize> = (0..probes.len()).collect();
    order.sort_by_key(|index| {
        (
            node(&probes[*index].src.owner),
            node(&probes[*index].dst.owner),
        )
    });
    let mut answers: Vec<(usize, Explanation)> = order
        .into_iter()
        .map(|index| (index, explainer.explain(&probes[index])))
        .collect();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// One element a line, so that lists of any length can be looked at.
fn write_list(answers: &[Explanation], out: &mut dyn Write) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(out);
    out.write_all(b"[")?;
    for (index, answer) in answers.iter().enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        out.write_all(serde_json::to_string(answer)?.as_bytes())?;
    }
    out.write_all(b"\n]\n")?;
    out.flush()
}

/// Probes that name no end, protocol or port that is there.
#[must_use]
pub fn cannot_ask(errors: &[ProbeError], of: usize) -> Failure {
    let mut named: Vec<String> = errors.iter().take(NAMED).map(ToString::to_string).collect();
    if errors.len() > NAMED {
        named.push(format!("and {} more", errors.len() - NAMED));
    }
    Failure::new(
        "PC5004",
        format!("{} of {of} probes cannot be asked", errors.len()),
        named.join("; "),
        "mend these fields, or the objects",
    )
}

#[cfg(test)]
mod tests;
