//! From a map of annotations to our own words.
//!
//! The keys of role, external id and allowed roles can be chosen as in kube2iam, the others are fixed. Annotations of other keys are not looked at.
//! Values are taken as they stand: nothing is trimmed, and nothing malformed is replaced by a default.

use std::collections::BTreeMap;

use serde_json::Value;

use super::imds_v1::Access;
use super::malformed::{Malformed, Problem, excerpt};
use super::object::{Mode, Namespace, Pod, Reading, RoleSource, ServiceAccount, Wanted};
use super::pattern::{Format, Pattern, Scope};
use super::session;
use crate::facts::OptIn;

/// An object's annotations by key.
pub type Annotations = BTreeMap<String, String>;

const SESSION_NAME: &str = "iam.amazonaws.com/session-name";
const PERMITTED: &str = "iam.amazonaws.com/permitted";
const ROLE_ARN: &str = "eks.amazonaws.com/role-arn";
const AUDIENCE: &str = "eks.amazonaws.com/audience";
const TOKEN_EXPIRATION: &str = "eks.amazonaws.com/token-expiration";
const REGIONAL_ENDPOINT: &str = "eks.amazonaws.com/sts-regional-endpoints";
const DEFAULT_ROLE: &str = "portcullis.dev/default-role";
const ROLE_SOURCE: &str = "portcullis.dev/role-source";
const ROLE_MODE: &str = "portcullis.dev/role-mode";
const IMDS_V1: &str = "portcullis.dev/imds-v1";
const METADATA_PATHS: &str = "portcullis.dev/metadata-paths";
const SESSION_POLICY: &str = "portcullis.dev/session-policy";
const SESSION_POLICY_ARNS: &str = "portcullis.dev/session-policy-arns";

/// A namespace's default role that is none.
const NONE: &str = "none";
/// Most entries of a list. The slowest expressions take some milliseconds each: this bounds what one namespace can cost its node for a decision.
const MOST_ENTRIES: usize = 256;
/// Most metadata paths.
const MOST_PATHS: usize = 64;
/// Shortest life of a token that the API server grants.
const LEAST_EXPIRATION_SECS: u64 = 600;
/// Longest life of a token that the API server takes.
const MOST_EXPIRATION_SECS: u64 = 1 << 32;
/// Longest audience; the API server has no limit of its own.
const MOST_AUDIENCE: usize = 1024;

/// The keys that can be chosen. The defaults are kube2iam's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// `--iam-role-key`, on pods and service accounts.
    pub role: String,
    /// `--iam-external-id`, on pods and service accounts.
    pub external_id: String,
    /// `--namespace-key`, on namespaces.
    pub allowed_roles: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            role: "iam.amazonaws.com/role".to_owned(),
            external_id: "iam.amazonaws.com/external-id".to_owned(),
            allowed_roles: "iam.amazonaws.com/allowed-roles".to_owned(),
        }
    }
}

impl Keys {
    /// All keys that [`Reader::pod`] looks at.
    #[must_use]
    pub fn of_pods(&self) -> [&str; 4] {
        [&self.role, &self.external_id, SESSION_NAME, IMDS_V1]
    }

    /// All keys that [`Reader::service_account`] looks at.
    #[must_use]
    pub fn of_service_accounts(&self) -> [&str; 6] {
        [
            ROLE_ARN,
            &self.role,
            &self.external_id,
            AUDIENCE,
            TOKEN_EXPIRATION,
            REGIONAL_ENDPOINT,
        ]
    }

    /// All keys that [`Reader::namespace`] looks at.
    #[must_use]
    pub fn of_namespaces(&self) -> [&str; 9] {
        [
            &self.allowed_roles,
            PERMITTED,
            DEFAULT_ROLE,
            ROLE_SOURCE,
            ROLE_MODE,
            IMDS_V1,
            METADATA_PATHS,
            SESSION_POLICY,
            SESSION_POLICY_ARNS,
        ]
    }
}

/// Reads annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Under which keys.
    pub keys: Keys,
    /// How allowed roles are written.
    pub format: Format,
}

impl Reader {
    /// A pod's.
    #[must_use]
    pub fn pod(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
        service_account: &str,
        annotations: &Annotations,
    ) -> Pod {
        Pod {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: service_account.to_owned(),
            role: wanted(annotations, &self.keys.role),
            external_id: self.external_id(annotations),
            session_name: non_empty(annotations, SESSION_NAME, |text| {
                session::name(namespace, text)
            }),
            imds_v1: access(annotations),
        }
    }

    /// A service account's.
    #[must_use]
    pub fn service_account(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
        annotations: &Annotations,
    ) -> ServiceAccount {
        ServiceAccount {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            role_arn: wanted(annotations, ROLE_ARN),
            role: wanted(annotations, &self.keys.role),
            external_id: self.external_id(annotations),
            audience: read(annotations, AUDIENCE, audience),
            token_expiration_secs: read(annotations, TOKEN_EXPIRATION, expiration),
            regional_endpoint: read(annotations, REGIONAL_ENDPOINT, boolean),
        }
    }

