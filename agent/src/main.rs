//! From typed words to functions, and from errors to exit codes. It decides nothing.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use portcullis::cli::{
    self, AgentArgs, Cli, Command, PlaceArgs, ResponderArgs, ScopeArg, TokenReaderArgs,
    UnknownPodArg,
};
use portcullis::commands::ask::{self, runtime};
use portcullis::commands::place::Place;
use portcullis::commands::{mount_bpffs, uninstall};
use portcullis::failure::{self, Failure};
use portcullis::pipe::UnlessClosed;
use portcullis::responder::process;
use portcullis::settings::{Roles, Settings, UnknownPod};
use portcullis::token_reader::Reader;
use portcullis::{bridge, commands, run, secrecy, token_reader as reader};
use portcullis_imds::cache::{Scope, Sessions};
use portcullis_imds::respond::ImdsV1;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A release has no tables to unwind its stack by (`xtask/release.ld`), without which the unwinder ends the process: nobody may ask it for a backtrace.
fn no_backtraces() {
    if cfg!(debug_assertions) {
        return;
    }
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: no other thread has been started.
        unsafe { std::env::remove_var(variable) };
    }
}

fn main() -> ExitCode {
    no_backtraces();
    let plugin = is_plugin(std::env::args_os().next());
    let command = if plugin {
        Command::Ask(cli::plugin())
    } else {
        Cli::parse().command
    };
    let json = matches!(&command, Command::Ask(question) if ask::wants_json(question));
    // Not locked: the bridge's answers are written by another thread.
    let mut out = UnlessClosed(io::stdout());
    let result = dispatch(command, plugin, &mut out).and_then(|code| {
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

/// Whether it was called by the name by which kubectl finds plugins.
fn is_plugin(called: Option<OsString>) -> bool {
    let called = called.map(PathBuf::from);
    let name = called.as_deref().and_then(Path::file_stem);
    name.is_some_and(|name| name == cli::PLUGIN)
}

fn dispatch(command: Command, plugin: bool, out: &mut dyn io::Write) -> Result<u8> {
    match command {
        Command::Agent(arguments) => agent(*arguments),
        Command::Responder(arguments) => responder(arguments),
        Command::TokenReader(arguments) => token_reader(arguments),
        Command::Ask(question) => ask::ask(question, plugin, out),
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
        Command::Bridge { socket } => bridge(socket),
    }
}

fn bridge(socket: Option<PathBuf>) -> Result<u8> {
    let arguments = PlaceArgs {
        socket,
        ..PlaceArgs::default()
    };
    if let Place::Here(socket) = ask::place(false, arguments)? {
        let runtime = runtime()?;
        let served = bridge::run(tokio::io::stdin(), tokio::io::stdout(), &socket);
        let served = runtime.block_on(served);
        // A thread may still hang in a read of standard input, and must not keep the process.
        runtime.shutdown_background();
        served?;
    }
    Ok(failure::exit::DONE)
}

fn agent(arguments: AgentArgs) -> Result<u8> {
    log_to_stderr();
    secrecy::seal()?;
    let node = node(arguments.node)?;
    let mut roles = Roles::try_from(arguments.roles)?;
    if arguments.token_reader.is_none() {
        roles = roles.without_projected()?;
    }
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
        responder: arguments.responder,
        audit_log: arguments.audit_log,
        responder_uid: arguments.responder_uid,
        token_reader: arguments.token_reader.map(|socket| Reader {
            socket,
            uid: arguments.token_reader_uid,
        }),
        roles,
        upstream: arguments.upstream.metadata_endpoint,
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

/// The name that was given, else the host's.
fn node(given: Option<String>) -> Result<String> {
    if let Some(node) = given {
        return Ok(node);
    }
    let system = nix::sys::utsname::uname().context("asking for the host name")?;
    Ok(system.nodename().to_string_lossy().into_owned())
}

fn responder(arguments: ResponderArgs) -> Result<u8> {
    log_to_stderr();
    secrecy::seal()?;
    let word = |name| std::env::var(name).ok().filter(|word| !word.is_empty());
    let settings = process::Settings {
        socket: arguments.socket,
        agent_uid: arguments.agent_uid,
        keys: arguments.keys,
        pod_requests: arguments.pod_requests,
        region: arguments.region.filter(|region| !region.is_empty()),
        upstream: arguments.upstream.metadata_endpoint,
        endpoint: arguments.sts_endpoint,
        imds_v1: if arguments.imds_v1 {
            ImdsV1::ByPod
        } else {
            ImdsV1::Deny
        },
        eks_auth_endpoint: arguments.eks_auth_endpoint,
        audience: arguments.pod_identity_audience,
        sessions: Sessions {
            scope: match arguments.session_scope {
                ScopeArg::Pod => Scope::Pod,
                ScopeArg::Serviceaccount => Scope::ServiceAccount,
                ScopeArg::Role => Scope::Role,
            },
            tags: arguments.session_tags,
            source_identity: arguments.source_identity,
            cluster: arguments.cluster_name.filter(|name| !name.is_empty()),
            node: node(arguments.node)?,
        },
        extra_hosts: arguments.extra_host,
        own: word("AWS_ACCESS_KEY_ID")
            .zip(word("AWS_SECRET_ACCESS_KEY"))
            .map(|(id, secret)| (id, secret, word("AWS_SESSION_TOKEN"))),
    };
    runtime()?.block_on(process::run(settings))?;
    Ok(failure::exit::DONE)
}

fn token_reader(arguments: TokenReaderArgs) -> Result<u8> {
    log_to_stderr();
    secrecy::seal()?;
    let settings = reader::Settings {
        socket: arguments.socket,
        pods: arguments.pods_dir,
        agent_uid: arguments.agent_uid,
    };
    runtime()?.block_on(reader::run(settings))?;
    Ok(failure::exit::DONE)
}

/// JSON lines; text on a terminal. The filter is `RUST_LOG`'s, `info` without one; it does not reach what [`secrecy`] forbids.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let logger = tracing_subscriber::registry()
        .with(filter)
        .with(FilterFn::new(secrecy::may_say));
    if io::stderr().is_terminal() {
        logger.with(lines).init();
    } else {
        logger.with(lines.json().flatten_event(true)).init();
    }
}
