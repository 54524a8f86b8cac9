//! The steps of the demo, in the order of the story.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::attempts::{
    CLIENT, SERVER, SERVER_PORT, SILENCE, THIEF, address, blocked, connect, describe, explain,
    greet, imds_v2, pins, still_open, theft,
};
use super::{MANIFESTS, Stage, roles};
use crate::agent::{AgentOptions, AgentProcess};
use crate::client;
use crate::metadata::{NODE_ACCESS_KEY, NODE_ROLE};
use crate::teardown;

/// One step: what is shown, what should come out, how.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) expected: &'static str,
    pub(super) run: fn(&mut Stage) -> Result<Outcome>,
    /// Left out with `--keep`.
    pub(super) last: bool,
}

/// What came out of a step.
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) command: String,
    pub(super) got: String,
    pub(super) output: String,
    pub(super) took: Option<Duration>,
}

pub(super) const STEPS: [Step; 13] = [
    step(
        "A pod steals the node's credentials: nothing protects the node yet",
        "the node role's keys",
        steal,
    ),
    step(
        "The agent starts: the metadata guard is on",
        "in sync",
        guard_on,
    ),
    step(
        "The same theft again",
        "blocked; the metadata service sees nothing",
        steal_in_vain,
    ),
    step(
        "The other metadata addresses: IPv6, ECS task, EKS Pod Identity",
        "all blocked",
        other_addresses,
    ),
    step(
        "Default deny in namespace shop: web calls db",
        "no connection; explain names the isolating policy",
        default_deny,
    ),
    step("A policy allows web to call db on 5432", "connected", allow),
    step(
        "What is not allowed stays denied: evil calls db, web calls api",
        "no connection; explain says allow for web, deny for evil",
        others,
    ),
    step(
        "The agent is killed with SIGKILL",
        "denied stays denied, allowed works, the open connection lives",
        killed,
    ),
    step(
        "The agent starts again and adopts what is pinned",
        "in sync, the same links, the open connection lives",
        adopted,
    ),
    step(
        "The responder joins the agent: web, annotated with a role, asks as SDKs do (IMDSv2)",
        "the keys of web's own role",
        roles::own,
    ),
    step(
        "evil, which has no role, asks for web's; forged headers, no session token, web's token",
        "404, 403, 401, 401: each with its reason",
        roles::others,
    ),
    step(
        "Other roads: web's address in evil, a mapped address, IPv6, another port",
        "dropped as spoofed; evil is evil on each; dropped by the guard; the node's service sees nothing",
        roles::roads,
    ),
    Step {
        last: true,
        ..step("Everything is taken down", "nothing is left", down)
    },
];

const fn step(
    title: &'static str,
    expected: &'static str,
    run: fn(&mut Stage) -> Result<Outcome>,
) -> Step {
    Step {
        title,
        expected,
        run,
        last: false,
    }
}

impl Outcome {
    pub(super) fn new(ok: bool, command: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            ok,
            command: command.into(),
            got: got.into(),
            output: String::new(),
            took: None,
        }
    }

    pub(super) fn taking(mut self, took: Duration) -> Self {
        self.took = Some(took);
        self
    }

    fn printing(mut self, output: impl Into<String>) -> Self {
        self.output = output.into();
        self
    }

    pub(super) fn failed(error: &anyhow::Error) -> Self {
        Self::new(false, "", format!("{error:#}"))
    }
}

fn steal(stage: &mut Stage) -> Result<Outcome> {
    let start = Instant::now();
    let answer = imds_v2(stage, "169.254.169.254")?;
    let stolen = answer.status == 200 && answer.body.contains(NODE_ACCESS_KEY);
    let got = if stolen {
        format!("{NODE_ROLE}, access key {NODE_ACCESS_KEY} (fake)")
    } else {
        format!("status {}", answer.status)
    };
    Ok(Outcome::new(stolen, theft("169.254.169.254"), got).taking(start.elapsed()))
}

fn guard_on(stage: &mut Stage) -> Result<Outcome> {
    let options = AgentOptions::new(stage.options.binary.clone(), stage.manifests.clone());
    let start = Instant::now();
    let lab = stage.lab.as_mut().context("the lab is down")?;
    let agent = stage.agent.insert(AgentProcess::start(lab, options)?);
    agent.wait_synced()?;
    let took = start.elapsed();
    Ok(Outcome::new(
        true,
        agent.command_line(),
        format!("in sync {} ms after its start", took.as_millis()),
    )
    .taking(took))
}

fn steal_in_vain(stage: &mut Stage) -> Result<Outcome> {
    let attempt = blocked(stage, &["169.254.169.254"])?;
    Ok(Outcome::new(attempt.ok, theft("169.254.169.254"), attempt.got).taking(attempt.took))
}

fn other_addresses(stage: &mut Stage) -> Result<Outcome> {
    let attempt = blocked(
        stage,
        &[
            "fd00:ec2::254",
            "169.254.170.2",
            "169.254.170.23",
            "fd00:ec2::23",
        ],
    )?;
    Ok(Outcome::new(
        attempt.ok,
        format!("GET http://ADDRESS/ in {THIEF}, four addresses"),
        attempt.got,
    )
    .taking(attempt.took))
}

