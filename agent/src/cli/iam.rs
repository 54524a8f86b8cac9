//! `portcullis iam`: who pods are to AWS.

use clap::{ArgGroup, Args, Subcommand};

use super::ask::{Output, PatienceArgs, PlaceArgs};
use super::value::pod;

/// `portcullis iam`.
#[derive(Debug, Subcommand)]
pub enum IamCommand {
    /// The role of a pod, and which annotation gave or refused it
    Whoami(WhoamiArgs),
    /// Pods whose role is refused, or is decided from annotations that cannot be read; exit code 1 if there is one
    Check(IamArgs),
    /// What pods were given and refused: the newest records of the agents that are asked
    Audit(AuditArgs),
    /// The credentials that are held for pods, without what is secret of them
    Cache(IamArgs),
}

/// `portcullis iam audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// pod/NAME, or NAMESPACE/NAME [default: all pods]
    #[arg(value_name = "POD", value_parser = pod)]
    pub pod: Option<(Option<String>, String)>,
    /// Namespace of pod/NAME [default: the context's, else default]
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// The newest records of each node
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Go on with new records; of this node's agent alone
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub iam: IamArgs,
}

/// `portcullis iam whoami`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["pod", "all"])))]
pub struct WhoamiArgs {
    /// pod/NAME, or NAMESPACE/NAME
    #[arg(value_name = "POD", value_parser = pod)]
    pub pod: Option<(Option<String>, String)>,
    /// Every pod of the nodes that are asked
    #[arg(long = "all-namespaces", short = 'A', id = "all")]
    pub all: bool,
    /// Namespace of pod/NAME [default: the context's, else default]
    #[arg(long, short)]
    pub namespace: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields have their own")]
    pub iam: IamArgs,
}

/// What the `iam` verbs share.
#[derive(Debug, Args)]
pub struct IamArgs {
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
