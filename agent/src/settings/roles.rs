//! How roles are decided: what was typed about them, and what it means.

use std::collections::BTreeSet;

use portcullis_imds::role::{
    BaseArn, Discovered, Format, Imdsv1, Keys, Reader, Require, ResolveError, Restrictions,
    Settings, SourceKind, resolve,
};

use crate::cli::{FormatArg, Imdsv1Arg, RequireArg, RoleArgs, SourceArg};
use crate::failure::Failure;

/// Longest name in an annotation's key, and longest prefix.
const MOST_NAME: usize = 63;
const MOST_PREFIX: usize = 253;

/// Everything that decisions need beside the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// How annotations are read.
    pub reader: Reader,
    /// What the administrator chose.
    pub decide: Settings,
    /// Who may ask without a session token.
    pub imds_v1: Imdsv1,
}

impl TryFrom<RoleArgs> for Roles {
    type Error = Failure;

    fn try_from(typed: RoleArgs) -> Result<Self, Failure> {
        let base = match (filled(typed.base_role_arn), typed.auto_discover_base_arn) {
            (None, false) => Discovered::Unset,
            (None, true) => Discovered::Pending,
            (Some(text), false) => Discovered::Known(base(&text)?),
            (Some(_), true) => return Err(both("--base-role-arn", "--auto-discover-base-arn")),
        };
        let default_role = match (filled(typed.default_role), typed.auto_discover_default_role) {
            (None, false) => Discovered::Unset,
            (None, true) => Discovered::Pending,
            (Some(text), false) => Discovered::Known(default_role(text, &base)?),
            (Some(_), true) => return Err(both("--default-role", "--auto-discover-default-role")),
        };
        let restrictions = match typed.namespace_restrictions {
            None => Restrictions::default(),
            Some(require) => {
                let require = match require {
                    RequireArg::Required => Require::Required,
                    RequireArg::IfPresent => Require::IfPresent,
                    RequireArg::Off => Require::Off,
                };
                Restrictions {
                    classic: require,
                    web: require,
                }
            }
        };
        let usual = Keys::default();
        let keys = Keys {
            role: key("--iam-role-key", typed.iam_role_key, usual.role)?,
            external_id: key(
                "--iam-external-id",
                typed.iam_external_id,
                usual.external_id,
            )?,
            allowed_roles: key("--namespace-key", typed.namespace_key, usual.allowed_roles)?,
        };
        differ(&keys)?;
        Ok(Self {
            reader: Reader {
                keys,
                format: match typed.namespace_restriction_format {
                    FormatArg::Glob => Format::Glob,
                    FormatArg::Regexp => Format::Regexp,
                },
            },
            decide: Settings {
                sources: sources(&typed.source)?,
                base,
                default_role,
                restrictions,
                allow_session_name: typed.allow_session_name_annotation,
            },
            imds_v1: match typed.imds_v1 {
                Imdsv1Arg::Deny => Imdsv1::Deny,
                Imdsv1Arg::Namespace => Imdsv1::Namespace,
                Imdsv1Arg::Allow => Imdsv1::Allow,
            },
        })
    }
}

fn sources(typed: &[SourceArg]) -> Result<Vec<SourceKind>, Failure> {
    let mut sources = Vec::new();
    for source in typed {
        let source = match source {
            SourceArg::Projected => SourceKind::Projected,
            SourceArg::Tokenrequest => SourceKind::TokenRequest,
            SourceArg::Chained => SourceKind::Chained,
            SourceArg::AssumeRole => SourceKind::AssumeRole,
            SourceArg::EksAuth => SourceKind::EksAuth,
        };
        if sources.contains(&source) {
            let todo = "name each source once, in the order in which they are to be tried";
            return Err(wrong(
                "--source",
                source.as_str(),
                "it is there twice",
                todo,
            ));
        }
        sources.push(source);
    }
    Ok(sources)
}

impl Roles {
    /// The same where nobody reads projected tokens: that way is open to no pod. An error if it was the only one.
    pub fn without_projected(mut self) -> Result<Self, Failure> {
        let sources = &mut self.decide.sources;
        sources.retain(|source| *source != SourceKind::Projected);
        if sources.is_empty() {
            return Err(wrong(
                "--source",
                "projected",
                "nobody reads the tokens: there is no --token-reader",
                "run portcullis token-reader and name its socket, or choose another source too",
            ));
        }
        Ok(self)
    }
}

