//! The verbs that ask: from what was typed to whom it is put, and to what is printed of the answers.
//!
//! ```text
//! Ask --Place--> Here: one agent, by its socket or pins ----\
//!            \--> Cluster: fleet, a line to each, 32 at once --> print
//! ```

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::runtime::Runtime;

use super::bpf::{self, Document};
use super::explain::{self, Question, Said, Word};
use super::place::{Local, Place};
use super::{API_VERSION, iam, lint, status, wait};
use crate::cli::{
    Ask, AuditArgs, BpfArgs, BpfCommand, ExplainArgs, IamArgs, IamCommand, Output, PlaceArgs,
    PolicyCommand, StatusArgs, StatusOutput, Verdict, WhoamiArgs,
};
use crate::client::{self, ClientError, Line};
use crate::cluster::{Access, Asked, Cluster, Fleet};
use crate::failure::{self, Failure, exit};
use crate::pipe::{self, UnlessClosed};
use crate::report::{NodeAudit, NodeStatus};

/// Entries of a map that each node of a cluster sends.
const MOST_ENTRIES: usize = 10_000;

/// Between two questions of `iam audit --follow`.
const BETWEEN_RECORDS: Duration = Duration::from_secs(1);

/// Between two rounds of `status --watch`.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(2);

/// Asks what was typed; `plugin` if it was typed as `kubectl portcullis`.
pub fn ask(question: Ask, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    match question {
        Ask::Status(arguments) => ask_status(arguments, plugin, out),
        Ask::Explain(arguments) => ask_explain(arguments, plugin, out),
        Ask::Wait(mut arguments) => {
            let cluster = plugin || arguments.selector.is_some();
            let place = place(cluster, std::mem::take(&mut arguments.place))?;
            runtime()?.block_on(wait::wait(&arguments, place))?;
            Ok(exit::DONE)
        }
        Ask::Policy(PolicyCommand::Lint(arguments)) => {
            let json = arguments.output == Output::Json;
            lint::lint(&arguments.files, arguments.strict, json, out)
        }
        Ask::Iam(IamCommand::Whoami(arguments)) => ask_whoami(arguments, plugin, out),
        Ask::Iam(IamCommand::Check(arguments)) => {
            let json = arguments.output == Output::Json;
            let (heard, _) = hear(arguments, |_| None, iam::path, plugin)?;
            iam::check(heard, json, out)
        }
        Ask::Iam(IamCommand::Audit(arguments)) => ask_audit(arguments, plugin, out),
        Ask::Iam(IamCommand::Cache(arguments)) => {
            let json = arguments.output == Output::Json;
            let path = |_: Option<&str>| "/v1/cache".to_owned();
            let (heard, _) = hear(arguments, |_| None, path, plugin)?;
            iam::cache::print(&heard, json, out)
        }
        Ask::Bpf(command) => ask_bpf(command, plugin, out),
        Ask::ExplainError { code } => failure::explain_error(&code, out),
    }
}

/// Whether failures are to be JSON too.
#[must_use]
pub fn wants_json(question: &Ask) -> bool {
    match question {
        Ask::Status(arguments) => arguments.output == StatusOutput::Json,
        Ask::Explain(arguments) => arguments.output == Output::Json,
        Ask::Policy(PolicyCommand::Lint(arguments)) => arguments.output == Output::Json,
        Ask::Iam(
            IamCommand::Whoami(WhoamiArgs { iam, .. })
            | IamCommand::Check(iam)
            | IamCommand::Audit(AuditArgs { iam, .. })
            | IamCommand::Cache(iam),
        ) => iam.output == Output::Json,
        Ask::Bpf(BpfCommand::Progs(bpf) | BpfCommand::Maps(bpf) | BpfCommand::Dump { bpf, .. }) => {
            bpf.output == Output::Json
        }
        Ask::Wait(_) | Ask::ExplainError { .. } => false,
    }
}

