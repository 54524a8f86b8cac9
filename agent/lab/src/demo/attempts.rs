//! What the demo's steps try, and how they tell what came of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Stage;
use crate::client::{self, HttpAnswer};
use crate::metadata::{NODE_ROLE, ROLES_PATH, TOKEN_PATH};

/// Longer than any answer in the lab, shorter than patience.
pub(super) const SILENCE: Duration = Duration::from_millis(600);
/// Who steals.
pub(super) const THIEF: &str = "ops/evil";
/// Who may be allowed to call.
pub(super) const CLIENT: &str = "shop/web";
/// Who is called.
pub(super) const SERVER: &str = "shop/db";
/// On which port.
pub(super) const SERVER_PORT: u16 = 5432;

/// A file of the bpffs and what tells it from a later one of the same name.
pub(super) type Pin = (PathBuf, u64);

/// The theft in words.
pub(super) fn theft(address: &str) -> String {
    format!("PUT http://{address}{TOKEN_PATH}, then GET {ROLES_PATH}{NODE_ROLE} in {THIEF}")
}

/// A session token, the role's name, the role's credentials.
pub(super) fn imds_v2(stage: &Stage, address: &str) -> Result<HttpAnswer> {
    let namespace = stage.lab()?.namespace_of(THIEF)?;
    let to = SocketAddr::new(address.parse()?, 80);
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "21600")];
    let token = client::http(namespace, to, "PUT", TOKEN_PATH, &ttl, SILENCE)?;
    let with = [("X-aws-ec2-metadata-token", token.body.as_str())];
    let role = client::http(namespace, to, "GET", ROLES_PATH, &with, SILENCE)?;
    client::http(
        namespace,
        to,
        "GET",
        &format!("{ROLES_PATH}{}", role.body),
        &with,
        SILENCE,
    )
}

/// What came of trying guarded addresses.
pub(super) struct Blocked {
    /// None answered and the service was not reached.
    pub(super) ok: bool,
    /// Each address and how it ended.
    pub(super) got: String,
    /// The slowest of them.
    pub(super) took: Duration,
}

/// Whether none of `addresses` answers the thief and none of the requests reached the service.
pub(super) fn blocked(stage: &Stage, addresses: &[&str]) -> Result<Blocked> {
    let lab = stage.lab()?;
    let metadata = lab
        .services()
        .context("the lab's services ended")?
        .metadata();
    let seen = metadata.seen().len();
    let namespace = lab.namespace_of(THIEF)?;
    let mut got = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut ok = true;
    for address in addresses {
        let start = Instant::now();
        let to = SocketAddr::new(address.parse()?, 80);
        let answer = client::http(
            namespace,
            to,
            "PUT",
            TOKEN_PATH,
            &[("X-aws-ec2-metadata-token-ttl-seconds", "60")],
            SILENCE,
        );
        let took = start.elapsed();
        slowest = slowest.max(took);
        ok &= answer.is_err();
        let how = answer.map_or_else(
            |error| why(&error),
            |answer| format!("status {}", answer.status),
        );
        got.push(format!(
            "{address} {how} ({:.1} ms)",
            took.as_secs_f64() * 1000.0
        ));
    }
    let reached = metadata.seen().len() - seen;
    got.push(if reached == 0 {
        "the service saw nothing".to_owned()
    } else {
        format!("the service saw {reached} requests")
    });
    Ok(Blocked {
        ok: ok && reached == 0,
        got: got.join("; "),
        took: slowest,
    })
}

/// Tries a TCP connection; the outer error is the lab's, the inner one the network's.
pub(super) fn connect(stage: &Stage, from: &str, to: &str, port: u16) -> Result<Result<String>> {
    let to = address(stage, to, port)?;
    Ok(client::banner(
        stage.lab()?.namespace_of(from)?,
        to,
        SILENCE,
    ))
}

pub(super) fn describe(attempt: &Result<String>) -> String {
    match attempt {
        Ok(_) => "connected".to_owned(),
        Err(error) => why(error),
    }
}

fn why(error: &anyhow::Error) -> String {
    match error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
    {
        Some(std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock) => "timed out".into(),
        Some(std::io::ErrorKind::ConnectionRefused) => "refused".into(),
        _ => format!("{error:#}").to_lowercase(),
    }
}

pub(super) fn address(stage: &Stage, key: &str, port: u16) -> Result<SocketAddr> {
    let pod = &stage.lab()?.pod(key)?.pod;
    let address: Option<&IpAddr> = pod.addresses.first();
    address
        .map(|address| SocketAddr::new(*address, port))
        .with_context(|| format!("pod {key} has no address"))
}

/// `portcullis explain FROM shop/db:5432 -f DIR`: the command and what it printed.
pub(super) fn explain(stage: &Stage, from: &str) -> Result<(String, String)> {
    let to = format!("{SERVER}:{SERVER_PORT}");
    let mut command = Command::new(&stage.options.binary);
    command
        .args(["explain", from, &to, "-f"])
        .arg(&stage.manifests)
        .stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("running {} explain", stage.options.binary.display()))?;
    let words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if words.is_empty() {
        bail!(
            "explain printed nothing: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok((
        format!(
            "portcullis explain {from} {to} -f {}",
            stage.manifests.display()
        ),
        words,
    ))
}

/// Takes the listener's name from a new connection.
pub(super) fn greet(stream: &mut (impl Read + Write)) -> Result<()> {
    let mut byte = [0];
    while byte != *b"\n" {
        stream
            .read_exact(&mut byte)
            .context("reading a listener's name")?;
    }
    Ok(())
}

pub(super) fn still_open(stage: &mut Stage) -> bool {
    let Some(stream) = &mut stage.open else {
        return false;
    };
    let mut echo = [0; 4];
    let asked = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"ping"));
    asked.and_then(|()| stream.read_exact(&mut echo)).is_ok() && &echo == b"ping"
}

/// The links pinned below `directory`. A link that was replaced is another inode.
pub(super) fn pins(directory: &Path) -> Vec<Pin> {
    let mut pending = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) if path.ends_with("links") => {
                    found.push((entry.path(), metadata.ino()));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}
