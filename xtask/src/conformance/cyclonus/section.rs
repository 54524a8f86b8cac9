//! The table for the terminal, and the section of docs/conformance.md.

use std::fmt::Write as _;

use super::Answer;
use super::cases::Name;
use super::verdict::Verdict;
use crate::cluster::Family;
use crate::conformance::{Circumstances, has_sctp};

/// A line for each case.
pub(crate) fn table(answers: &[Answer]) -> Vec<String> {
    answers
        .iter()
        .flat_map(|answer| {
            answer.verdicts.iter().map(|(name, verdict)| {
                format!(
                    "{:12}  {}: {}",
                    answer.destination.word(),
                    title(name),
                    verdict.said()
                )
            })
        })
        .collect()
}

/// A name for people: many do not say which direction they are about, and some are the same.
pub(crate) fn title(name: &Name) -> String {
    let mut title = name.words.replace('|', "/");
    let directions: Vec<&str> = name
        .tags
        .iter()
        .map(String::as_str)
        .filter(|tag| ["ingress", "egress"].contains(tag))
        .collect();
    if let [direction] = directions[..]
        && !title.contains(direction)
    {
        title = format!("{title} ({direction})");
    }
    if name.nth > 0 {
        title = format!("{title} #{}", name.nth + 1);
    }
    title
}

pub(crate) fn section(
    circumstances: &Circumstances,
    family: Family,
    wait: u8,
    answers: &[Answer],
) -> String {
    let Circumstances {
        kubernetes,
        proxy,
        kernel,
    } = circumstances;
    let version = answers.first().map_or("", |answer| &answer.version);
    let protocols = if has_sctp() {
        "TCP, UDP, SCTP"
    } else {
        "TCP, UDP; this kernel has no SCTP sockets"
    };
    let family = family.name();
    let mut text = format!(
        "## Cyclonus, {family}\n\n\
         All cases that [Cyclonus](https://github.com/mattfenwick/cyclonus) generates, those too that it leaves out by itself.\n\
         `cargo xtask conformance cyclonus --family {}` runs them and writes this section.\n\n\
         | | |\n|---|---|\n\
         | Cyclonus | {version} |\n\
         | Kubernetes | {kubernetes} |\n\
         | kube-proxy | {proxy} |\n\
         | Linux | {kernel} |\n\
         | Addresses | {family} |\n\
         | Probes by | {protocols} |\n\
         | A change is judged after | {wait} s |\n\
         | Tries of a probe | 1, of 1 s |\n\n",
        family.to_lowercase(),
    );
    write_counts(&mut text, answers);
    text += LEGEND;
    write_rows(&mut text, answers);
    text
}

const LEGEND: &str = "\n\
    A case passes when every probe ended as Cyclonus expects, a blocked one by waiting in vain, but for these, which Cyclonus\n\
    calls wrong and which are counted in the row:\n\n\
    - **itself**: a pod reached itself, by its own address or by its Service. Cyclonus holds policies against such a probe.\n\
    \x20 [Kubernetes](https://kubernetes.io/docs/concepts/services-networking/network-policies/) says that a pod cannot block\n\
    \x20 access to itself, and its own tests leave these probes out\n\
    \x20 ([kubernetes#95879](https://github.com/kubernetes/kubernetes/issues/95879)). A pod that does not reach itself against\n\
    \x20 Cyclonus' expectation is a failure.\n\
    - **aimless**: Cyclonus called `:80` or `:81`, which is the caller itself. It forgets the address of a pod's Service when a\n\
    \x20 case creates or relabels the pod (`Pod.SetLabels` and `Resources.CreatePod` leave `ServiceIP` empty). The same cases\n\
    \x20 are asked by the pods' addresses, and those that are about such a pod by the Service's name too.\n\n";

fn write_counts(text: &mut String, answers: &[Answer]) {
    header(text, "", answers);
    let mut row = |what: &str, count: fn(&Verdict) -> usize| {
        let sums = answers.iter().map(|answer| {
            let verdicts = answer.verdicts.iter().map(|(_, verdict)| verdict);
            verdicts.map(count).sum::<usize>().to_string()
        });
        line(text, what, sums);
    };
    row("Cases", |_| 1);
    row("that passed", |verdict| usize::from(verdict.is_good()));
    row("of these in every probe", |verdict| {
        usize::from(verdict.is_good() && verdict.itself + verdict.aimless == 0)
    });
    row("that FAILED", |verdict| usize::from(!verdict.is_good()));
    row("Probes", |verdict| verdict.probes);
    row("itself", |verdict| verdict.itself);
    row("aimless", |verdict| verdict.aimless);
    row("wrong", |verdict| verdict.wrong.len());
}

