//! Which role a pod has: the precedence table, then everything that can still forbid the role.

use super::arn::RoleArn;
use super::base::{BaseArn, ResolveError, resolve};
use super::decision::{Decision, Grant, Outcome, Source, Waiting, WebIdentity};
use super::malformed::Malformed;
use super::object::{Mode, Namespace, Pod, Reading, RoleSource, ServiceAccount, Wanted};
use super::refusal::Refusal;
use super::restriction::{self, Restriction, Restrictions};
use super::source::{Load, SourceKind, offered};

/// What is known at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whether the watches of pods, service accounts and namespaces are in sync.
    pub synced: bool,
    /// The pod.
    pub pod: Option<&'a Pod>,
    /// The service account that it names.
    pub service_account: Option<&'a ServiceAccount>,
    /// Its namespace.
    pub namespace: Option<&'a Namespace>,
    /// Audiences of the tokens that the pod's volumes hold.
    pub projected: &'a [Box<str>],
}

/// A value that may have to be found out from the node first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovered<T> {
    /// Not configured.
    #[default]
    Unset,
    /// To be found out, and not yet.
    Pending,
    /// This.
    Known(T),
}

/// What the administrator chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--source`: the ways to credentials, in the order in which they are tried.
    pub sources: Vec<SourceKind>,
    /// `--base-role-arn` or `--auto-discover-base-arn`.
    pub base: Discovered<BaseArn>,
    /// `--default-role` or `--auto-discover-default-role`: a name or an ARN.
    pub default_role: Discovered<String>,
    /// `--namespace-restrictions`.
    pub restrictions: Restrictions,
    /// `--allow-session-name-annotation`.
    pub allow_session_name: bool,
}

impl Default for Settings {
    /// Web identity; the node needs no right in AWS.
    fn default() -> Self {
        Self {
            sources: vec![SourceKind::Projected, SourceKind::TokenRequest],
            base: Discovered::Unset,
            default_role: Discovered::Unset,
            restrictions: Restrictions::default(),
            allow_session_name: false,
        }
    }
}

impl Settings {
    fn has(&self, source: SourceKind) -> bool {
        self.sources.contains(&source)
    }

    const fn base(&self) -> Option<&BaseArn> {
        match &self.base {
            Discovered::Known(base) => Some(base),
            Discovered::Unset | Discovered::Pending => None,
        }
    }
}

/// Decides.
///
/// The first line that applies wins:
///
/// 1. The watches are not in sync, or the pod, its namespace or its service account is not known: undecided.
/// 2. The pod names a role, or explicitly none, and its namespace takes roles from service accounts only: refused. Likewise if the namespace's
///    `role-source` cannot be read.
/// 3. The pod names a role: that one; none if the value is empty.
/// 4. The service account names one, `eks.amazonaws.com/role-arn` before the other key: that one; none if the value is empty.
/// 5. The namespace has a default: that one, or none.
/// 6. The cluster has a default: that one.
/// 7. None.
///
/// Then the role has to pass, in this order; the first that fails refuses, and no later line is tried:
///
/// 1. The value names a role. `eks.amazonaws.com/role-arn` has to be a full ARN.
/// 2. The namespace's restrictions, but for a role by line 6. In audit mode a denial is kept and the role is given.
/// 3. The external id of the object that names the role can be read.
/// 4. The pod's session name can be read, where it may choose one.
/// 5. The namespace's session policies can be read: without them the pod would have more rights than was meant.
/// 6. For web identity, the service account's token settings can be read.
/// 7. One of the ways to credentials can carry all of this.
#[must_use]
pub fn decide(asked: &Asked<'_>, settings: &Settings) -> Decision {
    let known = match Known::find(asked) {
        Ok(known) => known,
        Err(waiting) => {
            return Decision {
                outcome: Outcome::Undecided(waiting),
                source: Source::Unknown,
                restriction: Restriction::NotJudged,
                mode: Mode::Enforce,
                association: false,
            };
        }
    };
    let (source, choice) = known.choose(settings);
    let mut restriction = Restriction::NotJudged;
    let outcome = match choice {
        Choice::Nobody => Outcome::Nobody,
        Choice::Stop(stop) => stop.into(),
        Choice::Role { value, external_id } => {
            let role = Candidate {
                source,
                value,
                external_id,
                projected: asked.projected,
            };
            match known.grant(role, settings, &mut restriction) {
                Ok(grant) => Outcome::Role(Box::new(grant)),
                Err(stop) => stop.into(),
            }
        }
    };
    Decision {
        outcome,
        source,
        restriction,
        mode: known.namespace.mode(),
        association: source == Source::Nothing && known.may_be_associated(settings),
    }
}

