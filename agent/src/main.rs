//! From typed words to functions, and from errors to exit codes. It decides nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use hyper::Method;
use portcullis::cli::{
    AgentArgs, BpfCommand, Cli, Command, ExplainArgs, Output, UnknownPodArg, Verdict,
};
use portcullis::commands::{bpf, explain, mount_bpffs, status, uninstall};
use portcullis::failure::{self, Failure};
use portcullis::pipe::UnlessClosed;
use portcullis::report::NodeStatus;
use portcullis::settings::{Settings, UnknownPod};
use portcullis::{client, commands, run};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = wants_json(&cli.command);
    let mut out = UnlessClosed(io::stdout().lock());
    let result = dispatch(cli.command, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let failure = Failure::from(error);
            let text = if json {
                failure.to_json()
            } else {
                failure.to_string()
            };
            // Where nobody reads errors there is nobody to tell.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command, out: &mut dyn io::Write) -> Result<u8> {
    match command {
        Command::Agent(arguments) => agent(arguments),
        Command::Wait(arguments) => {
            runtime()?.block_on(client::wait_synced(
                &arguments.socket.socket,
                arguments.timeout,
            ))?;
            Ok(failure::exit::DONE)
        }
        Command::Status(arguments) => {
            let status = ask(&arguments.socket.socket)?;
            let detail = match (arguments.brief, arguments.verbose) {
                (true, _) => status::Detail::Brief,
                (_, true) => status::Detail::Verbose,
                _ => status::Detail::Normal,
            };
            status::print(&status, detail, arguments.output == Output::Json, out)
        }
        Command::Explain(arguments) => explain(arguments, out),
        Command::Bpf(command) => match command {
            BpfCommand::Progs(bpf) => bpf::progs(&bpf.pins.bpffs, bpf.output == Output::Json, out),
            BpfCommand::Maps(bpf) => bpf::maps(&bpf.pins.bpffs, bpf.output == Output::Json, out),
            BpfCommand::Dump { map, raw, bpf } => {
                bpf::dump(&bpf.pins.bpffs, &map, raw, bpf.output == Output::Json, out)
            }
        },
        Command::Uninstall(arguments) => {
            let code = uninstall::uninstall(&arguments.pins.bpffs, arguments.yes, out)?;
            if arguments.stay {
                uninstall::stay()?;
            }
            Ok(code)
        }
        Command::MountBpffs { directory } => mount_bpffs::mount_bpffs(&directory, out),
        #[cfg(feature = "lab")]
        Command::Lab(command) => portcullis::lab::run(command, out),
        Command::ExplainError { code } => failure::explain_error(&code, out),
    }
}

fn agent(arguments: AgentArgs) -> Result<u8> {
    log_to_stderr();
    let node = match arguments.node {
        Some(node) => node,
        None => nix::sys::utsname::uname()
            .context("asking for the host name")?
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let settings = Settings {
        node,
        manifests: arguments.manifests,
        bpffs: arguments.pins.bpffs,
        socket: arguments.socket.socket,
        cni_results: arguments.cni_results,
        pod_cgroup: arguments.pod_cgroup,
        host_cgroup: arguments.host_cgroup,
        own_uid: arguments.own_uid,
        metadata_allow: arguments.metadata_allow.into_iter().collect(),
        adopt_existing: arguments.adopt_existing,
        unknown_pod: match arguments.unknown_pod {
            UnknownPodArg::Closed => UnknownPod::Closed,
            UnknownPodArg::Open => UnknownPod::Open,
        },
        metrics: arguments.metrics,
        health: arguments.health,
    };
    commands::preflight(&settings)?;
    runtime()?.block_on(run::run(settings))?;
    Ok(failure::exit::DONE)
}

fn explain(arguments: ExplainArgs, out: &mut dyn io::Write) -> Result<u8> {
    let objects = explain::Objects {
        manifests: &arguments.manifests,
        node: None,
        metadata_allow: arguments.metadata_allow.into_iter().collect(),
    };
    let mut notes = UnlessClosed(io::stderr());
    if let Some(probes) = &arguments.probes {
        return explain::explain_probes(&objects, probes, out, &mut notes);
    }
    let question = explain::Question {
        source: arguments.source.as_deref().unwrap_or_default(),
        destination: arguments.destination.as_deref().unwrap_or_default(),
        expect: arguments.expect.map(|verdict| match verdict {
            Verdict::Allow => portcullis_policy::explain::Verdict::Allow,
            Verdict::Deny => portcullis_policy::explain::Verdict::Deny,
        }),
    };
    explain::explain(
        &question,
        &objects,
        arguments.output == Output::Json,
        out,
        &mut notes,
    )
}

fn ask(socket: &Path) -> Result<NodeStatus> {
    let body = runtime()?.block_on(client::call(socket, Method::GET, "/v1/status"))?;
    serde_json::from_slice(&body).context("reading the agent's answer")
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// JSON lines; text on a terminal. The filter is `RUST_LOG`'s, `info` without one.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if io::stderr().is_terminal() {
        logger.init();
    } else {
        logger.json().flatten_event(true).init();
    }
}

fn wants_json(command: &Command) -> bool {
    let output = match command {
        Command::Status(arguments) => arguments.output,
        Command::Explain(arguments) => arguments.output,
        Command::Bpf(
            BpfCommand::Progs(bpf) | BpfCommand::Maps(bpf) | BpfCommand::Dump { bpf, .. },
        ) => bpf.output,
        _ => Output::Table,
    };
    output == Output::Json
}
