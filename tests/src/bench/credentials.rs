//! What `cargo xtask bench credentials` measures: requests of a pod through guard and responder, as a ratio to nginx on the same node, asked from the same
//! pod for the same bytes by the same client.
//!
//! ```text
//! load (in the pod's namespace) -> 169.254.169.254 -> guard -> responder: identity, session token, rate, role
//!                               -> the node's address -> nginx: `return 200`, from memory
//! ```
//! Rounds of both alternate; medians are compared, and the spread of the ratios is said. The lab's STS answers after a delay that is known.

mod load;
mod nginx;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::sts::Sts;

use crate::cloud::responder::{self, How, Responder};
use crate::cloud::talk::Talk;
use crate::cloud::{BASE, LISTING, ROLE, TOKEN, TTL};
use crate::scene::{NODE_V4, SOON, Scene, ip, pod};
use load::{Figures, Load};
use nginx::Nginx;

const POD: &str = "shop/web";
const IMDS: &str = "169.254.169.254";
const NGINX_PORT: u16 = 8081;
const CONNECTIONS: [usize; 3] = [1, 8, 64];
const DELAYS: [u64; 4] = [0, 20, 80, 300];
const HERD: usize = 64;
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/allowed-roles: '["app-*"]'}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop, uid: sa-default}
"#;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Alternating rounds.
    pub rounds: u32,
    /// How long each target is asked in a round.
    pub each: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 7,
            each: Duration::from_secs(1),
        }
    }
}

/// A node with a responder that lets a pod ask as fast as it can, and STS.
struct Stage {
    responder: Responder,
    sts: Sts,
    scene: Scene,
    directory: PathBuf,
}

/// Measures and reports.
pub fn run(options: &Options) -> Result<String> {
    let mut stage = Stage::up()?;
    let mut text = String::new();
    cached(&mut stage, options, &mut text)?;
    cold(&mut stage, &mut text)?;
    herd(&mut stage, &mut text)?;
    writeln!(
        text,
        "responder's memory at the end: {} MiB",
        resident_mib(stage.responder.pid())?
    )?;
    stage.down()?;
    Ok(text)
}

impl Stage {
    fn up() -> Result<Self> {
        let directory = responder::directory("bench-credentials");
        let socket = directory.join("agent.sock");
        let pods = [pod(POD, "10.0.1.1 fd00:1::1").annotation(ROLE, "app-web")];
        let scene = Scene::start("bench-cr", &pods, OBJECTS, |agent| {
            let words = ["--source", "assume-role", "--base-role-arn", BASE];
            agent.extra.extend(words.map(Into::into));
            agent.extra.extend(["--responder".into(), socket.into()]);
        });
        scene.settle();
        let sts = Sts::start(scene.lab.node(), (ip("127.0.0.1"), 5000).into())?;
        let unlimited = ["--pod-requests", "1000000000"];
        let responder = Responder::start(
            &scene,
            &directory,
            &sts.url(),
            &How::with_keys("info").option(&unlimited),
        );
        Ok(Self {
            responder,
            sts,
            scene,
            directory,
        })
    }

    fn talk(&self, key: &str) -> Result<Talk> {
        let talk = Talk::open(self.scene.netns(key), ip(IMDS), SOON);
        talk.with_context(|| format!("{key} asks"))
    }

    fn down(self) -> Result<()> {
        drop((self.responder, self.sts));
        self.scene.down();
        std::fs::remove_dir_all(&self.directory).context("removing the responder's directory")
    }
}

/// B1, B11: what is cached, and what is refused, beside nginx.
fn cached(stage: &mut Stage, options: &Options, text: &mut String) -> Result<()> {
    let mut talk = stage.talk(POD)?;
    let token = talk
        .ask("PUT", "/latest/api/token", &[(TTL, "21600")])?
        .body;
    let deadline = Instant::now() + SOON;
    let path = format!("{LISTING}app-web");
    let document = loop {
        let answer = talk.ask("GET", &path, &[(TOKEN, &token)])?;
        if answer.status == 200 {
            break answer.body;
        }
        ensure!(Instant::now() < deadline, "no keys: {answer:?}");
    };
    let nginx = Nginx::start(
        stage.scene.lab.node(),
        (ip(NODE_V4), NGINX_PORT).into(),
        &document,
    )?;
    let request = |host: &str, token: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{TOKEN}: {token}\r\n\r\n").into_bytes()
    };
    let to_us: SocketAddr = (ip(IMDS), 80).into();
    let targets = [
        (
            "nginx",
            Load {
                to: nginx.at(),
                request: request(NODE_V4, &token),
                status: 200,
            },
        ),
        (
            "cached",
            Load {
                to: to_us,
                request: request(IMDS, &token),
                status: 200,
            },
        ),
        (
            "bad token",
            Load {
                to: to_us,
                request: request(IMDS, "bad"),
                status: 401,
            },
        ),
    ];
    writeln!(
        text,
        "{:<12}{:>12}{:>12}{:>10}{:>10}{:>14}{:>16}{:>10}",
        "connections", "", "requests/s", "p50 us", "p99 us", "x nginx rate", "(spread)", "x p99"
    )?;
    for connections in CONNECTIONS {
        let mut all: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
        for _ in 0..options.rounds {
            for ((_, load), figures) in targets.iter().zip(&mut all) {
                figures.push(load.run(stage.scene.netns(POD), connections, options.each)?);
            }
        }
        for ((name, _), figures) in targets.iter().zip(&all) {
            let ratios = |of: fn(&Figures) -> f64| {
                let mut ratios: Vec<f64> = figures
                    .iter()
                    .zip(&all[0])
                    .map(|(own, base)| of(own) / of(base))
                    .collect();
                ratios.sort_by(f64::total_cmp);
                ratios
            };
            let (rates, tails) = (
                ratios(|figures| figures.rate),
                ratios(|figures| figures.p99),
            );
            let spread = format!("({:.2}-{:.2})", rates[0], rates[rates.len() - 1]);
            writeln!(
                text,
                "{connections:<12}{name:>12}{:>12.0}{:>10.1}{:>10.1}{:>14.2}{spread:>16}{:>10.2}",
                median(figures, |figures| figures.rate),
                median(figures, |figures| figures.p50),
                median(figures, |figures| figures.p99),
                rates[rates.len() / 2],
                tails[tails.len() / 2]
            )?;
        }
    }
    Ok(())
}

