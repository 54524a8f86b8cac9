//! The gate on the record contract: whoever changes `common/src/abi.rs` raises `ABI_VERSION`.
//!
//! `common/abi.lock` holds the version and a hash of the declarations. Comments, white space and tests do
//! not count; every constant and every field does. Pins lie in a directory named after the version, so a
//! forgotten raise would let new programs read old maps.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::say;
use crate::failure::Failure;
use crate::layout::Layout;

const RECORDS: &str = "common/src/abi.rs";
const VERSION: &str = "common/src/lib.rs";
const LOCK: &str = "common/abi.lock";

/// `VERSION HASH`, the one line of the lock.
#[derive(PartialEq, Eq)]
struct Contract {
    version: u32,
    hash: String,
}

pub(crate) fn run(bless: bool) -> Result<()> {
    let root = Layout::find()?.root;
    let found = Contract::of_sources(&root)?;
    let locked = Contract::of_lock(&root)?;
    match &locked {
        Some(locked) if *locked == found => {
            say(&format!("abi: version {}, unchanged", found.version));
            Ok(())
        }
        Some(locked) if locked.version == found.version => Err(Failure::new(
            format!("the records of {RECORDS} changed"),
            format!("ABI_VERSION is still {}", found.version),
            format!("raise it in {VERSION}, then run `cargo xtask abi --bless`"),
        )
        .into()),
        _ if bless => {
            let line = format!("{} {}\n", found.version, found.hash);
            fs::write(root.join(LOCK), line).with_context(|| format!("cannot write {LOCK}"))?;
            say(&format!("abi: {LOCK} holds version {}", found.version));
            Ok(())
        }
        _ => Err(Failure::new(
            format!("{LOCK} is not that of ABI_VERSION {}", found.version),
            "the version was raised, or the lock never written",
            "run `cargo xtask abi --bless` and commit the lock",
        )
        .into()),
    }
}

impl Contract {
    fn of_sources(root: &Path) -> Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))
        };
        let version = read(VERSION)?;
        let version = version
            .split_once("ABI_VERSION: u32 = ")
            .and_then(|(_, rest)| rest.split(';').next()?.trim().parse().ok())
            .with_context(|| format!("{VERSION} has no `ABI_VERSION: u32 = ...`"))?;
        Ok(Self {
            version,
            hash: format!("{:016x}", fnv1a(normal(&read(RECORDS)?).as_bytes())),
        })
    }

    fn of_lock(root: &Path) -> Result<Option<Self>> {
        let path = root.join(LOCK);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {LOCK}"))?;
        let mut words = text.split_whitespace();
        let parsed = words
            .next()
            .and_then(|version| version.parse().ok())
            .zip(words.next())
            .map(|(version, hash)| Self {
                version,
                hash: hash.to_owned(),
            });
        parsed
            .map(Some)
            .with_context(|| format!("{LOCK} is not `VERSION HASH`"))
    }
}

/// The declarations alone: without line comments, white space and the tests at the end.
fn normal(source: &str) -> String {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Fowler-Noll-Vo 1a, 64 bits: stable over releases of Rust, which the standard hasher is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_spaces_and_tests_do_not_count_but_fields_do() {
        let plain = normal("pub struct A { pub a: u32, }");
        assert_eq!(
            plain,
            normal("/// Doc.\npub struct A {\n  pub a: u32, // why\n}\n#[cfg(test)]\nmod t {}")
        );
        assert_ne!(plain, normal("pub struct A { pub a: u64, }"));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
