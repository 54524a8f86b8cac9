//! The steps with the responder: who gets which keys, and what comes of every other road.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::attempts::{CLIENT, SILENCE, THIEF};
use super::steps::Outcome;
use super::{MANIFESTS, Stage};
use crate::agent::{AgentOptions, AgentProcess};
use crate::cgroup::{self, Cgroups};
use crate::client::{self, HttpAnswer};
use crate::link;
use crate::metadata::{ROLES_PATH, TOKEN_PATH};
use crate::netlink::Netlink;
use crate::node::POD_INTERFACE;
use crate::sts::Sts;

/// The uid of its container.
const UID: u32 = 65_532;
const IMDS: &str = "169.254.169.254";
const ROLE: &str = "shop-web";
/// The stand-in's keys say whose they are.
const KEY: &str = "ASIALABSHOPWEB";
const TTL: (&str, &str) = ("X-aws-ec2-metadata-token-ttl-seconds", "21600");
const TOKEN: &str = "X-aws-ec2-metadata-token";
/// How long the responder may take to be there.
const SOON: Duration = Duration::from_secs(10);

/// The responder and the lab's STS. Dropping it ends both.
pub(super) struct Responder {
    child: Child,
    directory: PathBuf,
    sts: Sts,
}

impl Responder {
    fn start(stage: &Stage, directory: &Path) -> Result<Self> {
        let lab = stage.lab()?;
        let sts = Sts::start(lab.node(), ([127, 0, 0, 1], 5000).into())?;
        // Where its user may read it.
        let binary = directory.join("portcullis");
        fs::copy(&stage.options.binary, &binary).context("copying the program")?;
        let mut command = Command::new(&binary);
        command
            .args(["responder", "--region", "eu-lab-1"])
            // The lab has no metadata service.
            .args([
                "--metadata-endpoint",
                "http://127.0.0.1:9",
                "--sts-endpoint",
            ])
            .arg(sts.url())
            .arg("--socket")
            .arg(directory.join("agent.sock"))
            .env_clear()
            .envs([
                ("AWS_ACCESS_KEY_ID", "lab-node"),
                ("AWS_SECRET_ACCESS_KEY", "lab-fake-secret-of-the-node"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        lab.node().enter(&mut command)?;
        if let Some(cgroups) = lab.cgroups() {
            cgroup::enter(&mut command, &Cgroups::system(cgroups))?;
        }
        // Last of all: what was entered needs root.
        // SAFETY: between fork and exec the closure makes three system calls and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                setgroups(&[])?;
                setgid(Gid::from_raw(UID))?;
                setuid(Uid::from_raw(UID))?;
                Ok(())
            });
        }
        let child = command.spawn().context("starting the responder")?;
        Ok(Self {
            child,
            directory: directory.to_owned(),
            sts,
        })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A request of a pod to an address of EC2's service.
fn ask(
    stage: &Stage,
    key: &str,
    to: &str,
    what: (&str, &str),
    headers: &[(&str, &str)],
) -> Result<HttpAnswer> {
    let to = SocketAddr::new(to.parse()?, 80);
    let (method, path) = what;
    client::http(
        stage.lab()?.namespace_of(key)?,
        to,
        method,
        path,
        headers,
        SILENCE,
    )
}

fn token(stage: &Stage, key: &str, to: &str) -> Result<String> {
    let answer = ask(stage, key, to, ("PUT", TOKEN_PATH), &[TTL])?;
    if answer.status != 200 {
        bail!("no session token for {key}: {}", answer.status);
    }
    Ok(answer.body)
}

pub(super) fn own(stage: &mut Stage) -> Result<Outcome> {
    let [.., (name, text)] = MANIFESTS;
    stage.apply(name, text)?;
    let directory = stage.manifests.with_extension("responder");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let mut agent = stage.agent.take().context("the agent is not running")?;
    agent.stop()?;
    let mut options = AgentOptions::new(stage.options.binary.clone(), stage.manifests.clone());
    options.extra = vec![
        "--source".into(),
        "assume-role".into(),
        "--base-role-arn".into(),
    ];
    options.extra.extend([
        "arn:aws:iam::123456789012:role/".into(),
        "--responder".into(),
    ]);
    options.extra.push(directory.join("agent.sock").into());
    let lab = stage.lab.as_mut().context("the lab is down")?;
    let agent = stage.agent.insert(AgentProcess::start(lab, options)?);
    agent.wait_synced()?;
    stage.responder = Some(Responder::start(stage, &directory)?);
    // The first answer: agent and responder have just met, and STS is asked for the first time.
    let deadline = Instant::now() + SOON;
    let (listed, keys, took) = loop {
        let start = Instant::now();
        match dance(stage) {
            Ok((listed, keys)) if keys.status == 200 => break (listed, keys, start.elapsed()),
            Ok((listed, keys)) if Instant::now() > deadline => {
                break (listed, keys, start.elapsed());
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => {}
        }
    };
    let document: Value = serde_json::from_str(&keys.body).unwrap_or_default();
    let key = document["AccessKeyId"].as_str().unwrap_or("no key");
    let asked = stage
        .responder
        .as_ref()
        .map(|responder| responder.sts.asked())
        .unwrap_or_default();
    let ok =
        listed == ROLE && key == KEY && asked == [format!("arn:aws:iam::123456789012:role/{ROLE}")];
    Ok(Outcome::new(
        ok,
        format!(
            "PUT http://{IMDS}{TOKEN_PATH}, GET {ROLES_PATH}, GET {ROLES_PATH}{ROLE} in {CLIENT}"
        ),
        format!(
            "{listed}, access key {key} (fake), STS asked {} time(s)",
            asked.len()
        ),
    )
    .taking(took))
}

/// The listing, and the answer about the role in it.
fn dance(stage: &Stage) -> Result<(String, HttpAnswer)> {
    let token = token(stage, CLIENT, IMDS)?;
    let with = [(TOKEN, token.as_str())];
    let listed = ask(stage, CLIENT, IMDS, ("GET", ROLES_PATH), &with)?.body;
    let path = format!("{ROLES_PATH}{listed}");
    let keys = ask(stage, CLIENT, IMDS, ("GET", &path), &with)?;
    Ok((listed, keys))
}

pub(super) fn others(stage: &mut Stage) -> Result<Outcome> {
    let (evil, web) = (token(stage, THIEF, IMDS)?, token(stage, CLIENT, IMDS)?);
    let wanted = format!("{ROLES_PATH}{ROLE}");
    let tries: [(&str, u16, HttpAnswer); 4] = [
        (
            "web's role",
            404,
            ask(stage, THIEF, IMDS, ("GET", &wanted), &[(TOKEN, &evil)])?,
        ),
        (
            "X-Forwarded-For",
            403,
            ask(
                stage,
                THIEF,
                IMDS,
                ("PUT", TOKEN_PATH),
                &[TTL, ("X-Forwarded-For", "10.0.1.11")],
            )?,
        ),
        (
            "no session token",
            401,
            ask(stage, THIEF, IMDS, ("GET", &wanted), &[])?,
        ),
        (
            "web's token",
            401,
            ask(stage, THIEF, IMDS, ("GET", &wanted), &[(TOKEN, &web)])?,
        ),
    ];
    let ok = tries.iter().all(|(_, status, answer)| {
        answer.status == *status && answer.body.starts_with("portcullis: ")
    });
    let got = tries.iter().map(|(what, _, answer)| {
        format!(
            "{what}: {} {}",
            answer.status,
            answer.body.trim_start_matches("portcullis: ")
        )
    });
    Ok(Outcome::new(
        ok,
        format!("GET http://{IMDS}{wanted} and PUT {TOKEN_PATH} in {THIEF}"),
        got.collect::<Vec<_>>().join("; "),
    ))
}

pub(super) fn roads(stage: &mut Stage) -> Result<Outcome> {
    let seen = |stage: &Stage| -> Result<usize> {
        let services = stage
            .lab()?
            .services()
            .context("the lab's services ended")?;
        Ok(services.metadata().seen().len())
    };
    let before = (
        seen(stage)?,
        drops(stage, "spoofed-source")?,
        drops(stage, "metadata-guard")?,
    );
    let spoofed = connect_as(stage, stage.lab()?.pod(CLIENT)?.pod.addresses[0])?;
    let port = client::connect_tcp(
        stage.lab()?.namespace_of(THIEF)?,
        SocketAddr::new(IMDS.parse()?, 8080),
        SILENCE,
    );
    let mut answers = Vec::new();
    for to in [IMDS, "::ffff:169.254.169.254", "fd00:ec2::254"] {
        answers.push((to, role_at(stage, to)?));
    }
    let after = (
        seen(stage)?,
        drops(stage, "spoofed-source")?,
        drops(stage, "metadata-guard")?,
    );
    let dropped = (after.1 - before.1, after.2 - before.2);
    let as_evil = answers.iter().all(|(_, answer)| answer.status == 404);
    let ok = !spoofed
        && port.is_err()
        && as_evil
        && dropped.0 > 0
        && dropped.1 > 0
        && after.0 == before.0;
    let mut got = vec![
        format!(
            "web's address: no connection, {} dropped as spoofed-source",
            dropped.0
        ),
        format!(
            "port 8080: no connection, {} dropped as metadata-guard",
            dropped.1
        ),
    ];
    got.extend(answers.iter().map(|(to, answer)| {
        format!(
            "{to}: {} {}",
            answer.status,
            answer.body.trim_start_matches("portcullis: ")
        )
    }));
    got.push(format!(
        "the node's service saw {} requests",
        after.0 - before.0
    ));
    Ok(Outcome::new(
        ok,
        format!("connect and GET {ROLES_PATH} in {THIEF}"),
        got.join("; "),
    ))
}

/// What a pod without a role is told at one of the service's addresses.
fn role_at(stage: &Stage, to: &str) -> Result<HttpAnswer> {
    let token = token(stage, THIEF, to)?;
    ask(stage, THIEF, to, ("GET", ROLES_PATH), &[(TOKEN, &token)])
}

/// Whether the thief connects from an address that is not its own.
fn connect_as(stage: &Stage, source: IpAddr) -> Result<bool> {
    stage.lab()?.namespace_of(THIEF)?.run(|| {
        let mut links = Netlink::open()?;
        let index = links.existing(POD_INTERFACE)?;
        links.send(vec![link::address(index, source)])?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        let to = SocketAddr::new(IMDS.parse()?, 80);
        Ok(socket.connect_timeout(&to.into(), SILENCE).is_ok())
    })
}

/// Packets that left no pod, for a reason.
fn drops(stage: &Stage, reason: &str) -> Result<u64> {
    let agent = stage.agent.as_ref().context("the agent is not running")?;
    let mut command = Command::new(&stage.options.binary);
    command
        .args(["status", "-o", "json", "--socket"])
        .arg(&agent.record().socket);
    let output = command.output().context("asking the agent")?;
    let status: Value =
        serde_json::from_slice(&output.stdout).context("reading the agent's status")?;
    let drops = status["drops"].as_array().context("drops are a list")?;
    let count = drops
        .iter()
        .find(|drop| drop["direction"] == "egress" && drop["reason"] == reason);
    count
        .and_then(|count| count["packets"].as_u64())
        .context("every reason is there")
}