/// Line 1 passed: all three objects, each the one that the pod speaks of.
struct Known<'a> {
    pod: &'a Pod,
    service_account: &'a ServiceAccount,
    namespace: &'a Namespace,
}

/// Why there is no role after all.
enum Stop {
    Wait(Waiting),
    Refuse(Refusal),
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Wait(waiting) => Self::Undecided(waiting),
            Stop::Refuse(refusal) => Self::Refused(refusal),
        }
    }
}

/// What a line of the table says.
enum Choice<'a> {
    Nobody,
    Role {
        value: &'a str,
        external_id: Option<&'a Reading<String>>,
    },
    Stop(Stop),
}

/// A value that a line of the table chose.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    source: Source,
    value: &'a str,
    external_id: Option<&'a Reading<String>>,
    projected: &'a [Box<str>],
}

impl<'a> Choice<'a> {
    const fn of(wanted: &'a Wanted, external_id: Option<&'a Reading<String>>) -> Self {
        match wanted {
            Wanted::Nobody => Self::Nobody,
            Wanted::Role(value) => Self::Role {
                value: value.as_str(),
                external_id,
            },
        }
    }
}

impl<'a> Known<'a> {
    /// An object of another name than the pod's is not its object: as good as absent.
    fn find(asked: &Asked<'a>) -> Result<Self, Waiting> {
        if !asked.synced {
            return Err(Waiting::Sync);
        }
        let pod = asked.pod.ok_or(Waiting::Pod)?;
        let namespace = asked
            .namespace
            .filter(|namespace| namespace.name == pod.namespace)
            .ok_or(Waiting::Namespace)?;
        let service_account = asked
            .service_account
            .filter(|account| {
                account.namespace == pod.namespace && account.name == pod.service_account
            })
            .ok_or(Waiting::ServiceAccount)?;
        Ok(Self {
            pod,
            service_account,
            namespace,
        })
    }

    /// Lines 2 to 7.
    fn choose(&self, settings: &'a Settings) -> (Source, Choice<'a>) {
        let (pod, account) = (self.pod, self.service_account);
        if let Some(wanted) = &pod.role {
            let refusal = match &self.namespace.role_source {
                Ok(None | Some(RoleSource::Any)) => {
                    return (Source::Pod, Choice::of(wanted, Some(&pod.external_id)));
                }
                Ok(Some(RoleSource::ServiceAccount)) => Refusal::RoleSource,
                Err(malformed) => Refusal::RoleSourceMalformed(malformed.clone()),
            };
            return (Source::RoleSource, Choice::Stop(Stop::Refuse(refusal)));
        }
        let external_id = Some(&account.external_id);
        if let Some(wanted) = &account.role_arn {
            return (Source::ServiceAccountArn, Choice::of(wanted, external_id));
        }
        if let Some(wanted) = &account.role {
            return (Source::ServiceAccount, Choice::of(wanted, external_id));
        }
        if let Some(wanted) = &self.namespace.default_role {
            return (Source::NamespaceDefault, Choice::of(wanted, None));
        }
        match &settings.default_role {
            Discovered::Unset => (Source::Nothing, Choice::Nobody),
            Discovered::Pending => {
                let stop = Stop::Wait(Waiting::DefaultRole);
                (Source::ClusterDefault, Choice::Stop(stop))
            }
            Discovered::Known(value) if value.is_empty() => (Source::Nothing, Choice::Nobody),
            Discovered::Known(value) => {
                let choice = Choice::Role {
                    value,
                    external_id: None,
                };
                (Source::ClusterDefault, choice)
            }
        }
    }