/// An empty value is none, as in kube2iam: it is what a template without a value leaves behind.
fn filled(typed: Option<String>) -> Option<String> {
    typed.filter(|text| !text.is_empty())
}

fn base(text: &str) -> Result<BaseArn, Failure> {
    BaseArn::parse(text).map_err(|error| {
        let todo = "write arn:aws:iam::ACCOUNT:role/, with a path behind it if roles have one";
        wrong("--base-role-arn", text, error.to_string(), todo)
    })
}

/// A name can be judged without its base, and stands behind the base once that is known.
fn default_role(text: String, base: &Discovered<BaseArn>) -> Result<String, Failure> {
    let known = match base {
        Discovered::Known(base) => Some(base),
        Discovered::Unset | Discovered::Pending => None,
    };
    match resolve(&text, known) {
        Ok(_) => Ok(text),
        Err(ResolveError::NoBase) if *base == Discovered::Pending => Ok(text),
        Err(error) => {
            let todo =
                "write arn:aws:iam::ACCOUNT:role/NAME, or a name together with --base-role-arn";
            Err(wrong("--default-role", &text, error.to_string(), todo))
        }
    }
}

fn both(chosen: &str, discovered: &str) -> Failure {
    Failure::new(
        "PC3001",
        format!("{chosen} and {discovered} cannot be given together"),
        "the value would be one of two that nobody has compared",
        format!("leave {discovered} out, or {chosen}"),
    )
}

/// A key as the API server takes it: `NAME` or `PREFIX/NAME`. Any other would never be found on an object.
fn key(option: &str, typed: Option<String>, usual: String) -> Result<String, Failure> {
    let Some(text) = typed else {
        return Ok(usual);
    };
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text.as_str()),
    };
    let is_prefix = |prefix: &str| {
        prefix.len() <= MOST_PREFIX
            && prefix.split('.').all(|label| {
                is_bounded(label) && label.bytes().all(|byte| !matches!(byte, b'_' | b'.'))
            })
    };
    if prefix.is_none_or(is_prefix) && name.len() <= MOST_NAME && is_bounded(name) {
        return Ok(text);
    }
    Err(wrong(
        option,
        &text,
        "that is no key that an annotation can have",
        "write it as iam.amazonaws.com/role is written",
    ))
}