/// Whom a verb with `--socket` asks.
pub fn place(plugin: bool, arguments: PlaceArgs) -> Result<Place, Failure> {
    let local = Local {
        typed: arguments.socket.as_ref(),
        option: "--socket",
        variable: "PORTCULLIS_SOCKET",
        default: "/run/portcullis/portcullis.sock",
    };
    Place::of(plugin, arguments.cluster, &local)
}

/// What everything that waits runs on.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")
}

fn ask_status(arguments: StatusArgs, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    let detail = match (arguments.brief, arguments.verbose) {
        (true, _) => status::Detail::Brief,
        (_, true) => status::Detail::Verbose,
        _ => status::Detail::Normal,
    };
    let form = match arguments.output {
        StatusOutput::Table => status::Form::Table,
        StatusOutput::Wide => status::Form::Wide,
        StatusOutput::Json => status::Form::Json,
        StatusOutput::Yaml => status::Form::Yaml,
        StatusOutput::Name => status::Form::Name,
    };
    let limit = arguments.patience.timeout;
    let cluster = plugin || arguments.selector.is_some();
    let place = place(cluster, arguments.place)?.labelled(arguments.selector);
    if arguments.watch {
        let pace = status::Pace {
            every: BETWEEN_ROUNDS,
            limit,
        };
        let is_abandoned = || pipe::is_abandoned(std::io::stdout());
        return runtime()?.block_on(status::watch(place, pace, detail, form, is_abandoned, out));
    }
    match place {
        Place::Here(socket) => {
            let asked = client::ask::<NodeStatus>(&socket, "/v1/status");
            let answer = runtime()?.block_on(in_time(limit, asked))?;
            status::print(&answer, detail, form, out)
        }
        Place::Cluster(access) => {
            let question = |mut line: Line| async move { put(&mut line, "/v1/status").await };
            let (fleet, asked) = runtime()?.block_on(ask_all(access, limit, question))?;
            status::print_all(&asked, &fleet.missing, detail, form, out)
        }
    }
}

fn ask_explain(arguments: ExplainArgs, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    let source = arguments.source.as_deref().unwrap_or_default();
    let destination = arguments.destination.as_deref().unwrap_or_default();
    let namespace = arguments.namespace.as_deref();
    let qualified =
        |default: &str| explain::qualified(source, destination, namespace.unwrap_or(default));
    let expect = arguments.expect.map(|verdict| match verdict {
        Verdict::Allow => portcullis_policy::explain::Verdict::Allow,
        Verdict::Deny => portcullis_policy::explain::Verdict::Deny,
    });
    let ends = qualified("default");
    let question = Question::new(&ends, expect);
    let json = arguments.output == Output::Json;
    if let Some(manifests) = &arguments.manifests {
        let objects = explain::Objects {
            manifests,
            node: None,
            metadata_allow: arguments.metadata_allow.into_iter().collect(),
        };
        let mut notes = UnlessClosed(std::io::stderr());
        return match &arguments.probes {
            Some(probes) => explain::explain_probes(&objects, probes, out, &mut notes),
            None => explain::explain(&question, &objects, json, out, &mut notes),
        };
    }
    // What cannot be understood is wrong whatever the namespace, and needs no cluster.
    question.check()?;
    let limit = arguments.patience.timeout;
    match place(plugin, arguments.place)? {
        Place::Here(socket) => {
            let path = explain::path(&question, None);
            let asked = client::ask::<Said>(&socket, &path);
            let word = Word::by(runtime()?.block_on(in_time(limit, asked))?)?;
            explain::print(&question, &word, json, out)
        }
        Place::Cluster(access) => runtime()?.block_on(async {
            let cluster = access.connect().await?;
            let ends = qualified(&cluster.default_namespace);
            let question = Question::new(&ends, expect);
            let fleet = in_time(limit, cluster.fleet()).await?;
            let word = explain::gather(&cluster, &fleet, limit, &question).await?;
            explain::print(&question, &word, json, out)
        }),
    }
}