fn write_rows(text: &mut String, answers: &[Answer]) {
    header(text, "case", answers);
    // The first round has all cases.
    let names = answers.first().map_or(&[][..], |answer| &answer.verdicts);
    for (name, _) in names {
        let cells = answers.iter().map(|answer| {
            let verdict = answer.verdicts.iter().find(|(other, _)| other == name);
            verdict.map_or_else(String::new, |(_, verdict)| verdict.said().replace('|', "/"))
        });
        line(text, &title(name), cells);
    }
}

fn header(text: &mut String, first: &str, answers: &[Answer]) {
    let words = answers.iter().map(|answer| answer.destination.word());
    line(text, first, words.map(str::to_owned));
    line(text, "---", answers.iter().map(|_| "---".to_owned()));
}

fn line(text: &mut String, first: &str, rest: impl Iterator<Item = String>) {
    let cells: Vec<String> = rest.collect();
    writeln!(text, "| {first} | {} |", cells.join(" | ")).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::cyclonus::Destination;
    use crate::conformance::cyclonus::cases::{OPEN, SHUT, Surprise};

    fn name(words: &str, tags: &[&str], nth: usize) -> Name {
        Name {
            words: words.to_owned(),
            tags: tags.iter().map(ToString::to_string).collect(),
            nth,
        }
    }

    #[test]
    fn a_title_tells_cases_of_the_same_words_apart() {
        assert_eq!(
            title(&name("ports", &["egress", "tcp"], 1)),
            "ports (egress) #2"
        );
        assert_eq!(title(&name("egress: all", &["egress"], 0)), "egress: all");
        assert_eq!(title(&name("both", &["egress", "ingress"], 0)), "both");
    }

    #[test]
    fn the_section_has_a_row_for_each_case_and_a_column_for_each_destination() {
        let wrong = Surprise {
            step: 2,
            from: "x/a".to_owned(),
            to: "y/b".to_owned(),
            port: "TCP/80".to_owned(),
            expected: SHUT,
            found: OPEN,
        };
        let good = || Verdict {
            probes: 324,
            ..Verdict::default()
        };
        let bad = Verdict {
            wrong: vec![wrong],
            ..good()
        };
        let own = Verdict {
            itself: 3,
            ..good()
        };
        let answer = |destination, verdicts| Answer {
            destination,
            version: "v0.5.6".to_owned(),
            verdicts,
        };
        let answers = [
            answer(
                Destination::PodIp,
                vec![(name("a", &[], 0), own), (name("b", &[], 0), good())],
            ),
            answer(Destination::ServiceName, vec![(name("b", &[], 0), bad)]),
        ];
        let circumstances = Circumstances {
            kubernetes: "v1".to_owned(),
            proxy: "iptables".to_owned(),
            kernel: "6.18.0".to_owned(),
        };
        let text = section(&circumstances, Family::Ipv6, 2, &answers);
        for expected in [
            "## Cyclonus, IPv6\n",
            "--family ipv6`",
            "| Cyclonus | v0.5.6 |\n",
            "|  | pod-ip | service-name |\n| --- | --- | --- |\n| Cases | 2 | 1 |\n| that passed | 2 | 0 |\n\
             | of these in every probe | 1 | 0 |\n| that FAILED | 0 | 1 |\n| Probes | 648 | 324 |\n| itself | 3 | 0 |\n",
            "| case | pod-ip | service-name |\n| --- | --- | --- |\n| a | passed, 3 itself |  |\n\
             | b | passed | FAILED, 1 wrong: step 2, x/a to y/b TCP/80 is `.` and not `X` |\n",
        ] {
            assert!(text.contains(expected), "{expected}\n---\n{text}");
        }
        let table = table(&answers);
        assert_eq!(
            (table.len(), table[1].as_str()),
            (3, "pod-ip        b: passed")
        );
    }
}
