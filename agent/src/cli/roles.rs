//! What can be typed of roles and metadata, in kube2iam's words where it has them.

use clap::{Args, ValueEnum};

/// The options of `portcullis agent` that decide which role a pod has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metadata and roles")]
pub struct RoleArgs {
    /// How pods' credentials are got: those that a pod is offered are tried in this order
    #[arg(
        long,
        value_enum,
        value_name = "KIND,...",
        value_delimiter = ',',
        default_value = "projected,tokenrequest"
    )]
    pub source: Vec<SourceArg>,
    /// What stands before role names that are no ARN: `arn:aws:iam::ACCOUNT:role/` [default: they are refused]
    #[arg(long, value_name = "ARN")]
    pub base_role_arn: Option<String>,
    /// Take the base ARN from the node's account, by its metadata service
    #[arg(long)]
    pub auto_discover_base_arn: bool,
    /// The role of pods for which neither pod, service account nor namespace names one: an ARN, or a name behind the base ARN [default: none]
    #[arg(long, value_name = "ROLE")]
    pub default_role: Option<String>,
    /// The node's own role is the default role; what it may do every pod may do then
    #[arg(long)]
    pub auto_discover_default_role: bool,
    /// Whether a namespace has to name the roles that its pods may have; without a value: required [default: required with the source assume-role, else if-present]
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "required"
    )]
    pub namespace_restrictions: Option<RequireArg>,
    /// How the roles of a namespace are written
    #[arg(long, value_enum, default_value_t = FormatArg::Glob)]
    pub namespace_restriction_format: FormatArg,
    /// Annotation of pods and service accounts that names the role [default: iam.amazonaws.com/role]
    #[arg(long, value_name = "KEY")]
    pub iam_role_key: Option<String>,
    /// Annotation of pods and service accounts with the external id [default: iam.amazonaws.com/external-id]
    #[arg(long, value_name = "KEY")]
    pub iam_external_id: Option<String>,
    /// Annotation of namespaces with the roles that their pods may have [default: iam.amazonaws.com/allowed-roles]
    #[arg(long, value_name = "KEY")]
    pub namespace_key: Option<String>,
    /// Let pods choose the name of their sessions (iam.amazonaws.com/session-name)
    #[arg(long)]
    pub allow_session_name_annotation: bool,
    /// Who may ask for metadata without a session token (`IMDSv1`)
    #[arg(long = "imds-v1", value_enum, default_value_t = Imdsv1Arg::Deny)]
    pub imds_v1: Imdsv1Arg,
}

/// `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    /// The pod's own projected token, by the token reader, then `AssumeRoleWithWebIdentity`
    Projected,
    /// A token of the pod's service account, made by the API server, then the same
    Tokenrequest,
    /// The service account's role by either token, then `AssumeRole` into the pod's role
    Chained,
    /// `AssumeRole` with the responder's own credentials, as kube2iam does
    AssumeRole,
    /// `AssumeRoleForPodIdentity`: associations of EKS
    EksAuth,
}

/// `--namespace-restrictions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RequireArg {
    /// A namespace without the annotation allows no role
    Required,
    /// A namespace without the annotation allows every role
    IfPresent,
    /// The annotation is not looked at
    Off,
}

/// `--namespace-restriction-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// `*` stands for any characters
    Glob,
    /// Regular expressions
    Regexp,
}

/// `--imds-v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Imdsv1Arg {
    /// Nobody
    Deny,
    /// Pods of namespaces annotated with portcullis.dev/imds-v1: allow
    Namespace,
    /// Everybody but where the annotation says deny
    Allow,
}
