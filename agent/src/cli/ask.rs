//! The verbs that ask: whom, and in which form the answer is wanted.

use std::path::PathBuf;
use std::time::Duration;

use clap::{
    ArgGroup, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

use super::iam::IamCommand;
use super::value::{duration, pod, service_account};

/// The verbs that ask agents, or files, and change nothing: all that `kubectl portcullis` knows.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Health of the agents, their endpoints, attachments and drops
    Status(StatusArgs),
    /// Why a connection is allowed or denied
    Explain(ExplainArgs),
    /// Block until everything present now, or a pod, or pods by labels, is in force in the kernel
    Wait(WaitArgs),
    /// Policies as objects, before they are in force
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Which role pods have, and why
    #[command(subcommand)]
    Iam(IamCommand),
    /// Look at pinned programs and maps
    #[command(subcommand)]
    Bpf(BpfCommand),
    /// What an error code means and what to do
    ExplainError {
        /// As printed: PC1107
        code: String,
    },
}

/// How `kubectl` finds a plugin, and how the plugin knows itself.
pub const PLUGIN: &str = "kubectl-portcullis";

/// Asks the agents of a cluster, with your own kubeconfig and rights.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-portcullis",
    bin_name = "kubectl portcullis",
    version,
    arg_required_else_help = true
)]
struct Plugin {
    #[command(subcommand)]
    ask: Ask,
}

/// What was typed as `kubectl portcullis`. Ends the process on wrong usage and after help, as clap does.
#[must_use]
pub fn plugin() -> Ask {
    let matches = plugin_command().get_matches();
    match Plugin::from_arg_matches(&matches) {
        Ok(plugin) => plugin.ask,
        Err(error) => error.exit(),
    }
}

/// Without the options that are about this node: they are refused, so nobody needs to read of them.
fn plugin_command() -> clap::Command {
    fn hide(verb: clap::Command) -> clap::Command {
        let verb = verb.mut_subcommands(hide);
        verb.mut_args(|option| {
            let is_local = ["socket", "bpffs"].contains(&option.get_id().as_str());
            option.hide(is_local)
        })
    }
    hide(Plugin::command())
}

/// Which cluster's agents, and which of them.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The agents of a cluster")]
pub struct ClusterArgs {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Act as this user, or as system:serviceaccount:NAMESPACE:NAME; you need the right to impersonate it
    #[arg(long = "as", value_name = "USER")]
    pub as_user: Option<String>,
    /// Act as a member of this group, with --as (repeatable)
    #[arg(long = "as-group", value_name = "GROUP")]
    pub as_groups: Vec<String>,
    /// Only the agent of this node (repeatable)
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// Namespace of the agents [default: portcullis]
    #[arg(long, value_name = "NAMESPACE")]
    pub agent_namespace: Option<String>,
}

/// Whom to ask: the agent of this node, or those of a cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// Admin socket of this node's agent [default: $`PORTCULLIS_SOCKET`, else /run/portcullis/portcullis.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub cluster: ClusterArgs,
}

/// How long to wait for an answer.
#[derive(Clone, Debug, Args)]
pub struct PatienceArgs {
    /// How long each agent may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// `portcullis wait`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["pod", "selector", "synced"])))]
pub struct WaitArgs {
    /// Until the policies of this pod are in force: pod/NAME, or NAMESPACE/NAME
    #[arg(value_name = "POD", value_parser = pod)]
    pub pod: Option<(Option<String>, String)>,
    /// Until the policies of every pod with these labels are in force, and there is one; you need the right to list pods there
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
    /// Until every object present at the call is in force, on every node
    #[arg(long)]
    pub synced: bool,
    /// Namespace of pod/NAME and of -l [default: the context's, else default]
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub place: PlaceArgs,
}

/// `portcullis status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The nodes' lines only
    #[arg(long, conflicts_with = "verbose")]
    pub brief: bool,
    /// Every endpoint too
    #[arg(long, short)]
    pub verbose: bool,
    /// Go on with the rows that change; -o json and -o yaml print the whole document again
    #[arg(long, short, conflicts_with = "verbose")]
    pub watch: bool,
    /// Only nodes with these labels (KEY=VALUE,...); you need the right to list nodes
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = StatusOutput::Table)]
    pub output: StatusOutput,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub patience: PatienceArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub place: PlaceArgs,
}

