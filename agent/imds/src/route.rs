//! From a request target to the place in the tables that it names.
//!
//! A target is a plain path and nothing is mended: what another reader could read otherwise is refused, not normalised. The only thing decoded is the last
//! segment of a role's name, once. A final slash changes nothing.

use crate::listener::Surface;
use crate::reason::Reason;

/// The longest target, in bytes.
pub const LONGEST_TARGET: usize = 2048;

/// A place. Every version of the metadata service is the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/{v}/api/token`.
    Token,
    /// `/{v}/meta-data/iam/security-credentials`.
    Listing,
    /// Below it: the role as it was asked for, decoded.
    Credentials(String),
    /// `/{v}/meta-data/iam/info`.
    Info,
    /// `/`.
    Versions,
    /// Any other path below a version, without slashes at its ends; empty for the version itself.
    Tree(String),
    /// Where a container address keeps credentials.
    Container,
    /// An unknown version, or an unknown path of a container address.
    Nowhere,
}

impl Route {
    /// Reads `target` as asked at `surface`.
    pub fn find(surface: Surface, target: &str) -> Result<Self, Reason> {
        if target.len() > LONGEST_TARGET {
            return Err(Reason::TargetTooLong);
        }
        let path = target.strip_prefix('/').ok_or(Reason::BadTarget)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        if target == "//" || !path.bytes().all(|byte| is_path(byte) || byte == b'%') {
            return Err(Reason::BadTarget);
        }
        if path.is_empty() {
            return Ok(match surface {
                Surface::Imds => Self::Versions,
                Surface::Ecs | Surface::Eks => Self::Nowhere,
            });
        }
        if !path.split('/').all(is_segment) {
            return Err(Reason::BadTarget);
        }
        match surface {
            Surface::Imds => metadata(path),
            Surface::Ecs | Surface::Eks if path.contains('%') => Err(Reason::BadTarget),
            Surface::Ecs => Ok(container(
                path == "v1/credentials" || path == "v2/credentials/self",
            )),
            Surface::Eks => Ok(container(path == "v1/credentials")),
        }
    }
}

fn container(known: bool) -> Route {
    if known {
        Route::Container
    } else {
        Route::Nowhere
    }
}

fn metadata(path: &str) -> Result<Route, Reason> {
    let (version, below) = path.split_once('/').unwrap_or((path, ""));
    let role = below.strip_prefix("meta-data/iam/security-credentials/");
    let role = role.map(role_name).transpose()?;
    if version.contains('%') || (role.is_none() && below.contains('%')) {
        return Err(Reason::BadTarget);
    }
    Ok(match (is_version(version), role, below) {
        (false, ..) => Route::Nowhere,
        (true, Some(role), _) => Route::Credentials(role),
        (true, None, "api/token") => Route::Token,
        (true, None, "meta-data/iam/security-credentials") => Route::Listing,
        (true, None, "meta-data/iam/info") => Route::Info,
        (true, None, below) => Route::Tree(below.to_owned()),
    })
}

/// `latest`, `1.0` or a date. The service knows some twenty dates, which differ in nothing that is served here.
fn is_version(text: &str) -> bool {
    let is_date = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    text == "latest" || text == "1.0" || is_date
}

/// A name, a path and a name, or an ARN: the part in front stays as it is, the last segment is decoded and has to be a name.
fn role_name(text: &str) -> Result<String, Reason> {
    let (front, last) = text.split_at(text.rfind('/').map_or(0, |slash| slash + 1));
    if front.contains('%') {
        return Err(Reason::BadTarget);
    }
    let last = decode(last).ok_or(Reason::BadRoleName)?;
    if is_role_name(&last) {
        Ok(format!("{front}{last}"))
    } else {
        Err(Reason::BadRoleName)
    }
}

