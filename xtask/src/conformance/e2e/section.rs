//! The table for the terminal, and the section of docs/conformance.md.

use std::fmt::Write as _;

use super::spec::{Counts, Result, State, count};
use crate::conformance::Circumstances;

/// A line for each spec, by name.
pub(crate) fn table(results: &[Result]) -> Vec<String> {
    results
        .iter()
        .map(|result| {
            let word = word(&result.state);
            let line = format!(
                "{word:10} {:6.1} s  {}",
                result.seconds,
                short(&result.name)
            );
            match &result.state {
                State::Passed => line,
                State::Failed(why) | State::Skipped(why) | State::Impossible(why) => {
                    format!("{line}\n{:21}{why}", "")
                }
            }
        })
        .collect()
}

pub(crate) fn section(
    circumstances: &Circumstances,
    version: Option<&str>,
    focus: &str,
    results: &[Result],
) -> String {
    let Counts {
        passed,
        failed,
        skipped,
        impossible,
    } = count(results);
    let Circumstances {
        kubernetes,
        proxy,
        kernel,
    } = circumstances;
    let (title, option) = match version {
        None => (String::new(), String::new()),
        Some(version) => (
            format!(" on Linux {version}"),
            format!(" --kernel {version}"),
        ),
    };
    let mut text = format!(
        "## Kubernetes' end-to-end tests{title}\n\n\
         All with `{focus}` in their names. `cargo xtask conformance e2e{option}` runs them and writes this section.\n\n\
         | | |\n|---|---|\n\
         | Kubernetes | {kubernetes} |\n\
         | kube-proxy | {proxy} |\n\
         | Linux | {kernel} |\n\
         | Addresses | IPv4 and IPv6 |\n\
         | Passed | {passed} of {} |\n\
         | Failed | {failed} |\n\
         | Skipped by the suite | {skipped} |\n\
         | Cannot run on this kernel | {impossible} |\n\n\
         | spec | result |\n|---|---|\n",
        results.len()
    );
    for result in results {
        let said = match &result.state {
            State::Passed => "passed".to_owned(),
            State::Failed(why) | State::Skipped(why) | State::Impossible(why) => {
                format!("{}: {}", word(&result.state), why.replace('|', "/"))
            }
        };
        let name = short(&result.name).replace('|', "/");
        writeln!(text, "| {name} | {said} |").expect("a string takes everything");
    }
    text
}

fn word(state: &State) -> &'static str {
    match state {
        State::Passed => "passed",
        State::Failed(_) => "FAILED",
        State::Skipped(_) => "skipped",
        State::Impossible(_) => "cannot run",
    }
}

/// Without what all of them say.
fn short(name: &str) -> &str {
    let name = name.strip_prefix("[sig-network] ").unwrap_or(name);
    name.strip_suffix(" [Feature:NetworkPolicy]")
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_names_each_spec_with_the_reason_that_it_did_not_pass() {
        let result = |name: &str, state| Result {
            name: format!("[sig-network] {name} [Feature:NetworkPolicy]"),
            state,
            seconds: 7.0,
        };
        let results = [
            result("a", State::Passed),
            result("b", State::Failed("failed: x | y".to_owned())),
            result("c", State::Impossible("no SCTP".to_owned())),
        ];
        let circumstances = Circumstances {
            kubernetes: "v1".to_owned(),
            proxy: "iptables".to_owned(),
            kernel: "6.18.0".to_owned(),
        };
        let text = section(&circumstances, None, "a", &results);
        assert!(text.contains("| Passed | 1 of 3 |"));
        assert!(text.ends_with(
            "| a | passed |\n| b | FAILED: failed: x / y |\n| c | cannot run: no SCTP |\n"
        ));
        assert_eq!(table(&results)[0], "passed        7.0 s  a");
    }
}