/// Output formats of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For people
    Table,
    /// With more columns
    Wide,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
    /// `node/NAME`
    Name,
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
#[command(after_help = "Examples:
  explain shop/web shop/db:5432
  explain pod/web svc/db:sql -n shop --expect allow
  explain shop/web metadata
  explain 203.0.113.9 shop/web:443")]
pub struct ExplainArgs {
    /// Who opens the connection: NAMESPACE/POD, pod/NAME, an IP address, node/NAME, internet
    #[arg(required_unless_present = "probes")]
    pub source: Option<String>,
    /// To whom: the same with :PORT[/PROTOCOL] or :icmp; svc/NAME or svc/NAMESPACE/NAME, with the port's number or name; or metadata
    #[arg(required_unless_present = "probes")]
    pub destination: Option<String>,
    /// Namespace of pod/NAME and svc/NAME [default: the context's, else default]
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// Ask no agent: answer from the YAML and JSON files of this directory
    #[arg(
        long,
        short = 'f',
        visible_alias = "filename",
        value_name = "DIR",
        conflicts_with_all = ["socket", "kubeconfig", "context", "as_user", "as_groups", "nodes", "agent_namespace"]
    )]
    pub manifests: Option<PathBuf>,
    /// With -f: a JSON list of probes; the answer is a JSON list
    #[arg(long, value_name = "FILE", requires = "manifests", conflicts_with_all = ["source", "destination", "namespace", "expect"])]
    pub probes: Option<PathBuf>,
    /// With -f: pods of this service account may reach the metadata addresses (repeatable)
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", requires = "manifests", value_parser = service_account)]
    pub metadata_allow: Vec<(String, String)>,
    /// Exit with 1 if the verdict is another
    #[arg(long, value_enum)]
    pub expect: Option<Verdict>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub patience: PatienceArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub place: PlaceArgs,
}

/// Verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// It passes
    Allow,
    /// It does not
    Deny,
}

/// `portcullis policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// What in policies is refused, or is hardly what was meant
    Lint(LintArgs),
}

/// `portcullis policy lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// YAML and JSON files, directories of them (not those below), or - for standard input; with pods or what makes them, more can be told
    #[arg(
        long = "filename",
        short = 'f',
        value_name = "FILE|DIR",
        required = true,
        num_args = 1..
    )]
    pub files: Vec<PathBuf>,
    /// Notes make the exit code 1 too
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
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
        /// At most so many entries of a node [default: all of this node, 10000 of each node of a cluster]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "its fields have their own")]
        bpf: BpfArgs,
    },
}

/// What the `bpf` verbs share.
#[derive(Debug, Args)]
pub struct BpfArgs {
    /// Directory of this node's pins [default: $`PORTCULLIS_BPFFS`, else /sys/fs/bpf/portcullis]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Only nodes with these labels (KEY=VALUE,...); you need the right to list nodes
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub patience: PatienceArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub cluster: ClusterArgs,
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;

    #[test]
    fn the_plugin_asks_and_does_nothing_else() {
        let names: Vec<String> = plugin_command()
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "status",
                "explain",
                "wait",
                "policy",
                "iam",
                "bpf",
                "explain-error"
            ]
        );
        plugin_command().debug_assert();
        assert!(Plugin::try_parse_from(["kubectl-portcullis", "uninstall", "--yes"]).is_err());
    }

    #[test]
    fn options_are_spelled_as_kubectl_spells_them() {
        for line in [
            "portcullis status -w -l zone=a --as eve --as-group ops --as-group dev",
            "portcullis wait -l app=web -n shop --timeout 1m",
            "portcullis bpf maps -l zone=a --context prod",
            "portcullis iam whoami pod/web -n shop -o json",
            "portcullis iam whoami -A --node n1",
            "portcullis iam check",
        ] {
            let words = line.split(' ');
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_belongs_to_files_is_not_asked_of_agents() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ());
        assert!(parse("portcullis explain a/b c/d:1").is_ok());
        assert!(parse("portcullis explain a/b c/d:1 -f dir").is_ok());
        for wrong in [
            "portcullis explain a/b c/d:1 -f dir --node n1",
            "portcullis explain --probes file",
            "portcullis explain a/b c/d:1 --metadata-allow x/y",
            "portcullis wait",
            "portcullis wait pod/web --synced",
            "portcullis wait pod/web -l app=web",
            "portcullis wait -l app=web --synced",
            "portcullis status -w --verbose",
            "portcullis iam whoami",
            "portcullis iam whoami shop/web -A",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
