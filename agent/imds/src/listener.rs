//! Which of the guarded addresses a listener stands for, and what a `Host` header may say there.
//!
//! The guard redirects, so a listener's own socket address says nothing about what the pod dialled: whoever binds it says so here.

use std::net::{IpAddr, Ipv6Addr};

use portcullis_common::guard;
use serde::{Deserialize, Serialize};

/// A guarded address, port 80.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// EC2 instance metadata, 169.254.169.254.
    ImdsV4,
    /// EC2 instance metadata over IPv6, `fd00:ec2::254`.
    ImdsV6,
    /// ECS task credentials, 169.254.170.2.
    Ecs,
    /// EKS Pod Identity, 169.254.170.23.
    EksV4,
    /// EKS Pod Identity over IPv6, `fd00:ec2::23`.
    EksV6,
}

/// Which tables of answers apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Surface {
    /// Instance metadata: text, versions, session tokens.
    Imds,
    /// ECS: JSON, a token is welcome and not needed.
    Ecs,
    /// EKS Pod Identity: JSON, a token of the pod's service account is needed.
    Eks,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ImdsV4,
        Self::ImdsV6,
        Self::Ecs,
        Self::EksV4,
        Self::EksV6,
    ];

    /// The address that pods dial.
    #[must_use]
    pub fn address(self) -> IpAddr {
        let address = match self {
            Self::ImdsV4 => guard::IMDS_V4,
            Self::ImdsV6 => guard::IMDS_V6,
            Self::Ecs => guard::ECS_V4,
            Self::EksV4 => guard::POD_IDENTITY_V4,
            Self::EksV6 => guard::POD_IDENTITY_V6,
        };
        Ipv6Addr::from(address).to_canonical()
    }

    /// Whose tables answer there.
    #[must_use]
    pub fn surface(self) -> Surface {
        match self {
            Self::ImdsV4 | Self::ImdsV6 => Surface::Imds,
            Self::Ecs => Surface::Ecs,
            Self::EksV4 | Self::EksV6 => Surface::Eks,
        }
    }
}

impl Surface {
    /// Its word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Ecs => "ecs",
            Self::Eks => "eks",
        }
    }

    /// The most bytes of header lines. A web-identity token needs more room than metadata does.
    #[must_use]
    pub fn header_limit(self) -> usize {
        match self {
            Self::Imds => 8 * 1024,
            Self::Ecs | Self::Eks => 16 * 1024,
        }
    }
}

/// What a `Host` header may say at a service: a page whose name was pointed at the metadata address says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    service: Service,
    extra: Vec<String>,
}

impl Hosts {
    /// The address of `service` and the names in `extra`.
    #[must_use]
    pub fn new(service: Service, extra: Vec<String>) -> Self {
        Self { service, extra }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> Service {
        self.service
    }

    /// Whether `host` is the service's address or an extra name, with port 80 or none.
    #[must_use]
    pub fn admits(&self, host: &str) -> bool {
        let name = host.strip_suffix(":80").unwrap_or(host);
        let is_address = match self.service.address() {
            IpAddr::V4(address) => name.parse() == Ok(address),
            IpAddr::V6(address) => name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'))
                .is_some_and(|name| name.parse() == Ok(address)),
        };
        is_address
            || self
                .extra
                .iter()
                .any(|extra| extra.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_address_with_port_80_or_none() {
        let hosts = Hosts::new(Service::ImdsV4, Vec::new());
        assert!(hosts.admits("169.254.169.254") && hosts.admits("169.254.169.254:80"));
        for other in [
            "",
            ":80",
            "169.254.169.254:8080",
            "169.254.169.254:80:80",
            "169.254.170.23",
            "0251.0376.0251.0376",
            "2852039166",
            "[::ffff:169.254.169.254]",
            "169.254.169.254.nip.io",
            "localhost",
        ] {
            assert!(!hosts.admits(other), "{other}");
        }
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets() {
        let hosts = Hosts::new(Service::EksV6, Vec::new());
        assert!(hosts.admits("[fd00:ec2::23]") && hosts.admits("[FD00:0EC2::23]:80"));
        for other in [
            "fd00:ec2::23",
            "[fd00:ec2::254]",
            "[fd00:ec2::23",
            "[fd00:ec2::23]:81",
        ] {
            assert!(!hosts.admits(other), "{other}");
        }
    }

    #[test]
    fn an_extra_name_is_admitted_whatever_its_case() {
        let hosts = Hosts::new(
            Service::ImdsV4,
            vec!["instance-data.ec2.internal".to_owned()],
        );
        assert!(hosts.admits("Instance-Data.ec2.internal:80"));
        assert!(!hosts.admits("x.instance-data.ec2.internal"));
    }

    #[test]
    fn the_services_are_the_guarded_addresses() {
        for service in Service::ALL {
            let address = match service.address() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            assert!(guard::is_metadata(&address.octets()), "{service:?}");
        }
        assert_eq!(Service::ALL.len(), guard::ADDRESSES.len());
    }
}
