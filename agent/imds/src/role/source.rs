//! The ways to credentials, and which of them a pod can have.
//!
//! The administrator chooses ways and their order; of these a pod is offered those that can carry everything that was asked for it. What a way cannot
//! carry is never dropped: without an external id or a session policy the credentials would be others than was meant.

use serde::{Deserialize, Serialize};

/// The way in which credentials are got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The pod's own projected token, then `AssumeRoleWithWebIdentity`.
    Projected,
    /// A token that the API server makes for the pod, then the same.
    #[serde(rename = "tokenrequest")]
    TokenRequest,
    /// The service account's role by such a token, and from it `AssumeRole` into the pod's role.
    Chained,
    /// `AssumeRole` with the node's or the agent's own credentials.
    AssumeRole,
    /// `AssumeRoleForPodIdentity` of EKS: the cluster's associations say which role.
    EksAuth,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Projected,
        Self::TokenRequest,
        Self::Chained,
        Self::AssumeRole,
        Self::EksAuth,
    ];

    /// Whether it shows STS a web-identity token, for the audience that the service account chose.
    #[must_use]
    pub const fn is_web(self) -> bool {
        match self {
            Self::Projected | Self::TokenRequest | Self::Chained => true,
            Self::AssumeRole | Self::EksAuth => false,
        }
    }

    /// Its word in settings and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Projected => "projected",
            Self::TokenRequest => "tokenrequest",
            Self::Chained => "chained",
            Self::AssumeRole => "assume-role",
            Self::EksAuth => "eks-auth",
        }
    }
}

/// What was asked for a pod, as far as ways differ in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// With an external id.
    pub(super) external_id: bool,
    /// With a session policy, or several.
    pub(super) policy: bool,
    /// Its service account has a role of its own, through which this one can be reached.
    pub(super) through: bool,
    /// One of its volumes holds a token for the audience that the service account chose.
    pub(super) projected: bool,
}

/// Those of `sources` that can carry it, in their order.
pub(super) fn offered(sources: &[SourceKind], load: Load) -> Vec<SourceKind> {
    let can = |source: &SourceKind| match source {
        SourceKind::Projected => load.projected && !load.external_id,
        SourceKind::TokenRequest => !load.external_id,
        SourceKind::Chained => load.through,
        SourceKind::AssumeRole => true,
        // It has no parameter for either: the association says.
        SourceKind::EksAuth => !load.external_id && !load.policy,
    };
    sources.iter().copied().filter(can).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Load = Load {
        external_id: false,
        policy: false,
        through: false,
        projected: false,
    };

    #[test]
    fn a_pod_is_offered_what_can_carry_all_that_was_asked_in_the_chosen_order() {
        use SourceKind::{AssumeRole, Chained, EksAuth, Projected, TokenRequest};
        let all = [EksAuth, Chained, AssumeRole, TokenRequest, Projected];
        let load = |change: fn(&mut Load)| {
            let mut load = NOTHING;
            change(&mut load);
            offered(&all, load)
        };
        assert_eq!(load(|_| {}), [EksAuth, AssumeRole, TokenRequest]);
        assert_eq!(
            load(|load| load.projected = true),
            [EksAuth, AssumeRole, TokenRequest, Projected]
        );
        assert_eq!(
            load(|load| load.through = true),
            [EksAuth, Chained, AssumeRole, TokenRequest]
        );
        assert_eq!(load(|load| load.policy = true), [AssumeRole, TokenRequest]);
        assert_eq!(
            load(|load| (load.external_id, load.through) = (true, true)),
            [Chained, AssumeRole]
        );
        assert_eq!(
            load(|load| (load.external_id, load.projected) = (true, true)),
            [AssumeRole]
        );
    }

    #[test]
    fn words_are_the_same_in_settings_and_on_the_link() {
        for source in SourceKind::ALL {
            let said = serde_json::to_string(&source).expect("it is a string");
            assert_eq!(said, format!("\"{}\"", source.as_str()));
        }
    }
}
