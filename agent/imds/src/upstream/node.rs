//! What the node is to AWS: its region, its instance profile, its role.

use serde::Deserialize;
use thiserror::Error;

use super::{Path, Upstream, UpstreamError, entries};
use crate::metrics::PathClass;
use crate::role::{ArnError, BaseArn};

pub(crate) const REGION: Path = Path::fixed("meta-data/placement/region", PathClass::Static);
const INFO: Path = Path::fixed("meta-data/iam/info", PathClass::Role);
pub(super) const ROLES: Path = Path::fixed("meta-data/iam/security-credentials/", PathClass::Role);

const LONGEST_REGION: usize = 64;

/// Why it is not known what the node is.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The source says what to look at.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Attach an instance profile to the node, or write the value into the options.
    #[error("the node has no instance profile")]
    NoProfile,
    /// What answers is not a metadata service.
    #[error("the metadata service says that the region is something that no region is called")]
    Region,
    /// What answers is not a metadata service.
    #[error("the metadata service describes the instance profile in words that cannot be read")]
    Info,
    /// What answers is not a metadata service.
    #[error("the metadata service names an instance profile that cannot be one: {0}")]
    Profile(ArnError),
    /// The node has several roles, or none: write the value into the options.
    #[error("the metadata service does not name exactly one role")]
    Role,
}

/// The part of `iam/info` that is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    instance_profile_arn: String,
}

/// The region, which becomes part of the names of endpoints.
pub async fn region(upstream: &mut Upstream) -> Result<String, NodeError> {
    let text = upstream.get(&REGION).await?;
    let region = text.trim_end_matches(['\n', '\r']);
    let of_regions = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=LONGEST_REGION).contains(&region.len())
        && region.bytes().all(of_regions)
        && !region.starts_with('-')
        && !region.ends_with('-')
    {
        Ok(region.to_owned())
    } else {
        Err(NodeError::Region)
    }
}

/// What stands before names of roles in the node's own account.
pub async fn base_arn(upstream: &mut Upstream) -> Result<BaseArn, NodeError> {
    let info = upstream.get(&INFO).await.map_err(no_profile)?;
    let info: Info = serde_json::from_str(&info).map_err(|_error| NodeError::Info)?;
    BaseArn::from_instance_profile(&info.instance_profile_arn).map_err(NodeError::Profile)
}

/// The ARN of the node's own role, as if it had no path: the service does not tell it.
pub async fn role_arn(upstream: &mut Upstream) -> Result<String, NodeError> {
    let base = base_arn(upstream).await?;
    let names = upstream.get(&ROLES).await.map_err(no_profile)?;
    match entries(&names).as_slice() {
        [name] => Ok(format!("{base}{}", name.as_str())),
        _ => Err(NodeError::Role),
    }
}

pub(super) fn no_profile(error: UpstreamError) -> NodeError {
    match error {
        UpstreamError::Status(404) => NodeError::NoProfile,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::service::{Reply, Service};
    use super::*;

    const PROFILE: &str = r#"{"Code":"Success","InstanceProfileArn":"arn:aws-cn:iam::123456789012:instance-profile/infra/nodes","InstanceProfileId":"AIPA"}"#;

    fn client(service: &Service) -> Upstream {
        Upstream::new(service.endpoint(), Arc::default())
    }

    #[tokio::test]
    async fn base_and_role_are_those_of_the_nodes_account_without_the_profiles_path() {
        let service = Service::start([
            ("meta-data/iam/info", PROFILE),
            ("meta-data/iam/security-credentials/", "node-role"),
        ])
        .await;
        let mut upstream = client(&service);
        let base = base_arn(&mut upstream).await.expect("it is known");
        assert_eq!(base.as_str(), "arn:aws-cn:iam::123456789012:role/");
        assert_eq!(
            role_arn(&mut upstream).await.expect("it is known"),
            "arn:aws-cn:iam::123456789012:role/node-role"
        );
        service.set("meta-data/iam/security-credentials/", Reply::ok("a\nb"));
        assert!(matches!(
            role_arn(&mut upstream).await,
            Err(NodeError::Role)
        ));
        service.unset("meta-data/iam/info");
        assert!(matches!(
            base_arn(&mut upstream).await,
            Err(NodeError::NoProfile)
        ));
        for nonsense in [
            "",
            "{}",
            r#"{"InstanceProfileArn":7}"#,
            r#"{"InstanceProfileArn":"arn:aws:iam::1:instance-profile/x"}"#,
            r#"{"InstanceProfileArn":"arn:aws:iam::123456789012:role/x"}"#,
        ] {
            service.set("meta-data/iam/info", Reply::ok(nonsense));
            let error = base_arn(&mut upstream).await.expect_err(nonsense);
            assert!(matches!(error, NodeError::Info | NodeError::Profile(_)));
        }
    }

    #[tokio::test]
    async fn a_region_is_a_name_that_an_endpoint_can_have() {
        let service = Service::start([("meta-data/placement/region", "us-iso-east-1\n")]).await;
        let mut upstream = client(&service);
        assert_eq!(
            region(&mut upstream).await.expect("it is known"),
            "us-iso-east-1"
        );
        for nonsense in ["", "-", "eu-west-1.example.com", "EU", "a/b", "a\nb"] {
            service.set("meta-data/placement/region", Reply::ok(nonsense));
            let error = region(&mut upstream).await.expect_err(nonsense);
            assert!(matches!(error, NodeError::Region), "{nonsense:?}");
        }
    }
}
