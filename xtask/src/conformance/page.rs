//! docs/conformance.md: a head, and a section of each suite, written when that suite has run and kept when another
//! one does.
//!
//! A section stands between two comments that bear its name. The page has no date and no seconds: it changes
//! when a result does.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use crate::cluster::Family;
use crate::layout::Layout;

const HEAD: &str = "# Conformance\n\n\
    What suites of others say of Portcullis, on [a cluster of two nodes](cluster.md) with `deploy/portcullis.yaml` applied as\n\
    it is. Nothing is written here by hand: a suite has a section when it has run.\n";

/// A part of the page that is written at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// On the machine's kernel, or on a virtual machine's of this version.
    E2e(Option<&'static str>),
    Cyclonus(Family),
}

/// In the order in which they stand.
const SECTIONS: [Section; 4] = [
    Section::E2e(None),
    Section::E2e(Some("6.1")),
    Section::Cyclonus(Family::Ipv4),
    Section::Cyclonus(Family::Ipv6),
];

impl Section {
    pub(crate) fn name(self) -> String {
        match self {
            Self::E2e(None) => "e2e".to_owned(),
            Self::E2e(Some(kernel)) => format!("e2e {kernel}"),
            Self::Cyclonus(family) => format!("cyclonus {}", family.name()),
        }
    }

    /// What the page has of it.
    fn within(self, page: &str) -> Option<&str> {
        let (begin, end) = self.marks();
        let (_, rest) = page.split_once(&begin)?;
        Some(rest.split_once(&end)?.0)
    }

    fn marks(self) -> (String, String) {
        let name = self.name();
        (
            format!("<!-- {name}: begin -->\n"),
            format!("<!-- {name}: end -->\n"),
        )
    }
}

/// Puts a section in the place of the one that the page has.
pub(crate) fn write(layout: &Layout, section: Section, text: &str) -> Result<()> {
    let path = layout.root.join("docs/conformance.md");
    let page = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        page => page.with_context(|| format!("cannot read {}", path.display()))?,
    };
    fs::write(&path, replaced(&page, section, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(page: &str, section: Section, text: &str) -> String {
    let mut new = HEAD.to_owned();
    for each in SECTIONS {
        let (begin, end) = each.marks();
        let text = if each == section {
            Some(text)
        } else {
            each.within(page)
        };
        if let Some(text) = text {
            write!(new, "\n{begin}{text}{end}").expect("a string takes everything");
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_predecessor_and_leaves_the_others_alone() {
        let first = replaced("old words\n", Section::Cyclonus(Family::Ipv4), "four\n");
        assert!(first.starts_with(HEAD) && !first.contains("old words"));
        let second = replaced(&first, Section::E2e(None), "specs\n");
        assert!(second.find("specs").expect("it is there") < second.find("four").expect("too"));
        let third = replaced(&second, Section::Cyclonus(Family::Ipv4), "4\n");
        assert!(third.contains("\n4\n") && third.contains("specs\n") && !third.contains("four"));
        assert_eq!(replaced(&third, Section::E2e(None), "specs\n"), third);
        let fourth = replaced(&third, Section::E2e(Some("6.1")), "older\n");
        assert!(fourth.contains("specs\n") && fourth.contains("older\n"));
    }
}