fn ask_whoami(arguments: WhoamiArgs, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    let WhoamiArgs {
        pod,
        all: _,
        namespace,
        iam,
    } = arguments;
    let json = iam.output == Output::Json;
    let whose = |default: &str| named(pod, namespace, default);
    let (heard, pod) = hear(iam, whose, iam::path, plugin)?;
    iam::whoami(&heard, pod.as_deref(), json, out)
}

/// A pod as agents name it.
fn named(
    pod: Option<(Option<String>, String)>,
    namespace: Option<String>,
    default: &str,
) -> Option<String> {
    let (of_pod, name) = pod?;
    let namespace = of_pod.or(namespace);
    let namespace = namespace.as_deref().unwrap_or(default);
    Some(format!("{namespace}/{name}"))
}

fn ask_audit(arguments: AuditArgs, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    let AuditArgs {
        pod,
        namespace,
        limit,
        follow,
        iam,
    } = arguments;
    let json = iam.output == Output::Json;
    if !follow {
        let whose = |default: &str| named(pod, namespace, default);
        let path = |pod: Option<&str>| iam::audit::path(pod, 0, limit);
        let (heard, _) = hear(iam, whose, path, plugin)?;
        return iam::audit::print(&heard, json, out);
    }
    let Place::Here(socket) = place(plugin, iam.place)? else {
        return Err(Failure::new(
            "PC5001",
            "--follow follows one agent",
            "a cluster's agents are asked once, by the API server",
            "follow on the node itself, or ask again with `kubectl portcullis iam audit`",
        )
        .into());
    };
    let pod = named(pod, namespace, "default");
    let patience = iam.patience.timeout;
    runtime()?.block_on(async {
        let mut follower = iam::audit::Follower::new(json);
        loop {
            let path = iam::audit::path(pod.as_deref(), follower.after(), limit);
            let asked = client::ask::<NodeAudit>(&socket, &path);
            let text = follower.next(&in_time(patience, asked).await?)?;
            out.write_all(text.as_bytes())?;
            out.flush()?;
            tokio::time::sleep(BETWEEN_RECORDS).await;
        }
    })
}

/// Asks for what is at the path: of the pod that `whose` names, told the default namespace, or of all.
fn hear<T: serde::de::DeserializeOwned>(
    arguments: IamArgs,
    whose: impl FnOnce(&str) -> Option<String>,
    path: impl FnOnce(Option<&str>) -> String,
    plugin: bool,
) -> Result<(iam::Heard<T>, Option<String>)> {
    let limit = arguments.patience.timeout;
    match place(plugin, arguments.place)? {
        Place::Here(socket) => {
            let pod = whose("default");
            let path = path(pod.as_deref());
            let asked = client::ask::<T>(&socket, &path);
            let heard = iam::Heard::here(runtime()?.block_on(in_time(limit, asked))?);
            Ok((heard, pod))
        }
        Place::Cluster(access) => runtime()?.block_on(async {
            let cluster = access.connect().await?;
            let pod = whose(&cluster.default_namespace);
            let path = path(pod.as_deref());
            let question = |mut line: Line| {
                let path = path.clone();
                async move { put::<T>(&mut line, &path).await }
            };
            let (fleet, asked) = ask_fleet(&cluster, limit, question).await?;
            Ok((iam::Heard::everywhere(asked, &fleet.missing), pod))
        }),
    }
}

fn ask_bpf(command: BpfCommand, plugin: bool, out: &mut dyn Write) -> Result<u8> {
    match command {
        BpfCommand::Progs(arguments) => {
            show(arguments, plugin, bpf::programs, "/v1/bpf/progs", out)
        }
        BpfCommand::Maps(arguments) => show(arguments, plugin, bpf::maps, "/v1/bpf/maps", out),
        BpfCommand::Dump {
            map,
            raw,
            limit,
            bpf,
        } => {
            let path = format!(
                "/v1/bpf/maps/{}?raw={raw}&limit={}",
                client::quoted(&map).replace('/', "%2F"),
                limit.unwrap_or(MOST_ENTRIES)
            );
            let here = |bpffs: &std::path::Path| bpf::dump(bpffs, &map, raw, limit);
            show(bpf, plugin, here, &path, out)
        }
    }
}

