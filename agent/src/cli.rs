//! What can be typed. What it means is in `settings` and in the modules that are called.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Guards the pods of a node: metadata guard and network policy in eBPF.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node's agent: follow objects, compile, enforce
    Agent(AgentArgs),
    /// Block until everything present now is in force in the kernel
    Wait(WaitArgs),
    /// Health of the agent, its endpoints, attachments and drops
    Status(StatusArgs),
    /// Why a connection is allowed or denied
    Explain(ExplainArgs),
    /// Look at pinned programs and maps, without the agent
    #[command(subcommand)]
    Bpf(BpfCommand),
    /// Remove every program, link, map and filter of an agent
    Uninstall(UninstallArgs),
    /// Mount a bpffs where there is none yet (needs root with `CAP_SYS_ADMIN`)
    MountBpffs {
        /// Where; the directory has to exist
        #[arg(default_value = "/sys/fs/bpf")]
        directory: PathBuf,
    },
    /// A node of network namespaces on this machine, to try things and to test
    #[cfg(feature = "lab")]
    #[command(subcommand)]
    Lab(LabCommand),
    /// What an error code means and what to do
    ExplainError {
        /// As printed: PC1107
        code: String,
    },
}

/// Where pins are.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Directory of a bpffs for pins; created if missing
    #[arg(
        long,
        value_name = "DIR",
        env = "PORTCULLIS_BPFFS",
        default_value = "/sys/fs/bpf/portcullis"
    )]
    pub bpffs: PathBuf,
}

/// Where the agent answers.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// The agent's admin socket
    #[arg(
        long,
        value_name = "PATH",
        env = "PORTCULLIS_SOCKET",
        default_value = "/run/portcullis/portcullis.sock"
    )]
    pub socket: PathBuf,
}

/// `portcullis agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Name of this node [default: host name]
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// Follow the YAML and JSON files of a directory instead of an API server
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub pins: PinArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub socket: SocketArgs,
    /// The CNI's result cache
    #[arg(long, value_name = "DIR", default_value = crate::endpoint::cni_cache::DEFAULT_DIRECTORY)]
    pub cni_results: PathBuf,
    /// The pods' cgroup (cgroup v2) [default: found on kubelet nodes]
    #[arg(long, value_name = "PATH")]
    pub pod_cgroup: Option<PathBuf>,
    /// The cgroup whose sockets are the host's [default: the parent of the pods' cgroup]
    #[arg(long, value_name = "PATH")]
    pub host_cgroup: Option<PathBuf>,
    /// Uid of the agent's own pod
    #[arg(long, env = "POD_UID", hide = true)]
    pub own_uid: Option<String>,
    /// Pods of this service account may reach the metadata addresses (repeatable)
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = service_account)]
    pub metadata_allow: Vec<(String, String)>,
    /// What an interface without a known pod does; metadata is closed either way
    #[arg(long, value_enum, default_value_t = UnknownPodArg::Closed)]
    pub unknown_pod: UnknownPodArg,
    /// On the first start on a node, keep open connections that policy allows if they carry a packet within this time [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub adopt_existing: Option<Duration>,
    /// Serve /metrics over TCP too [default: on the socket only]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Serve /healthz and /readyz over TCP too [default: on the socket only]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health: Option<SocketAddr>,
}

/// `--unknown-pod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPodArg {
    /// Nothing passes but its node
    Closed,
    /// Everything passes but metadata
    Open,
}

/// `portcullis wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Until every object present at the call is in force
    #[arg(long, required = true)]
    pub synced: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub socket: SocketArgs,
}

/// `portcullis status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub socket: SocketArgs,
    /// The node's line only
    #[arg(long, conflicts_with = "verbose")]
    pub brief: bool,
    /// Every endpoint too
    #[arg(long, short)]
    pub verbose: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// `portcullis explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who opens the connection: NAMESPACE/POD, an IP address, node/NAME
    #[arg(required_unless_present = "probes")]
    pub source: Option<String>,
    /// To whom, with :PORT[/PROTOCOL], or `metadata`
    #[arg(required_unless_present = "probes")]
    pub destination: Option<String>,
    /// Directory of YAML and JSON files
    #[arg(
        long,
        short = 'f',
        visible_alias = "filename",
        value_name = "DIR",
        required = true
    )]
    pub manifests: PathBuf,
    /// A JSON list of probes; the answer is a JSON list
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination", "expect"])]
    pub probes: Option<PathBuf>,
    /// Pods of this service account may reach the metadata addresses (repeatable)
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = service_account)]
    pub metadata_allow: Vec<(String, String)>,
    /// Exit with 1 if the verdict is another
    #[arg(long, value_enum)]
    pub expect: Option<Verdict>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// It passes
    Allow,
    /// It does not
    Deny,
}