    /// The checks of a role, in their order.
    fn grant(
        &self,
        candidate: Candidate<'_>,
        settings: &Settings,
        restriction: &mut Restriction,
    ) -> Result<Grant, Stop> {
        let Candidate {
            source,
            value,
            external_id,
            projected,
        } = candidate;
        let base = settings.base();
        let malformed = |error| {
            Stop::Refuse(Refusal::RoleMalformed {
                source_line: source,
                value: value.to_owned(),
                error,
            })
        };
        let role = match source {
            Source::ServiceAccountArn => value.parse().map_err(malformed)?,
            _ => resolve(value, base).map_err(|error| match error {
                ResolveError::Malformed(error) => malformed(error),
                ResolveError::NoBase if settings.base == Discovered::Pending => {
                    Stop::Wait(Waiting::BaseArn)
                }
                ResolveError::NoBase => Stop::Refuse(Refusal::NoBaseArn {
                    source_line: source,
                    value: value.to_owned(),
                }),
            })?,
        };

        *restriction = if source == Source::ClusterDefault {
            Restriction::Exempt
        } else {
            let require = if settings.has(SourceKind::AssumeRole) {
                settings.restrictions.classic
            } else {
                settings.restrictions.web
            };
            restriction::judge(require, self.namespace, &role, base)
        };
        if let Restriction::Denied(refusal) = &*restriction {
            // Patterns without an account can only be judged with a base: not yet is not no.
            if matches!(refusal, Refusal::RoleNotAllowed(_)) && settings.base == Discovered::Pending
            {
                *restriction = Restriction::NotJudged;
                return Err(Stop::Wait(Waiting::BaseArn));
            }
            if self.namespace.mode() == Mode::Enforce {
                return Err(Stop::Refuse(refusal.clone()));
            }
        }

        let external_id = match external_id {
            Some(reading) => read(reading, Refusal::ExternalId)?,
            None => None,
        };
        let session_name = if settings.allow_session_name {
            read(&self.pod.session_name, Refusal::SessionName)?
        } else {
            None
        };
        let session_policy = read(&self.namespace.session_policy, Refusal::SessionPolicy)?;
        let session_policy_arns =
            read(&self.namespace.session_policy_arns, Refusal::SessionPolicy)?.unwrap_or_default();
        let web = if settings.sources.iter().any(|source| source.is_web()) {
            Some(self.web_identity()?)
        } else {
            None
        };
        let through = if settings.has(SourceKind::Chained) {
            self.through(&role, base)
        } else {
            None
        };
        let load = Load {
            external_id: external_id.is_some(),
            policy: session_policy.is_some() || !session_policy_arns.is_empty(),
            through: through.is_some(),
            projected: web
                .as_ref()
                .is_some_and(|web| projected.contains(&web.audience.as_str().into())),
        };
        let sources = offered(&settings.sources, load);
        if sources.is_empty() {
            return Err(Stop::Refuse(if load.external_id {
                Refusal::ExternalIdWithoutSource
            } else {
                Refusal::NoSource
            }));
        }
        Ok(Grant {
            sources,
            role,
            through,
            external_id,
            session_name,
            session_policy,
            session_policy_arns,
            web,
        })
    }

    /// The service account's own role, if it is another one: the first of a chain. The pod never gets its credentials.
    fn through(&self, role: &RoleArn, base: Option<&BaseArn>) -> Option<RoleArn> {
        let account = self.service_account;
        let own = match (&account.role_arn, &account.role) {
            (Some(Wanted::Role(text)), _) => text.parse().ok(),
            (None, Some(Wanted::Role(text))) => resolve(text, base).ok(),
            (Some(Wanted::Nobody) | None, _) => None,
        };
        own.filter(|own| own != role)
    }

    /// Whether the cluster's associations may give the pod a role. The request has no parameter for a session policy: where a namespace has one, or one that
    /// cannot be read, the role would be wider than was meant.
    fn may_be_associated(&self, settings: &Settings) -> bool {
        settings.has(SourceKind::EksAuth)
            && self.namespace.session_policy == Ok(None)
            && self.namespace.session_policy_arns == Ok(None)
    }

    fn web_identity(&self) -> Result<WebIdentity, Stop> {
        let account = self.service_account;
        let defaults = WebIdentity::default();
        Ok(WebIdentity {
            audience: read(&account.audience, Refusal::TokenSettings)?.unwrap_or(defaults.audience),
            token_expiration_secs: read(&account.token_expiration_secs, Refusal::TokenSettings)?
                .unwrap_or(defaults.token_expiration_secs),
            regional_endpoint: read(&account.regional_endpoint, Refusal::TokenSettings)?
                .unwrap_or(defaults.regional_endpoint),
        })
    }
}

fn read<T: Clone>(
    reading: &Reading<T>,
    refusal: impl FnOnce(Malformed) -> Refusal,
) -> Result<Option<T>, Stop> {
    reading
        .clone()
        .map_err(|malformed| Stop::Refuse(refusal(malformed)))
}

#[cfg(test)]
mod tests;
