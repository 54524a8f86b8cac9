//! Where the node's metadata service is. An address and never a name: a name could be made to mean another place.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

const PORT: u16 = 80;

/// `http://ADDRESS`, with a port if it is not 80; IPv6 in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint(SocketAddr);

/// No such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not http://ADDRESS or http://ADDRESS:PORT; IPv6 stands in brackets")]
pub struct NotAnEndpoint;

impl Endpoint {
    /// Where it listens.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl Default for Endpoint {
    /// EC2's address.
    fn default() -> Self {
        Self((Ipv4Addr::new(169, 254, 169, 254), PORT).into())
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        let rest = text.strip_prefix("http://").ok_or(NotAnEndpoint)?;
        let place = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(address) = place.parse() {
            return Ok(Self(address));
        }
        let inner = place
            .strip_prefix('[')
            .and_then(|place| place.strip_suffix(']'));
        let address = match inner {
            Some(inner) => inner.parse().map(IpAddr::V6),
            None => place.parse().map(IpAddr::V4),
        };
        let address = address.map_err(|_error| NotAnEndpoint)?;
        Ok(Self((address, PORT).into()))
    }
}

impl fmt::Display for Endpoint {
    /// As `Host` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.port(), self.0.ip()) {
            (PORT, IpAddr::V4(address)) => address.fmt(f),
            (PORT, IpAddr::V6(address)) => write!(f, "[{address}]"),
            _ => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_with_or_without_a_port() {
        for (text, host) in [
            ("http://169.254.169.254", "169.254.169.254"),
            ("http://169.254.169.254:80/", "169.254.169.254"),
            ("http://[fd00:ec2::254]", "[fd00:ec2::254]"),
            ("http://[fd00:ec2::254]:8080/", "[fd00:ec2::254]:8080"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), host);
        }
        assert_eq!(Endpoint::default().to_string(), "169.254.169.254");
    }

    #[test]
    fn names_paths_and_other_schemes_are_refused() {
        for text in [
            "",
            "169.254.169.254",
            "https://169.254.169.254",
            "http://localhost",
            "http://169.254.169.254/latest",
            "http://a@169.254.169.254",
            "http://fd00:ec2::254",
            "http://[169.254.169.254]",
            "http://127.0.0.1:99999",
            "http://127.0.0.1 ",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(NotAnEndpoint), "{text}");
        }
    }
}