/// `portcullis bpf`.
#[derive(Debug, Subcommand)]
pub enum BpfCommand {
    /// Pinned programs and links
    Progs(BpfArgs),
    /// Pinned maps and how full they are
    Maps(BpfArgs),
    /// Contents of a map, names and types decoded
    Dump {
        /// Name of a map: `pc_endpoints`, or `endpoints`
        map: String,
        /// Keys and values as bytes
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        #[expect(missing_docs, reason = "its fields have their own")]
        bpf: BpfArgs,
    },
}

/// What the `bpf` verbs share.
#[derive(Debug, Args)]
pub struct BpfArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub pins: PinArgs,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `portcullis uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub pins: PinArgs,
    /// Do it; without this it only says what it would remove
    #[arg(long)]
    pub yes: bool,
    /// Then wait to be ended, as a pod of a DaemonSet has to
    #[arg(long)]
    pub stay: bool,
}

/// `portcullis lab`.
#[cfg(feature = "lab")]
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Steal node credentials, raise the guard, enforce policy, kill the agent: narrated
    Demo {
        /// A report in JSON instead of the narration
        #[arg(long)]
        json: bool,
        /// Leave lab and agent running
        #[arg(long)]
        keep: bool,
        /// Wait for Enter before each step
        #[arg(long)]
        step: bool,
        /// Name of the lab
        #[arg(long, default_value = "demo")]
        name: String,
    },
    /// Build a node from objects and start the agent on it
    Up {
        /// Directory of YAML and JSON files
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
        /// Which node [default: the one with most pods]
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "its fields have their own")]
        lab: LabArgs,
        /// Pods of this service account may reach the metadata addresses (repeatable)
        #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = service_account)]
        metadata_allow: Vec<(String, String)>,
    },
    /// Run a command in a pod
    Exec {
        /// NAMESPACE/POD
        pod: String,
        #[command(flatten)]
        #[expect(missing_docs, reason = "its fields have their own")]
        lab: LabArgs,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Labs that are up
    Status,
    /// Take a lab down; nothing of it stays
    Down(LabArgs),
    /// Ask the kernel about a list of probes
    Probe {
        /// Directory of YAML and JSON files
        #[arg(long, value_name = "DIR")]
        manifests: PathBuf,
        /// A JSON list of probes
        #[arg(long, value_name = "FILE")]
        probes: PathBuf,
        /// Which node [default: the one with most pods]
        #[arg(long)]
        node: Option<String>,
        /// Real packets in namespaces, or the programs on stand-in devices
        #[arg(long, value_enum, default_value_t = How::Packets)]
        how: How,
        /// Pods of this service account may reach the metadata addresses (repeatable)
        #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = service_account)]
        metadata_allow: Vec<(String, String)>,
        /// Output format; only JSON there is
        #[arg(long, short, value_enum, default_value_t = Output::Json)]
        output: Output,
    },
    /// Serve the listeners of a lab
    #[command(hide = true)]
    Serve(LabArgs),
}

/// Which lab.
#[cfg(feature = "lab")]
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Name of the lab
    #[arg(long, default_value = "lab")]
    pub name: String,
}

/// How a probe is put to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Real packets
    Packets,
    /// `BPF_PROG_TEST_RUN`
    TestRun,
}

fn service_account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("wants NAMESPACE/SERVICEACCOUNT".to_owned()),
    }
}

/// `30s`, `500ms`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let Ok(number) = number.parse::<u64>() else {
        return Err("wants a number with ms, s, m or h".to_owned());
    };
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err("wants a number with ms, s, m or h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("30").is_err() && duration("s").is_err() && duration("3 d").is_err());
    }
}