/// What is pinned: read `here`, or sent by agents from `path`. Exit code 4 if one of them gave no answer.
fn show<T: Document>(
    arguments: BpfArgs,
    plugin: bool,
    here: impl FnOnce(&std::path::Path) -> Result<T>,
    path: &str,
    out: &mut dyn Write,
) -> Result<u8> {
    let json = arguments.output == Output::Json;
    let local = Local {
        typed: arguments.bpffs.as_ref(),
        option: "--bpffs",
        variable: "PORTCULLIS_BPFFS",
        default: "/sys/fs/bpf/portcullis",
    };
    let cluster = plugin || arguments.selector.is_some();
    let place = Place::of(cluster, arguments.cluster, &local)?;
    let access = match place.labelled(arguments.selector) {
        Place::Here(bpffs) => {
            let document = here(&bpffs)?;
            let text = if json {
                serde_json::to_string_pretty(&document)? + "\n"
            } else {
                T::text(&[document])
            };
            out.write_all(text.as_bytes())?;
            return Ok(exit::DONE);
        }
        Place::Cluster(access) => access,
    };
    let limit = arguments.patience.timeout;
    let question = |mut line: Line| async move { put::<T>(&mut line, path).await };
    let (_, asked) = runtime()?.block_on(ask_all(access, limit, question))?;
    let mut documents = Vec::new();
    let mut failures = Vec::new();
    for (node, answer) in asked {
        match answer {
            Ok(mut document) => {
                document.set_node(&node);
                documents.push(document);
            }
            Err(failure) => failures.push((node, failure)),
        }
    }
    // Nobody knows the map, say: that is the answer.
    if let (true, Some((_, failure))) = (documents.is_empty(), failures.first()) {
        return Err(failure.clone().into());
    }
    let text = if json {
        let failures: Vec<_> = failures
            .iter()
            .map(|(node, failure)| json!({"node": node, "error": failure}))
            .collect();
        let list = json!({"apiVersion": API_VERSION, "kind": "List", "items": documents, "failures": failures});
        serde_json::to_string_pretty(&list)? + "\n"
    } else {
        let failed = failures.iter().map(|(node, failure)| {
            format!(
                "! {node}: {} {}: {}\n",
                failure.code, failure.what, failure.why
            )
        });
        T::text(&documents) + &failed.collect::<String>()
    };
    out.write_all(text.as_bytes())?;
    Ok(if failures.is_empty() {
        exit::DONE
    } else {
        exit::UNREACHABLE
    })
}

/// Finds the agents and puts the question to each. What the person may not do is a failure of the whole.
async fn ask_all<T, A>(
    access: Access,
    limit: Duration,
    question: impl Fn(Line) -> A,
) -> Result<(Fleet, Vec<Asked<T>>), Failure>
where
    A: Future<Output = Result<T, Failure>>,
{
    ask_fleet(&access.connect().await?, limit, question).await
}

/// The same of a cluster that is connected to.
async fn ask_fleet<T, A>(
    cluster: &Cluster,
    limit: Duration,
    question: impl Fn(Line) -> A,
) -> Result<(Fleet, Vec<Asked<T>>), Failure>
where
    A: Future<Output = Result<T, Failure>>,
{
    let fleet = in_time(limit, cluster.fleet()).await?;
    let asked = cluster
        .each(&fleet.agents, limit, |_, line| question(line))
        .await;
    let refused = asked.iter().find_map(|(_, answer)| {
        let failure = answer.as_ref().err()?;
        (failure.code == "PC4006").then(|| failure.clone())
    });
    match refused {
        Some(failure) => Err(failure),
        None => Ok((fleet, asked)),
    }
}

/// One question on a line.
async fn put<T: serde::de::DeserializeOwned>(line: &mut Line, path: &str) -> Result<T, Failure> {
    line.ask(path).await.map_err(Failure::from)
}

/// An answer within `limit`.
async fn in_time<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure>
where
    E: Into<Failure>,
{
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(ClientError::TimedOut.into()),
    }
}
