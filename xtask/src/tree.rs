//! The rules of the tree that no compiler checks: what lies at the top, how long a file may be, which
//! words must not stand in it. Reads files, knows nothing of Rust's grammar.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Everything that may lie at the top. A new entry is a decision: it belongs here and in docs/.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "common",
    "deploy",
    "docs",
    "ebpf",
    "rustfmt.toml",
    "target",
    "tests",
    "xtask",
];

const MOST_LINES: usize = 800;

/// Forbidden words and what to do instead. Split, so that this file does not hold them itself.
const WORDS: &[(&str, &str, &str)] = &[
    (
        "#[",
        "ignore",
        "let PORTCULLIS_LONG choose the size of the test",
    ),
    ("todo", "!(", "write it, or leave it out"),
    ("unimplemented", "!(", "write it, or leave it out"),
];

/// What breaks a rule, one line each, sorted.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in children(root)? {
        let name = name_of(&path);
        if !TOP.contains(&name.as_str()) {
            found.push(format!("{name}: does not belong at the top of the tree"));
        } else if path.is_dir() && name != "target" && name != ".git" {
            walk(root, &path, &mut found)?;
        }
    }
    found.sort();
    Ok(found)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for path in children(folder)? {
        if path.is_dir() {
            walk(root, &path, found)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            check(&name.to_string_lossy(), &text, found);
        }
    }
    Ok(())
}

fn check(name: &str, text: &str, found: &mut Vec<String>) {
    let count = text.lines().count();
    if count > MOST_LINES {
        found.push(format!(
            "{name}: {count} lines, split it below {MOST_LINES}"
        ));
    }
    for (start, end, remedy) in WORDS {
        let word = format!("{start}{end}");
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(&word) {
                found.push(format!("{name}:{}: `{word}`: {remedy}", index + 1));
            }
        }
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let describe = || format!("cannot list {}", folder.display());
    fs::read_dir(folder)
        .with_context(describe)?
        .map(|entry| Ok(entry.with_context(describe)?.path()))
        .collect()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_in(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check("a.rs", text, &mut found);
        found
    }

    #[test]
    fn a_forbidden_word_is_found_in_code_and_not_in_a_comment() {
        let word = format!("{}{}", WORDS[0].0, WORDS[0].1);
        assert_eq!(findings_in(&format!("fn a() {{}}\n{word}]\n")).len(), 1);
        assert!(findings_in(&format!("// {word}]\n")).is_empty());
    }

    #[test]
    fn eight_hundred_lines_pass_and_one_more_does_not() {
        assert!(findings_in(&"\n".repeat(MOST_LINES)).is_empty());
        assert_eq!(findings_in(&"\n".repeat(MOST_LINES + 1)).len(), 1);
    }
}