/// Letters, digits, `-`, `_` and `.`, the first and the last of them a letter or digit.
fn is_bounded(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.bytes().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

/// Two meanings under one key of one object would make one value a role and something else too.
fn differ(keys: &Keys) -> Result<(), Failure> {
    let twice = |of_kind: &[&str]| {
        let mut seen = BTreeSet::new();
        of_kind
            .iter()
            .find(|key| !seen.insert(**key))
            .map(|key| (*key).to_owned())
    };
    let found = twice(&keys.of_pods())
        .or_else(|| twice(&keys.of_service_accounts()))
        .or_else(|| twice(&keys.of_namespaces()));
    match found {
        None => Ok(()),
        Some(key) => Err(Failure::new(
            "PC3001",
            format!("the annotation {key:?} would mean two things"),
            "--iam-role-key, --iam-external-id and --namespace-key name keys that nothing else is read from",
            "choose another key",
        )),
    }
}

fn wrong(option: &str, value: &str, why: impl Into<String>, todo: &str) -> Failure {
    Failure::new("PC3001", format!("{option} cannot be {value:?}"), why, todo)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn roles(options: &[&str]) -> Result<Roles, Failure> {
        let words = ["portcullis", "agent"].iter().chain(options);
        match Cli::try_parse_from(words).expect("clap takes it").command {
            Command::Agent(arguments) => arguments.roles.try_into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_options_the_defaults_are_the_strict_ones() {
        let defaults = roles(&[]).expect("nothing is wrong");
        assert_eq!(defaults, Roles::default());
        let strict = Restrictions {
            classic: Require::Required,
            web: Require::IfPresent,
        };
        assert_eq!(defaults.decide.restrictions, strict);
        assert_eq!(defaults.imds_v1, Imdsv1::Deny);
    }

    #[test]
    fn every_option_means_something() {
        let typed = roles(&[
            "--base-role-arn=arn:aws:iam::123456789012:role/team",
            "--default-role=base",
            "--namespace-restrictions=if-present",
            "--namespace-restriction-format=regexp",
            "--iam-role-key=example.com/role",
            "--iam-external-id=external_id",
            "--namespace-key=example.com/roles",
            "--allow-session-name-annotation",
            "--imds-v1=namespace",
            "--source=assume-role,chained",
        ]);
        let base = BaseArn::parse("arn:aws:iam::123456789012:role/team/").expect("it is one");
        let expected = Roles {
            reader: Reader {
                keys: Keys {
                    role: "example.com/role".to_owned(),
                    external_id: "external_id".to_owned(),
                    allowed_roles: "example.com/roles".to_owned(),
                },
                format: Format::Regexp,
            },
            decide: Settings {
                sources: vec![SourceKind::AssumeRole, SourceKind::Chained],
                base: Discovered::Known(base),
                default_role: Discovered::Known("base".to_owned()),
                restrictions: Restrictions {
                    classic: Require::IfPresent,
                    web: Require::IfPresent,
                },
                allow_session_name: true,
            },
            imds_v1: Imdsv1::Namespace,
        };
        assert_eq!(typed, Ok(expected));
    }

    #[test]
    fn without_a_token_reader_projected_tokens_are_no_way_and_may_not_be_the_only_one() {
        let left = |options| roles(options).and_then(Roles::without_projected);
        let usual = left(&[]).expect("there is another way");
        assert_eq!(usual.decide.sources, [SourceKind::TokenRequest]);
        let failure = left(&["--source=projected"]).expect_err("nothing is left");
        assert_eq!(failure.code, "PC3001");
        assert!(failure.do_.contains("token-reader"), "{failure}");
    }

    #[test]
    fn restrictions_without_a_value_are_those_of_kube2iam() {
        let typed = roles(&["--namespace-restrictions"]).expect("it is a flag there");
        assert_eq!(typed.decide.restrictions.web, Require::Required);
    }

    #[test]
    fn what_is_to_be_discovered_is_pending_and_never_chosen_too() {
        let typed = roles(&["--auto-discover-base-arn", "--auto-discover-default-role"]);
        let decide = typed.expect("nothing is wrong").decide;
        assert_eq!(decide.base, Discovered::Pending);
        assert_eq!(decide.default_role, Discovered::Pending);
        // A name waits for its base; what no base could make a role does not.
        let typed = roles(&["--auto-discover-base-arn", "--default-role=app"]);
        let decide = typed.expect("nothing is wrong").decide;
        assert_eq!(decide.default_role, Discovered::Known("app".to_owned()));
        for options in [
            &["--auto-discover-base-arn", "--default-role=a b"][..],
            &[
                "--auto-discover-base-arn",
                "--base-role-arn=arn:aws:iam::123456789012:role/",
            ],
            &[
                "--auto-discover-default-role",
                "--default-role=arn:aws:iam::123456789012:role/app",
            ],
        ] {
            assert_eq!(roles(options).expect_err("is wrong").code, "PC3001");
        }
    }

    #[test]
    fn empty_roles_are_none() {
        assert_eq!(
            roles(&["--base-role-arn=", "--default-role="]),
            Ok(Roles::default())
        );
    }

    #[test]
    fn wrong_values_are_refused_by_the_name_of_their_option() {
        for (options, named) in [
            (
                &["--base-role-arn=arn:aws:iam::1:role/"][..],
                "--base-role-arn",
            ),
            (
                &["--base-role-arn=arn:aws:iam::123456789012:user/x"],
                "--base-role-arn",
            ),
            (&["--default-role=base"], "--default-role"),
            (
                &["--default-role=arn:aws:iam::123456789012:user/x"],
                "--default-role",
            ),
            (&["--source=eks-auth,eks-auth"], "--source"),
            (&["--iam-role-key="], "--iam-role-key"),
            (&["--iam-role-key=a b"], "--iam-role-key"),
            (&["--iam-external-id=a/b/c"], "--iam-external-id"),
            (&["--namespace-key=-x"], "--namespace-key"),
            (&["--namespace-key=a_b/x"], "--namespace-key"),
            (&["--iam-role-key=x", "--iam-external-id=x"], "\"x\""),
            (
                &["--iam-role-key=portcullis.dev/imds-v1"],
                "portcullis.dev/imds-v1",
            ),
            (
                &["--namespace-key=portcullis.dev/role-mode"],
                "portcullis.dev/role-mode",
            ),
        ] {
            let failure = roles(options).expect_err("is wrong");
            assert_eq!(failure.code, "PC3001", "{options:?}");
            assert!(failure.what.contains(named), "{options:?}: {failure}");
        }
    }
}
