//! What can be typed. What it means is in `settings`, in `commands::place` and in the modules that are called.

mod ask;
mod iam;
mod roles;
mod value;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_imds::upstream::Endpoint;

pub use ask::{
    Ask, BpfArgs, BpfCommand, ClusterArgs, ExplainArgs, LintArgs, Output, PLUGIN, PatienceArgs,
    PlaceArgs, PolicyCommand, StatusArgs, StatusOutput, Verdict, WaitArgs, plugin,
};
pub use iam::{AuditArgs, IamArgs, IamCommand, WhoamiArgs};
use portcullis_imds::jwt::POD_IDENTITY_AUDIENCE;
pub use roles::{FormatArg, Imdsv1Arg, RequireArg, RoleArgs, SourceArg};
use value::{duration, service_account};

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
    Agent(Box<AgentArgs>),
    /// Answer pods' metadata requests: a container of its own beside the agent's
    Responder(ResponderArgs),
    /// Read pods' projected tokens for the agent: a container of its own with `CAP_DAC_READ_SEARCH`
    TokenReader(TokenReaderArgs),
    /// The questions.
    #[command(flatten)]
    Ask(Ask),
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
    /// Pass questions from standard input on to the agent: what `kubectl portcullis` runs in its pod
    #[command(hide = true)]
    Bridge {
        /// The agent's admin socket [default: $`PORTCULLIS_SOCKET`, else /run/portcullis/portcullis.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
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
    /// Let `portcullis responder` answer pods' metadata requests, and hand it its sockets here [default: metadata is blocked]
    #[arg(long, value_name = "PATH")]
    pub responder: Option<PathBuf>,
    /// Write audit records to this file too, a JSON object on each line
    #[arg(long, value_name = "PATH")]
    pub audit_log: Option<PathBuf>,
    /// Ask the token reader here for pods' projected tokens [default: there is none, and the source projected is left out]
    #[arg(long, value_name = "SOCKET")]
    pub token_reader: Option<PathBuf>,
    /// The uid that the token reader runs with
    #[arg(long, value_name = "UID", default_value_t = 0)]
    pub token_reader_uid: u32,
    /// The uid that the responder runs with: nobody else gets its sockets
    #[arg(long, value_name = "UID", default_value_t = 65532)]
    pub responder_uid: u32,
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
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub roles: RoleArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub upstream: UpstreamArgs,
}

/// The node's own metadata service.
#[derive(Clone, Debug, Args)]
pub struct UpstreamArgs {
    /// Where the node's own metadata service is; on nodes that have IPv6 alone `http://[fd00:ec2::254]`
    #[arg(long, value_name = "URL", default_value = "http://169.254.169.254")]
    pub metadata_endpoint: Endpoint,
}

/// `portcullis responder`.
#[derive(Debug, Args)]
pub struct ResponderArgs {
    /// The agent's socket for its responder
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/portcullis-responder/agent.sock"
    )]
    pub socket: PathBuf,
    /// The uid that the agent runs with
    #[arg(long, value_name = "UID", default_value_t = 0)]
    pub agent_uid: u32,
    /// Keep the keys of session tokens in this file [default: in memory]
    #[arg(long, value_name = "PATH")]
    pub keys: Option<PathBuf>,
    /// Requests of a pod in a second; twice as many at once
    #[arg(long, value_name = "NUMBER", default_value_t = portcullis_imds::server::POD_REQUESTS)]
    pub pod_requests: NonZeroU32,
    /// The region in which STS is asked [default: the node's, by its metadata service]
    #[arg(long, env = "AWS_REGION")]
    pub region: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub upstream: UpstreamArgs,
    /// STS elsewhere
    #[arg(long, env = "AWS_ENDPOINT_URL_STS", value_name = "URL")]
    pub sts_endpoint: Option<String>,
    /// EKS Auth elsewhere
    #[arg(long, env = "AWS_ENDPOINT_URL_EKS_AUTH", value_name = "URL")]
    pub eks_auth_endpoint: Option<String>,
    /// For whom tokens have to be that pods show at the container addresses
    #[arg(long, value_name = "AUDIENCE", default_value = POD_IDENTITY_AUDIENCE)]
    pub pod_identity_audience: String,
    /// Which pods share a session: none, those of a service account, or those with one role
    #[arg(long, value_enum, default_value_t = ScopeArg::Pod)]
    pub session_scope: ScopeArg,
    /// Tag sessions with cluster, namespace, service account and pod (sources chained and assume-role; trust policies have to allow `sts:TagSession`)
    #[arg(long)]
    pub session_tags: bool,
    /// Set the source identity of sessions to their name (the same sources; trust policies have to allow `sts:SetSourceIdentity`)
    #[arg(long)]
    pub source_identity: bool,
    /// Name of the cluster, for session names and tags, and for the source eks-auth
    #[arg(long, env = "CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Name of this node, for the names of sessions that pods with one role share [default: host name]
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// A name beside the addresses that `Host` may say (repeatable)
    #[arg(long, value_name = "NAME")]
    pub extra_host: Vec<String>,
    /// Answer without session tokens where the agent says that the pod may do without
    #[arg(long)]
    pub imds_v1: bool,
}

/// `--session-scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// Each pod has its own
    Pod,
    /// Pods of one service account share one
    Serviceaccount,
    /// Pods with one role share one; by web identity those of one service account
    Role,
}

/// `portcullis token-reader`.
#[derive(Debug, Args)]
pub struct TokenReaderArgs {
    /// Where the agent asks
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/portcullis-responder/token-reader.sock"
    )]
    pub socket: PathBuf,
    /// The kubelet's directory of pods: a host path, mounted read-only with `mountPropagation: HostToContainer`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/pods")]
    pub pods_dir: PathBuf,
    /// The uid that the agent runs with: nobody else is answered
    #[arg(long, value_name = "UID", default_value_t = 0)]
    pub agent_uid: u32,
}

/// `--unknown-pod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPodArg {
    /// Nothing passes but its node
    Closed,
    /// Everything passes but metadata
    Open,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
