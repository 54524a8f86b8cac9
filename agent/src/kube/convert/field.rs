//! Reading one field of a JSON object: the type is checked, absent and null are one thing, and a mistake knows its path.

use std::fmt;
use std::net::IpAddr;

use portcullis_policy::model::{Labels, Protocol};
use serde_json::{Map, Value};

use crate::kube::problem::{Problem, Reason, excerpt, excerpt_value};

/// A JSON object.
pub(super) type Fields = Map<String, Value>;

/// Where a value stands in its object. Rendered only when something is wrong with it, so that reading a good object allocates no paths.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(super) fn item(&'a self, index: usize) -> Path<'a> {
        Path::Item(self, index)
    }

    pub(super) fn problem(&self, reason: Reason) -> Problem {
        Problem {
            field: self.to_string(),
            reason,
        }
    }

    pub(super) fn unexpected(&self, expected: &'static str, found: &Value) -> Problem {
        self.problem(Reason::UnexpectedType {
            expected,
            found: excerpt_value(found),
        })
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => write!(f, "{}", bounded(name)),
            Path::Field(parent, name) => write!(f, "{parent}.{}", bounded(name)),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A field name as it may stand in a log line; only unknown ones are ever long or strange.
fn bounded(name: &str) -> String {
    if name.len() <= 64 && name.chars().all(|c| c.is_ascii_graphic()) {
        name.to_owned()
    } else {
        excerpt(name)
    }
}

/// The field's value; null counts as missing (policy-spec, words used).
pub(super) fn value<'v>(fields: &'v Fields, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

pub(super) fn as_object<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v Fields, Problem> {
    value
        .as_object()
        .ok_or_else(|| path.unexpected("an object", value))
}

pub(super) fn as_string<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v str, Problem> {
    value
        .as_str()
        .ok_or_else(|| path.unexpected("a string", value))
}

pub(super) fn object<'v>(
    fields: &'v Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<Option<&'v Fields>, Problem> {
    value(fields, name)
        .map(|value| as_object(value, &path.field(name)))
        .transpose()
}

pub(super) fn list<'v>(
    fields: &'v Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<&'v [Value], Problem> {
    match value(fields, name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(path.field(name).unexpected("a list", other)),
    }
}

pub(super) fn string<'v>(
    fields: &'v Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<Option<&'v str>, Problem> {
    value(fields, name)
        .map(|value| as_string(value, &path.field(name)))
        .transpose()
}

/// A string that has to be there and not be empty.
pub(super) fn required<'v>(
    fields: &'v Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<&'v str, Problem> {
    match string(fields, name, path)? {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(path.field(name).problem(Reason::Missing)),
    }
}

pub(super) fn boolean(
    fields: &Fields,
    name: &str,
    path: &Path<'_>,
) -> Result<Option<bool>, Problem> {
    value(fields, name)
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| path.field(name).unexpected("true or false", value))
        })
        .transpose()
}

/// A map of strings, as labels and annotations are.
pub(super) fn strings(fields: &Fields, name: &str, path: &Path<'_>) -> Result<Labels, Problem> {
    let Some(map) = object(fields, name, path)? else {
        return Ok(Labels::new());
    };
    let path = path.field(name);
    map.iter()
        .map(|(key, value)| Ok((key.clone(), as_string(value, &path.field(key))?.to_owned())))
        .collect()
}

/// A port number: a whole number from 1 to 65535.
pub(super) fn port(value: &Value, path: &Path<'_>) -> Result<u16, Problem> {
    if !value.is_number() {
        return Err(path.unexpected("a port number", value));
    }
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| path.problem(Reason::PortNumber(value.to_string())))
}

/// `protocol`, TCP if missing.
pub(super) fn protocol(fields: &Fields, path: &Path<'_>) -> Result<Protocol, Problem> {
    match string(fields, "protocol", path)? {
        None | Some("TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => Err(path
            .field("protocol")
            .problem(Reason::Protocol(excerpt(other)))),
    }
}

/// An address that a pod, a node or a Service can have. IPv4 written as IPv6 is none: on the wire it would be another address.
pub(super) fn address(text: &str, path: &Path<'_>) -> Result<IpAddr, Problem> {
    text.parse::<IpAddr>()
        .ok()
        .filter(|address| {
            let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            !(mapped
                || broadcast
                || address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast())
        })
        .ok_or_else(|| path.problem(Reason::Address(excerpt(text))))
}

/// Nothing but these fields may stand here, null ones neither: whoever wrote the name meant something by it.
pub(super) fn only(fields: &Fields, known: &[&str], path: &Path<'_>) -> Result<(), Problem> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(path.field(name).problem(Reason::UnknownField)),
        None => Ok(()),
    }
}