fn decode(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push((high * 16 + low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// What IAM lets a role be called. Two dots are a name to IAM and a way out to others.
#[must_use]
pub fn is_role_name(name: &str) -> bool {
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(of_names) && name != "." && name != ".."
}

/// Whether `segment` can stand between two slashes.
#[must_use]
pub fn is_segment(segment: &str) -> bool {
    !segment.is_empty() && segment != "." && segment != ".."
}

/// RFC 3986's `pchar` and the slash, without the percent sign and without `;`, which some readers take for the start of parameters.
#[must_use]
pub fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imds(target: &str) -> Result<Route, Reason> {
        Route::find(Surface::Imds, target)
    }

    #[test]
    fn a_final_slash_changes_nothing() {
        for path in [
            "/latest",
            "/1.0/meta-data",
            "/2021-07-15/api/token",
            "/latest/meta-data/iam/info",
            "/latest/meta-data/iam/security-credentials",
            "/latest/meta-data/iam/security-credentials/a",
            "/latest/meta-data/placement/region",
        ] {
            let route = imds(path);
            assert!(route.is_ok(), "{path}");
            assert_eq!(route, imds(&format!("{path}/")), "{path}");
        }
    }

    #[test]
    fn a_role_is_asked_for_by_name_path_or_arn() {
        for (asked, read) in [
            ("app", "app"),
            ("team/app", "team/app"),
            (
                "arn:aws:iam::123456789012:role/team/app",
                "arn:aws:iam::123456789012:role/team/app",
            ),
            ("a%2Bb%3Dc%2cd%40e", "a+b=c,d@e"),
            ("a+b", "a+b"),
        ] {
            let target = format!("/latest/meta-data/iam/security-credentials/{asked}");
            assert_eq!(imds(&target), Ok(Route::Credentials(read.to_owned())));
        }
    }

    #[test]
    fn what_decodes_to_no_name_is_refused_and_nothing_is_decoded_twice() {
        for asked in [
            "%2e%2e",
            "%2e",
            "a%2fb",
            "a%00",
            "a%0d%0a",
            "a%2541",
            "a%",
            "a%4",
            "a%zz",
            "a%e9",
            "a:b",
            &"a".repeat(65),
        ] {
            let target = format!("/latest/meta-data/iam/security-credentials/{asked}");
            assert_eq!(imds(&target), Err(Reason::BadRoleName), "{asked}");
        }
        let encoded_path = "/latest/meta-data/iam/security-credentials/te%61m/app";
        assert_eq!(imds(encoded_path), Err(Reason::BadTarget));
    }

    #[test]
    fn anything_but_a_plain_path_is_refused() {
        for target in [
            "",
            "*",
            "x:opaque",
            "latest",
            "http://169.254.169.254/latest",
            "169.254.169.254:80",
            "//",
            "//latest",
            "/latest//meta-data",
            "/latest/meta-data//",
            "/./latest",
            "/latest/..",
            "/latest/../latest",
            "/latest?x=1",
            "/latest?",
            "/latest#a",
            "/latest;a=b",
            "/latest\\a",
            "/l%61test",
            "/latest/meta-data/%2e%2e/user-data",
            "/latest/meta-data%2fiam",
            "/a\0b",
            "/a b",
            "/\u{e9}",
            "/<a>",
            "/{v}",
            "/a|b",
            "/a\"b",
            "/a^b",
            "/a`b",
        ] {
            assert_eq!(imds(target), Err(Reason::BadTarget), "{target:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_nowhere() {
        for version in [
            "Latest",
            "2.0",
            "latest2",
            "2021-7-15",
            "2021-07-155",
            "2021/07/15",
            "v1",
        ] {
            assert_eq!(imds(&format!("/{version}/api/token")), Ok(Route::Nowhere));
        }
        assert_eq!(imds("/"), Ok(Route::Versions));
        assert_eq!(imds("/2009-04-04"), Ok(Route::Tree(String::new())));
    }

    #[test]
    fn a_target_of_two_kibibytes_is_read_and_a_longer_one_is_not() {
        let target = format!("/{}", "a".repeat(LONGEST_TARGET - 1));
        assert_eq!(imds(&target), Ok(Route::Nowhere));
        assert_eq!(imds(&format!("{target}a")), Err(Reason::TargetTooLong));
    }

    #[test]
    fn container_addresses_have_their_own_paths() {
        let at = Route::find;
        assert_eq!(at(Surface::Eks, "/v1/credentials/"), Ok(Route::Container));
        assert_eq!(at(Surface::Eks, "/v2/credentials/self"), Ok(Route::Nowhere));
        assert_eq!(
            at(Surface::Ecs, "/v2/credentials/self"),
            Ok(Route::Container)
        );
        assert_eq!(at(Surface::Ecs, "/latest/api/token"), Ok(Route::Nowhere));
        assert_eq!(
            at(Surface::Ecs, "/v1/credential%73"),
            Err(Reason::BadTarget)
        );
    }
}