fn median(figures: &[Figures], of: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// B3: a pod whose role has just become known asks for keys that nobody has.
fn cold(stage: &mut Stage, text: &mut String) -> Result<()> {
    const TIMES: usize = 5;
    writeln!(
        text,
        "\ncold, one asker: from its role being listed to its keys, less the delay of STS"
    )?;
    let mut number = 0;
    for delay in DELAYS.map(Duration::from_millis) {
        stage.sts.delay(delay);
        let mut over = Vec::new();
        for _ in 0..TIMES {
            number += 1;
            let (key, role) = (format!("shop/c{number}"), format!("app-c{number}"));
            stage
                .scene
                .add(&pod(&key, "10.0.1.7 fd00:1::7").annotation(ROLE, &role));
            stage.scene.settle();
            // From here on the key is cold, whatever was fetched for the pod before.
            let fresh = format!("{role}-fresh");
            stage
                .scene
                .manifests
                .put(&pod(&key, "10.0.1.7 fd00:1::7").annotation(ROLE, &fresh));
            let mut talk = stage.talk(&key)?;
            let token = talk.ask("PUT", "/latest/api/token", &[(TTL, "600")])?.body;
            let with = [(TOKEN, token.as_str())];
            let deadline = Instant::now() + SOON;
            while talk.ask("GET", LISTING, &with)?.body != fresh {
                ensure!(Instant::now() < deadline, "the role was never listed");
            }
            let start = Instant::now();
            let answer = talk.ask("GET", &format!("{LISTING}{fresh}"), &with)?;
            let took = start.elapsed();
            ensure!(answer.status == 200, "{answer:?}");
            over.push(took.as_secs_f64() * 1e3 - delay.as_secs_f64() * 1e3);
            stage.scene.remove(&key);
        }
        over.sort_by(f64::total_cmp);
        writeln!(
            text,
            "  STS {:>4} ms: {:+.1} ms (at most {:+.1})",
            delay.as_millis(),
            over[TIMES / 2],
            over[TIMES - 1]
        )?;
    }
    Ok(())
}

/// B4: many connections of a pod wait for its decision, and then for keys that nobody has.
fn herd(stage: &mut Stage, text: &mut String) -> Result<()> {
    const DELAY: Duration = Duration::from_millis(80);
    const ACCOUNT: &str = r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "late", "namespace": "shop", "uid": "sa-late"}}"#;
    stage.sts.delay(DELAY);
    let key = "shop/herd";
    stage.scene.add(
        &pod(key, "10.0.1.8 fd00:1::8")
            .annotation(ROLE, "app-herd")
            .account("late"),
    );
    stage.scene.settle();
    let token = stage
        .talk(key)?
        .ask("PUT", "/latest/api/token", &[(TTL, "600")])?
        .body;
    let talks = (0..HERD)
        .map(|_| stage.talk(key))
        .collect::<Result<Vec<_>>>()?;
    let before = stage.sts.asked().len();
    let (decided, ends) = thread::scope(|scope| -> Result<_> {
        let askers: Vec<_> = talks
            .into_iter()
            .map(|mut talk| {
                let token = token.as_str();
                scope.spawn(move || {
                    let answer = talk.ask("GET", &format!("{LISTING}app-herd"), &[(TOKEN, token)]);
                    (answer, Instant::now())
                })
            })
            .collect();
        // All of them wait by then, and none for too long.
        thread::sleep(Duration::from_millis(150));
        let decided = Instant::now();
        stage.scene.manifests.write("late.json", ACCOUNT);
        let mut ends = Vec::new();
        for asker in askers {
            let (answer, end) = asker
                .join()
                .map_err(|_panic| anyhow::anyhow!("an asker panicked"))?;
            let answer = answer?;
            ensure!(answer.status == 200, "{answer:?}");
            ends.push(end);
        }
        Ok((decided, ends))
    })?;
    let (first, last) = (
        ends.iter().min().context("a herd")?,
        ends.iter().max().context("a herd")?,
    );
    let since = |at: &Instant| at.duration_since(decided).as_secs_f64() * 1e3;
    writeln!(
        text,
        "\nherd of {HERD}, STS at {} ms: {} call of STS; first answer {:.1} ms and last {:.1} ms after its account was there",
        DELAY.as_millis(),
        stage.sts.asked().len() - before,
        since(first),
        since(last)
    )?;
    Ok(())
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("the responder runs")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("it has memory")?.parse()?;
    Ok(kib / 1024)
}
