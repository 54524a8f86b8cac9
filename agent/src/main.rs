//! Typed words to functions; prints errors, decides exit codes. Nothing else.
use std::process::ExitCode;
use clap::Parser as _;
use portcullis::cli::{Cli, Command};
use portcullis::{client, lab, run};
use portcullis::settings::{Settings, UnknownPod};
fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) { Ok(code) => code, Err(error) => { eprintln!("error: {error:#}"); ExitCode::FAILURE } }
}
fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match cli.command {
        Command::Agent(a) => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into())).init();
            let settings = Settings { node: a.node.unwrap_or_default(), manifests: a.manifests, bpffs: a.pins.bpffs, socket: a.socket.socket, cni_results: a.cni_results, pod_cgroup: a.pod_cgroup, host_cgroup: a.host_cgroup, own_uid: a.own_uid, metadata_allow: a.metadata_allow.into_iter().collect(), unknown_pod: UnknownPod::Closed, metrics: a.metrics, health: a.health };
            runtime()?.block_on(run::run(settings))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Wait(w) => match runtime()?.block_on(client::wait_synced(&w.socket.socket, w.timeout)) { Ok(()) => Ok(ExitCode::SUCCESS), Err(e) => { eprintln!("{e}"); Ok(ExitCode::from(5)) } },
        Command::Status(s) => { let body = runtime()?.block_on(client::call(&s.socket.socket, hyper::Method::GET, "/v1/status"))?; println!("{}", String::from_utf8_lossy(&body)); Ok(ExitCode::SUCCESS) }
        Command::Uninstall(u) => { portcullis::dataplane::uninstall(&u.pins.bpffs)?; Ok(ExitCode::SUCCESS) }
        Command::Lab(l) => lab::run(l, &mut std::io::stdout()),
        _ => anyhow::bail!("not yet"),
    }
}