fn default_deny(stage: &mut Stage) -> Result<Outcome> {
    let [_, (name, text), ..] = MANIFESTS;
    let before = connect(stage, CLIENT, SERVER, SERVER_PORT)?.is_ok();
    stage.apply(name, text)?;
    stage
        .agent
        .as_mut()
        .context("the agent is not running")?
        .wait_synced()?;
    let after = connect(stage, CLIENT, SERVER, SERVER_PORT)?;
    let (explained, words) = explain(stage, CLIENT)?;
    let named = words.contains("default-deny") && words.to_lowercase().contains("deny");
    let got = format!(
        "before the policy {}, with it {}",
        if before { "connected" } else { "no connection" },
        describe(&after)
    );
    Ok(Outcome::new(before && after.is_err() && named, explained, got).printing(words))
}

fn allow(stage: &mut Stage) -> Result<Outcome> {
    let [_, _, (name, text), _] = MANIFESTS;
    let to = address(stage, SERVER, SERVER_PORT)?;
    stage.apply(name, text)?;
    let took = client::until_connected(
        stage.lab()?.namespace_of(CLIENT)?,
        to,
        Duration::from_secs(10),
    )?;
    stage
        .agent
        .as_mut()
        .context("the agent is not running")?
        .wait_synced()?;
    let got = format!(
        "first connection {:.1} ms after the file was there",
        took.as_secs_f64() * 1000.0
    );
    Ok(Outcome::new(
        true,
        format!("mv {name} into the agent's directory; connect {CLIENT} to {to}"),
        got,
    )
    .taking(took))
}

fn others(stage: &mut Stage) -> Result<Outcome> {
    let evil = connect(stage, THIEF, SERVER, SERVER_PORT)?;
    let api = connect(stage, CLIENT, "shop/api", 8080)?;
    let (_, web_words) = explain(stage, CLIENT)?;
    let (command, evil_words) = explain(stage, THIEF)?;
    let explained =
        web_words.to_lowercase().contains("allow") && evil_words.to_lowercase().contains("deny");
    let got = format!(
        "evil to db {}; web to api {}",
        describe(&evil),
        describe(&api)
    );
    Ok(
        Outcome::new(evil.is_err() && api.is_err() && explained, command, got)
            .printing(format!("{web_words}\n{evil_words}")),
    )
}

fn killed(stage: &mut Stage) -> Result<Outcome> {
    let to = address(stage, SERVER, SERVER_PORT)?;
    let mut stream = client::connect_tcp(stage.lab()?.namespace_of(CLIENT)?, to, SILENCE)?;
    greet(&mut stream)?;
    stage.open = Some(stream);
    let agent = stage.agent.as_mut().context("the agent is not running")?;
    let (pid, bpffs) = (agent.pid(), agent.record().bpffs.clone());
    stage.pins = pins(&bpffs);
    agent.kill()?;
    let theft = blocked(stage, &["169.254.169.254", "fd00:ec2::254"])?;
    let evil = connect(stage, THIEF, SERVER, SERVER_PORT)?;
    let fresh = connect(stage, CLIENT, SERVER, SERVER_PORT)?;
    let alive = still_open(stage);
    let got = format!(
        "metadata {}; evil to db {}; web to db anew {}; the open connection {}",
        if theft.ok { "blocked" } else { "NOT blocked" },
        describe(&evil),
        describe(&fresh),
        if alive { "echoes" } else { "is dead" }
    );
    Ok(Outcome::new(
        theft.ok && evil.is_err() && fresh.is_ok() && alive,
        format!("kill -KILL {pid}"),
        got,
    ))
}

fn adopted(stage: &mut Stage) -> Result<Outcome> {
    let start = Instant::now();
    let lab = stage.lab.as_mut().context("the lab is down")?;
    let agent = stage
        .agent
        .as_mut()
        .context("the agent was never started")?;
    agent.restart(lab)?;
    agent.wait_synced()?;
    let took = start.elapsed();
    let (command, now) = (agent.command_line(), pins(&agent.record().bpffs));
    let kept = stage.pins.iter().filter(|pin| now.contains(pin)).count();
    let theft = blocked(stage, &["169.254.169.254"])?;
    let evil = connect(stage, THIEF, SERVER, SERVER_PORT)?;
    let alive = still_open(stage);
    let all = stage.pins.len();
    let ok = all > 0 && kept == all && theft.ok && evil.is_err() && alive;
    let got = format!(
        "in sync after {} ms; {kept} of {all} links are the same; the open connection {}",
        took.as_millis(),
        if alive { "echoes" } else { "is dead" }
    );
    Ok(Outcome::new(ok, command, got).taking(took))
}

fn down(stage: &mut Stage) -> Result<Outcome> {
    stage.open = None;
    stage.responder = None;
    let lab = stage.lab.take().context("the lab is down")?;
    let name = lab.state().name.clone();
    let namespaces = lab
        .pods()
        .values()
        .filter_map(|site| site.namespace.as_ref())
        .chain([lab.node(), lab.outside()]);
    let inodes = namespaces
        .map(crate::NetNs::inode)
        .collect::<Result<Vec<u64>>>()?;
    lab.down()?;
    let mut left = teardown::residue(&name);
    left.extend(
        teardown::processes_in(&inodes)
            .iter()
            .map(|pid| format!("process {pid} in a namespace of the lab")),
    );
    let got = if left.is_empty() {
        "no namespace, link, pin, cgroup, mount, file or process".to_owned()
    } else {
        left.join(", ")
    };
    Ok(Outcome::new(
        left.is_empty(),
        format!("portcullis lab down --name {name}"),
        got,
    ))
}
