//! What the node's metadata service may be asked for. There is no way from a text of anybody else to a [`Path`].

use std::borrow::Cow;
use std::fmt;

use crate::metrics::PathClass;
use crate::route;

/// The longest name that is taken from a list; tags have at most 128 characters.
const LONGEST_ENTRY: usize = 128;

/// A path below the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    text: Cow<'static, str>,
    class: PathClass,
}

/// A name that the service itself listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry(String);

impl Path {
    /// A constant.
    #[must_use]
    pub const fn fixed(text: &'static str, class: PathClass) -> Self {
        Self {
            text: Cow::Borrowed(text),
            class,
        }
    }

    /// What lies at `entry` in a folder, and there at `leaf` if that is not empty. Both are constants that end in a slash where they have to.
    #[must_use]
    pub fn below(
        folder: &'static str,
        entry: &Entry,
        leaf: &'static str,
        class: PathClass,
    ) -> Self {
        Self {
            text: Cow::Owned(format!("{folder}{}{leaf}", entry.0)),
            class,
        }
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it is counted as.
    #[must_use]
    pub const fn class(&self) -> PathClass {
        self.class
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Entry {
    /// The name, without a slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The names of a listing that can stand in a path. What cannot is left out.
#[must_use]
pub fn entries(listing: &str) -> Vec<Entry> {
    let names = listing
        .lines()
        .map(|line| line.strip_suffix('/').unwrap_or(line));
    let is_plain = |name: &&str| {
        name.len() <= LONGEST_ENTRY
            && route::is_segment(name)
            && name
                .bytes()
                .all(|byte| byte != b'/' && route::is_path(byte))
    };
    names
        .filter(is_plain)
        .map(|name| Entry(name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_can_stand_in_a_path_are_taken_from_a_list() {
        let long = "a".repeat(LONGEST_ENTRY + 1);
        let listing = format!(
            "0e:49:61:0f:c3:11/\r\nName\n\n..\n.\na b\na/b\n/\na?b\na%2fb\na#b\n{long}\na\u{e9}\nlast"
        );
        let names: Vec<String> = entries(&listing).into_iter().map(|entry| entry.0).collect();
        assert_eq!(names, ["0e:49:61:0f:c3:11", "Name", "last"]);
    }
}