    /// A namespace's.
    #[must_use]
    pub fn namespace(&self, name: &str, annotations: &Annotations) -> Namespace {
        Namespace {
            name: name.to_owned(),
            allowed_roles: read(annotations, &self.keys.allowed_roles, |text| {
                self.patterns(text)
            }),
            permitted: read(annotations, PERMITTED, |text| {
                Pattern::new(text, Format::Regexp, Scope::Permitted)
                    .map_err(|error| Problem::Pattern { error })
            }),
            default_role: annotations.get(DEFAULT_ROLE).map(|text| {
                if text == NONE {
                    Wanted::Nobody
                } else {
                    Wanted::from_text(text)
                }
            }),
            role_source: read(annotations, ROLE_SOURCE, |text| {
                word(
                    text,
                    &[
                        ("any", RoleSource::Any),
                        ("serviceaccount", RoleSource::ServiceAccount),
                    ],
                    "any, serviceaccount",
                )
            }),
            role_mode: read(annotations, ROLE_MODE, |text| {
                word(
                    text,
                    &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
                    "enforce, audit",
                )
            }),
            imds_v1: access(annotations),
            metadata_paths: read(annotations, METADATA_PATHS, paths),
            session_policy: read(annotations, SESSION_POLICY, session::policy),
            session_policy_arns: read(annotations, SESSION_POLICY_ARNS, |text| {
                session::policy_arns(strings(text, session::MOST_POLICY_ARNS)?)
            }),
        }
    }

    /// Empty is no external id, as in kube2iam and kiam, which do not send an empty one.
    fn external_id(&self, annotations: &Annotations) -> Reading<String> {
        non_empty(annotations, &self.keys.external_id, session::external_id)
    }

    /// All of them or none: an entry that does not compile may have been meant to be the only one.
    fn patterns(&self, text: &str) -> Result<Vec<Pattern>, Problem> {
        strings(text, MOST_ENTRIES)?
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                Pattern::new(entry, self.format, Scope::Entry).map_err(|error| {
                    Problem::PatternEntry {
                        entry: index + 1,
                        error,
                    }
                })
            })
            .collect()
    }
}

fn wanted(annotations: &Annotations, key: &str) -> Option<Wanted> {
    annotations.get(key).map(|text| Wanted::from_text(text))
}

fn read<T>(
    annotations: &Annotations,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Reading<T> {
    let Some(text) = annotations.get(key) else {
        return Ok(None);
    };
    parse(text).map(Some).map_err(|problem| Malformed {
        key: key.to_owned(),
        problem,
    })
}

/// The same where an empty value says nothing.
fn non_empty<T>(
    annotations: &Annotations,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Reading<T> {
    if annotations.get(key).is_some_and(String::is_empty) {
        return Ok(None);
    }
    read(annotations, key, parse)
}

fn access(annotations: &Annotations) -> Reading<Access> {
    read(annotations, IMDS_V1, |text| {
        word(
            text,
            &[("allow", Access::Allow), ("deny", Access::Deny)],
            "allow, deny",
        )
    })
}

fn word<T: Copy>(text: &str, known: &[(&str, T)], words: &'static str) -> Result<T, Problem> {
    known
        .iter()
        .find(|(word, _)| *word == text)
        .map(|&(_, value)| value)
        .ok_or_else(|| Problem::Word {
            found: excerpt(text),
            words,
        })
}

/// The words that Go's `strconv.ParseBool` takes, with which the EKS webhook reads this annotation.
fn boolean(text: &str) -> Result<bool, Problem> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Problem::Word {
            found: excerpt(text),
            words: "true, false",
        }),
    }
}

fn audience(text: &str) -> Result<String, Problem> {
    session::length(text, 1, MOST_AUDIENCE)?;
    match text.chars().find(|character| character.is_control()) {
        Some(character) => Err(Problem::Character(character)),
        None => Ok(text.to_owned()),
    }
}

/// Less than the least is the least, as in the EKS webhook.
fn expiration(text: &str) -> Result<u64, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(secs) if digits && secs <= MOST_EXPIRATION_SECS => Ok(secs.max(LEAST_EXPIRATION_SECS)),
        _ => Err(Problem::Number {
            found: excerpt(text),
            most: MOST_EXPIRATION_SECS,
        }),
    }
}

/// All of them or none, as with patterns: what is misspelt would be missed without a word.
fn paths(text: &str) -> Result<Vec<OptIn>, Problem> {
    strings(text, MOST_PATHS)?
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            entry.parse().map_err(|error| Problem::MetadataPath {
                entry: index + 1,
                error,
            })
        })
        .collect()
}

fn strings(text: &str, most: usize) -> Result<Vec<String>, Problem> {
    let Ok(Value::Array(entries)) = serde_json::from_str(text) else {
        return Err(Problem::Array);
    };
    if entries.len() > most {
        return Err(Problem::Entries {
            found: entries.len(),
            most,
        });
    }
    entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| match entry {
            Value::String(text) => Ok(text),
            _ => Err(Problem::NotAString(index + 1)),
        })
        .collect()
}

#[cfg(test)]
mod tests;
